"""What compares the answers of a group, and how it is averaged, against loops over tokens in float64."""

import dataclasses
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.actors.group import GPG, Group, GroupStd, LeaveOneOut, Right
from actrix.actors.policy_gradient import Memory, PPOClip
from actrix.actors.score import Score
from actrix.algorithms.presets import PRESETS, compose
from actrix.algorithms.settings import SettingError, configure
from actrix.core.distributions import Categorical
from actrix.core.numbers import packed
from actrix.core.rows import rows_of
from actrix.core.types import Chunk, Prompts
from actrix.data.chunk import _take
from actrix.data.rollout import sequences
from actrix.envs.tokens.tasks import Reverse
from actrix.loops.compiled import CompiledRunner

T, N, V, G = 7, 8, 3, 4


@pytest.fixture
def chunk():
    """Whole episodes of 2 prompts × 4 answers: rows 0 and 1 are forced, then answers of 2 to 5 tokens, then padding."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        length = rng.integers(2, 6, N)
        t = np.arange(T)[:, None]
        ends, valid = t == length + 1, t <= length + 1
        action = rng.integers(0, V, (T, N))
        mask = np.where((t < 2)[..., None], np.eye(V, dtype=bool)[action], True)
        log_p = jax.nn.log_softmax(jnp.where(mask, jnp.asarray(rng.normal(size=(T, N, V))), -1e9))
        old = Categorical(log_p)
        reward = np.where(ends, rng.random(N) < 0.5, 0.0)
        reward[:, :G] = ends[:, :G] * np.array([1.0, 0, 0, 1])
        reward[:, G:] = 0.0  # a group without variance
        yield Chunk(
            obs=jnp.zeros((T, N)), action=jnp.asarray(action), reward=jnp.where(valid, reward, np.nan),
            next_obs=jnp.zeros((T, N)), terminated=jnp.asarray(ends), truncated=jnp.zeros((T, N), bool),
            valid=jnp.asarray(valid), log_prob=old.log_prob(jnp.asarray(action)), dist=old, mask=jnp.asarray(mask),
            prompts=Prompts(G, T - 2),
        )  # fmt: skip


def seen(logits, rows):
    """A view of the rows by a policy with these logits, prompts forced."""
    dist = Categorical(jax.nn.log_softmax(jnp.where(rows.mask, logits, -1e9)))
    return types.SimpleNamespace(dist=dist, action=rows.action, log_prob=dist.log_prob(rows.action))


def loss_of(actor, logits, rows, memo):
    losses, _ = actor.loss(None, seen(logits, rows), Memory((), ()), rows, memo, 0.0, None)
    return actor.weighs(rows).mean(losses)


def answers(rows):
    """Episode → its rows that were chosen."""
    return [
        [t for t in range(T) if rows.weight[t, n] and np.asarray(rows.mask)[t, n].sum() > 1] for n in range(N)
    ]


def advantages(kind, returns):
    """Of one group, by its equation."""
    returns = np.asarray(returns, float)
    mean, n = returns.mean(), len(returns)
    if kind == "right":
        return np.where(returns > 0.5, 1.0, 0.0)
    if kind == "leave-one-out":
        return np.array([r - (returns.sum() - r) / (n - 1) for r in returns])
    if kind == "group-std":
        std = np.sqrt(sum((r - mean) ** 2 for r in returns) / (n - 1))
        return (returns - mean) / std if std > 0 else 0 * returns
    return returns - mean


def reference(actor, logits, rows, psi, columns):
    """The loss of these episodes, token by token."""
    log_p = jax.nn.log_softmax(logits)
    total, tokens, counted = 0.0, 0, 0
    for n in columns:
        here = answers(rows)[n]
        if getattr(actor.psi, "dynamic", False) and np.all(psi[n // G * G : n // G * G + G] == 0):
            continue
        if actor.psi.name == "right" and psi[n] == 0:  # what is wrong is not cloned
            continue
        ratios = [log_p[t, n, rows.action[t, n]] - rows.log_prob[t, n] for t in here]
        per_answer = 0.0
        for t, log_rho in zip(here, ratios, strict=True):
            if isinstance(actor, Score):
                gain = log_p[t, n, rows.action[t, n]] * psi[n]
            else:
                one = sum(ratios) / len(here) if actor.ratio == "sequence" else log_rho
                high = actor.clip_range_high or actor.clip_range
                rho, a = jnp.exp(one), psi[n]
                gain = jnp.minimum(rho * a, jnp.clip(rho, 1 - actor.clip_range, 1 + high) * a)
            if actor.ref_kl_coef and actor.ref_kl_in == "loss":
                r = log_p[t, n, rows.action[t, n]] - jnp.log(1 / V)
                every = log_p[t, n, jnp.arange(V)]  # one program, whichever row: a slice is one for each
                exact = jnp.sum(jnp.exp(every) * (every - jnp.log(1 / V)))
                kinds = {"k2": r**2 / 2, "k3": jnp.exp(-r) - 1 + r, "exact": exact, "auto": exact}
                gain = gain - actor.ref_kl_coef * kinds[actor.ref_kl_by]
            scale = {"token": 1.0, "sequence": 1 / len(here), "constant": 1 / (T - 2)}[actor.aggregate]
            per_answer = per_answer - scale * gain
        total, tokens, counted = total + per_answer, tokens + len(here), counted + 1
    return total / (tokens if actor.aggregate == "token" else counted)


ACTORS = [
    Score(psi=LeaveOneOut(), aggregate="constant", normalize_advantage=False),
    PPOClip(psi=GroupStd(), aggregate="sequence", ref_kl_coef=0.1, ref_kl_in="loss", ref_kl_by="k3",
            normalize_advantage=False),
    PPOClip(psi=Group(), aggregate="constant", ref_kl_coef=0.1, ref_kl_in="loss", normalize_advantage=False),
    PPOClip(psi=Group(), aggregate="token", ref_kl_coef=0.1, ref_kl_in="loss", ref_kl_by="k2",
            normalize_advantage=False),
    PPOClip(psi=GroupStd(dynamic=True), clip_range=0.1, clip_range_high=0.5, normalize_advantage=False),
    PPOClip(psi=GroupStd(dynamic=True), aggregate="sequence", normalize_advantage=False),
    Score(psi=Right(), aggregate="sequence", normalize_advantage=False),
    Score(psi=Right(), normalize_advantage=False),
    PPOClip(psi=Group(), aggregate="sequence", ratio="sequence", clip_range=0.05, clip_range_high=0.02,
            normalize_advantage=False),
]  # fmt: skip


@pytest.mark.parametrize("actor", ACTORS, ids=lambda a: f"{a.name}-{a.psi.name}-{a.aggregate}-{a.ref_kl_by}")
def test_losses_and_gradients_are_those_of_loops_over_tokens(chunk, actor):
    rows = rows_of(chunk, 1.0)
    rows = dataclasses.replace(rows, reference=rows.dist.uniform())
    kept = types.SimpleNamespace(actor=Memory((), ()))
    memo = actor.remember(None, seen(chunk.dist.logits, rows), kept, rows, None)
    returns = np.nansum(np.where(chunk.valid, chunk.reward, 0), axis=0)
    psi = np.concatenate([advantages(actor.psi.name, returns[i : i + G]) for i in range(0, N, G)])
    logits = jnp.where(rows.mask, chunk.dist.logits, 0.0) + 0.3 * jax.random.normal(
        jax.random.key(1), (T, N, V), jnp.float64
    )
    for columns in (range(N), [0, 3, 7]):  # all, and a minibatch of whole episodes
        picked = _take((sequences(rows, T), None, sequences(memo, T)), np.array(columns))
        value = lambda x, c=columns, p=picked: loss_of(actor, x[:, np.array(c)], p[0], p[2])
        loop = lambda x, c=columns: reference(actor, x, rows, psi, c)
        found, wanted = jax.value_and_grad(value)(logits), jax.value_and_grad(loop)(logits)
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12, atol=1e-14)
        free = np.asarray(rows.weight > 0)[..., None] & np.asarray(rows.mask)
        np.testing.assert_allclose(np.where(free, found[1], 0), wanted[1], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("psi", [Group(), GroupStd(), LeaveOneOut(), GPG(), Group(group_size=2)])
def test_the_weight_of_an_answer_is_its_groups_at_each_row(chunk, psi):
    rows = rows_of(chunk, 1.0)
    returns = np.nansum(np.where(chunk.valid, chunk.reward, 0), axis=0)
    size = psi.group_size or G
    wanted = np.concatenate([advantages(psi.name, returns[i : i + size]) for i in range(0, N, size)])
    if psi.name == "gpg":  # one of the two groups has a gradient
        wanted = 2 * wanted
    found = np.asarray(psi.weight(None, None, rows, None, ()))
    np.testing.assert_allclose(found, np.where(chunk.valid, wanted, 0), rtol=1e-14, atol=1e-15)
    assert psi.varied(rows) is None
    if psi.name == "gpg":  # whose α is that already
        return
    dynamic = dataclasses.replace(psi, dynamic=True)
    varies = [len(set(returns[i : i + size])) > 1 for i in range(0, N, size)]
    assert np.asarray(dynamic.varied(rows)).tolist() == np.repeat(varies, size).tolist()


def test_groups_behind_a_full_batch_do_not_count(chunk):
    ends = np.asarray(chunk.terminated)
    varied = np.where(ends, np.arange(N) % 2, np.asarray(chunk.reward))  # both groups
    rows = rows_of(dataclasses.replace(chunk, reward=jnp.asarray(varied)), 1.0)
    for keep, counted in ((1, [1] * G + [0] * G), (2, [1] * N), (None, [1] * N)):
        psi = GroupStd(dynamic=True, keep=keep)
        assert np.asarray(psi.varied(rows)).astype(int).tolist() == counted
        assert (psi.told(rows)["rollout/groups_kept"], psi.told(rows)["rollout/groups_drawn"]) == (
            sum(counted) // G,
            sum(counted) // G,
        )


def test_prompts_count_in_no_average_and_have_no_gradient(chunk):
    rows = rows_of(chunk, 1.0)
    assert np.array_equal(rows.chosen().weight, chunk.valid & (np.arange(T) >= 2)[:, None])
    assert rows_of(dataclasses.replace(chunk, prompts=None), 1.0).chosen().weight.sum() == chunk.valid.sum()
    logits = jnp.ones((T, N, V), jnp.float64)
    actor = PPOClip(psi=Group(), ent_coef=0.1)
    memo = {"psi": jnp.asarray(np.random.default_rng(1).normal(size=(T, N)))}
    gradient = jax.grad(lambda x: loss_of(actor, x, rows, memo))(logits)
    assert not np.asarray(gradient)[:2].any()
    assert np.asarray(gradient)[2].any()
    other = dataclasses.replace(rows, log_prob=rows.log_prob.at[0].set(-3.0), reward=rows.reward + 1.0)
    memo = {"psi": memo["psi"].at[0].set(99.0)}  # nor does what a forced row holds change the normalised ψ
    np.testing.assert_allclose(gradient, jax.grad(lambda x: loss_of(actor, x, other, memo))(logits))


@pytest.mark.parametrize("by", ["k1", "k2", "k3", "exact"])
def test_kl_in_the_reward(chunk, by):
    rows = rows_of(chunk, 1.0)
    rows = dataclasses.replace(rows, reference=rows.dist.uniform())
    actor = PPOClip(psi=Group(), ref_kl_coef=0.5, ref_kl_by=by)
    charged, reward = actor.charge(seen(chunk.dist.logits, rows), rows).reward, np.asarray(rows.reward)
    charged = np.asarray(charged)
    log_p = np.asarray(chunk.dist.logits)
    for t in range(T):
        for n in range(N):
            if not chunk.valid[t, n]:
                continue
            r = log_p[t, n, chunk.action[t, n]] - (np.log(1 / V) if t >= 2 else 0)  # one legal action: log 1
            kl = sum(np.exp(l) * (l - np.log(1 / V)) for l in log_p[t, n]) if t >= 2 else 0
            wanted = {"k1": r, "k2": r * r / 2, "k3": np.exp(-r) - 1 + r, "exact": kl}[by]
            assert charged[t, n] == pytest.approx(reward[t, n] - 0.5 * wanted, abs=1e-12)


def test_answers_are_counted(chunk):
    from actrix.actors.episodes import answer_metrics

    rows = rows_of(chunk, 1.0)
    found = answer_metrics(rows, None)
    lengths = np.array([len(a) for a in answers(rows)])
    right = np.nansum(np.where(chunk.valid, chunk.reward, 0), axis=0) > 0
    assert found["rollout/pass@1"] == right.mean() == 0.25
    assert found[f"rollout/pass@{G}"] == 0.5
    assert found["rollout/groups_alike"] == 0.5
    assert found["rollout/length_right"] == lengths[right].mean()
    assert found["rollout/length_wrong"] == lengths[~right].mean()


LSTM = {"policy_kwargs": {"cell": "lstm", "net_arch": [], "hidden_size": 8}}


@pytest.mark.parametrize(
    ("preset", "env", "n", "settings", "text"),
    [
        ("grpo", Reverse(3, group=1), 4, {}, "one alone has none to compare with"),
        ("grpo", Reverse(3, group=4), 6, {}, "n_envs=6 is not a multiple of the group size 4"),
        ("rlhf-ppo", Reverse(3, group=4), 6, {"batch_size": 42}, "n_envs=6 is not a multiple of 4, the number of"),
        ("grpo", Reverse(3, group=4), 12, {"group_size": 3}, "group_size=3 does not divide 4"),
        ("gspo", Reverse(3, group=4), 8, {"policy_kwargs": {}}, "take a recurrent policy and sequence_length=7"),
        ("sft", None, 8, {}, "needs an environment that shows right answers"),
        ("grpo", Reverse(3, group=4), 8, {"policy_kwargs": {"cell": "transformer", "context": 6}},
         "up to 7 tokens, and the transformer sees 6 steps: take policy_kwargs context=7 or more"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:a policy without memory")
def test_what_does_not_fit_is_said(preset, env, n, settings, text):
    algorithm = configure(PRESETS[preset].algorithm, LSTM | settings)
    if env is None:
        from actrix.envs.classic import ClassicEnv

        env = ClassicEnv("CartPole-v1")
    with pytest.raises(ValueError, match=text):
        algorithm.fitted(env.spec, n).check(env.spec, n)


def test_a_policy_that_forgets_the_prompt_is_told_of():
    env = Reverse(3, group=4)
    algorithm = configure(PRESETS["grpo"].algorithm, {"policy_kwargs": {}}).fitted(env.spec, 8)
    with pytest.warns(
        UserWarning, match="sees the newest token of a prompt and none before it: take MlpLstmPolicy"
    ):
        algorithm.check(env.spec, 8)


@pytest.mark.parametrize(
    ("words", "settings", "text"),
    [
        (("none", "score:one"), {}, "take data shown"),
        (("none", "score:group", "shown"), {}, "take actor score and ψ=one"),
        (("none", "ppo-clip:0.2:one", "shown"), {}, "not centred"),
        (("gae", "ppo-clip:0.2"), {"aggregate": "sequence"}, "needs whole ones"),
        (("gae", "ppo-clip:0.2"), {"ratio": "sequence"}, "needs whole ones"),
        (("gae", "ppo-clip:0.2:group"), {}, "take critic none"),
        (("none", "ppo-clip:0.2:group=1"), {}, "group_size=1 must be a whole number of at least 2"),
        (
            ("none", "ppo-clip:0.2:group"),
            {"ref_kl_in": "loss", "ref_kl_by": "k1", "ref_kl_coef": 1.0},
            "gradient of mean 0",
        ),
        (("none", "score:gpg,dynamic=true"), {}, "would do so again"),
        (("none", "score:leave-one-out,dynamic=true"), {"ref_kl_coef": 0.1}, "take ref_kl_in=loss"),
        (("none", "score:gpg"), {"ref_kl_coef": 0.1, "ref_kl_by": "exact"}, "take ref_kl_in=loss"),
        (("none", "score:right"), {"ref_kl_coef": 0.1}, "beyond its threshold, .*: take ref_kl_in=loss"),
        (("none", "score-is", "lag"), {"aggregate": "sequence"}, "weighs whole trajectories as it is"),
        (("v-trace", "score", "trajectories:4:whole"), {}, "no whole episodes; take data lag"),
        (("none", "ppo-clip:0.2:group"), {"aggregate": "word"}, "aggregate='word': choose one of"),
    ],
)
def test_unsound_words_are_refused(words, settings, text):
    with pytest.raises(SettingError, match=text):
        compose(*words, settings=settings)


def test_words_say_group_sizes():
    assert compose("none", "ppo-clip:0.2:group=4").actor.psi == Group(4)
    assert compose("none", "score:gpg", settings={"ref_kl_coef": 0.1, "ref_kl_in": "loss"}).actor.psi == GPG()
    assert compose("none", "score:leave-one-out,dynamic=true").actor.psi == LeaveOneOut(dynamic=True)
    assert compose("gae", "ppo-clip:0.2", "on-policy:whole").whole_episodes


def test_a_recurrent_reference_is_read_from_each_episodes_start():
    """With itself as the reference the KL is 0 in every row, in a chunk of whole episodes."""
    env = Reverse(2, 2, group=2)
    algorithm = configure(PRESETS["grpo"].algorithm, LSTM | {"ref_kl_coef": 0.5})
    fresh = algorithm.initial_acting(jax.random.key(1), env.spec)
    sharp = eqx.tree_at(lambda net: net.pi_head.weight, fresh.net, 100 * fresh.net.pi_head.weight)
    reference = dataclasses.replace(fresh, net=sharp)
    runner = CompiledRunner(algorithm, env, 4, [0], reference)
    assert runner.advance(1)[0].metrics["train/reference_kl"] > 1e-3
    runner.set_learners([algorithm.with_acting(runner.learners[0], reference)], [1])
    runner.set_training(numbers=packed(algorithm.numbers() | {"fit.learning_rate": 0.0}))
    assert abs(runner.advance(1)[0].metrics["train/reference_kl"]) < 1e-6
