"""One tiny model of every kind of network that a file may hold, and what it is asked: see `make.py`."""

import zlib

import jax
import numpy as np
from gymnasium import spaces

from actrix.core.spaces import mask_length
from actrix.core.types import Spec
from actrix.model import MODELS

BOX = spaces.Box(np.array([-1.0, -np.inf, 0.0], np.float32), np.array([1.0, np.inf, 2.0], np.float32))
IMAGE = spaces.Box(0, 255, (3, 3, 1), np.uint8)
"""As small as convolutions take them: their dense layer has 128 units in any case."""
PARTS = spaces.Dict(
    {
        "b": spaces.MultiDiscrete([2, 3], start=[1, 0]),
        "a": BOX,
        "nested": spaces.Tuple([spaces.Discrete(3, start=2), spaces.MultiBinary(2)]),
        "picture": spaces.Box(0, 255, (1, 3, 3), np.uint8),
    }
)
FINITE = spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary(2)])
ONE = spaces.Discrete(4, start=2)
SEVERAL = spaces.MultiDiscrete([2, 3], start=[5, 0])
BINARY = spaces.MultiBinary(3)
MOVES = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
APART = {"share_features_extractor": False}
ALL = {"dueling": True, "noisy": True}
TABLE = None
"""In place of a network's settings: there is no network."""

CASES = {  # preset, observations, actions, masked, settings, policy_kwargs
    "ppo": ("ppo", BOX, ONE, False, {}, {}),
    "ppo-box": ("ppo", BOX, MOVES, False, {"normalize": True}, {"net_arch": {"pi": [3, 4], "vf": [5]}}),
    "ppo-multidiscrete": ("ppo", BOX, SEVERAL, True, {}, {"activation_fn": "relu", "ortho_init": False}),
    "ppo-multibinary": ("ppo", BOX, BINARY, True, {"normalize": True}, {}),
    "ppo-image": ("ppo", IMAGE, ONE, True, {}, {}),
    "ppo-parts": ("ppo", PARTS, MOVES, False, {"normalize": True}, APART),
    "ppo-lstm": ("ppo", BOX, ONE, True, {"normalize": True}, {"cell": "lstm", "hidden_size": 3}),
    "ppo-gru": ("ppo", PARTS, MOVES, False, {}, {"cell": "gru", "hidden_size": 3}),
    "ppo-kl": ("ppo-kl", BOX, MOVES, False, {}, {"log_std_init": -1.0}),
    "reinforce": ("reinforce", BOX, ONE, False, {}, {}),
    "qac": ("qac", BOX, ONE, True, {}, {}),
    "acer": ("acer", BOX, ONE, False, {"normalize": True}, {}),
    "v-trace": ("v-trace", BOX, SEVERAL, False, {"lag": 2}, {}),
    "trpo": ("trpo", BOX, MOVES, False, {}, {}),
    "acktr": ("acktr", BOX, ONE, False, {}, {}),
    "composed": (
        "actor-critic", BOX, BINARY, False,
        {"critic": "mc-is:weighted", "actor": "score", "data": "lag:3", "n_steps": 5}, {},
    ),
    "dqn": ("dqn", BOX, ONE, True, {}, {}),
    "dqn-dueling": ("dqn", BOX, ONE, False, {"dueling": True, "normalize_obs": True}, {"layer_norm": True}),
    "dqn-noisy": ("dqn", BOX, ONE, False, {"noisy": True}, {}),
    "dqn-image": ("dqn", IMAGE, ONE, True, {"dueling": True}, {}),
    "dqn-boltzmann": ("dqn", PARTS, ONE, False, {"exploration": "boltzmann", "temperature": 0.3}, {}),
    "c51": ("c51", BOX, ONE, True, {"n_atoms": 5, "v_min": -2.0, "v_max": 3.0}, {}),
    "qr-dqn": ("qr-dqn", BOX, ONE, False, {"n_quantiles": 5}, {}),
    "iqn": ("iqn", BOX, ONE, True, {"n_policy_quantiles": 5, "quantile_dim": 4}, {}),
    "iqn-all": ("iqn", BOX, ONE, False, ALL | {"n_policy_quantiles": 5, "quantile_dim": 4}, {}),
    "rainbow": ("rainbow", IMAGE, ONE, False, {"n_atoms": 5}, {}),
    "pqn": ("pqn", BOX, ONE, True, {"normalize_obs": True}, {}),
    "soft-q": ("soft-q", BOX, ONE, False, {}, {}),
    "ddpg": ("ddpg", BOX, MOVES, False, {"noise_type": "ornstein-uhlenbeck"}, {}),
    "td3": ("td3", PARTS, MOVES, False, {}, {}),
    "sac": ("sac", BOX, MOVES, False, {"normalize_obs": True}, {"net_arch": {"pi": [3], "qf": [4, 5]}}),
    "sac-image": ("sac", IMAGE, MOVES, False, {"n_critics": 1}, {}),
    "discrete-sac": ("discrete-sac", BOX, ONE, True, {}, {}),
    "tqc": ("tqc", BOX, MOVES, False, {"n_quantiles": 5}, {}),
    "droq": ("droq", BOX, MOVES, False, {}, {}),
    "td3-bc": ("td3-bc", BOX, MOVES, False, {}, {}),
    "cql": ("cql", BOX, MOVES, False, {}, {}),
    "cql-discrete": ("cql", BOX, ONE, False, {"discrete": True}, {}),
    "bc": ("bc", BOX, MOVES, False, {"normalize_obs": True}, {}),
    "bc-multidiscrete": ("bc", PARTS, SEVERAL, True, {}, {}),
    "iql": ("iql", BOX, MOVES, False, {}, {}),
    "iql-discrete": ("iql", BOX, ONE, True, {}, {"layer_norm": True}),
    "q-learning": ("q-learning", FINITE, ONE, True, {}, TABLE),
    "double-q": ("double-q", spaces.Discrete(5, start=-2), ONE, False, {}, TABLE),
    "sarsa-boltzmann": ("sarsa", FINITE, ONE, False, {"exploration": "boltzmann"}, TABLE),
    "td": ("td", FINITE, ONE, False, {}, TABLE),
    "mc": ("mc", spaces.MultiDiscrete([2, 3]), ONE, False, {"importance": "weighted"}, TABLE),
    "mc-predict": ("mc", spaces.Discrete(4), ONE, True, {"predict": True}, TABLE),
    "cpi": ("cpi", FINITE, ONE, True, {}, TABLE),
    "td-lambda-ac": ("td-lambda-ac", BOX, MOVES, False, {}, {}),
    "td-lambda-ac-discrete": ("td-lambda-ac", PARTS, SEVERAL, True, {}, {}),
    "stream-ac": ("stream-ac", BOX, ONE, False, {}, {}),
    "stream-ac-box": ("stream-ac", BOX, MOVES, False, {}, {}),
}  # fmt: skip


def build(case, seed):
    """An untrained model whose every number is random, statistics and tables included."""
    preset, observations, actions, masked, settings, network = CASES[case]
    settings = settings | ({} if network is None else {"policy_kwargs": {"net_arch": [4], **network}})
    model = MODELS[preset]("MlpPolicy", seed=3, **settings)
    model.spec = Spec(observations, actions, 10, mask_length(actions) if masked else None)
    model.env_id = "Tiny-v0"
    rng = np.random.default_rng([seed, zlib.crc32(case.encode())])

    def number(name, x):
        if name.endswith(".policy"):
            return rng.dirichlet(np.ones(x.shape[1]), x.shape[0])
        if "obs_moments" in name:
            return np.asarray(x) + abs(rng.normal(size=x.shape))
        if name.endswith((".epsilon", ".random")):
            return 0.25
        if name.endswith(".temperature"):
            return x
        size = 2 / np.sqrt(np.prod(x.shape[:-1])) if x.ndim > 1 else 0.2  # small biases: the input decides
        return size * rng.normal(size=x.shape)

    acting = model.algorithm.initial_acting(jax.random.key(1), model.spec)
    model._acting = jax.tree_util.tree_map_with_path(
        lambda path, x: jax.numpy.asarray(number(jax.tree_util.keystr(path), x), x.dtype), acting
    )
    return model


def questions(model, n=8):
    """What `predict` is asked, as JSON: observations, masks and which rows begin an episode."""
    space, rng = model.observation_space, np.random.default_rng(1)
    space.seed(0)
    observations = [space.sample() for _ in range(n)]
    asked = {"observations": jax.tree.map(lambda x: np.asarray(x).tolist(), observations)}
    if model.spec.mask_size is not None:
        masks = rng.random((n, model.spec.mask_size)) < 0.5
        masks[:, 1] = masks[:, -1] = True  # something is legal in every component
        asked["masks"] = masks.tolist()
    return asked


def batch(space, rows):
    """Observations, read from JSON, as one batch."""
    if isinstance(space, spaces.Dict):
        return {name: batch(part, [row[name] for row in rows]) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(batch(part, [row[i] for row in rows]) for i, part in enumerate(space.spaces))
    return np.array(rows, space.dtype)


def answers(model, asked):
    """`predict`'s actions for all observations as one batch: the policy's preferred ones twice in a row, so that a
    memory is carried on, then four samples of each, which show its probabilities."""
    rows = asked["observations"]
    obs = batch(model.observation_space, rows)
    masks = None if "masks" not in asked else np.array(asked["masks"])
    first, state, found = np.ones(len(rows), bool), None, {"preferred": [], "sampled": []}
    for kind, count in (("preferred", 2), ("sampled", 4)):
        for _ in range(count):
            action, state = model.predict(
                obs, state, first, deterministic=kind == "preferred", action_masks=masks
            )
            first = np.zeros(len(rows), bool)
            found[kind].append(np.asarray(action).tolist())
    return found
