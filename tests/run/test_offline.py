"""The offline loop: all of the data drawable, same seed same bits, segments of any length, resumed exactly."""

import dataclasses

import jax
import numpy as np
import pytest
from gymnasium import spaces

from actrix.algorithms.presets import PRESETS, find_preset
from actrix.algorithms.settings import configure
from actrix.core.rows import Rows
from actrix.core.types import Spec
from actrix.data.datasets.dataset import Episode, assemble
from actrix.files import checkpoint
from actrix.loops.evaluate import Policy
from actrix.loops.offline import STD_FLOOR, OfflineRunner, fill, observation_moments
from actrix.loops.train import NonFiniteError, SeedRun, load_checkpoints, save_checkpoints, train
from actrix.nets.view import apply

SMALL = {"policy_kwargs": {"net_arch": [16]}, "batch_size": 16, "buffer_size": 10**6, "n_step": 2}
BOX, DISCRETE = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)
ALGORITHMS = {
    name: (configure(PRESETS[name].algorithm, SMALL | settings), space)
    for name, settings, space in (
        ("bc", {"normalize_obs": True}, BOX),
        ("iql", {"prioritized": True}, DISCRETE),
        ("td3-bc", {}, BOX),
        ("dqn", {"target_update_interval": 3}, DISCRETE),
    )
}


def make_dataset(action_space, lengths=(5, 1, 7, 3), seed=0, reward=None):
    """Random numbers; every other episode terminates. The third observation is constant."""
    rng = np.random.default_rng(seed)
    action_space.seed(seed)
    episodes = []
    for i, n in enumerate(lengths):
        obs = rng.normal([1, -2, 3], [1, 5, 0], size=(n + 1, 3))
        action = np.stack([action_space.sample() for _ in range(n)])
        ends = (np.arange(n) == n - 1) & (i % 2 == 0)
        rewards = rng.normal(size=n) if reward is None else np.full(n, reward)
        episodes.append(Episode(obs, action, rewards, ends, np.zeros(n, bool)))
    spec = Spec(spaces.Box(-np.inf, np.inf, (3,), np.float32), action_space)
    return assemble(episodes, spec)


def runner_of(name, seeds=(3,)):
    algorithm, action_space = ALGORITHMS[name]
    runner = OfflineRunner(algorithm, make_dataset(action_space), seeds)
    runner.set_training(total_steps=20)
    return runner


def same(a, b):
    """Bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize(
    "name", [x if x in ("dqn", "iql") else pytest.param(x, marks=pytest.mark.slow) for x in ALGORITHMS]
)
def test_same_seed_same_bits_in_segments_of_any_length_and_resumed(name, tmp_path):
    whole = runner_of(name, [3, 4])
    before = whole.learners
    reports = whole.advance(7)
    assert [(r.steps, r.iterations, r.nonfinite, len(r.ep_returns)) for r in reports] == [
        (7, 7, False, 0)
    ] * 2
    assert not same(before[0].acting.net, whole.learners[0].acting.net)
    assert not same(whole.actings[0].net, whole.actings[1].net), "seeds differ"

    parts = runner_of(name)
    parts.advance(3)
    run = SeedRun(3, checkpoints=tmp_path, steps=3, iterations=3)
    save_checkpoints(parts, [run])
    parts.advance([4])
    assert same(parts.learners[0], whole.learners[0])
    assert parts.iteration == 7
    training = parts.learners[0].training
    assert (int(training.steps), int(training.update), int(training.gradient_steps)) == (7, 7, 7)

    resumed = runner_of(name, [5])
    assert load_checkpoints(resumed, [SeedRun(5, checkpoints=tmp_path)]) is None
    resumed.advance(4)
    assert same(resumed.learners[0], whole.learners[0])


def test_learners_leave_the_data_behind_and_are_copies():
    runner = runner_of("bc")
    learner = runner.learners[0]
    assert learner.memory is None
    runner.advance(1)
    assert np.isfinite(np.asarray(learner.acting.net.actor.out.weight)).all(), "not donated"
    prioritized = runner_of("iql").learners[0]
    assert sum(x.size for x in jax.tree.leaves(prioritized.memory)) < 200, "priorities only"
    runner.reseed([9])
    runner.restart()
    runner.close()
    assert (runner.warm(), runner.warm_up, runner.rows, runner.num_envs) == ([], (0, 0), 1, 1)
    assert runner.advance([0])[0].iterations == 0


@pytest.mark.parametrize(("n_steps", "lengths"), [(1, (1,)), (1, (5, 1, 7, 3)), (3, (2, 1, 1, 6, 4))])
def test_every_transition_can_be_drawn_with_its_true_successor(n_steps, lengths):
    data = make_dataset(BOX, lengths)
    algorithm = configure(ALGORITHMS["iql"][0], {"n_step": n_steps, "prioritized": False})
    head = algorithm.initial_acting(jax.random.key(0), data.spec).net.head
    memory = fill(data, algorithm.data, head)
    ring, rows = memory.ring, memory.rows
    assert int(np.sum(rows.ready)) == data.transitions
    draw = ring.draw(rows, jax.random.key(1), 2000)
    drawn = ring.windows(rows, draw, 1)
    ok = np.asarray(draw.ok)
    assert np.mean(ok) > 0.9
    found = {bytes(o): i for i, o in enumerate(np.asarray(data.chunk.obs[:, 0]))}
    index = np.array([found[bytes(o)] for o in np.asarray(drawn.obs[0])[ok]])
    assert set(index) == set(range(data.transitions))
    for field in ("action", "reward", "next_obs", "terminated", "truncated"):
        expected = np.asarray(getattr(data.chunk, field))[index, 0]
        np.testing.assert_array_equal(np.asarray(getattr(drawn, field))[0][ok], expected)
    share = np.bincount(index, minlength=data.transitions) / len(index)
    assert share.max() < 1.5 / data.transitions + 0.03


def test_observation_statistics_are_the_data_s_and_stay():
    data = make_dataset(BOX)
    (moments,) = observation_moments(data, ((3,),))
    obs = data.chunk.obs[:, 0].astype(np.float64)
    np.testing.assert_allclose(moments.mean, obs.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(moments.var), obs.std(axis=0) + STD_FLOOR, rtol=1e-5)
    runner = runner_of("bc")
    before = runner.actings[0].obs_moments
    assert same(before, (moments,))
    runner.advance(2)
    assert same(runner.actings[0].obs_moments, before)
    assert OfflineRunner(ALGORITHMS["iql"][0], make_dataset(DISCRETE), [0]).actings[0].obs_moments is None


def test_the_training_loop_drives_it_to_its_budget(tmp_path):
    algorithm, _ = ALGORITHMS["dqn"]
    runner = runner_of("dqn", [0])
    run = SeedRun(0, checkpoints=tmp_path / "checkpoints")
    assert train(runner, [run], 40, checkpoint_seconds=0.0)
    assert (run.steps, run.iterations, run.episodes) == (40, 40, 0)
    assert "train/loss" in run.metrics
    assert checkpoint.checkpoints(tmp_path / "checkpoints")
    acting = runner.actings[0]
    assert float(acting.explore.epsilon) == pytest.approx(0.05), "ε at the end of its schedule"
    action, _ = Policy(algorithm, acting)(np.zeros((2, 3), np.float32), None, np.ones(2, bool), None, True)
    assert action.shape == (2,)


def test_an_update_that_is_not_finite_stops_and_changes_nothing():
    """Each reward is finite, the sum of two is not."""
    runner = OfflineRunner(ALGORITHMS["dqn"][0], make_dataset(DISCRETE, reward=3e38), [0])
    before = runner.actings[0].net
    with pytest.raises(NonFiniteError, match="became non-finite"):
        train(runner, [SeedRun(0)], 5)
    assert same(runner.actings[0].net, before)


def test_what_does_not_learn_from_data_is_refused():
    data = make_dataset(BOX)
    with pytest.raises(ValueError, match="only algorithms that replay transitions learn from a data set"):
        OfflineRunner(find_preset("ppo").algorithm, data, [0])
    scaled = configure(ALGORITHMS["bc"][0], {"normalize_reward": True})
    with pytest.raises(ValueError, match="normalize_reward is of rewards that still come in"):
        OfflineRunner(scaled, data, [0])
    with pytest.raises(ValueError, match="needs a Discrete action space"):
        OfflineRunner(ALGORITHMS["dqn"][0], data, [0])
    with pytest.raises(ValueError, match="reference"):
        OfflineRunner(ALGORITHMS["bc"][0], data, [0], reference=object())


# --------------------------------------------------------------------------- conservatism and cloning


FAST = {"policy_kwargs": {"net_arch": [16]}, "batch_size": 64, "learning_rate": 1e-2}


def narrow(rows=300, seed=1):
    """One-step episodes whose actions keep to [−0.8, 0], reward 1 + the mean action.

    What the data say of larger actions is nothing; a critic that extrapolates rates them highest.
    """
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(rows, 2, 3)).astype(np.float32)
    action = rng.uniform(-0.8, 0, (rows, 1, 2)).astype(np.float32)
    reward = 1 + action.mean(-1).astype(np.float64)
    yes, no = np.ones(1, bool), np.zeros(1, bool)
    episodes = [Episode(obs[i], action[i], reward[i], yes, no) for i in range(rows)]
    return assemble(episodes, Spec(spaces.Box(-np.inf, np.inf, (3,), np.float32), BOX))


def fitted(name, data, updates=400, **settings):
    algorithm = configure(PRESETS[name].algorithm, FAST | settings)
    runner = OfflineRunner(algorithm, data, [0])
    runner.set_training(total_steps=updates)
    runner.advance(updates)
    return runner


@pytest.mark.slow  # its penalty is the integral, below, and lowers Q in algorithms/test_off_policy.py
def test_cql_holds_down_the_values_of_actions_outside_the_data():
    data = narrow()
    obs = data.chunk.obs[:50, 0]
    gaps, values = {}, {}
    for alpha in (0.0, 5.0):
        critics = fitted("cql", data, cql_alpha=alpha, cql_actions=4).actings[0].net.critics
        at = lambda a, c=critics: float(apply(c, obs, np.full((50, 2), a, np.float32), None).mean())
        gaps[alpha], values[alpha] = at(0.9) - at(-0.4), at(0.9)
    assert gaps[0.0] > 0.5, "without it the critic extrapolates"
    assert gaps[5.0] < -1.0, "what the data hold is rated above what they do not"
    assert values[5.0] < values[0.0] - 1.0


def test_cql_s_penalty_is_the_integral():
    """log ∫ exp Q(s, a) da − Q(s, a_data): the sampled one against quadrature, the discrete one against a sum."""
    rng = np.random.default_rng(0)
    obs, ones = rng.normal(size=(6, 3)).astype(np.float32), np.ones(6, np.float32)
    observed = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    for space in (spaces.Box(-1, 1, (1,), np.float32), DISCRETE):
        discrete = space is DISCRETE
        settings = FAST | {"cql_actions": 3000, "discrete": discrete}
        algorithm = configure(PRESETS["cql"].algorithm, settings)
        net = algorithm.initial_acting(jax.random.key(0), Spec(observed, space)).net
        net = jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, net)
        q_of = lambda a, net=net: np.asarray(apply(net.critics, obs, a, None), np.float64)
        if discrete:
            action = np.array([0, 1, 2, 0, 1, 2], np.int32)
            each = q_of(None)  # [B, E, A]
            q = np.take_along_axis(each, action[:, None, None], 2)
            integral = np.log(np.sum(np.exp(each), axis=2))
        else:
            action = rng.uniform(-1, 1, (6, 1)).astype(np.float32)
            q, grid = q_of(action), np.linspace(-1, 1, 401, dtype=np.float32)
            every, tiled = np.repeat(grid, 6)[:, None], np.tile(obs, (401, 1))
            found = np.asarray(apply(net.critics, tiled, every, None), np.float64)[..., 0]
            each = found.reshape(401, 6, -1).transpose(1, 2, 0)
            integral = np.log(np.trapezoid(np.exp(each), grid, axis=2))
        assert np.ptp(each, axis=2).min() > 0.2, "Q depends on the action"
        rows = Rows(obs, action, ones, obs[::-1].copy(), ones, ones > 0)
        params, build = algorithm.fit.split(net)
        loss = lambda alpha, a=algorithm, v=net.view(build, params, rows), rows=rows: dataclasses.replace(
            a.critic, cql_alpha=alpha
        ).loss(v, rows, np.zeros((6, 1, 1), np.float32), jax.random.key(1))[0]
        found = float(np.mean(loss(1.0) - loss(0.0)))
        expected = float(np.mean(np.sum(integral - q[..., 0], axis=1)))
        assert found == pytest.approx(expected, abs=1e-4 if discrete else 0.05)


def test_td3_bc_stays_near_the_data_and_td3_leaves_them():
    data = narrow()
    obs = np.asarray(data.chunk.obs[:50, 0])
    action = {}
    for alpha in (None, 0.5):
        runner = fitted("td3-bc", data, bc_alpha=alpha)
        policy = Policy(runner.algorithm, runner.actings[0])
        action[alpha] = float(np.mean(policy(obs, None, np.ones(50, bool), None, True)[0]))
    assert action[None] > 0.6
    assert -0.4 < action[0.5] < 0.1, "between the data's mean and what its critic would like"
