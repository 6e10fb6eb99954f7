"""A model's policy as people ask it: actions, their distribution, values; Stable-Baselines3's names."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from actrix.algorithms.learn import Composition
from actrix.core import normalize
from actrix.core.contract import Algorithm
from actrix.core.host import fold_in
from actrix.densities import ActionDistribution
from actrix.loops.evaluate import Policy
from actrix.nets.memory import apply as apply_memory
from actrix.predict import batch_of, checked_mask, predict


class ModelPolicy(Policy):
    """`model.policy`: frozen at the parameters of this moment.

    What a policy does not have (a value without a critic of V, a distribution of a greedy one) raises AttributeError
    with what there is instead.
    """

    def __init__(self, model: Any, acting: Any, stream: Any):
        super().__init__(model.algorithm, acting, model.seed % 2**31, stream)
        self.model, self.spec = model, model._known_spec()

    @property
    def policy(self) -> ModelPolicy:
        """Itself, so that it may be evaluated as a model is."""
        return self

    def _known_spec(self) -> Any:
        return self.spec

    @property
    def observation_space(self) -> Any:
        """That of one environment."""
        return self.spec.observation_space

    @property
    def action_space(self) -> Any:
        """That of one environment."""
        return self.spec.action_space

    @property
    def device(self) -> Any:
        """`Model.device`."""
        return self.model.device

    def trains_on(self, env: Any) -> bool:
        """`Model.trains_on`."""
        return self.model.trains_on(env)

    @property
    def runner(self) -> Any:
        """The loop that trains the model."""
        return self.model.runner

    def state_dict(self) -> dict[str, np.ndarray]:
        """`Model.get_parameters`: name → array."""
        return self.model.get_parameters()

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """`Model.set_parameters`: the model, and its next `policy`, act with these."""
        self.model.set_parameters(state_dict, exact_match=strict)

    def parameters(self) -> Iterator[np.ndarray]:
        """The arrays of `state_dict`."""
        return iter(self.state_dict().values())

    def __getattr__(self, name: str) -> Any:
        """Say what there is instead of PyTorch's modules and what is made of them."""
        raise AttributeError(f"a policy has no {name!r}: {_MODULES.get(name, _NO_MODULE)}.")

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False,
                action_masks: Any = None) -> tuple[np.ndarray, Any]:  # fmt: skip
        """As `Model.predict`."""
        return predict(self, self.spec, observation, state, episode_start, deterministic, action_masks)

    def get_distribution(self, obs: Any, action_masks: Any = None) -> ActionDistribution:
        """π(·|s) for a batch of observations (or one, as a batch of one)."""
        net = self._asked("policy", "get_distribution: its actions follow from Q, see q_values")
        dist = _distribution(self.algorithm)(self.acting, *self._seen(obs, action_masks))
        if not hasattr(dist, "log_prob"):
            raise AttributeError(
                f"{self.model.preset.name} acts by a function of the state: it has no distribution."
            )
        return ActionDistribution(dist, net.head, self.spec.action_space, self._next_key)

    def _next_key(self) -> jax.Array:
        """Of noise that no call of the model's policies had yet."""
        self.stream.calls += 1
        return fold_in(self.key, self.stream.calls - 1)

    def forward(self, obs: Any, deterministic: bool = False, action_masks: Any = None) -> Any:
        """(actions, values, log π(a|s)) for a batch, as SB3's policies of PPO; without a V of the critic actions alone.

        A Gaussian's actions are not clipped to the bounds, as `get_actions`'s. A recurrent policy begins anew.
        """
        if not hasattr(getattr(self.acting, "net", None), "critic_only"):
            batch, _ = batch_of(self.spec.observation_space, obs)
            return self.predict(batch, deterministic=deterministic, action_masks=action_masks)[0]
        dist = self.get_distribution(obs, action_masks)
        actions = dist.get_actions(deterministic)
        return actions, self.predict_values(obs), dist.log_prob(actions)

    def __call__(self, obs: Any, *given: Any, **named: Any) -> Any:
        """`forward(obs)`; where a loop gives (memory, first, mask, deterministic), what it asks of a `Policy`."""
        return super().__call__(obs, *given) if len(given) == 4 else self.forward(obs, *given, **named)

    def predict_values(self, obs: Any) -> np.ndarray:
        """V(s) `[N, 1]` of the critic; with a Q critic of the policy Q(s, ·) `[N, A]`."""
        self._asked("critic_only", "predict_values: there is no V, see q_values")
        out = np.asarray(_joint(self.algorithm)(self.acting, *self._seen(obs)).value)
        return out if out.ndim == 2 else out[:, None]

    def evaluate_actions(self, obs: Any, actions: Any, action_masks: Any = None) -> tuple:
        """(values, log π(a|s) `[N]`, entropy `[N]`) of these actions."""
        dist = self.get_distribution(obs, action_masks)
        return self.predict_values(obs), dist.log_prob(actions), dist.entropy()

    def q_values(self, obs: Any) -> np.ndarray:
        """Q(s, ·) `[N, A]` of discrete actions; AttributeError where no critic has them."""
        composed = self.algorithm
        if not isinstance(composed, Composition) or self.acting.net.head.continuous:
            raise AttributeError(f"{self.model.preset.name} has no Q(s, ·) of discrete actions.")
        if composed.critic.facts.gives in ("V", "none"):
            raise AttributeError(
                f"{self.model.preset.name} has V(s) or nothing, no Q(s, ·): see predict_values."
            )
        return np.asarray(_q_values(composed)(self.acting, self._seen(obs)[0]))

    def _asked(self, attribute: str, otherwise: str) -> Any:
        net = getattr(self.acting, "net", None)
        if not hasattr(net, attribute):
            raise AttributeError(f"the policy of {self.model.preset.name} has no {otherwise}.")
        return net

    def _seen(self, obs: Any, action_masks: Any = None) -> tuple[Any, Any]:
        batch, _ = batch_of(self.spec.observation_space, obs)
        return batch, checked_mask(action_masks, self.spec, len(jax.tree.leaves(batch)[0]))


_NO_MODULE = (
    "it is a JAX network, frozen as it was, with predict, get_distribution, predict_values, evaluate_actions, q_values "
    "and state_dict"
)
_MODULES = {
    "optimizer": "the step size is model.learning_rate; checkpoints (learn(checkpoint_dir=…)) hold the optimiser",
    "save": "write model.save(path)",
    "load": "write Model.load(path).policy",
    "obs_to_tensor": "leave it out, predict, forward and the others take NumPy's arrays",
    "_predict": "write predict(obs, deterministic=…), or forward",
    **dict.fromkeys(("action_dist", "log_std", "_get_action_dist_from_latent"), "ask get_distribution(obs)"),
    "set_training_mode": "acting has no training mode here; leave it out",
}


def _normalised(algorithm: Algorithm, acting: Any, obs: Any) -> Any:
    return normalize.normalize_observation(acting.obs_moments, obs, algorithm.clip_obs)


@functools.lru_cache(maxsize=64)
def _distribution(algorithm: Algorithm) -> Any:
    def call(acting, obs, mask):
        net, seen = acting.net, _normalised(algorithm, acting, obs)
        carry = net.initial_carry((len(jax.tree.leaves(obs)[0]),))
        return net.policy(seen, carry, mask)[0]

    return jax.jit(call)


@functools.lru_cache(maxsize=64)
def _joint(algorithm: Algorithm) -> Any:
    def call(acting, obs, mask):
        carry = acting.net.initial_carry((len(jax.tree.leaves(obs)[0]),))
        return apply_memory(acting.net, _normalised(algorithm, acting, obs), carry, mask)[0]

    return jax.jit(call)


@functools.lru_cache(maxsize=64)
def _q_values(algorithm: Composition) -> Any:
    critic = algorithm.critic
    return jax.jit(lambda acting, obs: critic.q_values(acting.net, _normalised(algorithm, acting, obs)))
