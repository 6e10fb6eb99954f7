"""Tabular methods against plain loops written from the equations, on recorded transitions."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.algorithms.tabular import Tabular
from actrix.core.spaces import UnsupportedSpaceError, cells
from actrix.core.types import Chunk, Spec
from actrix.envs.tables import chain
from actrix.lab import exact as oracle
from actrix.loops.compiled import CompiledRunner
from actrix.loops.train import SeedRun, train

S, A, GAMMA, ALPHA = 5, 3, 0.9, 0.3
SPEC = Spec(spaces.Discrete(S), spaces.Discrete(A), max_episode_steps=12)
TABULAR = [name for name, preset in PRESETS.items() if isinstance(preset.algorithm, Tabular)]
IMPORTANCE = ("none", "ordinary", "weighted", "per-decision")
PLAIN = {"gamma": GAMMA, "learning_rate": ALPHA, "exploration": "none", "train_freq": 60}


@dataclasses.dataclass
class Rows:
    """Recorded transitions of one environment; `first` marks episode starts."""

    s: np.ndarray
    a: np.ndarray
    r: np.ndarray
    s2: np.ndarray
    term: np.ndarray
    trunc: np.ndarray
    first: np.ndarray

    def __len__(self):
        return len(self.s)

    def episodes(self):
        """(start, end) of each, the open one at the end included."""
        starts = list(np.flatnonzero(self.first))
        return list(zip(starts, [*starts[1:], len(self)], strict=True))


@functools.cache
def recorded(seed=0, length=60):
    """Random transitions with terminations and truncations; the last episode stays open."""
    rng = np.random.default_rng(seed)
    s, rows, first = rng.integers(S), [], True
    for t in range(length):
        a, s2 = rng.integers(A), rng.integers(S)
        term = bool(rng.random() < 0.12) and t < length - 4
        trunc = bool(not term and rng.random() < 0.1) and t < length - 4
        rows.append((s, a, rng.normal(), s2, term, trunc, first))
        first = term or trunc
        s = rng.integers(S) if first else s2
    columns = [np.array(c) for c in zip(*rows, strict=True)]
    assert seed or min(columns[4].sum(), columns[5].sum()) > 2
    return Rows(*columns)


def chunk_of(*rows):
    """Several environments' rows as one chunk `[T, N]`."""
    stack = lambda name, kind: np.stack([getattr(r, name) for r in rows], axis=1).astype(kind)
    return Chunk(
        obs=stack("s", np.int64), action=stack("a", np.int32), reward=stack("r", np.float32),
        next_obs=stack("s2", np.int64), terminated=stack("term", bool), truncated=stack("trunc", bool),
        first=stack("first", bool),
    )  # fmt: skip


def start_values(size, seed=7):
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def learned(algorithm, *rows, pieces=1, seed=7, epsilon=None, key=0):
    """The values after these rows, learned from in so many chunks one after the other."""
    learner = algorithm.init(jax.random.key(0), SPEC, len(rows))
    net = learner.acting.net
    acting = dataclasses.replace(
        learner.acting, net=net.replace(values=jnp.asarray(start_values(net.values.size, seed)))
    )
    if epsilon is not None:
        explore = dataclasses.replace(acting.explore, epsilon=jnp.asarray(epsilon, jnp.float32))
        acting = dataclasses.replace(acting, explore=explore)
    learner = dataclasses.replace(learner, acting=acting)
    chunk = chunk_of(*rows)
    learn = jax.jit(algorithm.learn)
    for part in np.split(np.arange(len(rows[0])), pieces):
        if epsilon is not None:  # `learn` sets it anew
            learner = dataclasses.replace(
                learner, acting=dataclasses.replace(learner.acting, explore=acting.explore)
            )
        piece = jax.tree.map(lambda x, part=part: x[part], chunk)
        learner, metrics = learn(learner, piece, jax.random.key(key))
        assert metrics["nonfinite"] == 0
    return np.asarray(learner.acting.net.values, np.float64)


def build(name, **settings):
    return configure(PRESETS[name].algorithm, PLAIN | settings)


# ------------------------------------------------------------------ one-step methods, as the books have them


def loop_q_learning(x):
    q = start_values(S * A).astype(float).reshape(S, A)
    for t in range(len(x)):
        target = x.r[t] + (0 if x.term[t] else GAMMA * max(q[x.s2[t]]))
        q[x.s[t], x.a[t]] += ALPHA * (target - q[x.s[t], x.a[t]])
    return q.ravel()


def loop_sarsa(x):
    """A′ is the action that was taken, after a truncation the greedy one (ε = 0); an open last row waits for it."""
    q = start_values(S * A).astype(float).reshape(S, A)
    for t in range(len(x)):
        if x.term[t]:
            target = x.r[t]
        elif x.trunc[t]:
            target = x.r[t] + GAMMA * max(q[x.s2[t]])
        elif t + 1 == len(x):
            break
        else:
            target = x.r[t] + GAMMA * q[x.s2[t], x.a[t + 1]]
        q[x.s[t], x.a[t]] += ALPHA * (target - q[x.s[t], x.a[t]])
    return q.ravel()


def loop_expected(x, epsilon):
    q = start_values(S * A).astype(float).reshape(S, A)
    for t in range(len(x)):
        following = (1 - epsilon) * max(q[x.s2[t]]) + epsilon * np.mean(q[x.s2[t]])
        target = x.r[t] + (0 if x.term[t] else GAMMA * following)
        q[x.s[t], x.a[t]] += ALPHA * (target - q[x.s[t], x.a[t]])
    return q.ravel()


def loop_td(x):
    v = start_values(S).astype(float)
    for t in range(len(x)):
        target = x.r[t] + (0 if x.term[t] else GAMMA * v[x.s2[t]])
        v[x.s[t]] += ALPHA * (target - v[x.s[t]])
    return v


@pytest.mark.parametrize("pieces", [1, 3, 60])
@pytest.mark.parametrize(
    ("name", "loop", "own"),
    [
        ("q-learning", loop_q_learning, {}),
        ("sarsa", loop_sarsa, {}),
        ("td", loop_td, {}),
        ("tree-backup", loop_q_learning, {"n_steps": 1}),
    ],
)
def test_one_step_methods_equal_the_textbooks_loops(name, loop, own, pieces):
    """However the rows are cut into chunks: what is pending waits in the learner."""
    x = recorded()
    np.testing.assert_allclose(learned(build(name, **own), x, pieces=pieces), loop(x), rtol=1e-4, atol=1e-5)


def test_expected_sarsa_weighs_by_the_behaviour():
    x = recorded()
    algorithm = build("expected-sarsa", exploration="epsilon-greedy")
    np.testing.assert_allclose(
        learned(algorithm, x, epsilon=0.4), loop_expected(x, 0.4), rtol=1e-4, atol=1e-5
    )


def test_double_q_learning():
    """The coin of each row comes from the key; the loop is told it."""
    x, key = recorded(), 5
    coins = np.asarray(jax.random.bernoulli(jax.random.key(key), shape=(60, 1)))[:, 0]
    assert 15 < coins.sum() < 45
    q = start_values(2 * S * A).astype(float).reshape(2, S, A)
    for t in range(len(x)):
        mine, other = q[int(coins[t])], q[1 - int(coins[t])]
        target = x.r[t] + (0 if x.term[t] else GAMMA * other[x.s2[t], np.argmax(mine[x.s2[t]])])
        mine[x.s[t], x.a[t]] += ALPHA * (target - mine[x.s[t], x.a[t]])
    np.testing.assert_allclose(learned(build("double-q"), x, key=key), q.ravel(), rtol=1e-4, atol=1e-5)


def test_the_mean_of_all_targets():
    x = recorded()
    v, count = start_values(S).astype(float), np.zeros(S)
    for t in range(len(x)):
        count[x.s[t]] += 1
        target = x.r[t] + (0 if x.term[t] else GAMMA * v[x.s2[t]])
        v[x.s[t]] += (target - v[x.s[t]]) / count[x.s[t]]
    np.testing.assert_allclose(learned(build("td", learning_rate=None), x), v, rtol=1e-4, atol=1e-5)


def test_environments_that_update_one_cell_are_averaged():
    several = [recorded(seed) for seed in range(4)]
    q = start_values(S * A).astype(float).reshape(S, A)
    shared = 0
    for t in range(60):
        asked = {}
        for x in several:
            target = x.r[t] + (0 if x.term[t] else GAMMA * max(q[x.s2[t]]))
            asked.setdefault((x.s[t], x.a[t]), []).append(target - q[x.s[t], x.a[t]])
        shared += any(len(errors) > 1 for errors in asked.values())
        for cell, errors in asked.items():
            q[cell] += ALPHA * np.mean(errors)
    assert shared > 10
    np.testing.assert_allclose(learned(build("q-learning"), *several), q.ravel(), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ n steps


def n_step_loop(x, n, kind):
    """Sutton & Barto's loop over τ = t − n + 1: update S_τ from up to n rewards and what the table holds then."""
    size = S if kind == "td" else S * A
    q = start_values(size).astype(float)
    q = q if kind == "td" else q.reshape(S, A)
    epsilon = 0.4
    for begin, end in x.episodes():
        closed = x.term[end - 1] or x.trunc[end - 1]

        def bootstrap(t, end=end):
            """The value after row t."""
            if x.term[t]:
                return 0.0
            if kind == "td":
                return q[x.s2[t]]
            if kind == "sarsa":
                return q[x.s2[t], x.a[t + 1]] if t + 1 < end else max(q[x.s2[t]])
            if kind == "expected-sarsa":
                return (1 - epsilon) * max(q[x.s2[t]]) + epsilon * np.mean(q[x.s2[t]])
            return max(q[x.s2[t]])

        def target(tau, last):
            if kind != "tree-backup":
                g = bootstrap(last)
                for k in range(last, tau - 1, -1):
                    g = x.r[k] + GAMMA * g
                return g
            g = x.r[last] + GAMMA * bootstrap(last)
            for k in range(last - 1, tau - 1, -1):
                row, a = q[x.s[k + 1]], x.a[k + 1]
                pi = (np.arange(A) == np.argmax(row)).astype(float)
                g = x.r[k] + GAMMA * (sum(pi[b] * row[b] for b in range(A) if b != a) + pi[a] * g)
            return g

        def update(tau, last):
            cell = x.s[tau] if kind == "td" else (x.s[tau], x.a[tau])
            q[cell] += ALPHA * (target(tau, last) - q[cell])

        for t in range(begin, end):
            if kind == "sarsa" and t == end - 1 and not closed:
                break  # waits for the next action
            if t - n + 1 >= begin:
                update(t - n + 1, t)
        if closed:
            for tau in range(max(begin, end - n + 1), end):
                update(tau, end - 1)
    return q.ravel()


@pytest.mark.parametrize(
    ("n", "pieces"), [(2, 1), (4, 12), *(pytest.param(*x, marks=pytest.mark.slow) for x in ((2, 12), (4, 1)))]
)
@pytest.mark.parametrize("name", ["td", "sarsa", "expected-sarsa", "tree-backup"])
def test_n_step_methods_equal_the_textbooks_loops(name, n, pieces):
    x, own = recorded(), {}
    if name == "expected-sarsa":
        own = {"exploration": "epsilon-greedy"}
    result = learned(build(name, n_steps=n, **own), x, pieces=pieces, epsilon=0.4 if own else None)
    np.testing.assert_allclose(result, n_step_loop(x, n, name), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ traces


def traced_loop(x, kind, lam, what):
    """TD(λ), SARSA(λ) or Watkins's Q(λ) with any trace, and true online TD(λ) as its authors write it."""
    w = start_values(S if what == "td" else S * A).astype(float)
    q = lambda s: w.reshape(S, A)[s]
    z, old = np.zeros_like(w), 0.0
    for t in range(len(x)):
        if x.first[t]:
            z[:], old = 0, 0.0
        feature = np.zeros_like(w)
        feature[x.s[t] if what == "td" else x.s[t] * A + x.a[t]] = 1
        if what == "td":
            following = w[x.s2[t]]
        elif what == "q" or x.trunc[t]:
            following = max(q(x.s2[t]))
        elif t + 1 == len(x) and not x.term[t]:
            break
        else:
            following = q(x.s2[t])[x.a[t + 1]] if not x.term[t] else 0.0
        following = 0.0 if x.term[t] else following
        if what == "q" and q(x.s[t])[x.a[t]] < max(q(x.s[t])):
            z[:] = 0
        value = w @ feature
        delta = x.r[t] + GAMMA * following - value
        if kind == "accumulating":
            z = GAMMA * lam * z + feature
            w += ALPHA * delta * z
        elif kind == "replacing":
            z = GAMMA * lam * z
            z[feature > 0] = 1
            w += ALPHA * delta * z
        else:
            z = GAMMA * lam * z + (1 - ALPHA * GAMMA * lam * (z @ feature)) * feature
            w += ALPHA * (delta + value - old) * z - ALPHA * (value - old) * feature
            old = following
    return w


@pytest.mark.parametrize("pieces", [pytest.param(1, marks=pytest.mark.slow), 12])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("td-lambda", kind) for kind in ("accumulating", "replacing", "dutch")),
        *(("sarsa-lambda", kind) for kind in ("accumulating", "replacing", "dutch")),
        *(("q-lambda", kind) for kind in ("accumulating", "replacing")),
    ],
)
def test_traces_equal_the_textbooks_loops(name, kind, pieces):
    what = {"td-lambda": "td", "sarsa-lambda": "sarsa", "q-lambda": "q"}[name]
    x = recorded()
    result = learned(build(name, trace=kind, lam=0.7), x, pieces=pieces)
    np.testing.assert_allclose(result, traced_loop(x, kind, 0.7, what), rtol=1e-4, atol=1e-5)


def test_traces_of_several_environments_reduce_to_one_step_means():
    """λ → 0: the averaged TD(λ) of four environments is their averaged TD(0)."""
    several = [recorded(seed) for seed in range(4)]
    almost = learned(build("td-lambda", lam=1e-9), *several)
    np.testing.assert_allclose(almost, learned(build("td"), *several), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ Monte Carlo


def whole_episodes(seed=0, number=6, length=12):
    """A chunk of one episode per environment, padded."""
    rng = np.random.default_rng(seed)
    shape = (length, number)
    s, a, s2 = rng.integers(S, size=shape), rng.integers(A, size=shape), np.zeros(shape, int)
    s2[:-1], s2[-1] = s[1:], rng.integers(S, size=number)
    ends = rng.integers(3, length, size=number)
    ends[0] = length - 1
    t = np.arange(length)[:, None]
    term, trunc = (t == ends) & (np.arange(number) > 1), (t == ends) & (np.arange(number) <= 1)
    return Chunk(
        obs=s, action=a.astype(np.int32), reward=rng.normal(size=shape).astype(np.float32), next_obs=s2,
        terminated=term, truncated=trunc, valid=t <= ends, first=t == 0,
    )  # fmt: skip


def monte_carlo_loop(chunk, *, visits, importance, predicts, rate, epsilon, policy=None):
    size = S if predicts else S * A
    q = start_values(size).astype(float)
    table = q.copy()
    row = lambda s: table.reshape(S, A)[s]
    greedy = lambda s: (np.arange(A) == np.argmax(row(s))).astype(float)
    pi = (lambda s: policy[s]) if predicts else greedy
    mu = lambda s: (1 - epsilon) * pi(s) + epsilon / A
    weights, updates = np.zeros(size), []
    for n in range(chunk.reward.shape[1]):
        last = int(np.flatnonzero(chunk.valid[:, n])[-1])
        steps = [
            (int(chunk.obs[t, n]), int(chunk.action[t, n]), float(chunk.reward[t, n]))
            for t in range(last + 1)
        ]
        s2 = int(chunk.next_obs[last, n])
        end = 0.0
        if chunk.truncated[last, n]:
            end = table[s2] if predicts else (mu(s2) if importance == "none" else pi(s2)) @ row(s2)
        cells = [s if predicts else s * A + a for s, a, _ in steps]
        ratio = [pi(s)[a] / mu(s)[a] for s, a, _ in steps]
        for t in range(last, -1, -1):
            if visits == "first" and cells[t] in cells[:t]:
                continue
            begin = t if predicts else t + 1
            g = (
                sum(GAMMA ** (k - t) * steps[k][2] for k in range(t, last + 1))
                + GAMMA ** (last + 1 - t) * end
            )
            product = np.prod(ratio[begin:]) if begin <= last else 1.0
            if importance == "per-decision":
                g = sum(
                    GAMMA ** (k - t) * steps[k][2] * np.prod(ratio[begin : k + 1]) for k in range(t, last + 1)
                )
                g += GAMMA ** (last + 1 - t) * end * np.prod(ratio[begin:])
            elif importance == "ordinary":
                g *= product
            updates.append((t, cells[t], g, product if importance == "weighted" else 1.0))
    if rate is None:
        for _, cell, g, weight in updates:
            weights[cell] += weight
            if weights[cell]:
                q[cell] += weight / weights[cell] * (g - q[cell])
        return q
    for t in range(len(chunk.reward) - 1, -1, -1):
        asked = {}
        for _, cell, g, _ in (u for u in updates if u[0] == t):
            asked.setdefault(cell, []).append(g - q[cell])
        for cell, errors in asked.items():
            q[cell] += rate * np.mean(errors)
    return q


SUMS = [
    pytest.param(*case, marks=[pytest.mark.slow] if case[0] == 0.3 and case[3] == "every" else [])
    for case in itertools.product((None, 0.3), (False, True), IMPORTANCE, ("first", "every"))
    if case[0] is None or case[2] != "weighted"  # refused: see test_unsound_settings_are_refused
]
"""A rate of every visit adds nothing to one of first visits and to the mean of every visit: `slow`."""


@pytest.mark.parametrize(("rate", "predicts", "importance", "visits"), SUMS)
def test_monte_carlo_equals_the_textbooks_sums(rate, predicts, importance, visits):
    chunk = whole_episodes()
    algorithm = configure(
        PRESETS["mc"].algorithm,
        {
            "gamma": GAMMA,
            "learning_rate": rate,
            "visits": visits,
            "importance": importance,
            "predict": predicts,
        },
    )
    learner = algorithm.init(jax.random.key(0), SPEC, chunk.reward.shape[1])
    net = learner.acting.net
    policy = np.random.default_rng(3).dirichlet(np.ones(A), S).astype(np.float32)
    net = net.replace(
        values=jnp.asarray(start_values(net.values.size)), policy=jnp.asarray(policy) if predicts else None
    )
    explore = dataclasses.replace(learner.acting.explore, epsilon=jnp.asarray(0.6, jnp.float32))
    acting = dataclasses.replace(learner.acting, net=net, explore=explore)
    learner, metrics = jax.jit(algorithm.learn)(
        dataclasses.replace(learner, acting=acting), chunk, jax.random.key(0)
    )
    assert metrics["nonfinite"] == 0
    right = monte_carlo_loop(
        chunk, visits=visits, importance=importance, predicts=predicts, rate=rate, epsilon=0.6, policy=policy
    )
    np.testing.assert_allclose(learner.acting.net.values, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mc", {"predict": True}),
        ("mc", {"predict": True, "exploration": "none"}),
        ("mc", {"predict": True, "importance": "weighted"}),
        ("td", {}),
    ],
)
@pytest.mark.slow  # test_tabular_solved.py: of every variant, optimised
def test_prediction_finds_the_values_of_the_given_policy(name, settings):
    """Of a policy far from the uniform one, which exploring would change: only importance sampling may explore."""
    mdp = chain(5, gamma=0.9, max_episode_steps=100)
    policy = np.tile([0.1, 0.9], (mdp.n_states, 1))
    own = {"train_freq": 10} if name == "td" else {}
    algorithm = configure(PRESETS[name].algorithm, {"gamma": 0.9} | own | settings)
    reference = algorithm.initial_acting(jax.random.key(0), mdp.spec)
    reference = dataclasses.replace(
        reference, net=reference.net.replace(policy=jnp.asarray(policy, jnp.float32))
    )
    algorithm.check(mdp.spec, 8)
    runner = CompiledRunner(algorithm, mdp, 8, [0], reference)
    train(runner, [SeedRun(0)], 40_000)
    right = oracle.value(mdp, policy)
    found = np.asarray(runner.actings[0].net.values)
    # Where every episode begins; exploring as Q-learning does makes 0.68 of 0.76.
    assert found[3] == pytest.approx(right[3], rel=0.02)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("q-learning", {"n_steps": 3}, "n_steps=3 is uncorrected here"),
        ("double-q", {"lam": 0.5}, "lam=0.5 is offered for"),
        ("sarsa", {"lam": 0.5, "n_steps": 2}, "λ already mixes all n"),
        ("sarsa", {"lam": 0.5, "learning_rate": None}, "traces take a learning_rate"),
        ("q-lambda", {"trace": "dutch"}, "dutch traces are true online"),
        ("sarsa", {"predict": True}, "predict=True evaluates a given policy"),
        ("sarsa", {"importance": "weighted"}, "importance sampling is offered for mc"),
        ("mc", {"importance": "weighted", "learning_rate": 0.1}, "take learning_rate=None"),
        ("mc", {"importance": "ordinary", "exploration": "none"}, "a behaviour policy that explores"),
        ("q-learning", {"policy_kwargs": {"net_arch": [8]}}, "a table has no network"),
        ("q-learning", {"trace": "red"}, "choose one of accumulating, replacing, dutch"),
        ("q-learning", {"learning_rate": -1}, "must be positive, or None"),
        ("q-learning", {"train_freq": 0}, "whole number of at least 1"),
    ],
)
def test_unsound_settings_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        configure(PRESETS[name].algorithm, settings)


def test_environments_that_do_not_fit_are_refused():
    algorithm = PRESETS["q-learning"].algorithm
    with pytest.raises(UnsupportedSpaceError, match="a table needs finitely many observations"):
        algorithm.check(Spec(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)), 1)
    with pytest.raises(ValueError, match="Discrete action space"):
        algorithm.check(Spec(spaces.Discrete(2), spaces.Box(-1, 1, (2,))), 1)
    with pytest.raises(ValueError, match="too many"):
        algorithm.check(Spec(spaces.MultiDiscrete([10**3] * 4), spaces.Discrete(2)), 1)
    with pytest.raises(ValueError, match="give episode_length"):
        PRESETS["mc"].algorithm.check(Spec(spaces.Discrete(2), spaces.Discrete(2)), 1)


def test_observations_are_numbered():
    space = spaces.Dict(
        {"b": spaces.MultiDiscrete([2, 3]), "a": spaces.Discrete(4, start=5), "c": spaces.MultiBinary(2)}
    )
    found = cells(space)
    assert found.size == 2 * 3 * 4 * 4
    numbers = {
        int(found.index({"a": a, "b": np.array([i, j]), "c": np.array([x, y])}))
        for a in range(5, 9) for i in range(2) for j in range(3) for x in range(2) for y in range(2)
    }  # fmt: skip
    assert numbers == set(range(96))
    blackjack = cells(spaces.Tuple([spaces.Discrete(32), spaces.Discrete(11), spaces.Discrete(2)]))
    np.testing.assert_array_equal(
        blackjack.index((np.array([1, 0]), np.array([2, 0]), np.array([1, 1]))), [27, 1]
    )


def test_a_table_of_q_is_no_policy_to_evaluate_where_actions_are_masked():
    """Illegal actions keep Q = 0 and would be its best ones wherever rewards are costs."""
    mdp = chain(3, gamma=0.9, max_episode_steps=10)
    q = configure(PRESETS["q-learning"].algorithm, {}).initial_acting(jax.random.key(0), mdp.spec)
    td = configure(PRESETS["td"].algorithm, {})
    td.init(jax.random.key(0), mdp.spec, 1, q)
    masked = mdp.replace(legal=np.ones((5, 2), bool))
    with pytest.raises(ValueError, match="does not say which of its best actions are legal"):
        td.init(jax.random.key(0), masked.spec, 1, q)
