"""Finite MDPs: their checks, their constructors, and agreement of the three faces with Gymnasium's toy text."""

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import actrix
from actrix.envs import tables
from actrix.envs.base import JaxEnv, step_keys
from actrix.envs.finite import FiniteMDP, FiniteState, MDPError
from actrix.envs.gymnasium import quiet_make
from actrix.envs.jax_envs import TOY_TEXT, HostJax, jax_env, vector_reset, vector_step
from actrix.envs.make import choose_backend, make_vec_env

GRID = ["S.#H", ".#..", "...G"]


def two_states(**changes):
    """State 0 goes to the terminal state 1 by action 1 and stays by action 0."""
    fields = {
        "P": np.array([[[1.0, 0], [0, 1]], [[0, 1], [0, 1]]]),
        "r": np.array([[0.0, 1], [0, 0]]),
        "gamma": 0.9,
        "rho0": 0,
        "terminal": [1],
    }
    return FiniteMDP(**{**fields, **changes})


def table(value, *index):
    P = two_states().P.copy()
    P[index] = value
    return P


def rewards(value, *index, shape=(2, 2)):
    r = np.zeros(shape)
    r[index] = value
    return r


BAD = [
    ({"P": table([0.5, 0.4], 0, 1)}, "P of state 0, action 1 sums to 0.9; it must sum to 1"),
    ({"P": table([1.5, -0.5], 0, 1)}, "P of state 0, action 1, next state 1 is -0.5"),
    ({"P": table([np.nan, 1], 0, 0)}, "P of state 0, action 0, next state 0 is nan"),
    ({"P": table([np.nan, 1], 0, 0), "names": ("home", "end")}, r"state 0 \(home\), action 0"),
    ({"P": np.ones((2, 2))}, "must be"),
    ({"P": table([1, 0], 1, 0)}, "state 1 is terminal, but action 0 leaves it"),
    ({"r": rewards(np.nan, 0, 1)}, "the reward of state 0, action 1 is nan"),
    (
        {"r": rewards(np.inf, 0, 0, 1, shape=(2, 2, 2))},
        "the reward of state 0, action 0, next state 1 is inf",
    ),
    ({"r": rewards(1.0, 1, 0)}, "state 1 is terminal, but action 0 has a reward"),
    ({"r": np.zeros(2)}, "r has shape"),
    ({"gamma": 1.5}, "gamma is 1.5"),
    ({"gamma": np.nan}, "gamma is nan"),
    ({"gamma": 1.0, "terminal": None}, "gamma is 1, but from state 0 no action leads towards a terminal"),
    ({"gamma": 1.0, "legal": [[True, False], [True, True]]}, "gamma is 1, but from state 0"),
    ({"rho0": 2}, "start state 2 is unknown: states are 0 to 1"),
    ({"rho0": 1}, "state 1 is terminal, but episodes start there"),
    ({"rho0": [0.5, 0.2]}, "rho0 sums to 0.7"),
    ({"rho0": [1.5, -0.5]}, "rho0 of state 1 is -0.5"),
    ({"rho0": [1.0]}, "rho0 has shape"),
    ({"terminal": [5]}, "terminal state 5 is unknown"),
    ({"terminal": [0.5]}, "terminal state 0.5 is unknown"),
    ({"rho0": 0.5}, "start state 0.5 is unknown"),
    ({"terminal": [True]}, "terminal has shape"),
    ({"legal": [[False, False], [True, True]]}, "state 0 has no legal action"),
    ({"legal": [[True, True]]}, "legal has shape"),
    ({"names": ("a",)}, "1 names for 2 states"),
    ({"shows": [0, -1]}, "shows must hold"),
    ({"max_episode_steps": 0}, "max_episode_steps is 0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_tables_name_the_state_and_the_action(changes, message):
    with pytest.raises(MDPError, match=message):
        two_states(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tables.grid_world(["..G"]), "no start"),
        (lambda: tables.grid_world(["S.", "G"]), "different lengths"),
        (lambda: tables.grid_world(["SG"], slip=2), "slip is 2"),
        (lambda: tables.grid_world(["S#G"], gamma=1), "gamma is 1, but from state 0"),
        (lambda: tables.random_mdp(3, 2, 4), "branching=4"),
        (lambda: tables.from_gymnasium("CartPole-v1"), "no table of transitions"),
        (lambda: tables.from_gymnasium("Taxi-v4", fickle_passenger=True), "fickle"),
        (lambda: tables.from_outcomes({0: {0: [(1.0, 7, 0.0, False)]}}, 0.9, 0), "action 0 leads to state 7"),
        (lambda: tables.from_outcomes({0: {0: [(0.6, 0, 0.0, False)]}}, 0.9, 0), "action 0 sums to 0.6"),
        (lambda: tables.chain().state("x"), "no state is named"),
        (lambda: tables.chain().state(9), "state 9 is unknown"),
        (lambda: tables.chain().grid(np.zeros(7)), "is no grid"),
        (lambda: tables.chain().as_gymnasium().step(5), "action 5 is unknown"),
        (lambda: tables.chain().as_gymnasium().reset(options={"state": 9}), "state 9 is unknown"),
    ],
)
def test_bad_constructions(make, message):
    with pytest.raises(MDPError, match=message):
        make()


def test_equal_by_content_and_read_only():
    assert two_states() == two_states()
    assert hash(two_states()) == hash(two_states())
    assert two_states() != two_states(gamma=0.8)
    assert two_states() != two_states(r=np.zeros((2, 2)))
    assert two_states() != "something else"
    assert two_states().replace(gamma=0.8) == two_states(gamma=0.8)
    with pytest.raises(ValueError, match="read-only"):
        two_states().P[0] = 0
    assert isinstance(two_states(), JaxEnv)
    assert "2 states, 2 actions" in repr(two_states())


def test_grid_moves_walls_slip_and_rewards():
    mdp = tables.grid_world(GRID, slip=0.2, rewards={"G": 1.0, "H": -1.0}, step_reward=-0.1)
    at = mdp.state
    assert mdp.n_states == 10
    row = mdp.P[at((0, 1)), 1]  # right into the wall: stays, slips up (stays) or down into the wall (stays)
    assert row[at((0, 1))] == pytest.approx(1)
    row = mdp.P[at((1, 2)), 1]
    assert row[at((1, 3))] == pytest.approx(0.8)
    assert row[at((2, 2))] == row[at((1, 2))] == pytest.approx(0.1)
    assert mdp.rewards[at((2, 2)), 1, at((2, 3))] == pytest.approx(0.9)
    assert mdp.rewards[at((1, 3)), 0, at((0, 3))] == pytest.approx(-1.1)
    assert set(np.flatnonzero(mdp.terminal)) == {at((0, 3)), at((2, 3))}
    assert mdp.rho0[at((0, 0))] == 1
    drawn = mdp.grid(np.arange(10.0))
    assert drawn.shape == (3, 4)
    assert np.isnan(drawn[0, 2])
    assert np.isnan(drawn[1, 1])
    env = mdp.as_gymnasium("ansi")
    env.reset(options={"state": (2, 1)})
    assert env.render() == "..#X\n.#..\n.@.X"


def test_random_mdps_are_seeded():
    assert tables.random_mdp(6, 3, 2, seed=1) == tables.random_mdp(6, 3, 2, seed=1)
    assert tables.random_mdp(6, 3, 2, seed=1) != tables.random_mdp(6, 3, 2, seed=2)
    mdp = tables.random_mdp(6, 3, 2, seed=1, n_terminal=1)
    assert (np.count_nonzero(mdp.P[:5], axis=-1) == 2).all()


def test_our_cliff_is_gymnasiums():
    for slip, slippery in ((0.0, False), (2 / 3, True)):
        ours, theirs = (
            tables.cliff(slip=slip),
            tables.from_gymnasium("CliffWalking-v1", is_slippery=slippery),
        )
        np.testing.assert_allclose(ours.P[:48, :, :48].sum(-1), theirs.P[:48, :, :48].sum(-1), atol=1e-12)
        # The cliff itself is a state that no episode is in.
        live = [s for s in range(48) if not 36 < s < 47]
        np.testing.assert_allclose(ours.reward[live], theirs.reward[live], atol=1e-12)
        np.testing.assert_allclose(ours.P[live], theirs.P[live], atol=1e-12)


# Agreement with Gymnasium


def alive_states(env):
    """States a Gymnasium table lets an episode be in, found by walking it."""
    alive, todo = set(), list(np.flatnonzero(env.initial_state_distrib))
    while todo:
        s = int(todo.pop())
        if s not in alive:
            alive.add(s)
            todo += [n for row in env.P[s].values() for p, n, _, end in row if p and not end]
    return sorted(alive)


@pytest.mark.parametrize("env_id", sorted(TOY_TEXT))
def test_the_law_of_every_transition_is_gymnasiums(env_id):
    env, mdp = quiet_make(env_id).unwrapped, jax_env(env_id)
    assert mdp.env_id == env_id
    assert mdp.spec.observation_space == env.observation_space
    assert mdp.spec.action_space == env.action_space
    assert mdp.max_episode_steps == gym.spec(env_id).max_episode_steps
    np.testing.assert_allclose(mdp.rho0[: len(env.P)], env.initial_state_distrib, atol=1e-15)
    next_state, cumulative, reward = mdp.outcomes
    chance = np.diff(cumulative, prepend=0, axis=-1)
    for s in np.flatnonzero(np.isin(mdp.shows, alive_states(env)) & ~mdp.terminal):
        for a in range(mdp.n_actions):
            ours, theirs = {}, {}
            for p, n, r in zip(chance[s, a], next_state[s, a], reward[s, a], strict=True):
                key = (mdp.shows[n], r, mdp.terminal[n])
                ours[key] = ours.get(key, 0) + p
            for p, n, r, end in env.P[mdp.shows[s]][a]:
                theirs[n, r, end] = theirs.get((n, r, end), 0) + p
            ours = {key: p for key, p in ours.items() if p > 0}
            assert ours == pytest.approx(theirs, abs=1e-12), (s, a)


@pytest.mark.parametrize("env_id", ["CliffWalking-v1", "Taxi-v4"])
def test_deterministic_steps_are_gymnasiums(env_id):
    env, mdp = quiet_make(env_id).unwrapped, jax_env(env_id)
    states, actions = (x.ravel() for x in np.meshgrid(alive_states(env), range(mdp.n_actions)))
    keys = jax.random.split(jax.random.key(0), len(states))
    start = FiniteState(states.astype(np.int32), np.zeros(len(states), np.int32))
    after, *ours = jax.jit(jax.vmap(mdp.step))(keys, start, actions)
    masks = np.asarray(jax.jit(jax.vmap(mdp.mask))(after)) if env_id == "Taxi-v4" else None
    ours = list(zip(*map(np.asarray, ours), strict=True))
    env.reset(seed=0)
    for i, (s, a) in enumerate(zip(states, actions, strict=True)):
        env.s = int(s)
        theirs = env.step(int(a))
        assert ours[i] == theirs[:4]
        if masks is not None:
            np.testing.assert_array_equal(masks[i], theirs[4]["action_mask"].astype(bool))


def test_sampled_frequencies_are_the_tables():
    """JAX and Gymnasium faces of FrozenLake: 40,000 draws of one step, 5 standard errors (p < 1e-5 in all)."""
    mdp, n = jax_env("FrozenLake-v1"), 40_000
    keys = jax.random.split(jax.random.key(1), n)
    start = FiniteState(np.full(n, 6, np.int32), np.zeros(n, np.int32))
    after = np.asarray(jax.jit(jax.vmap(mdp.step))(keys, start, np.full(n, 1))[1])
    env, host = mdp.as_gymnasium(), []
    env.reset(seed=0)
    for _ in range(n // 10):
        env.reset(options={"state": 6})
        host.append(env.step(1)[0])
    for drawn in (after, np.array(host)):
        frequency = np.bincount(drawn, minlength=16) / len(drawn)
        error = np.sqrt(mdp.P[6, 1] * (1 - mdp.P[6, 1]) / len(drawn))
        assert (abs(frequency - mdp.P[6, 1]) <= 5 * error).all()


def test_start_states_follow_rho0():
    mdp = jax_env("Taxi-v4")
    _, obs, mask = vector_reset(mdp, step_keys(jax.random.key(0), 0, 30_000))
    counts = np.bincount(obs, minlength=500)
    assert (counts[mdp.rho0 == 0] == 0).all()
    np.testing.assert_allclose(counts[mdp.rho0 > 0], 100, atol=60)
    np.testing.assert_array_equal(mask, mdp.legal[obs])


def test_an_outcome_that_the_successor_does_not_decide_gets_a_copy():
    outcomes = {
        0: {0: [(0.25, 1, 5.0, True), (0.25, 1, 5.0, False), (0.5, 1, 7.0, False)]},
        1: {0: [(1.0, 0, -1.0, False)]},
    }
    mdp = tables.from_outcomes(outcomes, 0.9, 0)
    assert mdp.shows.tolist() == [0, 1, 1, 1]
    assert mdp.spec.observation_space.n == 2
    assert mdp.terminal.tolist() == [False, False, True, False]
    assert mdp.reward[0, 0] == pytest.approx(6.0)
    np.testing.assert_array_equal(mdp.P[3], mdp.P[1])


# As environments


@pytest.mark.parametrize(
    "mdp",
    [
        two_states(max_episode_steps=5),
        tables.grid_world(GRID),
        tables.cliff(slip=0.3),
        tables.random_mdp(4, 2, n_terminal=1),
        tables.from_gymnasium("Taxi-v4"),
    ],
)
def test_gymnasiums_checker_passes(mdp):
    check_env(mdp.as_gymnasium("ansi"), skip_render_check=True)


def test_termination_and_truncation_stay_apart_in_both_faces():
    mdp = two_states(max_episode_steps=3)
    envs = HostJax(mdp, 2)
    envs.reset()
    flags = [envs.step(np.array([0, int(t == 2)], np.int32))[3:5] for t in range(3)]
    np.testing.assert_array_equal([f[0] for f in flags], [[0, 0], [0, 0], [0, 1]])
    np.testing.assert_array_equal([f[1] for f in flags], [[0, 0], [0, 0], [1, 0]])
    for last, expected in ((0, (False, True)), (1, (True, False))):
        env = mdp.as_gymnasium()
        env.reset(seed=0)
        assert [env.step(a)[2:4] for a in (0, 0, last)] == [(False, False), (False, False), expected]


def test_strict_types():
    for mdp in (jax_env("FrozenLake-v1"), jax_env("Taxi-v4")):
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            state, obs, _ = vector_reset(mdp, step_keys(jax.random.key(0), 0, 2))
            _, step = vector_step(mdp, state, np.zeros(2, np.int32), step_keys(jax.random.key(0), 1, 2))
        assert obs.dtype == step.next_obs.dtype == np.int32
        assert step.reward.dtype == np.float32


def test_names_choose_the_compiled_twin():
    assert choose_backend("auto", "FrozenLake-v1") == "jax"
    assert choose_backend("auto", "FrozenLake-v1", {"is_slippery": False}) == "gymnasium"
    assert jax_env("FrozenLake-v1", 7).spec.max_episode_steps == 7
    assert jax_env("FrozenLake-v1", is_slippery=False).env_id is None
    host = make_vec_env("Taxi-v4", 2, backend="gymnasium")
    assert host.spec == jax_env("Taxi-v4").spec
    envs = make_vec_env(tables.cliff(), 3, seed=1)
    assert envs.reset()[0].tolist() == [36] * 3
    with pytest.raises(ValueError, match="takes no wrapper_class"):
        make_vec_env(tables.cliff(), 3, backend="gymnasium")


def test_an_agent_trains_on_an_mdp_and_on_its_id():
    for env in (tables.cliff(max_episode_steps=20), "FrozenLake-v1"):
        model = actrix.A2C("MlpPolicy", env, n_steps=5, n_envs=2, seed=0).learn(20)
        mean, _ = actrix.evaluate_policy(model, model.get_env(), n_eval_episodes=2)
        assert np.isfinite(mean)
