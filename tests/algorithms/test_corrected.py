"""Actor-critics that learn from another policy's data: lag, V-trace, ACER, PGQL, importance-sampled gradients."""

import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import NUM_ENVS, distance, estimated, restart, small

from actrix.actors.corrected import PGQL, acer_step
from actrix.actors.policy_gradient import PPOClip
from actrix.actors.score import Score
from actrix.algorithms.learn import Composition
from actrix.algorithms.presets import PRESETS, compose
from actrix.algorithms.settings import configure
from actrix.core.distributions import Categorical
from actrix.core.fit import Joint
from actrix.core.optim import flatten
from actrix.core.rows import Rows, rows_of
from actrix.core.types import Chunk
from actrix.critics import corrections
from actrix.critics.corrected import ImportanceMC, VTrace
from actrix.critics.value import GAE
from actrix.data.chunk import OnPolicy
from actrix.data.lagged import Lagged
from actrix.envs.probes import ActionObs, ContinuousTarget
from actrix.loops.compiled import CompiledRunner, collect
from actrix.loops.runner import iteration_keys
from actrix.nets.memory import apply
from actrix.nets.networks import NetworkConfig

ONCE = {"n_epochs": 1, "batch_size": None}
SMALL = NetworkConfig(pi=(16,), vf=(16,))


def composition(critic, actor, data, learning_rate=3e-4):
    """Sound or not."""
    return Composition(critic, actor, data, Joint(learning_rate=learning_rate), network=SMALL)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


# ------------------------------------------------------------------ the KL in the reward


@pytest.mark.parametrize("behaviour", [0.9, 0.5, 0.1])
def test_the_policy_learned_pays_for_its_kl_not_the_behaviour(behaviour):
    """One terminal step: V-trace's target is V + ρ̄ (r − τ log π/π̄ − V), with the π̄ = ½ of the uniform reference."""
    tau = 0.7
    algorithm = small(PRESETS["v-trace"].algorithm, lag=8, ref_kl_coef=tau)
    learner = algorithm.init(jax.random.key(0), ActionObs().spec, 2)
    obs, action = jnp.asarray([[[1.0, 0.0], [-1.0, 0.0]]]), jnp.asarray([[0, 1]], jnp.int32)
    out, _ = apply(learner.acting.net, obs, axes=2)
    yes = jnp.ones((1, 2), bool)
    chunk = Chunk(
        obs=obs, action=action, reward=jnp.ones((1, 2)), next_obs=obs, terminated=yes, truncated=~yes,
        log_prob=jnp.full((1, 2), np.log(behaviour)), dist=out.dist, first=yes, valid=yes,
    )  # fmt: skip
    _, est, _ = estimated(algorithm, learner, chunk)
    pi, value = np.exp(out.dist.log_prob(action))[0], np.asarray(out.value)[0]
    charged = 1 - tau * np.log(pi / 0.5)
    expected = value + np.minimum(1, pi / behaviour) * (charged - value)
    np.testing.assert_allclose(np.asarray(est.target).ravel(), expected, rtol=1e-5)


# ------------------------------------------------------------------ lag


@pytest.mark.parametrize(
    "algorithm",
    [PRESETS["v-trace"].algorithm, compose("gae", "weighted", "lag")],
    ids=["v-trace", "weighted"],
)
def test_the_behaviour_is_exactly_the_policy_of_so_many_updates_ago(algorithm):
    algorithm = small(algorithm, lag=3)
    runner = CompiledRunner(algorithm, ActionObs(), NUM_ENVS, [0])
    learner, env, env_key, key = jax.tree.map(
        lambda x: x[0],
        (runner.state.learner, runner.state.env, runner.state.env_key, runner.state.iteration_key),
    )
    unflatten, learn = flatten(learner.acting.net)[1], jax.jit(algorithm.learn)
    act = jax.jit(lambda acting, env, key: collect(algorithm, acting, ActionObs(), env, env_key, key, 8))
    log_prob = jax.jit(lambda theta, c: apply(unflatten(theta), c.obs, axes=2)[0].dist.log_prob(c.action))
    thetas = []
    for i in range(7):
        thetas.append(flatten(learner.acting.net)[0])
        noise_key, learn_key = iteration_keys(key, i)
        env, chunk, _ = act(learner.acting, env, noise_key)
        np.testing.assert_allclose(
            chunk.log_prob, log_prob(thetas[max(i - 3, 0)], chunk), rtol=1e-5, atol=1e-6
        )
        assert i == 0 or np.abs(chunk.log_prob - log_prob(thetas[-1], chunk)).max() > 1e-3
        learner, _ = learn(learner, chunk, learn_key)
    # Evaluation takes the newest parameters.
    obs = jnp.asarray([[1.0, 0.0]])
    newest = apply(learner.acting.net, obs)[0].dist.mode()
    np.testing.assert_array_equal(algorithm.policy(learner.acting, None, obs, None, None)[0], newest)


def after_three(algorithm):
    runner = CompiledRunner(algorithm, ActionObs(), NUM_ENVS, [0])
    runner.advance(3)
    return runner.learners[0]


def test_no_lag_is_on_policy():
    """Bit by bit for one algorithm; and V-trace with all ratios 1 is the n-step target and its advantage.

    PPO's ratio compares with a probability computed when acting, or anew by what learns: equal but for rounding.
    """
    chunks = {"n_steps": 8, **ONCE}
    score, ppo = Score(normalize_advantage=False), PPOClip(normalize_advantage=False)
    for actor, most in ((score, 0.0), (ppo, 1e-6)):
        one, other = (
            after_three(composition(GAE(), actor, data))
            for data in (OnPolicy(**chunks), Lagged(lag=0, **chunks))
        )
        assert distance(one.acting.net, other.acting.net) <= most
        assert other.acting.explore is None
    vtrace = after_three(composition(VTrace(), score, Lagged(lag=0, **chunks), 0.01))
    n_step = after_three(composition(GAE(1.0), score, OnPolicy(**chunks), 0.01))
    assert distance(vtrace.acting.net, n_step.acting.net) < 1e-5


def test_v_trace_beats_the_uncorrected_learner_at_lag_8():
    """The same but for the correction, 5 seeds. As a Gaussian narrows, actions of older policies lie many deviations
    from its mean: their scores are huge, and only the ratio makes them count little. Best is 0; the mean alone −0.25.
    """

    def returns(critic):
        actor = Score(normalize_advantage=False)
        algorithm = composition(critic, actor, Lagged(lag=8, n_steps=16, **ONCE), 0.01)
        runner = CompiledRunner(algorithm, ContinuousTarget(), 8, [0])
        return [restart(runner, seed).advance(500)[0].ep_returns[-2000:].mean() for seed in range(5)]

    assert min(returns(VTrace())) > -0.08
    assert max(returns(GAE(1.0))) < -0.15


# ------------------------------------------------------------------ ACER and PGQL


def policies(seed, count, actions=4):
    rng = np.random.default_rng(seed)
    return [jax.nn.log_softmax(jnp.asarray(2 * rng.normal(size=(50, actions)))) for _ in range(count)]


def acer(log_pi, mu, average, **changes):
    rng = np.random.default_rng(3)
    rows = dict(action=jnp.asarray(rng.integers(0, 4, 50)), advantage=jnp.asarray(rng.normal(size=50)),
                q_advantage=jnp.asarray(rng.normal(size=(50, 4))), truncation=1.5, trust_region=1e9)  # fmt: skip
    rows |= changes
    return acer_step(log_pi, mu, average, **rows), rows


def test_acer_ascends_the_truncated_and_corrected_objective(float64):
    """By autodiff: min(c, ρ_t) Â log π(a_t) + Σ_a sg(π(a)[1 − c/ρ(a)]₊) A(a) log π(a)."""
    logits, (mu, average) = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4))), policies(1, 2)
    (step, share), rows = acer(jax.nn.log_softmax(logits), mu, average)

    def objective(logits):
        log_pi = jax.nn.log_softmax(logits)
        rho = jax.lax.stop_gradient(jnp.exp(log_pi - mu))
        pick = lambda x: jnp.take_along_axis(x, rows["action"][:, None], 1)[:, 0]
        first = jnp.minimum(pick(rho), 1.5) * rows["advantage"] * pick(log_pi)
        lost = jax.lax.stop_gradient(jnp.exp(log_pi)) * jnp.maximum(1 - 1.5 / rho, 0) * rows["q_advantage"]
        return jnp.sum(first) + jnp.sum(lost * log_pi)

    np.testing.assert_allclose(step, jax.grad(objective)(logits), atol=1e-10)
    np.testing.assert_array_equal(share, 1.0)
    assert (np.exp(jax.nn.log_softmax(logits) - mu) > 1.5).any()


@pytest.mark.parametrize("truncation", [0.3, 1.0, 10.0])
def test_acer_is_unbiased_whatever_the_truncation(float64, truncation):
    """With Â = A of the action taken, the mean over a ~ μ is ∇ Σ_a π(a) A(a) exactly."""
    logits, (mu, average) = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4))), policies(1, 2)
    a_of = jnp.asarray(np.random.default_rng(4).normal(size=(50, 4)))
    total = 0.0
    for action in range(4):
        (step, _), _ = acer(
            jax.nn.log_softmax(logits), mu, average, action=jnp.full(50, action), advantage=a_of[:, action],
            q_advantage=a_of, truncation=truncation,
        )  # fmt: skip
        total += jnp.exp(mu[:, action : action + 1]) * step
    want = jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) * a_of))(logits)
    np.testing.assert_allclose(total, want, atol=1e-10)


def test_acer_keeps_near_the_average_policy(float64):
    """kᵀz ≤ δ, k = ∇KL(average ‖ π) in the logits; the nearest such z: g − λk where it binds, else g."""
    log_pi, mu, average = policies(1, 3)
    (g, _), _ = acer(log_pi, mu, average)
    (z, share), _ = acer(log_pi, mu, average, trust_region=0.05)
    kl = lambda x: jnp.sum(jnp.exp(average) * (average - jax.nn.log_softmax(x)))
    k = jax.grad(kl)(log_pi)
    assert (jnp.sum(k * z, 1) <= 0.05 + 1e-9).all()
    binds = np.asarray(jnp.sum(k * g, 1) > 0.05)
    assert 5 < binds.sum() < 45
    np.testing.assert_array_equal(np.asarray(z)[~binds], np.asarray(g)[~binds])
    np.testing.assert_allclose(jnp.sum(k * z, 1)[binds], 0.05, atol=1e-9)
    factor = np.asarray(jnp.sum((g - z) * k, 1) / jnp.sum(k * k, 1))[binds, None]
    np.testing.assert_allclose(np.asarray(g - z)[binds], factor * np.asarray(k)[binds], atol=1e-9)
    assert (np.asarray(share)[~binds] == 1).all()
    assert (np.asarray(share)[binds] < 1).all()


def test_pgql_q_values_and_loss(float64):
    """Q = α(log π + H) + V, so that Σ_a π Q = V; the loss is ½(target − Q(s,a))², its target a constant."""
    log_pi, value = policies(2, 1)[0], jnp.linspace(-1, 1, 50)
    actor = PGQL(0.3, ent_coef=0.7)
    q = actor.q_values(Categorical(log_pi), value)
    entropy = -jnp.sum(jnp.exp(log_pi) * log_pi, 1, keepdims=True)
    np.testing.assert_allclose(q, 0.7 * (log_pi + entropy) + value[:, None], atol=1e-12)
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_pi) * q, 1), value, atol=1e-12)
    action, target = jnp.arange(50) % 4, jnp.cos(jnp.arange(50.0))
    rows = some_rows(50, replayed=True)

    def loss(value):
        view = types.SimpleNamespace(dist=Categorical(log_pi), out=value, action=action)
        return actor.loss(None, view, None, rows, {"target": target}, 0.0, None)[0] / actor.eta

    error = target - q[jnp.arange(50), action]
    np.testing.assert_allclose(loss(value), 0.5 * error**2, atol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda v: loss(v).sum())(value), -error, atol=1e-12)
    assert actor.critic_share(rows) == 0  # the critic's own loss is that of fresh data only


def some_rows(number, **fields):
    """Rows of which only what is given matters."""
    zeros = jnp.zeros(number)
    return Rows(zeros, zeros, zeros, zeros, zeros, zeros > 0, on_policy=False, **fields)


def test_pgql_rests_where_its_q_is_the_advantage(float64):
    """Where Â = α(log π + H), which is Q − V of the replayed half, the fresh gradient is 0, whatever η."""
    algorithm = configure(PRESETS["pgql"].algorithm, {"eta": 0.3, "ent_coef": 0.7, "vf_coef": 0.0})
    logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))
    action = jnp.array([0, 0, 1, 2])  # as often as π takes them
    psi = algorithm.actor.q_values(Categorical(logits), jnp.zeros(()))[action]
    rows, kept = some_rows(4, log_prob=logits[action]), algorithm.actor.init(None, {})

    def loss(z, psi):
        dist = Categorical(jnp.broadcast_to(jax.nn.log_softmax(z), (4, 3)))
        view = types.SimpleNamespace(
            dist=dist, log_prob=dist.log_prob(action), action=action, out=jnp.zeros(4)
        )
        return rows.mean(algorithm.actor.loss(None, view, kept, rows, {"psi": psi}, 0.0, None)[0])

    np.testing.assert_allclose(jax.grad(loss)(logits, psi), 0.0, atol=1e-12)
    assert np.abs(jax.grad(loss)(logits, 2 * psi)).max() > 0.05


def test_pgql_replays_one_step_q_learning():
    """Target r + γ(1 − terminated) max_a Q(s′, a), over the legal actions, from the network that learns: a constant."""
    algorithm = small(PRESETS["pgql"].algorithm, gamma=0.9, ent_coef=0.2)
    runner = CompiledRunner(algorithm, ActionObs(), 4, [0])
    state = jax.tree.map(lambda x: x[0], runner.state)
    acting, rng = state.learner.acting, np.random.default_rng(0)
    chunk = collect(algorithm, acting, ActionObs(), state.env, state.env_key, state.iteration_key, 8)[1]
    mask = np.arange(2)[None, None] == rng.integers(0, 2, (8, 4, 1))
    chunk = dataclasses.replace(
        chunk, obs=rng.normal(size=(8, 4, 2)).astype("f"), next_obs=rng.normal(size=(8, 4, 2)).astype("f"),
        terminated=rng.random((8, 4)) < 0.3, next_mask=mask,
    )  # fmt: skip
    target = lambda learner: estimated(algorithm, learner, chunk, replayed=True)[2]["target"]
    out = apply(acting.net, jnp.asarray(chunk.next_obs), None, jnp.asarray(mask), axes=2)[0]
    # One action is legal, so its probability is 1, the entropy 0 and Q = V.
    want = chunk.reward + 0.9 * (1 - chunk.terminated) * out.value
    np.testing.assert_allclose(target(state.learner), want, rtol=1e-5, atol=1e-6)
    theta, build = flatten(acting.net)

    def total(theta):
        moved = dataclasses.replace(acting, net=build(theta))
        return jnp.sum(target(dataclasses.replace(state.learner, acting=moved)))

    np.testing.assert_array_equal(jax.grad(total)(theta), 0.0)
    assert total(theta) != total(theta + 0.1)


# ------------------------------------------------------------------ every trajectory of an exact MDP

GAMMA, HORIZON = 0.9, 4
STEP = np.array([[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], [[0.4, 0.4, 0.2], [0.7, 0.2, 0.1]]])
"""P[s, a, s′]; state 2 is terminal."""
REWARD = np.array([[[1.0, -2.0, 5.0], [0.0, 3.0, -1.0]], [[-1.0, 0.5, 2.0], [4.0, -3.0, 0.0]]])
MU = np.array([[0.4, 0.6], [0.7, 0.3]])
THETA = np.array([[0.6, -0.8], [-0.5, 0.4]])


def softmax(theta):
    e = np.exp(theta)
    return e / e.sum(1, keepdims=True)


def every_episode():
    """All episodes from state 0 up to a hard stop, one per column, and what the environment's chances contribute."""
    found = []

    def extend(state, chance, rows):
        if state == 2 or len(rows) == HORIZON:
            found.append((chance, rows))
            return
        for a, after in itertools.product(range(2), range(3)):
            extend(after, chance * STEP[state, a, after], [*rows, (state, a, after)])

    extend(0, 1.0, [])
    columns = np.zeros((3, HORIZON, len(found)), int)
    valid = np.zeros((HORIZON, len(found)), bool)
    for b, (_, rows) in enumerate(found):
        columns[:, : len(rows), b], valid[: len(rows), b] = np.transpose(rows), True
    state, action, after = columns
    terminated = valid & (after == 2)
    truncated = valid & ~terminated & (np.arange(HORIZON) == HORIZON - 1)[:, None]
    chance = np.array([c for c, _ in found])
    rows = {"terminated": terminated, "truncated": truncated, "valid": valid, "gamma": GAMMA}
    return (
        state,
        action,
        after,
        chance,
        rows | {"reward": np.where(valid, REWARD[state, action, after], np.nan)},
    )


STATE, ACTION, AFTER, CHANCE, ROWS = every_episode()
VALID = ROWS["valid"]


def along(table, otherwise=1.0):
    return np.where(VALID, table[STATE, ACTION], otherwise)


def expected_return(theta):
    gained = np.where(VALID, GAMMA ** np.arange(HORIZON)[:, None] * np.nan_to_num(ROWS["reward"]), 0)
    return (CHANCE * along(softmax(theta)).prod(0)) @ gained.sum(0)


def finite_difference():
    out, h = np.zeros((2, 2)), 1e-5
    for at in np.ndindex(2, 2):
        shift = np.zeros((2, 2))
        shift[at] = h
        out[at] = (expected_return(THETA + shift) - expected_return(THETA - shift)) / (2 * h)
    return out


def score():
    """∇_θ log π(a_t|s_t), `[T, B, 2, 2]`."""
    eye = np.eye(2)
    grad = eye[STATE][..., :, None] * (eye[ACTION] - softmax(THETA)[STATE])[..., None, :]
    return np.where(VALID[..., None, None], grad, 0.0)


def mean_gradient(psi):
    """E_μ[Σ_t ∇log π ψ_t]."""
    probability = CHANCE * along(MU).prod(0)
    assert probability.sum() == pytest.approx(1)
    return np.einsum("b,tbij,tb->ij", probability, score(), np.where(VALID, psi, 0.0))


RHO = along(softmax(THETA) / MU, np.nan)


@pytest.mark.parametrize("kind", ["ordinary", "per-decision"])
def test_importance_sampled_gradients_are_unbiased(float64, kind):
    psi = corrections.trajectory_psi(kind, rho=jnp.asarray(RHO), **ROWS)
    np.testing.assert_allclose(mean_gradient(psi), finite_difference(), atol=1e-8)
    for wrong in (np.ones_like(RHO), np.roll(np.where(VALID, RHO, 1.0), 1, 0)):
        psi = corrections.trajectory_psi(kind, rho=jnp.asarray(wrong), **ROWS)
        assert np.abs(mean_gradient(psi) - finite_difference()).max() > 0.02


def test_the_weighted_gradient_is_normalised_over_the_batch(float64):
    rows = {k: v for k, v in ROWS.items() if k != "gamma"}
    some = {k: jnp.asarray(v[:, 20:60]) for k, v in rows.items()} | {"gamma": GAMMA}
    rho, valid = RHO[:, 20:60], VALID[:, 20:60]
    weight = np.where(valid, rho, 1).prod(0)
    gained = np.where(
        valid, GAMMA ** np.arange(HORIZON)[:, None] * np.nan_to_num(rows["reward"][:, 20:60]), 0
    ).sum(0)
    psi = corrections.trajectory_psi("weighted", rho=jnp.asarray(rho), **some)
    np.testing.assert_allclose(psi, np.where(valid, weight / weight.mean() * gained, 0), rtol=1e-9)
    ordinary = corrections.trajectory_psi("ordinary", rho=jnp.asarray(rho), **some)
    np.testing.assert_allclose(ordinary, np.where(valid, weight * gained, 0), rtol=1e-9)
    assert np.isnan(rho[~valid]).all()


def test_the_weighted_gradient_is_finite_over_long_episodes():
    """2^500 and 2^−500 are no float32."""
    rho = jnp.stack([jnp.full(500, 2.0), jnp.full(500, 0.5), jnp.full(500, 2.0)], axis=1)
    end = jnp.zeros((500, 3), bool).at[-1].set(True)
    psi = corrections.trajectory_psi(
        "weighted", rho=rho, reward=jnp.ones((500, 3)), terminated=end, truncated=end & False, gamma=1.0
    )
    np.testing.assert_allclose(psi, np.tile([750.0, 0.0, 750.0], (500, 1)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["ordinary", "weighted", "per-decision"])
def test_episodes_may_follow_each_other_in_a_column(float64, kind):
    rng = np.random.default_rng(0)
    rho, reward = jnp.asarray(rng.uniform(0.5, 2, (6, 4))), jnp.asarray(rng.normal(size=(6, 4)))
    end = jnp.zeros((6, 4), bool).at[2].set(True).at[5].set(True)
    long = corrections.trajectory_psi(
        kind, rho=rho, reward=reward, terminated=end, truncated=end & False, gamma=0.9
    )
    apart = lambda x: jnp.concatenate([x[:3], x[3:]], axis=1)
    short = corrections.trajectory_psi(
        kind,
        rho=apart(rho),
        reward=apart(reward),
        terminated=apart(end),
        truncated=apart(end) & False,
        gamma=0.9,
    )
    np.testing.assert_allclose(apart(long), short, rtol=1e-10)


@pytest.mark.parametrize("kind", ["ordinary", "per-decision"])
def test_the_advantage_of_importance_sampled_returns_is_unbiased(float64, kind):
    """E_μ[∇log π(a|s)(target − ρV(s)) | s] = Σ_a π ∇log π Q(s, a) at every row, for any V; without the ρ it is not."""
    pi = softmax(THETA)
    reward = (STEP * REWARD).sum(-1)
    step = np.einsum("sa,saz->sz", pi, STEP)[:, :2]
    v = np.append(np.linalg.solve(np.eye(2) - GAMMA * step, (pi * reward).sum(1)), 0.0)
    q = reward + GAMMA * STEP @ v
    eye = np.eye(2)
    right = np.stack([sum(pi[s, a] * (eye[a] - pi[s]) * q[s, a] for a in range(2)) for s in range(2)])
    some_v = np.array([3.0, -2.0, 0.0])[STATE]
    chunk = Chunk(None, None, ROWS["reward"], None, ROWS["terminated"], ROWS["truncated"], ROWS["valid"],
                  log_prob=jnp.zeros(RHO.shape))  # fmt: skip
    rows, critic = rows_of(jax.tree.map(jnp.asarray, chunk), GAMMA, on_policy=False), ImportanceMC(kind)
    view = types.SimpleNamespace(log_prob=jnp.log(jnp.asarray(RHO)))
    values = jnp.asarray(some_v), jnp.asarray(v[AFTER])
    advantage = critic.psi(rows, *values, view, critic.target(rows, *values, view))
    weight = CHANCE * along(MU).prod(0)
    without = np.asarray(advantage) + RHO * some_v - some_v

    def given_state(psi, t, s):
        hit = VALID[t] & (STATE[t] == s)
        return weight[hit] @ (score()[t, hit, s] * np.asarray(psi)[t, hit, None]) / weight[hit].sum()

    for t, s in itertools.product(range(HORIZON), range(2)):
        if not (VALID[t] & (STATE[t] == s)).any():
            continue
        np.testing.assert_allclose(given_state(advantage, t, s), right[s], atol=1e-9)
        assert np.abs(given_state(without, t, s) - right[s]).max() > 0.1
