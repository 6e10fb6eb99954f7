"""Models with a few numbers and no environment: what the tests of model files write."""

import jax
import numpy as np
from gymnasium import spaces

from actrix.core.types import Spec
from actrix.model import MODELS

BOX = spaces.Box(np.array([-1.0, -np.inf, 0.0], np.float32), np.array([1.0, np.inf, 2.0], np.float32))
PARTS = spaces.Dict({"a": BOX, "b": spaces.MultiDiscrete([2, 3])})
MOVES = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
V_TRACE = {"critic": "v-trace", "actor": "score", "data": "lag:2"}
TINY = {"policy_kwargs": {"net_arch": [4]}}
CASES = {
    "ppo": (
        "ppo",
        BOX,
        spaces.Discrete(2, start=1),
        TINY | {"normalize": True, "learning_rate": "lin_0.001"},
    ),
    "ppo-lstm": ("ppo", PARTS, MOVES, {"policy_kwargs": {"net_arch": [4], "cell": "lstm", "hidden_size": 3}}),
    "rainbow": ("rainbow", BOX, spaces.Discrete(3), TINY | {"n_atoms": 5}),
    "sac": ("sac", BOX, MOVES, TINY | {"normalize_obs": True}),
    "q-learning": ("q-learning", spaces.Discrete(5), spaces.Discrete(2), {}),
    "composed": (
        "actor-critic",
        PARTS,
        spaces.MultiBinary(2),
        TINY | {"critic": "v-trace", "actor": "score", "data": "lag:2"},
    ),
}


def tiny(case):
    """An untrained model whose parameters differ from case to case."""
    name, observation_space, action_space, settings = CASES[case]
    model = MODELS[name]("MlpPolicy", seed=3, **settings)
    model.spec = Spec(observation_space, action_space, 10)
    model.n_envs = 8
    model.run.steps = 2**40
    model.env_id = "Tiny-v0"
    acting = model.algorithm.initial_acting(jax.random.key(len(case)), model.spec)
    numbers = np.random.default_rng(0)
    model._acting = jax.tree.map(lambda x: x + abs(numbers.normal(size=x.shape).astype(x.dtype)), acting)
    return model


def leaves(model):
    return list(map(np.asarray, jax.tree.leaves(model.acting)))


def same(one, two):
    """Whether two models act alike by the last bit: parameters, settings, spaces."""
    return (
        one.algorithm == two.algorithm
        and one.spec == two.spec
        and all(
            a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(leaves(one), leaves(two), strict=True)
        )
    )
