"""Algorithms made of answers: their formulas against plain loops, and what they learn of a tiny environment."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from actrix import CrossQ
from actrix.algorithms.answers import parse_actor, parse_critic
from actrix.algorithms.learn import Update
from actrix.algorithms.presets import PRESETS, compose, words_of
from actrix.algorithms.settings import SettingError, configure
from actrix.algorithms.sound import unsound
from actrix.core.answers import Kept
from actrix.core.contract import count
from actrix.core.optim import RUNNING
from actrix.core.rows import Rows, rows_of
from actrix.core.types import Chunk, Spec
from actrix.critics.backups import Munchausen
from actrix.critics.crossq import Ahead
from actrix.critics.represent import CategoricalJoined
from actrix.data.trajectories import Trajectories
from actrix.envs.probes import Probe
from actrix.loops.compiled import CompiledRunner
from actrix.nets.renorm import EPSILON, Renorm

NEW = ("impact", "awr", "munchausen-dqn", "d4pg", "redq", "crossq", "awac")
BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
MOVES = Spec(BOX, spaces.Box(-1.0, 1.0, (2,), np.float32))
CHOICES = Spec(BOX, spaces.Discrete(3), mask_size=3)
KEY = jax.random.key(3)
wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def near(x, y, tolerance=2e-5):
    np.testing.assert_allclose(np.asarray(x), y, rtol=tolerance, atol=tolerance)


def batch(spec, size, seed=0, **changes):
    """Random transitions `[B]`, the last one no sample, the first one terminal."""
    rng = np.random.default_rng(seed)
    real = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    discrete = isinstance(spec.action_space, spaces.Discrete)
    action = jnp.asarray(rng.integers(0, 3, size)) if discrete else jnp.tanh(real(size, 2))
    weight = jnp.ones(size).at[-1].set(0)
    discount = jnp.full(size, 0.9).at[0].set(0)
    rows = Rows(real(size, 3), action, real(size), real(size, 3), discount, jnp.ones(size, bool), weight,
                on_policy=False, replayed=True)  # fmt: skip
    return dataclasses.replace(rows, **changes)


def fitted(algorithm, spec, seed=0):
    """(learner, network, params, build) of a fresh learner."""
    learner = algorithm.init(jax.random.key(seed), spec, 2)
    return learner, learner.acting.net, *algorithm.fit.split(learner.acting.net)


# ------------------------------------------------------------------ CrossQ


def renorm(x, sample, layer, learn):
    """(output, mean, variance afterwards) of one layer by loops over rows."""
    scale, shift, mean, var = (wide(v) for v in (layer.scale, layer.shift, layer.seen.mean, layer.seen.var))
    if not learn:
        return (x - mean) / np.sqrt(var + EPSILON) * scale + shift, mean, var
    seen = [row for row, one in zip(x, sample, strict=True) if one]
    here = sum(seen) / len(seen)
    spread = sum((row - here) ** 2 for row in seen) / len(seen)
    r, d = np.ones_like(here), np.zeros_like(here)
    if layer.seen.count >= layer.warm_up:
        r = np.clip(np.sqrt((spread + EPSILON) / (var + EPSILON)), 1 / 3, 3)
        d = np.clip((here - mean) / np.sqrt(var + EPSILON), -5, 5)
    out = np.stack([((row - here) / np.sqrt(spread + EPSILON) * r + d) * scale + shift for row in x])
    return out, 0.99 * mean + 0.01 * here, 0.99 * var + 0.01 * spread


def mlp(x, sample, body, learn):
    """(output, [(mean, variance)] afterwards) of an MLP with its layers' norms."""
    x, *moved = renorm(x, sample, body.norms[0], learn)
    moments = [moved]
    for layer, norm in zip(body.mlp.layers, body.norms[1:], strict=True):
        x = np.maximum(x @ wide(layer.weight) + wide(layer.bias), 0)
        x, *moved = renorm(x, sample, norm, learn)
        moments.append(moved)
    return x, moments


@pytest.mark.parametrize("count", [0, 5])
def test_renorm_is_the_formula_and_has_the_batch_statistics_gradient(count):
    layer = Renorm(3, 0.99, 5)
    rng = np.random.default_rng(1)
    moments = dataclasses.replace(layer.seen, mean=jnp.asarray([0.1, -9.0, 2.0]), var=jnp.asarray([0.01, 1.0, 30.0]),
                                  count=jnp.asarray(float(count)))  # fmt: skip
    new = (moments, jnp.asarray([1.5, 2.0, -1.0]), jnp.ones(3))
    layer = eqx.tree_at(lambda norm: (norm.seen, norm.scale, norm.shift), layer, new)
    x, sample = rng.normal(2, 3, size=(6, 3)), np.array([1, 1, 0, 1, 1, 1])
    share = jnp.asarray(sample / 5.0, jnp.float32)[:, None]
    out, after = layer.learn(jnp.asarray(x, jnp.float32), share)
    expected, mean, var = renorm(x, sample, layer, True)
    near(out, expected)
    near(after.seen.mean, mean)
    near(after.seen.var, var)
    assert after.seen.count == count + 1
    near(jax.vmap(layer)(jnp.asarray(x, jnp.float32)), renorm(x, sample, layer, False)[0])
    # r and d are constants to the gradient, μ_B and σ_B are not: normalised columns do not heed a shift of the batch.
    heeds = jax.grad(lambda s: jnp.sum(layer.learn(jnp.asarray(x, jnp.float32) + s, share)[0] ** 2))(0.0)
    assert abs(float(heeds)) < 1e-3


CROSS = {"policy_kwargs": {"net_arch": [5, 4]}}


@pytest.mark.parametrize("warm_up", [0, 100])
def test_crossq_fits_one_pass_over_both_ends(warm_up):
    algorithm = configure(PRESETS["crossq"].algorithm, CROSS | {"renorm_warmup_steps": warm_up})
    _, net, params, build = fitted(algorithm, MOVES)
    rows = batch(MOVES, 7)
    view = net.view(build, params, rows)
    est = Ahead(jnp.tanh(batch(MOVES, 7, 5).action), jnp.arange(7.0))
    losses, priority, _ = algorithm.critic.loss(view, rows, est, KEY)
    here, there = (
        np.concatenate(pair, axis=1) for pair in ((rows.obs, rows.action), (rows.next_obs, est.action))
    )
    both, sample = np.concatenate([here, there]).astype(np.float64), np.tile(np.asarray(rows.valid), 2)
    q, moments = [], []
    for body, out in net.critics.members:
        features, moved = mlp(both, sample, body, True)
        q.append((features @ wide(out.weight) + wide(out.bias))[:, 0])
        moments.append(moved)
    least = np.min([one[7:] for one in q], axis=0)
    target = wide(rows.reward) + wide(rows.discount) * (least - np.arange(7.0))
    near(losses, sum(0.5 * (one[:7] - target) ** 2 for one in q), 1e-4)
    near(priority, sum(abs(one[:7] - target) for one in q) / 2, 1e-4)
    running = view.moved[RUNNING]
    for (body, _), moved in zip(running.critics.members, moments, strict=True):
        for norm, (mean, var) in zip(body.norms, moved, strict=True):
            near(norm.seen.mean, mean)
            near(norm.seen.var, var)
    assert all(norm.seen.count == 0 for norm in running.actor.body.norms)


def test_crossq_gives_no_gradient_to_its_target():
    algorithm = configure(PRESETS["crossq"].algorithm, CROSS)
    _, net, params, build = fitted(algorithm, MOVES)
    rows, est = batch(MOVES, 7), Ahead(jnp.tanh(batch(MOVES, 7, 5).action), jnp.zeros(7))

    def loss(theta, fixed=None):
        view = net.view(build, params | {"critic": theta}, rows)
        q, q_next = view.pair(est.action)
        target = algorithm.critic.joined.target(q_next if fixed is None else fixed, est.penalty, rows)
        return rows.mean(algorithm.critic.joined.loss(q, target)[0])

    theta = params["critic"]
    fixed = net.view(build, params, rows).pair(est.action)[1]
    real = lambda t: rows.mean(
        algorithm.critic.loss(net.view(build, params | {"critic": t}, rows), rows, est, KEY)[0]
    )
    gradient = jax.grad(real)(theta)
    near(gradient, np.asarray(jax.grad(lambda t: loss(t, fixed))(theta)), 1e-5)
    assert np.max(np.abs(gradient - jax.grad(loss)(theta))) > 1e-3


def test_running_statistics_move_with_the_losses_alone_and_no_optimiser_knows_them():
    algorithm = configure(PRESETS["crossq"].algorithm, CROSS | {"policy_delay": 2})
    learner, _, params, _ = fitted(algorithm, MOVES)
    assert set(params) == {"actor", "critic", RUNNING}
    assert set(learner.training.opt) == {"actor", "critic", "log_alpha"}
    update = Update(
        algorithm, learner, count(learner.training, Chunk(*[None] * 6, valid=np.ones((1, 1), bool)))
    )
    state, rows = update.start(jnp.asarray(False)), batch(MOVES, 6)

    @jax.jit
    def step(state, rows, key):
        item, _ = update.estimate(state, rows, 0.0, key)
        return update.update(state, item, 0.0, key)[0]

    counts = []
    for i in range(4):
        state = step(state, rows, jax.random.fold_in(KEY, i))
        running = state.params[RUNNING]
        counts.append(
            (running.critics.members[1][0].norms[1].seen.count, running.actor.body.norms[0].seen.count)
        )
    assert counts == [(1, 0), (2, 1), (3, 1), (4, 2)]
    bad = dataclasses.replace(rows, reward=rows.reward.at[2].set(jnp.nan))
    after = step(state, bad, KEY)
    same = jax.tree.map(lambda x, y: bool(jnp.all(x == y)), after.params, state.params)
    assert after.bad
    assert all(jax.tree.leaves(same))
    # Acting neither moves them nor heeds the batch.
    acting = update.finish(state, None, learner.training, None, None).acting
    act = lambda obs: algorithm.policy(acting, None, obs, None, None)[0]
    near(act(rows.obs)[:2], act(rows.obs[:2]), 1e-6)
    assert acting.net.actor.body.norms[0].seen.count == 2


def test_crossq_files_hold_the_statistics(tmp_path):
    model = CrossQ("MlpPolicy", TwoSteps(continuous=True), n_envs=2, seed=0, **CROSS)
    model.set_parameters({name: x + 1 for name, x in model.get_parameters().items()})
    seen = model.acting.net.actor.body.norms[1].seen
    assert seen.count == 1, "as after an update"
    again = CrossQ.load(model.save(tmp_path / "model"))
    same = jax.tree.map(lambda x, y: bool(jnp.all(x == y)), again.acting, model.acting)
    assert all(jax.tree.leaves(same))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(model.acting)]
    assert ".net.critics.members[1][0].norms[2].seen.var" in names


def test_crossq_refuses_what_it_has_not():
    algorithm = PRESETS["crossq"].algorithm
    with pytest.raises(ValueError, match="needs a Box action space"):
        algorithm.check(CHOICES, 1)
    with pytest.raises(ValueError, match="neither layer_norm nor dropout"):
        configure(algorithm, {"policy_kwargs": {"layer_norm": True}}).check(MOVES, 1)
    for setting in ("tau", "subset"):
        with pytest.raises(SettingError, match=f"unknown setting '{setting}'"):
            configure(algorithm, {setting: 1})
    with pytest.raises(SettingError, match="would never take in a gradient"):
        configure(algorithm, {"optimizer_beta1": 1})


def test_the_decay_of_the_mean_gradient_is_a_setting():
    """Adam's first step is the gradient's sign whatever β₁; the second is not."""
    steps = []
    for beta in (0.5, 0.9):
        descent = dataclasses.replace(PRESETS["sac"].algorithm.fit, optimizer_beta1=beta).descent
        state = descent.init(jnp.zeros(1))
        _, state = descent.update(jnp.ones(1), state)
        steps.append(descent.update(-jnp.ones(1), state)[0].item())
    m = lambda b: (b * (1 - b) - (1 - b)) / (1 - b**2)
    near(steps, [m(0.5), m(0.9)])


# ------------------------------------------------------------------ REDQ


def test_redq_joins_a_random_subset_of_its_target_copies():
    algorithm = configure(PRESETS["redq"].algorithm, {"policy_kwargs": {"net_arch": [4]}, "n_critics": 4})
    learner, net, params, build = fitted(algorithm, MOVES)
    params |= learner.training.own
    rows = batch(MOVES, 5)
    kept = Kept(params["critic"] + 0.3, ())  # the target copies are not the critics themselves
    view = net.view(build, params, rows)
    pairs = set()
    for i in range(30):
        key = jax.random.fold_in(KEY, i)
        target = algorithm.critic.estimate(view, kept, rows, algorithm.actor, 0.0, key)
        action, penalty = algorithm.actor.backup(view, kept, rows, lambda a: a, _first(key))
        q = wide(view({"critic": kept.critic}).q(action, "next_obs"))[..., 0]
        for pair in itertools.combinations(range(4), 2):
            least = np.minimum(q[:, pair[0]], q[:, pair[1]])
            y = wide(rows.reward) + wide(rows.discount) * (least - wide(penalty))
            if np.allclose(y, wide(target)[:, 0, 0], atol=1e-5):
                pairs.add(pair)
                break
        else:
            pytest.fail("no pair of the copies gives this target")
    assert len(pairs) >= 5
    q = wide(view.q(rows.action))[..., 0]
    near(algorithm.critic.ascended(view, rows.action, KEY), q.mean(axis=1))
    with pytest.raises(SettingError, match="subset=3 is more than n_critics=2"):
        compose("ensemble:2:subset=3", "soft", "replay")


def _first(key):
    return jax.random.split(jax.random.split(key, 5)[0])[0]


# ------------------------------------------------------------------ D4PG


@pytest.mark.parametrize("n_critics", [1, 3])
def test_a_categorical_ensemble_fits_the_projection_of_its_least_critic(n_critics):
    joined = CategoricalJoined(7, -2.0, 4.0)
    rng = np.random.default_rng(0)
    rows = batch(MOVES, 6)
    logits, own = (rng.normal(size=(6, n_critics, 7)) * 2 for _ in range(2))
    penalty = rng.normal(size=6)
    support, space = np.linspace(-2, 4, 7), 1.0
    softmax = lambda x: np.exp(x) / np.exp(x).sum()
    target, losses, priorities = np.zeros((6, 7)), np.zeros(6), np.zeros(6)
    for b in range(6):
        means = [softmax(logits[b, e]) @ support for e in range(n_critics)]
        p = softmax(logits[b, int(np.argmin(means))])
        for j in range(7):
            z = np.clip(float(rows.reward[b]) + float(rows.discount[b]) * (support[j] - penalty[b]), -2, 4)
            for i in range(7):
                target[b, i] += p[j] * max(0, 1 - abs(z - support[i]) / space)
        for e in range(n_critics):
            log_q = np.log(softmax(own[b, e]))
            cross = -sum(target[b, i] * log_q[i] for i in range(7))
            entropy = -sum(target[b, i] * np.log(target[b, i]) for i in range(7) if target[b, i] > 0)
            losses[b] += cross
            priorities[b] += (cross - entropy) / n_critics
    given = joined.target(jnp.asarray(logits, jnp.float32), jnp.asarray(penalty, jnp.float32), rows)
    near(given[:, 0], target)
    found = joined.loss(jnp.asarray(own, jnp.float32), given)
    near(found[0], losses)
    near(found[1], priorities)


# ------------------------------------------------------------------ Munchausen DQN


def test_the_munchausen_target_with_masks():
    """r + α clip(τ log π(a|s), l₀, 0) + γ Σ_{a′} π(a′|s′)(q⁻(s′, a′) − τ log π(a′|s′)) over the legal actions."""
    tau, alpha, bound = 0.3, 0.8, -0.5
    settings = {
        "entropy_tau": tau,
        "munchausen_alpha": alpha,
        "log_bound": bound,
        "policy_kwargs": {"net_arch": [6]},
    }
    algorithm = configure(PRESETS["munchausen-dqn"].algorithm, settings)
    assert algorithm.critic.backup == Munchausen(tau, alpha, bound)
    _, net, params, build = fitted(algorithm, CHOICES)
    mask = np.array(
        [[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0], [1, 1, 1]], bool
    )
    action = np.array([0, 2, 1, 1, 2, 0, 1, 2])
    rows = batch(
        CHOICES, 8, mask=jnp.asarray(mask), next_mask=jnp.asarray(mask[::-1]), action=jnp.asarray(action)
    )
    copies = Kept(params["net"] * 3, ())
    view = net.view(build, params, rows)
    est = algorithm.critic.estimate(view, copies, rows, algorithm.actor, 0.0, KEY)
    q, q_next = (wide(view({"net": copies.critic}).at(which)) for which in ("obs", "next_obs"))

    def log_policy(q, legal):
        legal = [a for a in range(3) if legal[a]] or [0, 1, 2]
        total = np.log(sum(np.exp((q[a] - q[legal[0]]) / tau) for a in legal)) + q[legal[0]] / tau
        return {a: q[a] / tau - total for a in legal}

    bounded = 0
    for b in range(8):
        bonus = np.clip(tau * log_policy(q[b], mask[b])[action[b]], bound, 0)
        bounded += bonus == bound
        ahead = log_policy(q_next[b], mask[::-1][b])
        value = sum(np.exp(lp) * (q_next[b, a] - tau * lp) for a, lp in ahead.items())
        near(est[b], float(rows.reward[b]) + alpha * bonus + float(rows.discount[b]) * value)
    assert 0 < bounded < 8


# ------------------------------------------------------------------ AWR and AWAC


def chunk(spec, rows, envs, net, seed=0):
    """Time-major random rows `[T, N]` with ends, cuts and a padding row, by no policy in particular."""
    rng = np.random.default_rng(seed)
    real = lambda *shape: jnp.asarray(rng.normal(size=(rows, envs, *shape)), jnp.float32)
    dist, _ = net.policy(jnp.zeros((rows * envs, 3)), None, None)
    dist = jax.tree.map(lambda x: x.reshape(rows, envs, *x.shape[1:]), dist)
    uniform = dist.uniform()
    action = jnp.asarray(rng.integers(0, 3, (rows, envs)))
    flag = lambda t, n: jnp.zeros((rows, envs), bool).at[t, n].set(True)
    return Chunk(
        real(3),
        action,
        real(),
        real(3),
        flag(2, 0),
        flag(3, 1),
        ~flag(4, 0),
        uniform.log_prob(action),
        uniform,
    )


def prepared(algorithm, rows=6, envs=2):
    """(rows, estimates, memo, view, update, state, item) of a replayed window of `chunk`."""
    learner, net, _, _ = fitted(algorithm, CHOICES)
    # Not the behaviour's uniform policy.
    net = eqx.tree_at(lambda n: n.pi_head.weight, net, 100 * net.pi_head.weight)
    learner = algorithm.with_acting(learner, dataclasses.replace(learner.acting, net=net))
    window = chunk(CHOICES, rows, envs, net)
    seen = rows_of(window, algorithm.gamma, on_policy=False, replayed=True)
    update = Update(algorithm, learner, count(learner.training, window))
    state = update.start(jnp.asarray(False))
    item, view = update.estimate(state, seen, 0.0, KEY)
    return seen, item[1], item[2], view, update, state, item


AWR = {"n_steps": 6, "batch_size": 12, "policy_kwargs": {"net_arch": [8]}, "buffer_size": 64}


def test_awr_weighs_by_the_memorys_own_return_over_its_own_value():
    """A = G^λ − V(s), both the memory's: G^λ follows remembered actions, no ratio corrects it, and V is fitted to it.

    So exp(βA) compares an action with the memory's policy at s, which is the baseline of the paper's derivation; were
    V that of the policy learned, the remembered returns would be another policy's.
    """
    algorithm = configure(PRESETS["awr"].algorithm, AWR | {"gamma": 0.9, "lam": 0.8})
    assert unsound(algorithm.critic, algorithm.actor, algorithm.data) is None
    assert not algorithm.critic.facts.corrected
    rows, est, memo, view, update, state, item = prepared(algorithm)
    v, v_next = wide(view.out), wide(view.next_out)
    reward, advantage = wide(rows.reward), np.zeros((6, 2))
    for n in range(2):
        for t in reversed(range(6)):
            if not rows.valid[t, n]:
                continue
            discount = 0.0 if rows.terminated[t, n] else 0.9
            ends = bool(rows.cut[t, n])
            following = advantage[t + 1, n] + v[t + 1, n] if not ends else 0.0
            ahead = v_next[t, n] if ends else 0.2 * v_next[t, n] + 0.8 * following
            advantage[t, n] = reward[t, n] + discount * ahead - v[t, n]
    valid = np.asarray(rows.valid)
    near(np.asarray(memo)[valid], advantage[valid])
    near(np.asarray(est.target)[valid], (advantage + v)[valid])
    # The loss: −min(exp(β Â), 20) log π(a|s), Â scaled to deviation 1 over the samples.
    losses, _ = algorithm.actor.loss(algorithm.critic, view, (), rows, memo, 0.0, KEY)
    scaled = (advantage - advantage[valid].mean()) / (advantage[valid].std() + 1e-8)
    weight = np.minimum(np.exp(scaled), 20)
    near(np.asarray(losses)[valid], (-weight * wide(view.log_prob))[valid], 1e-4)
    other = dataclasses.replace(rows, log_prob=rows.log_prob - 1.0)
    same, _ = update.estimate(state, other, 0.0, KEY)
    np.testing.assert_array_equal(same[2], item[2])


@pytest.mark.parametrize("spec", [MOVES, CHOICES], ids=["box", "discrete"])
def test_awac_weighs_by_the_least_q_over_the_policys(spec):
    algorithm = configure(
        PRESETS["awac"].algorithm, {"policy_kwargs": {"net_arch": [6]}, "max_weight": 1.05, "beta": 2.0}
    )
    _, net, params, build = fitted(algorithm, spec)
    rows = batch(spec, 9)
    view = net.view(build, params, rows)
    memo = algorithm.actor.remember(algorithm.critic, view, None, rows, None)
    if spec is MOVES:
        q, at_mode = (wide(view.q(a))[..., 0] for a in (rows.action, view.dist.mode()))
        expected = [min(q[b]) - min(at_mode[b]) for b in range(9)]
    else:
        q, pi = wide(view.q(None)), np.exp(wide(view.dist.logits))
        least = [[min(q[b, :, a]) for a in range(3)] for b in range(9)]
        expected = [
            least[b][int(rows.action[b])] - sum(pi[b, a] * least[b][a] for a in range(3)) for b in range(9)
        ]
    near(memo, expected)
    losses, _ = algorithm.actor.loss(algorithm.critic, view, (), rows, memo, 0.0, KEY)
    weight = np.minimum(np.exp(2.0 * np.array(expected)), 1.05)
    near(losses, -weight * wide(view.log_prob), 1e-4)
    assert (weight == 1.05).any()
    assert (weight < 1.05).any()


def test_awac_learns_from_a_data_set_too():
    assert compose("ensemble:2", "weighted:1.0", "fixed").data.facts.fixed
    assert compose("conservative:1.0", "weighted:1.0", "fixed").critic.name == "conservative"


# ------------------------------------------------------------------ IMPACT

IMPACT = AWR | {"gamma": 0.9, "normalize_advantage": False, "ent_coef": 0.0, "vf_coef": 0.0, "learning_rate": 1.0,
                "optimizer": "sgd", "max_grad_norm": None}  # fmt: skip


def test_impact_compares_with_the_policy_before_the_chunks_first_step_and_counts_rho_once():
    algorithm = configure(PRESETS["impact"].algorithm, IMPACT)
    rows, _, memo, view, update, state, _ = prepared(algorithm)
    near(memo["log_prob"], np.asarray(view.log_prob), 0)
    rho = np.where(rows.valid, np.exp(wide(view.log_prob) - wide(rows.log_prob)), 0)
    # ψ is V-trace's advantage, which holds ρ̄ = min(1, ρ) once.
    v, v_next, samples = wide(view.out), wide(view.next_out), np.asarray(rows.valid)
    clipped, target, psi = np.minimum(rho, 1), v.copy(), np.zeros((6, 2))
    for n in range(2):
        for t in reversed(range(6)):
            if not samples[t, n]:
                continue
            discount, ends = 0.0 if rows.terminated[t, n] else 0.9, bool(rows.cut[t, n])
            delta = float(rows.reward[t, n]) + discount * v_next[t, n] - v[t, n]
            more = 0.0 if ends else discount * clipped[t, n] * (target[t + 1, n] - v[t + 1, n])
            target[t, n] = v[t, n] + clipped[t, n] * delta + more
            following = v_next[t, n] if ends else target[t + 1, n]
            psi[t, n] = clipped[t, n] * (float(rows.reward[t, n]) + discount * following - v[t, n])
    near(memo["psi"], psi)
    assert (rho > 1).any()
    assert (rho[samples] < 1).any()

    # The first step: ∇ of the loss is ψ ∇log π, as of V-trace's own actor, with no second ratio.
    net, params = view.net, state.params

    def gradient(actor, theta):
        def loss(theta):
            seen = update.look(params | {"net": theta}, rows)
            return rows.mean(actor.loss(algorithm.critic, seen, state.kept.actor, rows, memo, 0.0, KEY)[0])

        return np.asarray(jax.grad(loss)(theta))

    score = configure(PRESETS["v-trace"].algorithm, {"normalize_advantage": False, "ent_coef": 0.0}).actor
    first = gradient(algorithm.actor, params["net"])
    near(first, gradient(score, params["net"]), 1e-5)
    assert np.max(np.abs(first)) > 1e-3

    # The second: the ratio is to the policy before the first step, whatever μ was.
    theta = params["net"] - 0.3 * first
    seen = update.look(params | {"net": theta}, rows)
    ratio = np.exp(wide(seen.log_prob) - wide(view.log_prob))
    objective = np.minimum(ratio * psi, np.clip(ratio, 0.8, 1.2) * psi)
    losses, metrics = algorithm.actor.loss(algorithm.critic, seen, state.kept.actor, rows, memo, 0.0, KEY)
    near(np.asarray(losses)[samples], -objective[samples], 1e-4)
    assert net.head == seen.net.head
    assert not np.allclose(
        ratio[samples], (np.exp(wide(seen.log_prob) - wide(rows.log_prob)))[samples], atol=0.05
    )
    near(metrics["train/clip_fraction"], (abs(ratio - 1) > 0.2)[samples].mean())


def test_an_advantage_that_holds_the_ratio_is_not_centred():
    """Rows that π would never give have ρ = 0 and must not pull; less the mean they would, where ∇log π is largest."""
    assert not PRESETS["impact"].algorithm.actor.normalize_advantage
    assert not compose("v-trace", "ppo-clip", "lag").actor.normalize_advantage
    assert compose("gae", "ppo-clip", "on-policy").actor.normalize_advantage
    algorithm = configure(PRESETS["impact"].algorithm, AWR | {"ent_coef": 0.0})
    rows, _, memo, _, update, state, _ = prepared(algorithm)
    never = jnp.zeros((6, 2), bool).at[1, 0].set(True).at[4, 1].set(True)
    memo = memo | {"psi": jnp.where(never, 0.0, memo["psi"])}

    def pull(actor):
        def loss(theta, weight):
            seen = update.look(state.params | {"net": theta}, rows)
            losses, _ = actor.loss(algorithm.critic, seen, state.kept.actor, rows, memo, 0.0, KEY)
            return jnp.sum(weight * losses)

        return float(jnp.max(jnp.abs(jax.grad(loss)(state.params["net"], never.astype(jnp.float32)))))

    assert pull(algorithm.actor) == 0
    assert pull(dataclasses.replace(algorithm.actor, normalize_advantage=True)) > 1e-3


def test_windows_of_the_memory_are_compared_with_the_policy_that_meets_them():
    """Each window is estimated by the networks in hand and takes one step, at which the ratio is 1."""
    assert isinstance(PRESETS["impact"].algorithm.data, Trajectories)
    with pytest.raises(SettingError, match="must hold the ratio"):
        compose("td-is", "ppo-clip", "trajectories")
    with pytest.raises(SettingError, match="must hold the ratio"):
        compose("v-trace", "ppo-clip:psi=td-error", "trajectories")


# ------------------------------------------------------------------ words


@pytest.mark.parametrize("name", NEW)
def test_presets_are_nothing_but_their_words(name):
    algorithm = PRESETS[name].algorithm
    said = words_of(algorithm)
    again = compose(said["critic"], said["actor"], said["data"], said["settings"])
    assert again == algorithm


def test_words_of_the_new_answers():
    assert parse_critic("ensemble:10:subset=2,actor_q=mean") == PRESETS["redq"].algorithm.critic
    assert parse_critic("crossq:3:renorm_warmup_steps=7").renorm_warmup_steps == 7
    assert parse_critic("ensemble:1:c51,v_min=-5,v_max=5").joined == CategoricalJoined(51, -5, 5)
    assert parse_actor("weighted:1.0:20.0,normalize_advantage") == PRESETS["awr"].algorithm.actor
    for actor in ("soft", "deterministic", "weighted"):
        assert compose("crossq:quantiles", actor, "replay").critic.joined.name == "quantiles"


# ------------------------------------------------------------------ probes


@dataclasses.dataclass(frozen=True)
class TwoSteps(Probe):
    """Obs (x, 0), then (x, 1), x = ±1; nothing, then 1 for the action that x asks for: V = γ, then 1.

    The action is [x > 0]; continuous, the reward is 1 − (a − x/2)².
    """

    def _start(self, key):
        return jax.random.rademacher(key, (), jnp.float32)

    def _observe(self, state):
        return jnp.stack([state.x, jnp.minimum(state.t, 1).astype(jnp.float32)])

    def _outcome(self, state, action):
        if self.continuous:
            gain = 1 - (action[0] - state.x / 2) ** 2
        else:
            gain = ((action == 1) == (state.x > 0)).astype(jnp.float32)
        return jnp.where(state.t >= 1, gain, 0.0), state.t >= 1


GAMMA, ENVS = 0.5, 32
TANH = {"net_arch": [32], "activation_fn": "tanh"}
REPLAYED = {"policy_kwargs": TANH, "batch_size": 64, "buffer_size": 8192, "learning_starts": 1024, "train_freq": 2,
            "gradient_steps": 4, "learning_rate": 5e-3}  # fmt: skip
ROLLED = {"policy_kwargs": TANH, "n_steps": 8, "batch_size": 64, "buffer_size": 2048, "learning_starts": 0,
          "replay_ratio": 2, "learning_rate": 0.01}  # fmt: skip
PROBES = {
    "impact": (ROLLED | {"ent_coef": 0.0}, 60),
    "awr": (ROLLED, 80),
    "munchausen-dqn": (REPLAYED | {"target_update_interval": 128}, 250),
    "d4pg": (REPLAYED | {"n_atoms": 31, "v_min": -2.0, "v_max": 2.0, "tau": 0.05, "n_steps": 2}, 250),
    "redq": (REPLAYED | {"n_critics": 3, "policy_delay": 2, "tau": 0.05, "ent_coef": 0.01}, 250),
    "crossq": (REPLAYED | {"policy_kwargs": {"net_arch": [32]}, "ent_coef": 0.01}, 250),
    "awac": (REPLAYED | {"tau": 0.05, "beta": 10.0}, 250),
}


def value(algorithm, acting, obs):
    """V, max Q, or Q of the policy's own action."""
    net = acting.net
    rows = Rows(
        obs, jnp.zeros(len(obs), int), jnp.zeros(len(obs)), obs, jnp.zeros(len(obs)), jnp.ones(len(obs), bool)
    )
    if algorithm.critic.facts.gives == "Q(s, ·)":
        return algorithm.critic.q_values(net, obs).max(axis=-1)
    if algorithm.critic.facts.gives == "V":
        return net.view(None, {}, rows, net).out
    view = net.view(None, {}, rows, net)
    action = algorithm.policy(acting, None, obs, None, None)[0]
    return algorithm.critic.joined.mean(view.q(action)).min(axis=1)


@pytest.mark.slow  # test_learning.py has them on all the probes, in the program of their golden numbers
@pytest.mark.parametrize("name", NEW)
def test_new_presets_learn_known_values_and_to_act(name):
    settings, iterations = PROBES[name]
    continuous = name in ("d4pg", "redq", "crossq", "awac")
    algorithm = configure(PRESETS[name].algorithm, settings | {"gamma": GAMMA})
    env = TwoSteps(continuous=continuous)
    algorithm.check(env.spec, ENVS)
    runner = CompiledRunner(algorithm, env, ENVS, [0])
    runner.set_training(total_steps=10**6)
    runner.warm()
    reports = runner.advance(iterations)
    assert not reports[-1].nonfinite
    acting = runner.learners[0].acting
    obs = jnp.asarray([[-1.0, 0], [1, 0], [-1, 1], [1, 1]])
    action = np.asarray(algorithm.policy(acting, None, obs, None, None)[0]).reshape(-1)[2:]
    near(action, [-0.5, 0.5] if continuous else [0, 1], 0.15)
    near(value(algorithm, acting, obs), [GAMMA, GAMMA, 1, 1], 0.1)
