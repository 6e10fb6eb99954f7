"""SBX: Stable-Baselines3's loops with updates in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sbx
from sbx.common.distributions import TanhTransformedDistribution
from stable_baselines3.common.vec_env import VecEnv
from tensorflow_probability.substrates import jax as tfp

from conformance.adapters.base import words
from conformance.adapters.stable_baselines import Sb3, Sb3Agent
from conformance.probe import Absent


class SbxAgent(Sb3Agent):
    """The same, whose parameters are JAX's."""

    def _seen(self, obs: Any) -> Any:
        return self.model.policy.prepare_obs(self._normalised(obs))[0]

    def values(self, obs: Any) -> np.ndarray:
        policy = self.model.policy
        return np.ravel(policy.vf.apply(policy.vf_state.params, self._seen(obs)))

    def q_values(self, obs: Any) -> np.ndarray:
        state = self.model.policy.qf_state
        return np.asarray(state.apply_fn(state.params, self._seen(obs)))

    def action_values(self, obs: Any, actions: Any) -> np.ndarray:
        """The smaller of the critics (TQC: the mean of its quantiles)."""
        policy, seen = self.model.policy, self._seen(obs)
        states = [policy.qf1_state, policy.qf2_state] if self.algorithm == "tqc" else [policy.qf_state]
        keys = {"dropout": jax.random.key(0)}
        out = [np.asarray(s.apply_fn(s.params, seen, jnp.asarray(actions), rngs=keys)) for s in states]
        if self.algorithm == "tqc":
            return np.mean([x.reshape(len(seen), -1).mean(1) for x in out], axis=0)
        return out[0].min(0).ravel()

    def _distribution(self, obs: Any, masks: Any) -> Any:
        if masks is not None:
            raise Absent("has no masks")
        state = self.model.policy.actor_state
        return state.apply_fn(state.params, self._seen(obs))

    def probs(self, obs: Any, masks: Any) -> np.ndarray:
        return np.asarray(self._distribution(obs, masks).probs_parameter())

    def log_prob(self, obs: Any, actions: Any, masks: Any = None) -> np.ndarray:
        return np.asarray(self._distribution(obs, masks).log_prob(jnp.asarray(actions)))

    def entropy(self, obs: Any, masks: Any = None) -> np.ndarray:
        return np.asarray(self._distribution(obs, masks).entropy())

    def parameters(self) -> np.ndarray:
        policy = self.model.policy
        names = ("actor_state", "vf_state", "qf_state", "qf1_state", "qf2_state")
        return _flat([getattr(policy, n).params for n in names if hasattr(policy, n)])

    def actor(self) -> np.ndarray:
        return _flat(self.model.policy.actor_state.params)

    def targets(self) -> tuple:
        state = self.model.policy.qf_state
        return _flat(state.params), _flat(state.target_params)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, float)) for x in jax.tree.leaves(tree)])


class Sbx(Sb3):
    """SBX."""

    offers = words(
        "ppo dqn sac td3 tqc values q_values action_values probs log_prob entropy predict evaluate parameters actor",
        "targets statistics reward_returns save continues multidiscrete multibinary box box_log_prob noise ent_coef",
        "normalize_advantage n_step squashed_log_prob dict",
    )
    by_design = Sb3.by_design | {
        "advantage_scale_of_the_chunk": "normalised per minibatch, as in Stable-Baselines3 (`PPO._one_update`: "
        "'Normalize advantage')",
    }
    agents = SbxAgent

    def model_of(self, algorithm: str) -> tuple[Any, str]:
        kinds = {"ppo": sbx.PPO, "dqn": sbx.DQN, "sac": sbx.SAC, "td3": sbx.TD3, "tqc": sbx.TQC}
        return kinds[algorithm], "Mlp"

    def environment(self, world: Any, settings: dict) -> VecEnv:
        if world.kind == "discrete":
            raise Absent("takes no Discrete observations")
        return super().environment(world, settings)

    def agent(self, algorithm: str, world: Any, **settings: Any) -> Any:
        if world.kind == "dict" and algorithm in ("ppo", "dqn"):
            raise Absent(f"{algorithm} takes no Dict observations")
        return super().agent(algorithm, world, **settings)

    def squashed_log_prob(self, mean, log_std, actions):
        normal = tfp.distributions.MultivariateNormalDiag(
            loc=jnp.asarray(mean), scale_diag=jnp.exp(jnp.asarray(log_std))
        )
        return TanhTransformedDistribution(normal).log_prob(jnp.asarray(actions))


ADAPTER = Sbx
