"""Corrections against double loops, rlax, and every trajectory of an exact MDP; and what must not pass."""

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

from actrix.critics import corrections, returns

with warnings.catch_warnings():  # what rlax imports uses deprecated names of JAX
    warnings.simplefilter("ignore", DeprecationWarning)
    import rlax

SHAPE = (6, 2, 2)
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
IS_RETURNS = {name: getattr(corrections, name) for name in ("ordinary_is", "weighted_is", "per_decision_is")}
RHO_MAX, C_MAX = 1.5, 1.2

# Compiled, for speed. Where a part of the module is replaced, its functions are called as they are.
ordinary_is, weighted_is, per_decision_is = map(jax.jit, IS_RETURNS.values())
IS_JIT = {"ordinary_is": ordinary_is, "weighted_is": weighted_is, "per_decision_is": per_decision_is}
vtrace = jax.jit(corrections.vtrace, static_argnames=("rho_max", "c_max", "bootstrap"))
td_rho, off_policy_q = jax.jit(corrections.td_rho), jax.jit(corrections.off_policy_q)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        yield


def every_target(rho, log_prob, value, q, lam, gamma, **rows):
    """All targets of one chunk, by name."""
    rows = {"gamma": gamma, **rows}
    out = {name: estimate(rho=rho, **rows) for name, estimate in IS_RETURNS.items()}
    out["td_rho"] = corrections.td_rho(rho=rho, rho_max=RHO_MAX, value=value, **rows)
    for bootstrap in ("vtrace", "lambda"):
        out["vtrace"], out[f"advantage_{bootstrap}"] = corrections.vtrace(
            rho=rho, value=value, lam=lam, rho_max=RHO_MAX, c_max=C_MAX, bootstrap=bootstrap, **rows
        )
    for kind in corrections.TRACES:
        c = corrections.trace(kind, rho=rho, log_prob=log_prob, lam=lam)
        out[kind] = corrections.off_policy_q(q=q, trace=c, **rows)
    return out


every_target_jit = jax.jit(every_target)


def reference(rho, log_prob, value, q, lam, gamma, reward, next_value, terminated, truncated, valid):
    """The same, by loops over rows and lags, each from its own sum (no recursion)."""
    shape = reward.shape
    gamma, lam = np.broadcast_to(gamma, shape), np.broadcast_to(lam, shape)
    names = [*IS_RETURNS, "td_rho", "vtrace", "advantage_vtrace", "advantage_lambda", *corrections.TRACES]
    out = {name: np.zeros(shape) for name in names}
    weights = np.zeros(shape)
    for b in np.ndindex(shape[1:]):
        r, v, v_next, q_b, ends, g, lam_b, w, ok = (
            x[(slice(None), *b)] for x in (reward, value, next_value, q, terminated, gamma, lam, rho, valid)
        )
        stops = ends | truncated[(slice(None), *b)]
        traces = {
            "importance-sampling": lam_b * w,
            "q-lambda": lam_b,
            "tree-backup": lam_b * np.exp(log_prob[(slice(None), *b)]),
            "retrace": lam_b * np.where(w < 1, w, 1),
        }

        def last_row(t, stops=stops, ok=ok):
            m = t
            while m + 1 < len(stops) and not stops[m] and ok[m + 1]:
                m += 1
            return m

        def one_step(j, r=r, v_next=v_next, ends=ends, g=g):
            return r[j] if ends[j] else r[j] + g[j] * v_next[j]

        def v_of(t, v=v, g=g, lam_b=lam_b, w=w, last_row=last_row, one_step=one_step):
            total, c = v[t], lam_b * np.where(w < C_MAX, w, C_MAX)
            for k in range(last_row(t) - t + 1):
                j = t + k
                total += np.prod(g[t:j]) * np.prod(c[t:j]) * min(RHO_MAX, w[j]) * (one_step(j) - v[j])
            return total

        for t in np.flatnonzero(ok):
            m, at = last_row(t), (t, *b)
            every_ratio = np.prod(w[t : m + 1])
            for k in range(m - t + 1):
                j = t + k
                gain = np.prod(g[t:j]) * (one_step(j) if j == m else r[j])
                out["ordinary_is"][at] += every_ratio * gain
                out["per_decision_is"][at] += np.prod(w[t : j + 1]) * gain
            out["weighted_is"][at], weights[at] = out["ordinary_is"][at], every_ratio
            out["td_rho"][at] = v[t] + min(RHO_MAX, w[t]) * (one_step(t) - v[t])
            out["vtrace"][at] = v_of(t)
            for bootstrap, share in (("vtrace", 1.0), ("lambda", lam_b[t])):
                target = one_step(t) if t == m else r[t]
                if t < m:
                    target += g[t] * (share * v_of(t + 1) + (1 - share) * v_next[t])
                out[f"advantage_{bootstrap}"][at] = min(RHO_MAX, w[t]) * (target - v[t])
            # Munos et al.: Q + Σ_k γ^k (Π_{i=t+1}^{t+k} c_i) [r + γ E_π Q − Q]
            for kind, c in traces.items():
                out[kind][at] = q_b[t] + sum(
                    np.prod(g[t:j]) * np.prod(c[t + 1 : j + 1]) * (one_step(j) - q_b[j])
                    for j in range(t, m + 1)
                )
    for t in range(shape[0]):
        n, total = valid[t].sum(), weights[t].sum()
        out["weighted_is"][t] = out["weighted_is"][t] * n / total if total > 0 else 0.0
    return out


def check(actual, expected, names=None):
    for name in names or expected:
        assert actual[name].dtype == jnp.float64
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


def random_chunk(seed, shape=SHAPE, flags=0.2, dtype=float):
    """Random numbers and flags; V(s_{t+1}) of row t is V(s_t) of row t+1 wherever the episode goes on."""
    rng = np.random.default_rng(seed)
    reward, value, next_value, q = rng.normal(size=(4, *shape)).astype(dtype)
    log_prob, old_log_prob = np.log(rng.uniform(0.1, 0.9, size=(2, *shape))).astype(dtype)
    terminated, truncated = rng.random((2, *shape)) < flags / 2
    goes_on = ~(terminated | truncated)[:-1]
    next_value[:-1] = np.where(goes_on, value[1:], next_value[:-1])
    chunk = {"reward": reward, "value": value, "next_value": next_value, "q": q}
    chunk |= {"terminated": terminated, "truncated": truncated & ~terminated}
    chunk |= {"log_prob": log_prob, "rho": np.exp(log_prob - old_log_prob)}
    return {name: jnp.asarray(x) for name, x in chunk.items()} | {"gamma": 0.9}


def split(chunk):
    """The rows that every function takes, and the rest."""
    own = {name: chunk[name] for name in ("value", "q", "rho", "log_prob")}
    return {name: x for name, x in chunk.items() if name not in own}, own


flags = hnp.arrays(bool, SHAPE, elements=st.booleans())
numbers = hnp.arrays(float, SHAPE, elements=st.floats(-10, 10))
ratios = hnp.arrays(float, SHAPE, elements=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.1, 4)))
log_probs = hnp.arrays(float, SHAPE, elements=st.floats(-5, 0))
rates = st.one_of(
    st.sampled_from([0.0, 1.0]), st.floats(0, 1), hnp.arrays(float, SHAPE, elements=st.floats(0, 1))
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ratios, log_probs, st.tuples(*[numbers] * 4), st.tuples(*[flags] * 3), rates, rates)
def test_double_loops_whatever_the_flags(rho, log_prob, floats, bools, gamma, lam):
    # float64 everywhere; every row of garbage is NaN, so that whatever reads one is found out
    terminated, truncated, valid = bools
    rows = dict(zip(("reward", "value", "next_value", "q"), floats, strict=True))
    rows |= {"rho": rho, "log_prob": log_prob, "next_value": np.where(terminated, np.nan, rows["next_value"])}
    rows |= {"gamma": np.broadcast_to(gamma, SHAPE), "lam": np.broadcast_to(lam, SHAPE)}
    bools = {"terminated": terminated, "truncated": truncated, "valid": valid}
    expected = reference(**rows, **bools)
    check(
        every_target_jit(**{name: np.where(valid, x, np.nan) for name, x in rows.items()}, **bools), expected
    )


def without_cuts(*, terminated, truncated, valid=None):
    """A mutant of `episode_cut` that knows the chunk's last row only."""
    return jnp.zeros_like(terminated).at[-1].set(True)


def test_mutants_fail_the_double_loops(monkeypatch):
    """Ratios or traces one row off, and sums that run on over a cut, are told apart for every name."""
    chunk = {name: np.asarray(x) for name, x in random_chunk(11).items()}
    chunk |= {"valid": np.random.default_rng(12).random(SHAPE) < 0.8}
    chunk |= {"gamma": np.full(SHAPE, 0.9), "lam": np.full(SHAPE, 0.8)}
    expected = reference(**chunk)
    check(every_target_jit(**chunk), expected)
    by_ratio = set(expected) - {"q-lambda", "tree-backup"}

    def fails(mutant, names):
        for name in names:
            assert np.isfinite(mutant[name]).all()
            with pytest.raises(AssertionError):
                check(mutant, expected, names=[name])

    for shift in (1, -1):
        mutant = every_target_jit(**chunk | {"rho": np.roll(chunk["rho"], shift, axis=0)})
        check(mutant, expected, names=set(expected) - by_ratio)
        fails(mutant, by_ratio)
        mutant = every_target_jit(**chunk | {"log_prob": np.roll(chunk["log_prob"], shift, axis=0)})
        check(mutant, expected, names=set(expected) - {"tree-backup"})
        fails(mutant, ["tree-backup"])
    monkeypatch.setattr(returns, "episode_cut", without_cuts)
    mutant = jax.jit(lambda chunk: every_target(**chunk))(chunk)
    fails(mutant, set(expected) - {"td_rho"})  # one step crosses no cut


@pytest.mark.parametrize("gamma", [0.9, np.linspace(0.5, 1, 2), np.linspace(0.5, 1, 6)[:, None, None]])
def test_gamma_and_lambda_broadcast(gamma):
    chunk = random_chunk(0) | {"gamma": gamma}
    valid = jnp.ones(SHAPE, bool)
    actual = every_target_jit(**chunk, lam=gamma, valid=valid)
    check(actual, reference(**{name: np.asarray(x) for name, x in chunk.items()}, lam=gamma, valid=valid))


def test_no_valid_means_all_valid():
    chunk = random_chunk(1) | {"lam": 0.9}
    expected = every_target_jit(**chunk, valid=jnp.ones(SHAPE, bool))
    close = lambda a, b: np.testing.assert_allclose(a, b, **CLOSE)
    jax.tree.map(close, every_target_jit(**chunk), expected)


def test_importance_ratio_is_finite():
    log_prob = jnp.log(jnp.array([0.2, 0.9, 0.5]))
    np.testing.assert_allclose(
        corrections.importance_ratio(log_prob, jnp.log(jnp.array([0.4, 0.3, 0.5]))), [0.5, 3.0, 1.0]
    )
    with jax.enable_x64(False):
        extreme = jnp.array([-jnp.inf, -1000.0, -19.0, 0.0, 19.0, 1000.0], jnp.float32)
        rho = corrections.importance_ratio(extreme, jnp.zeros(6, jnp.float32))
        assert rho.dtype == jnp.float32
        np.testing.assert_allclose(rho, np.exp([-20.0, -20, -19, 0, 19, 20]), rtol=1e-5)
        slope = jax.vmap(jax.grad(corrections.importance_ratio))(extreme, jnp.zeros(6, jnp.float32))
        np.testing.assert_allclose(slope, np.exp([-np.inf, -np.inf, -19, 0, 19, -np.inf]), rtol=1e-5)
    assert jnp.isnan(corrections.importance_ratio(jnp.nan, 0.0))


# ------------------------------------------------------------------ what others compute


def one_dimension(seed):
    """Twenty rows with two terminations and no truncation, which rlax does not know, and their γ_t."""
    chunk = random_chunk(seed, shape=(20,), flags=0)
    chunk["terminated"] = jnp.zeros(20, bool).at[jnp.array([6, 13])].set(True)
    return chunk, returns.discount(chunk["terminated"], 0.9)


@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
def test_rlax_computes_the_same_vtrace(lam):
    chunk, gamma_t = one_dimension(2)
    rows, own = split(chunk)
    value, rho = own["value"], own["rho"]
    theirs = rlax.vtrace_td_error_and_advantage(
        value, rows["next_value"], rows["reward"], gamma_t, rho, lam, 1.3, 1.3
    )  # its c is 1
    assert (rho > 1.3).any()
    options = {"value": value, "rho": rho, "rho_max": 1.3, "lam": lam}
    v, advantage = vtrace(**options, **rows, bootstrap="lambda")
    np.testing.assert_allclose(v - value, theirs.errors, **CLOSE)
    np.testing.assert_allclose(advantage, theirs.pg_advantage, **CLOSE)
    same_v, as_paper = vtrace(**options, **rows)
    np.testing.assert_array_equal(same_v, v)
    assert (np.abs(as_paper - advantage).max() > 0.1) == (lam < 1)


def test_rlax_computes_the_same_returns_from_q():
    chunk, gamma_t = one_dimension(3)
    rows, own = split(chunk)
    for kind in corrections.TRACES:
        c = corrections.trace(kind, rho=own["rho"], log_prob=own["log_prob"], lam=0.8)
        theirs = rlax.general_off_policy_returns_from_q_and_v(
            own["q"][1:], rows["next_value"], rows["reward"], gamma_t, c[1:]
        )
        ours = off_policy_q(q=own["q"], trace=c, **rows)
        np.testing.assert_allclose(ours, theirs, **CLOSE, err_msg=kind)


def test_rlax_computes_the_same_retrace():
    rng = np.random.default_rng(4)
    chunk, gamma_t = one_dimension(4)
    rows, _ = split(chunk)
    q, action = jnp.asarray(rng.normal(size=(21, 3))), jnp.asarray(rng.integers(3, size=21))
    pi, mu = (jax.nn.softmax(jnp.asarray(rng.normal(size=(21, 3)))) for _ in range(2))
    before, after = slice(None, -1), slice(1, None)
    mu_taken = mu[jnp.arange(21), action]
    theirs = rlax.retrace(
        q[before], q[after], action[before], action[after], rows["reward"], gamma_t, pi[after], mu_taken[after],
        0.8, eps=0.0,
    )  # fmt: skip
    at = (jnp.arange(20), action[before])
    log_prob = jnp.log(pi)[at]
    rho = corrections.importance_ratio(log_prob, jnp.log(mu_taken)[before])
    c = corrections.trace("retrace", rho=rho, log_prob=log_prob, lam=0.8)
    rows["next_value"] = (pi * q).sum(axis=-1)[after]
    np.testing.assert_allclose(off_policy_q(q=q[at], trace=c, **rows) - q[at], theirs, **CLOSE)


def test_special_cases():
    rows, own = split(random_chunk(5, shape=(50, 4)))
    value, rho, ones = own["value"], own["rho"], jnp.ones((50, 4))
    monte_carlo = returns.monte_carlo(**rows)
    gae_of, lambda_return = jax.jit(returns.gae), jax.jit(returns.lambda_return)
    for lam in (0.0, 0.3, 1.0):
        on_policy = {"rho": ones, "value": value, "lam": lam, **rows}
        v, advantage = vtrace(**on_policy, bootstrap="lambda")
        gae = gae_of(value=value, lam=lam, **rows)
        np.testing.assert_allclose(advantage, gae, **CLOSE)
        np.testing.assert_allclose(v, lambda_return(lam=lam, **rows), **CLOSE)
        advantage = vtrace(**on_policy)[1]
        assert (np.abs(advantage - gae).max() > 0.1) == (lam < 1)
    v, advantage = vtrace(rho=ones, value=value, **rows)
    np.testing.assert_allclose(v, returns.n_step(n=50, **rows), **CLOSE)
    np.testing.assert_allclose(v - value, advantage, **CLOSE)
    # λ = 0 is the corrected TD(0), and so is a trace bound of 0; ρ = 1 makes it TD(0) itself.
    one_step = td_rho(rho=rho, rho_max=RHO_MAX, value=value, **rows)
    for options in ({"lam": 0.0}, {"c_max": 0.0}):
        v, advantage = vtrace(rho=rho, rho_max=RHO_MAX, value=value, **options, **rows)
        np.testing.assert_allclose(v, one_step, **CLOSE)
    unbounded = td_rho(rho=rho, rho_max=np.inf, value=value, **rows)
    np.testing.assert_allclose(unbounded, value + rho * returns.td_error(value=value, **rows), **CLOSE)
    on_policy = td_rho(rho=ones, rho_max=1.0, value=value, **rows)
    np.testing.assert_allclose(on_policy, returns.td_target(**rows), **CLOSE)
    for name, estimate in IS_JIT.items():
        np.testing.assert_allclose(estimate(rho=ones, **rows), monte_carlo, **CLOSE, err_msg=name)
    no_end = {**rows, "terminated": rows["terminated"] & False, "truncated": rows["truncated"] & False}
    twos = weighted_is(rho=2 * ones, **no_end)  # equal weights are no weights
    np.testing.assert_allclose(twos, returns.monte_carlo(**no_end), **CLOSE)
    one = {name: x[:, 0] for name, x in rows.items() if name != "gamma"} | {"gamma": 0.9}
    alone = weighted_is(rho=rho[:, 0], **one)
    np.testing.assert_allclose(alone, returns.monte_carlo(**one), **CLOSE)
    expected_sarsa = off_policy_q(q=own["q"], trace=0 * ones, **rows)
    np.testing.assert_array_equal(expected_sarsa, returns.td_target(**rows))
    # On-policy with Q(s, a) = V(s): Retrace, Q(λ) and importance sampling are the λ-return, Monte Carlo at λ = 1;
    # Tree-Backup goes on by π(a|s).
    for lam in (0.3, 1.0):
        for kind in set(corrections.TRACES) - {"tree-backup"}:
            c = corrections.trace(kind, rho=ones, log_prob=own["log_prob"], lam=lam)
            g = off_policy_q(q=value, trace=c, **rows)
            # λ of row t+1 and of row t are one number here
            np.testing.assert_allclose(g, lambda_return(lam=lam, **rows), **CLOSE, err_msg=kind)
    np.testing.assert_allclose(g, monte_carlo, **CLOSE)
    sure = corrections.trace("tree-backup", rho=rho, log_prob=0 * rho, lam=1.0)
    np.testing.assert_array_equal(sure, ones)


def test_traces():
    rho, log_prob = jnp.array([0.5, 2.0]), jnp.log(jnp.array([0.25, 0.5]))
    expected = {
        "importance-sampling": [0.4, 1.6],
        "q-lambda": [0.8, 0.8],
        "tree-backup": [0.2, 0.4],
        "retrace": [0.4, 0.8],
    }
    assert list(expected) == list(corrections.TRACES)
    for kind, c in expected.items():
        actual = corrections.trace(kind, rho=rho, log_prob=log_prob, lam=0.8)
        np.testing.assert_allclose(actual, c, err_msg=kind)


# ------------------------------------------------------------------ every trajectory of an exact MDP

GAMMA = 0.9
STEP = np.array([[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], [[0.4, 0.4, 0.2], [0.7, 0.2, 0.1]]])
"""P[s, a, s′]; state 2 is terminal."""
REWARD = np.array([[[1.0, -2.0, 5.0], [0.0, 3.0, -1.0]], [[-1.0, 0.5, 2.0], [4.0, -3.0, 0.0]]])
PI, MU = np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([[0.4, 0.6], [0.7, 0.3]])


def values_of(policy):
    """V and Q of a policy, 0 at the terminal state."""
    step, reward = np.einsum("sa,saz->sz", policy, STEP), (STEP * REWARD).sum(-1)
    v = np.append(np.linalg.solve(np.eye(2) - GAMMA * step[:, :2], (policy * reward).sum(1)), 0.0)
    return v, np.append(reward + GAMMA * STEP @ v, np.zeros((1, 2)), axis=0)


def clipped_policy(rho_max):
    """∝ min(ρ_max μ, π)."""
    unnormalised = np.minimum(rho_max * MU, PI)
    return unnormalised / unnormalised.sum(1, keepdims=True)


V_PI, Q_PI = values_of(PI)
Q_WRONG = np.array([[5.0, -4.0], [-6.0, 3.0], [0.0, 0.0]])


def all_episodes(horizon, starts=(0, 1)):
    """Every episode of μ up to a hard stop, one per column, and its probability (starts equally likely)."""
    found = []

    def extend(state, probability, rows):
        if state == 2 or len(rows) == horizon:
            found.append((probability, rows))
            return
        for a, after in itertools.product(range(2), range(3)):
            extend(after, probability * MU[state, a] * STEP[state, a, after], [*rows, (state, a, after)])

    for start in starts:
        extend(start, 1 / len(starts), [])
    shape = (horizon, len(found))
    state, action, after = np.zeros((3, *shape), int)
    valid = np.zeros(shape, bool)
    for b, (_, rows) in enumerate(found):
        for t, row in enumerate(rows):
            state[t, b], action[t, b], after[t, b] = row
            valid[t, b] = True
    terminated = valid & (after == 2)
    truncated = valid & ~terminated & (np.arange(horizon) == horizon - 1)[:, None]
    episodes = {"state": state, "action": action, "after": after, "valid": valid}
    return episodes | {
        "terminated": terminated,
        "truncated": truncated,
        "probability": np.array([p for p, _ in found]),
    }


EPISODES = all_episodes(horizon=4)


def rows_of(episodes, v=V_PI):
    """Rows of the chunk as every function takes them, NaN in everything that nobody may read."""
    s, a, after, valid = (episodes[name] for name in ("state", "action", "after", "valid"))
    rows = {"reward": np.where(valid, REWARD[s, a, after], np.nan)}
    rows |= {"next_value": np.where(valid & (after != 2), v[after], np.nan), "gamma": GAMMA}
    return rows | {name: episodes[name] for name in ("terminated", "truncated", "valid")}


def of(episodes, table):
    """A table over (s, a) or s at every row, NaN where there is none."""
    where = (episodes["state"], episodes["action"])[: table.ndim]
    return np.where(episodes["valid"], table[where], np.nan)


RHO = of(EPISODES, PI / MU)
ROLLED = [np.roll(np.where(EPISODES["valid"], RHO, 1), shift, axis=0) for shift in (1, -1)]
"""ρ stored one row too late and too early."""


def expectation(x, by=("state",), episodes=EPISODES):
    """E_μ[x_t | s_t = s] or E_μ[x_t | s_t, a_t], as [T, S] or [T, S, A]."""
    sizes = (2,) * len(by)
    out = np.zeros((len(x), *sizes))
    for t, at in itertools.product(range(len(x)), np.ndindex(sizes)):
        hit = episodes["valid"][t]
        for name, index in zip(by, at, strict=True):
            hit = hit & (episodes[name][t] == index)
        p = episodes["probability"][hit]
        out[(t, *at)] = p @ np.asarray(x)[t, hit] / p.sum()
    return out


def holds(x, truth, **how):
    """Whether the conditional expectation is `truth` at every row."""
    actual = expectation(x, **how)
    assert np.isfinite(actual).all()
    return np.allclose(actual, np.broadcast_to(truth, actual.shape), rtol=0, atol=1e-10)


def test_the_enumeration_is_complete():
    assert EPISODES["probability"].sum() == pytest.approx(1)
    assert V_PI[:2] == pytest.approx((PI * Q_PI[:2]).sum(1))
    assert min(np.abs(V_PI - values_of(MU)[0])[:2]) > 0.2
    assert holds(RHO, 1)
    assert holds(returns.monte_carlo(**rows_of(EPISODES, values_of(MU)[0])), values_of(MU)[0][:2])


@pytest.mark.parametrize("name", ["ordinary_is", "per_decision_is"])
def test_importance_sampled_returns_are_unbiased(name):
    estimate, rows = IS_JIT[name], rows_of(EPISODES)
    assert holds(estimate(rho=RHO, **rows), V_PI[:2])
    assert not holds(returns.monte_carlo(**rows), V_PI[:2])
    for rolled in ROLLED:
        assert not holds(estimate(rho=rolled, **rows), V_PI[:2])


def test_per_decision_varies_less_here():
    rows, first = rows_of(EPISODES), {}
    for name in ("ordinary_is", "per_decision_is"):
        second_moment = expectation(np.asarray(IS_JIT[name](rho=RHO, **rows)) ** 2)
        first[name] = second_moment[0] - V_PI[:2] ** 2
    assert (first["per_decision_is"] < 0.8 * first["ordinary_is"]).all()


def test_two_episodes_in_one_column_stay_apart(monkeypatch):
    """The second half is another episode, paired with the first at random: nothing of it may arrive there."""
    order = np.random.default_rng(0).permutation(len(EPISODES["probability"]))
    v_tilde = values_of(clipped_policy(RHO_MAX))[0]

    def pair(x):
        return np.concatenate([x, x[:, order]])

    def first_half():
        rows, rows_tilde = (
            {name: x if name == "gamma" else pair(x) for name, x in rows_of(EPISODES, v).items()}
            for v in (V_PI, v_tilde)
        )
        rho, value, q = pair(RHO), pair(of(EPISODES, v_tilde)), pair(of(EPISODES, Q_PI))

        @jax.jit
        def targets():
            return (
                corrections.ordinary_is(rho=rho, **rows),
                corrections.per_decision_is(rho=rho, **rows),
                corrections.vtrace(rho=rho, value=value, rho_max=RHO_MAX, **rows_tilde)[0],
                corrections.off_policy_q(q=q, trace=rho, **rows),
            )

        ordinary, per_decision, v, g = (x[:4] for x in targets())
        return [
            holds(ordinary, V_PI[:2]),
            holds(per_decision, V_PI[:2]),
            holds(v, v_tilde[:2]),
            holds(g, Q_PI[:2], by=("state", "action")),
        ]

    assert first_half() == [True] * 4
    monkeypatch.setattr(returns, "episode_cut", without_cuts)
    assert first_half() == [False] * 4


def weighted_estimate_bias(n, episodes, truth):
    """Exact bias of the weighted estimate of V^π(0) from n independent episodes."""
    index = np.array(list(itertools.product(range(len(episodes["probability"])), repeat=n)))
    rows = {"rho": of(episodes, PI / MU), **rows_of(episodes)}
    rows.pop("gamma")
    rows = {name: x[:, index] for name, x in rows.items()}
    estimate = jax.jit(jax.vmap(lambda rows: weighted_is(**rows, gamma=GAMMA), 1, 1))(rows)
    return episodes["probability"][index].prod(1) @ np.asarray(estimate)[0].mean(1) - truth


def test_weighted_importance_sampling_is_biased_and_consistent():
    episodes = all_episodes(horizon=2, starts=(0,))
    rows, rho = rows_of(episodes), of(episodes, PI / MU)
    one, two, three = (weighted_estimate_bias(n, episodes, V_PI[0]) for n in (1, 2, 3))
    uncorrected = episodes["probability"] @ np.asarray(returns.monte_carlo(**rows))[0] - V_PI[0]
    assert one == pytest.approx(uncorrected)
    assert abs(one) > abs(two) > abs(three) > 0.1
    # A batch in which every episode appears as often as its probability says: the limit of many episodes.
    times = np.rint(episodes["probability"] * 10_000).astype(int)
    np.testing.assert_allclose(times / 10_000, episodes["probability"], atol=1e-12)
    many = {k: x if k == "gamma" else np.repeat(x, times, axis=1) for k, x in {"rho": rho, **rows}.items()}
    target = np.asarray(weighted_is(**many))
    np.testing.assert_allclose(target[0].mean(), V_PI[0], rtol=1e-10)
    later = np.repeat(episodes["state"], times, axis=1)[1]
    for state in (0, 1):  # the mean weight is 1, so it is right at the later rows too
        at = many["valid"][1] & (later == state)
        np.testing.assert_allclose(target[1][at].mean(), V_PI[state], rtol=1e-10)


def test_weighted_importance_sampling_survives_long_products():
    """500 ratios near 0.5 or 2 leave float32's range; their shares do not."""
    with jax.enable_x64(False):
        no = jnp.zeros((500, 3), bool)
        reward = jnp.zeros((500, 3)).at[-1].set(jnp.array([1.0, 2.0, 3.0]))
        rows = {"reward": reward, "next_value": 0 * reward, "terminated": no, "truncated": no, "gamma": 1.0}
        for ratio in (0.5, 2.0):
            rho = jnp.full((500, 3), ratio).at[0].set(ratio * jnp.array([1.0, 3.0, 0.0]))
            assert not 0 < ordinary_is(rho=rho, **rows)[0, 0] < jnp.inf
            target = weighted_is(rho=rho, **rows)
            np.testing.assert_allclose(target[0], [0.75, 4.5, 0.0], rtol=1e-4)
            np.testing.assert_allclose(target[1], [1.0, 2.0, 3.0], rtol=1e-4)


@pytest.mark.parametrize("rho_max", [1.0, RHO_MAX, 100.0])
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_vtrace_fixed_point(rho_max, lam):
    """The value of π_ρ̄ ∝ min(ρ_max μ, π) is reproduced on average, and its advantage is ρ̄ A."""
    policy = clipped_policy(rho_max)
    v_tilde, q_tilde = values_of(policy)
    rows = {"value": of(EPISODES, v_tilde), **rows_of(EPISODES, v_tilde), "rho_max": rho_max, "lam": lam}
    clipped_rho = np.minimum(PI / MU, rho_max)
    assert np.allclose(policy, PI) == (rho_max == 100)
    for bootstrap, c_maxes in (("vtrace", (0.7, min(rho_max, 10.0))), ("lambda", (min(rho_max, 10.0),))):
        for c_max in c_maxes:
            v, advantage = vtrace(rho=RHO, c_max=c_max, bootstrap=bootstrap, **rows)
            assert holds(v, v_tilde[:2])
            assert holds(advantage, clipped_rho * (q_tilde[:2] - v_tilde[:2, None]), by=("state", "action"))
    for rolled in ROLLED:
        assert not holds(vtrace(rho=rolled, c_max=0.7, bootstrap="vtrace", **rows)[0], v_tilde[:2])
    if rho_max < 100:
        rows |= {"value": of(EPISODES, V_PI), **rows_of(EPISODES)}
        assert not holds(vtrace(rho=RHO, c_max=0.7, bootstrap="vtrace", **rows)[0], V_PI[:2])


@pytest.mark.parametrize("rho_max", [0.8, RHO_MAX, np.inf])
def test_td_rho_fixed_point(rho_max):
    v, _ = values_of(clipped_policy(rho_max))
    assert (v == V_PI).all() == (rho_max == np.inf)
    rows = {"value": of(EPISODES, v), **rows_of(EPISODES, v)}
    assert holds(td_rho(rho=RHO, rho_max=rho_max, **rows), v[:2])
    for rolled in ROLLED:
        assert not holds(td_rho(rho=rolled, rho_max=rho_max, **rows), v[:2])
    assert not holds(returns.td_target(**rows_of(EPISODES, v)), v[:2])


def q_target(kind, lam, q, rho=RHO, v_at_cut=None, pi=PI, **more):
    """The recursion on a table Q, with Σ_a π Q (or `v_at_cut` at the hard stop) as next value."""
    v = np.append((pi * q[:2]).sum(1), 0.0)
    rows = rows_of(EPISODES, v)
    if v_at_cut is not None:
        hard_stop = rows["truncated"]
        rows["next_value"] = np.where(hard_stop, v_at_cut[EPISODES["after"]], rows["next_value"])
    c = corrections.trace(kind, rho=rho, log_prob=of(EPISODES, np.log(pi)), lam=lam)
    return off_policy_q(q=of(EPISODES, q), trace=c, **rows)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("kind", list(corrections.TRACES))
def test_every_trace_has_the_true_q_as_fixed_point(kind, lam):
    by = ("state", "action")
    assert holds(q_target(kind, lam, Q_PI), Q_PI[:2], by=by)
    assert not holds(q_target(kind, lam, Q_WRONG), Q_WRONG[:2], by=by)
    if kind == "retrace" and lam:  # any trace of the past would do, but not one that knows of a_{t+2}
        assert not holds(q_target(kind, lam, Q_PI, rho=ROLLED[1]), Q_PI[:2], by=by)


def test_full_importance_sampling_is_unbiased_for_any_q():
    by = ("state", "action")
    assert holds(q_target("importance-sampling", 1.0, Q_WRONG, v_at_cut=V_PI), Q_PI[:2], by=by)
    for kind in ("retrace", "tree-backup", "q-lambda"):
        assert not holds(q_target(kind, 1.0, Q_WRONG, v_at_cut=V_PI), Q_PI[:2], by=by)
    for rolled in ROLLED:
        mutant = q_target("importance-sampling", 1.0, Q_WRONG, rho=rolled, v_at_cut=V_PI)
        assert not holds(mutant, Q_PI[:2], by=by)


@pytest.mark.parametrize("kind", ["retrace", "tree-backup"])
def test_safe_traces_contract(kind):
    """max|R Q − Q^π| ≤ γ max|Q − Q^π|, and longer traces contract more (Munos et al. 2016)."""
    start = np.abs(Q_WRONG - Q_PI).max()
    error = [
        np.abs(expectation(q_target(kind, lam, Q_WRONG), by=("state", "action"))[0] - Q_PI[:2]).max()
        for lam in (0.0, 0.5, 1.0)
    ]
    assert error[2] < error[1] < error[0] <= GAMMA * start


# ------------------------------------------------------------------ bad padding, dtypes, shapes


def test_garbage_stays_where_it_is():
    """Invalid rows and terminal states may hold NaN or ∞: outputs there are 0 and no gradient catches it."""
    shape = (20, 3)
    chunk = random_chunk(6, shape=shape)
    valid = jnp.asarray(np.random.default_rng(7).random(shape) < 0.7)
    flags = {name: chunk[name] for name in ("terminated", "truncated")} | {"valid": valid}
    floats = {name: x for name, x in chunk.items() if name not in flags and name != "log_prob"}
    floats |= {"gamma": jnp.full(shape, 0.9), "lam": jnp.full(shape, 0.8), "trace": chunk["rho"]}

    @jax.jit
    def run(floats):
        own = ("value", "q", "rho", "lam", "trace")
        value, q, rho, lam, trace = (floats[name] for name in own)
        rows = {name: x for name, x in floats.items() if name not in own} | flags
        return [
            *(estimate(rho=rho, **rows) for estimate in IS_RETURNS.values()),
            *corrections.vtrace(rho=rho, value=value, lam=lam, bootstrap="lambda", **rows),
            corrections.td_rho(rho=rho, rho_max=2.0, value=value, **rows),
            corrections.off_policy_q(q=q, trace=trace, **rows),
        ]

    gradient = jax.jit(jax.grad(lambda floats: sum(x.sum() for x in run(floats))))
    clean, clean_grad = run(floats), gradient(floats)
    for garbage in (jnp.nan, jnp.inf):
        dirty = {name: jnp.where(valid, x, garbage) for name, x in floats.items()}
        dirty["next_value"] = jnp.where(flags["terminated"], garbage, dirty["next_value"])
        jax.tree.map(np.testing.assert_array_equal, run(dirty), clean)
        assert all(bool((x == 0)[~valid].all()) for x in run(dirty))
        grad = gradient(dirty)
        jax.tree.map(np.testing.assert_array_equal, grad, clean_grad)
        assert all(bool((x == 0)[~valid].all()) for x in jax.tree.leaves(grad))
    assert all(bool((x != 0).any()) for x in jax.tree.leaves(clean_grad))


def test_weights_of_zero():
    """ρ = 0 everywhere gives 0, not 0/0; one ρ of 0 takes its episode out; gradients stay finite."""
    chunk, _ = split(random_chunk(8, flags=0))
    zeros, ones = jnp.zeros(SHAPE), jnp.ones(SHAPE)
    np.testing.assert_array_equal(weighted_is(rho=zeros, **chunk), zeros)
    rho = ones.at[3, 0, 1].set(0.0)
    target, monte_carlo = weighted_is(rho=rho, **chunk), returns.monte_carlo(**chunk)
    np.testing.assert_array_equal(target[:4, 0, 1], 0)
    np.testing.assert_allclose(target[4:], monte_carlo[4:], **CLOSE)
    np.testing.assert_allclose(target[:4, 1], monte_carlo[:4, 1] * 4 / 3, **CLOSE)
    gradient = jax.jit(jax.grad(lambda rho: weighted_is(rho=rho, **chunk).sum()))
    for r in (rho, zeros, ones.at[-1].set(0.0)):
        assert jnp.isfinite(gradient(r)).all()


def test_a_diverged_weight_does_not_reach_invalid_rows():
    """A NaN ratio spoils the mean of its row, so every valid row of it; invalid ones stay 0."""
    chunk, own = split(random_chunk(16, shape=(4, 3), flags=0))
    valid = jnp.ones((4, 3), bool).at[2:, 1].set(False)
    target = weighted_is(rho=own["rho"].at[3, 0].set(jnp.nan), valid=valid, **chunk)
    np.testing.assert_array_equal(jnp.isnan(target), valid)
    np.testing.assert_array_equal(target[~valid], 0)


def test_a_diverged_episode_does_not_reach_the_one_before():
    chunk = random_chunk(9, shape=(6,), flags=0)
    chunk["truncated"] = jnp.zeros(6, bool).at[2].set(True)
    for diverged in ("reward", "rho"):
        bad = chunk | {diverged: chunk[diverged].at[4].set(jnp.nan)}
        for name, x in every_target_jit(**bad, lam=0.9).items():
            assert jnp.isfinite(x[:3]).all(), name
            if diverged == "reward" or name in (*IS_RETURNS, "td_rho", "vtrace"):
                assert jnp.isnan(x[4]), name


@pytest.mark.parametrize(("dtype", "x64"), [("float32", False), ("float32", True), ("float64", True)])
def test_dtype_in_is_dtype_out(dtype, x64):
    with jax.enable_x64(x64):
        chunk = random_chunk(10, dtype=dtype)
        del chunk["gamma"]
        for gamma in (0.9, np.float64(0.9), jnp.asarray(0.9)):
            rates = {"gamma": gamma, "lam": gamma}
            out = jax.eval_shape(lambda chunk, rates=rates: every_target(**chunk, **rates), chunk)
            assert {name: x.dtype.name for name, x in out.items()} == dict.fromkeys(out, dtype)
        assert corrections.importance_ratio(chunk["log_prob"], chunk["log_prob"]).dtype == dtype
        for kind in corrections.TRACES:
            c = corrections.trace(kind, rho=chunk["rho"], log_prob=chunk["log_prob"], lam=jnp.asarray(0.9))
            assert (c.dtype, c.shape) == (dtype, SHAPE)


def test_vmap_and_any_batch_shape():
    chunk = random_chunk(13)
    del chunk["gamma"]

    @jax.jit
    def run(chunk):
        out = every_target(**chunk, lam=0.7, gamma=0.9)
        weighted = out.pop("weighted_is")  # it alone looks at the other episodes
        return out, weighted

    (whole, weighted), (mapped, _) = run(chunk), jax.jit(jax.vmap(run, 1, 1))(chunk)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), mapped, whole)
    alone, _ = run({name: x[:, 1, 0] for name, x in chunk.items()})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:, 1, 0], rtol=1e-12), alone, whole)
    own = ("value", "q", "log_prob")
    flat = {name: x.reshape(SHAPE[0], -1) for name, x in chunk.items() if name not in own}
    flat = weighted_is(**flat, gamma=0.9).reshape(SHAPE)
    np.testing.assert_allclose(flat, weighted, rtol=1e-12)


def test_mistakes_are_refused():
    rows, own = split(random_chunk(14))
    own = {name: own[name] for name in ("rho", "value")}
    with pytest.raises(ValueError, match=r"rho_max=0.5 must be at least c_max=1.0"):
        corrections.vtrace(**own, **rows, rho_max=0.5)
    with pytest.raises(ValueError, match=r"must be at least"):
        corrections.vtrace(**own, **rows, rho_max=float("nan"))
    with pytest.raises(ValueError, match=r"bootstrap='gae': choose one of vtrace, lambda"):
        corrections.vtrace(**own, **rows, bootstrap="gae")
    names = "importance-sampling, q-lambda, tree-backup, retrace"
    with pytest.raises(ValueError, match=f"'watkins'.*{names}"):
        corrections.trace("watkins", rho=own["rho"], log_prob=own["rho"], lam=1.0)
    column = own["rho"][:, :1]
    with pytest.raises(ValueError, match=r"one shape.*'rho': \(6, 1, 2\)"):
        corrections.vtrace(**own | {"rho": column}, **rows)
    with pytest.raises(ValueError, match=r"one shape"):
        corrections.td_rho(**own | {"rho": column}, rho_max=1.0, **rows)
    with pytest.raises(ValueError, match=r"one shape"):
        corrections.off_policy_q(q=own["value"], trace=column, **rows)
    with pytest.raises(ValueError, match=r"one shape"):
        corrections.trace("retrace", rho=column, log_prob=own["rho"], lam=1.0)
    for estimate in IS_RETURNS.values():
        with pytest.raises(ValueError, match=r"one shape"):
            estimate(rho=column, **rows)


def test_shapes_are_as_annotated():
    rows, own = split(random_chunk(15))
    value, log_prob = own["value"], own["log_prob"]
    names = ("importance_ratio", "vtrace", "td_rho", *IS_RETURNS, "trace", "off_policy_q")
    checked = {name: jaxtyped(typechecker=beartype)(getattr(corrections, name)) for name in names}

    def call(options):
        rho = checked["importance_ratio"](log_prob, log_prob)
        c = checked["trace"]("retrace", rho=rho, log_prob=log_prob, lam=0.9)
        checked["vtrace"](rho=rho, value=value, lam=jnp.asarray(0.3), **rows, **options)
        checked["td_rho"](rho=rho, rho_max=1.0, value=value, **rows, **options)
        checked["off_policy_q"](q=value, trace=c, **rows, **options)
        for name in IS_RETURNS:
            checked[name](rho=rho, **rows, **options)

    jax.eval_shape(call, {})
    jax.eval_shape(call, {"valid": ~rows["terminated"]})
    with pytest.raises(Exception, match="value"):
        checked["vtrace"](rho=own["rho"], value=value[:-1], **rows)
