"""The options of the answers, in pairs: each two that go together learn together, whichever answers they belong to."""

import functools
import itertools

import jax
import numpy as np
import pytest
from helpers import NUM_ENVS, greedy, small, train

from actrix.algorithms.presets import composed
from actrix.envs.probes import ActionObs, ContinuousTarget
from actrix.loops.compiled import collect, reset
from actrix.loops.runner import run_keys

FAMILIES = {
    "Q(s, ·)": (
        "q:{},{},{},{}|{}|{}",
        ("backup=max", "double", "soft=0.1", "munchausen", "sarsa", "expected-sarsa"),
        ("number", "c51", "qr", "iqn=8", "lam=0.5"),
        ("dueling=false", "dueling"),
        ("noisy=false", "noisy"),
        ("greedy", "epsilon-greedy", "boltzmann:0.1"),
        ("on-policy", "replay", "replay:per", "replay:n=3"),
    ),
    "Q(s, a)": (
        "ensemble:{},{},actor_q={}|{}|{}",
        ("1", "3"),
        ("numbers", "quantiles=5", "c51"),
        ("min", "mean", "first"),
        ("soft", "deterministic", "deterministic:target_policy_noise=0.2"),
        ("replay", "replay:per", "replay:n=3", "replay:per,n=3"),
    ),
    "Q(s, a) of discrete actions": (
        "ensemble:{},actor_q={}|{}|{}",
        ("1", "3"),
        ("min", "mean", "first"),
        ("soft:discrete", "weighted:1", "weighted:binary"),
        ("replay", "replay:per", "replay:n=3", "replay:per,n=3"),
    ),
}


@functools.cache
def sound(words):
    """The composition; None where it is refused, or where nothing explores, so that either action may stay."""
    if "=false|greedy|" in words:
        return None
    try:
        return composed(*words.split("|")).algorithm
    except ValueError:
        return None


def cover(form, *options, of=2):
    """As few of the sound compositions as have all that any of them has, so many options at a time."""
    parts = lambda choice: set(itertools.combinations(enumerate(choice), of))
    cells = [choice for choice in itertools.product(*options) if sound(form.format(*choice))]
    left = set().union(*map(parts, cells))
    while left:
        best = max(cells, key=lambda choice: len(parts(choice) & left))
        left -= parts(best)
        yield form.format(*best)


SINGLE, PAIRS = ([words for f in FAMILIES.values() for words in cover(*f, of=n)] for n in (1, 2))


def tried(words):
    """The composition, made small, and an environment of its kind of actions."""
    algorithm = sound(words)
    continuous = "ensemble" in words and "discrete" not in words and "weighted" not in words
    support = {"v_min": -3.0, "v_max": 3.0} if "c51" in words else {}
    return small(algorithm, **support), ContinuousTarget() if continuous else ActionObs()


@pytest.mark.parametrize(
    "words", [*SINGLE, *(pytest.param(w, marks=pytest.mark.slow) for w in PAIRS if w not in SINGLE)]
)
def test_what_learns_keeps_its_shapes(words):
    """Traced only: learning from a chunk gives a learner like the one before."""
    algorithm, env = tried(words)
    algorithm.check(env.spec, NUM_ENVS)
    init_key, env_key, key = run_keys(0)
    learner = algorithm.init(init_key, env.spec, NUM_ENVS)

    def update(learner):
        carry = reset(algorithm, learner.acting, env, NUM_ENVS, env_key, np.uint32(0))
        _, chunk, _ = collect(algorithm, learner.acting, env, carry, env_key, key, algorithm.rows(env.spec))
        return algorithm.learn(learner, chunk, key)[0]

    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(jax.eval_shape(update, learner)) == shapes(learner)


@pytest.mark.slow
@pytest.mark.parametrize("words", PAIRS)
def test_pairs_of_options_learn_to_act(words):
    """The action that the observation names is rewarded, of continuous ones the nearest to half of it."""
    algorithm, env = tried(words)
    runner = train(algorithm, env, 300)
    for x in (1.0, -1.0):
        action = greedy(runner.algorithm, runner.actings[0], [x, 0.0])
        if env.spec.action_space.shape:
            np.testing.assert_allclose(action, [x / 2], atol=0.2)
        else:
            assert action == (x > 0)
