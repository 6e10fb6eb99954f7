"""Returns against double loops written from the equations, rlax, the identities, and bad padding."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jaxtyping import jaxtyped

from actrix.core.rows import backward_sum
from actrix.critics import returns

with warnings.catch_warnings():  # what rlax imports uses deprecated names of JAX
    warnings.simplefilter("ignore", DeprecationWarning)
    import rlax

T, B = 7, 2
STEPS = (1, 2, 3, 5, T, 100)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


def every_estimator(value, lam, gamma, steps=STEPS, **rows):
    """All estimators of one chunk, by name."""
    rows = {"gamma": gamma, **rows}
    without_next = {name: x for name, x in rows.items() if name != "next_value"}
    return {
        "monte_carlo": returns.monte_carlo(**rows),
        "trajectory_return": returns.trajectory_return(**without_next),
        "trajectory_return_bootstrapped": returns.trajectory_return(**rows),
        "td_target": returns.td_target(**rows),
        "td_error": returns.td_error(value=value, **rows),
        "lambda_return": returns.lambda_return(lam=lam, **rows),
        "gae": returns.gae(value=value, lam=lam, **rows),
        **{f"n_step_{n}": returns.n_step(n=n, **rows) for n in steps},
    }


every_estimator_jit = jax.jit(every_estimator)


def reference(value, lam, gamma, reward, next_value, terminated, truncated, valid):
    """The same, by loops over rows and lags, each from its own definition (no recursion)."""
    shape = reward.shape
    out = {name: np.zeros(shape) for name in every_estimator_names()}
    gamma, lam = np.broadcast_to(gamma, shape), np.broadcast_to(lam, shape)
    for b in range(shape[1]):
        r, v, v_next, ends, g, lam_b = (x[:, b] for x in (reward, value, next_value, terminated, gamma, lam))

        def continues(m, b=b):
            last = m + 1 == shape[0] or terminated[m, b] or truncated[m, b]
            return not last and valid[m, b] and valid[m + 1, b]

        def bootstrap(m, v_next=v_next, ends=ends, g=g):
            return 0.0 if ends[m] else g[m] * v_next[m]

        def n_step(t, n, r=r, g=g):
            """Σ_{k<n} γ^k r_{t+k} + γ^n V(s_{t+n}), and the number of rewards it had before a cut."""
            total, weight = 0.0, 1.0
            for k in range(n):
                m = t + k
                total += weight * r[m]
                if k == n - 1 or not continues(m):
                    return total + weight * bootstrap(m), k + 1
                weight *= g[m]

        for t in range(shape[0]):
            if not valid[t, b]:
                continue
            length = n_step(t, shape[0])[1]
            out["monte_carlo"][t, b] = n_step(t, shape[0])[0]
            out["td_target"][t, b] = r[t] + bootstrap(t)
            out["td_error"][t, b] = r[t] + bootstrap(t) - v[t]
            for n in STEPS:
                out[f"n_step_{n}"][t, b] = n_step(t, n)[0]
            # (1−λ) Σ_n λ^{n−1} G^{(n)}, the last one with all the weight left.
            for n in range(1, length + 1):
                left = np.prod(lam_b[t : t + n - 1])
                weight = left if n == length else left * (1 - lam_b[t + n - 1])
                out["lambda_return"][t, b] += weight * n_step(t, n)[0]
            # Σ_k (γλ)^k δ_{t+k}
            for k in range(length):
                weight = np.prod(g[t : t + k] * lam_b[t : t + k])
                out["gae"][t, b] += weight * (r[t + k] + bootstrap(t + k) - v[t + k])
            start = t
            while start > 0 and continues(start - 1):
                start -= 1
            rows = range(start, t + length)
            weights = [np.prod(g[start:m]) for m in rows]
            plain = sum(w * r[m] for w, m in zip(weights, rows, strict=True))
            out["trajectory_return"][t, b] = plain
            out["trajectory_return_bootstrapped"][t, b] = plain + weights[-1] * bootstrap(rows[-1])
    return out


def every_estimator_names():
    return list(jax.eval_shape(every_estimator, **constant_chunk(), lam=0.5))


def constant_chunk(**changes):
    """Reward 1, values 0, no cut."""
    zeros, no = jnp.zeros((T, B)), jnp.zeros((T, B), bool)
    chunk = {"reward": zeros + 1, "value": zeros, "next_value": zeros, "terminated": no, "truncated": no}
    return {**chunk, "valid": ~no, "gamma": 0.9, **changes}


def random_chunk(seed, shape=(T, B), flags=0.2, dtype=float):
    """Random numbers and flags; V(s_{t+1}) of row t is V(s_t) of row t+1 wherever the episode goes on."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, *shape)).astype(dtype)
    terminated, truncated = rng.random((2, *shape)) < flags / 2
    goes_on = ~(terminated | truncated)[:-1]
    next_value[:-1] = np.where(goes_on, value[1:], next_value[:-1])
    chunk = {"reward": reward, "value": value, "next_value": next_value}
    chunk |= {"terminated": terminated, "truncated": truncated & ~terminated}
    return {name: jnp.asarray(x) for name, x in chunk.items()} | {"gamma": 0.9}


flags = hnp.arrays(bool, (T, B), elements=st.booleans())
numbers = hnp.arrays(float, (T, B), elements=st.floats(-10, 10))
rates = st.one_of(
    st.sampled_from([0.0, 1.0]), st.floats(0, 1), hnp.arrays(float, (T, B), elements=st.floats(0, 1))
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(numbers, numbers, numbers, flags, flags, flags, rates, rates)
def test_double_loops_whatever_the_flags(reward, value, next_value, terminated, truncated, valid, gamma, lam):
    # float64 everywhere; every row of garbage is NaN, so that whatever reads one is found out
    rows = {"reward": reward, "value": value, "next_value": np.where(terminated, np.nan, next_value)}
    rows = {name: np.where(valid, x, np.nan) for name, x in rows.items()}
    rows |= {"terminated": terminated, "truncated": truncated, "valid": valid}
    rates = {"gamma": np.broadcast_to(gamma, (T, B)), "lam": np.broadcast_to(lam, (T, B))}
    expected = reference(**rows, **rates)
    rates = {name: np.where(valid, x, np.nan) for name, x in rates.items()}
    actual = every_estimator_jit(**rows, **rates)
    for name in expected:
        assert actual[name].dtype == jnp.float64
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("gamma", [0.9, np.linspace(0.5, 1, B), np.linspace(0.5, 1, T)[:, None]])
def test_gamma_and_lambda_broadcast(gamma):
    chunk = random_chunk(0) | {"gamma": gamma}
    valid = jnp.ones((T, B), bool)
    actual = every_estimator(**chunk, lam=gamma, valid=valid)
    expected = reference(**{name: np.asarray(x) for name, x in chunk.items()}, lam=gamma, valid=valid)
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_no_valid_means_all_valid():
    chunk = random_chunk(1)
    without = every_estimator(**chunk, lam=0.7)
    expected = every_estimator(**chunk, lam=0.7, valid=jnp.ones((T, B), bool))
    jax.tree.map(np.testing.assert_array_equal, without, expected)


def test_rlax_agrees_where_it_means_the_same():
    chunk = random_chunk(2, shape=(20,), flags=0)
    chunk["terminated"] = jnp.zeros(20, bool).at[jnp.array([6, 13])].set(True)  # rlax knows no truncation
    reward, v_next = chunk["reward"], chunk["next_value"]
    gamma_t = returns.discount(chunk["terminated"], 0.9)
    ours = every_estimator(**chunk, lam=0.8)
    values = jnp.append(chunk["value"], v_next[-1])
    theirs = {
        "lambda_return": rlax.lambda_returns(reward, gamma_t, v_next, 0.8),
        "monte_carlo": rlax.discounted_returns(reward, gamma_t, v_next),
        "gae": rlax.truncated_generalized_advantage_estimation(reward, gamma_t, 0.8, values),
        **{f"n_step_{n}": rlax.n_step_bootstrapped_returns(reward, gamma_t, v_next, n) for n in (1, 3, 5)},
    }
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_identities():
    chunk = random_chunk(3, shape=(50, 4))
    rows = {name: x for name, x in chunk.items() if name != "value"}
    value = chunk["value"]
    td, mc = returns.td_target(**rows), returns.monte_carlo(**rows)
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_array_equal(returns.lambda_return(**rows, lam=0.0), td)
    np.testing.assert_allclose(returns.lambda_return(**rows, lam=1.0), mc, **close)
    np.testing.assert_array_equal(returns.n_step(**rows, n=1), td)
    for n in (50, 51, 10_000):
        np.testing.assert_allclose(returns.n_step(**rows, n=n), mc, **close)
    np.testing.assert_array_equal(returns.td_error(**chunk), td - value)
    np.testing.assert_array_equal(returns.gae(**chunk, lam=0.0), td - value)
    for lam in (0.3, 0.95, 1.0):
        expected = returns.lambda_return(**rows, lam=lam) - value
        np.testing.assert_allclose(returns.gae(**chunk, lam=lam), expected, **close)
    # The Monte Carlo error is the discounted sum of TD errors: another name for GAE at λ = 1.
    cut = returns.episode_cut(terminated=chunk["terminated"], truncated=chunk["truncated"])
    errors = backward_sum(
        returns.td_error(**chunk), decay=returns.discount(chunk["terminated"], 0.9), cut=cut
    )
    np.testing.assert_allclose(mc - value, errors, **close)
    assert returns.discounted_return_to_go is returns.monte_carlo


def test_true_values_leave_no_error_on_average():
    """Every path of a three-state chain (2 is terminal), by probability: E[target | s_0] = V(s_0)."""
    step = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    reward_of = np.array([[1.0, -2.0, 5.0], [0.5, 3.0, -1.0]])
    gamma, horizon = 0.8, 5
    v = np.linalg.solve(np.eye(2) - gamma * step[:, :2], (step * reward_of).sum(1))
    v = np.append(v, 0.0)
    paths = np.array(list(itertools.product([0, 1, 2], repeat=horizon))).T
    before = np.concatenate([np.zeros((1, paths.shape[1]), int), paths[:-1]])
    live = np.cumprod(before != 2, axis=0).astype(bool)
    # A path goes on after its end in one way only, so that each counts once.
    counts = (live | (paths == 2)).all(0)
    before_live = np.where(live, before, 0)
    probability = np.where(live, step[before_live, paths], 1).prod(0) * counts
    np.testing.assert_allclose(probability.sum(), 1)
    chunk = {
        "reward": np.where(live, reward_of[before_live, paths], np.nan),
        "value": v[before],
        "next_value": np.where(paths == 2, 99.0, v[paths]),  # read by nobody at a terminal state
        "terminated": (paths == 2) & live,
        "truncated": np.zeros_like(live),
        "valid": live,
    }
    estimates = every_estimator(**jax.tree.map(jnp.asarray, chunk), gamma=gamma, lam=0.6)
    for name, x in estimates.items():
        expected = 0.0 if name in ("gae", "td_error") else v[0]
        if name != "trajectory_return":  # it stops at the horizon, without the bootstrap
            np.testing.assert_allclose(x[0] @ probability, expected, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("as_truncation", [True, False])
def test_truncation_both_ways(as_truncation):
    """Reward 1, cut every 10 steps: V = 1/(1−γ) if the cuts truncate, less if they terminate."""
    gamma, true_value = 0.9, 10.0
    cut, none = jnp.arange(35) % 10 == 9, jnp.zeros(35, bool)

    def targets(v):
        v = jnp.full(35, v)
        rows = {"reward": jnp.ones(35), "next_value": v, "gamma": gamma}
        rows |= {"terminated": none if as_truncation else cut, "truncated": cut if as_truncation else none}
        estimates = every_estimator(value=v, lam=0.8, steps=(1, 4), **rows)
        estimates["gae"] += v
        estimates["td_error"] += v
        estimates.pop("trajectory_return")
        return estimates

    for name, at_fixed_point in targets(true_value).items():
        fitted = jax.jit(
            lambda name: jax.lax.fori_loop(0, 400, lambda _, v: targets(v)[name].mean(), 0.0),
            static_argnums=0,
        )(name)
        if as_truncation:
            np.testing.assert_allclose(at_fixed_point, true_value, err_msg=name)
            np.testing.assert_allclose(fitted, true_value, rtol=1e-6, err_msg=name)
        else:
            assert at_fixed_point.min() < 0.7 * true_value, name
            assert fitted < 0.8 * true_value, name


def test_garbage_stays_where_it_is():
    """Invalid rows and terminal states may hold NaN or ∞: outputs there are 0 and no gradient catches it."""
    chunk = random_chunk(4, shape=(30, 3))
    valid = jnp.asarray(np.random.default_rng(5).random((30, 3)) < 0.7)
    rates = {"gamma": jnp.full((30, 3), 0.9), "lam": jnp.full((30, 3), 0.8)}
    floats = {name: chunk[name] for name in ("reward", "value", "next_value")} | rates
    flags = {name: chunk[name] for name in ("terminated", "truncated")} | {"valid": valid}

    @jax.jit
    def run(floats):
        return every_estimator(**floats, **flags, steps=(3,))

    gradient = jax.jit(jax.grad(lambda floats: sum(x.sum() for x in jax.tree.leaves(run(floats)))))
    clean, clean_grad = run(floats), gradient(floats)
    for garbage in (jnp.nan, jnp.inf):
        dirty = {name: jnp.where(valid, x, garbage) for name, x in floats.items()}
        dirty["next_value"] = jnp.where(flags["terminated"], garbage, dirty["next_value"])
        jax.tree.map(np.testing.assert_array_equal, run(dirty), clean)
        assert all(bool((x == 0)[~valid].all()) for x in jax.tree.leaves(run(dirty)))
        grad = gradient(dirty)
        jax.tree.map(np.testing.assert_array_equal, grad, clean_grad)
        assert all(bool((x == 0)[~valid].all()) for x in jax.tree.leaves(grad))


def test_monte_carlo_of_whole_episodes_needs_no_values():
    terminated = jnp.array([False, False, True, False, True])
    rows = {"terminated": terminated, "truncated": jnp.zeros(5, bool), "gamma": 0.5}
    g = returns.monte_carlo(reward=jnp.ones(5), next_value=jnp.full(5, jnp.nan), **rows)
    np.testing.assert_array_equal(g, [1.75, 1.5, 1.0, 1.5, 1.0])
    whole = returns.trajectory_return(reward=jnp.ones(5), **rows)
    np.testing.assert_array_equal(whole, [1.75, 1.75, 1.75, 1.5, 1.5])


def test_a_diverged_episode_does_not_reach_the_one_before():
    chunk = random_chunk(6, shape=(6,), flags=0)
    chunk["truncated"] = jnp.zeros(6, bool).at[2].set(True)
    chunk["reward"] = chunk["reward"].at[4].set(jnp.nan)
    for name, x in every_estimator(**chunk, lam=0.9).items():
        assert jnp.isfinite(x[:3]).all(), name
        assert jnp.isnan(x[4]), name


@pytest.mark.parametrize(("dtype", "x64"), [("float32", False), ("float32", True), ("float64", True)])
def test_dtype_in_is_dtype_out(dtype, x64):
    with jax.enable_x64(x64):
        chunk = random_chunk(7, dtype=dtype)
        for gamma in (0.9, np.float64(0.9), jnp.asarray(0.9)):
            out = every_estimator(**chunk | {"gamma": gamma}, lam=gamma, steps=(2,))
            assert {name: x.dtype.name for name, x in out.items()} == dict.fromkeys(out, dtype)
    assert returns.discount(jnp.zeros(3, bool), jnp.asarray(0.9, dtype)).dtype == dtype


def test_vmap_and_any_batch_shape():
    chunk = random_chunk(8, shape=(T, 2, 3))
    del chunk["gamma"]
    whole = every_estimator(**chunk, lam=0.7, gamma=0.9, steps=(2,))
    mapped = jax.vmap(lambda rows: every_estimator(**rows, lam=0.7, gamma=0.9, steps=(2,)), 1, 1)(chunk)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), mapped, whole)
    alone = every_estimator(**{k: x[:, 1, 2] for k, x in chunk.items()}, lam=0.7, gamma=0.9, steps=(2,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:, 1, 2], rtol=1e-12), alone, whole)
    by_lam = jax.vmap(lambda lam: every_estimator(**chunk, lam=lam, gamma=0.9, steps=(2,))["gae"])
    np.testing.assert_allclose(by_lam(jnp.array([0.7]))[0], whole["gae"], rtol=1e-12)


def test_mistakes_are_refused():
    chunk = random_chunk(9)
    column = {**chunk, "value": chunk["value"][:, :1]}
    with pytest.raises(ValueError, match=r"one shape.*'value': \(7, 1\)"):
        returns.gae(**column, lam=0.9)
    del chunk["value"]
    with pytest.raises(ValueError, match="n must be at least 1"):
        returns.n_step(**chunk, n=0)


def test_shapes_are_as_annotated():
    chunk = random_chunk(10)
    value, terminated = chunk.pop("value"), chunk["terminated"]
    checked = {
        name: jaxtyped(typechecker=beartype)(getattr(returns, name))
        for name in ("monte_carlo", "td_target", "td_error", "n_step", "lambda_return", "gae")
    }
    for options in ({}, {"valid": ~terminated}):
        checked["monte_carlo"](**chunk, **options)
        checked["td_target"](**chunk, **options)
        checked["td_error"](**chunk, **options, value=value)
        checked["n_step"](**chunk, **options, n=2)
        checked["lambda_return"](**chunk, **options, lam=jnp.asarray(0.3))
        checked["gae"](**chunk, **options, lam=0.3, value=value)
    with pytest.raises(Exception, match="value"):
        checked["gae"](**chunk, lam=0.3, value=value[:-1])
