"""sb3-contrib: TRPO, masks, memory and quantiles on Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import numpy as np
import sb3_contrib
import torch
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from sb3_contrib.common.utils import quantile_huber_loss
from stable_baselines3.common.evaluation import evaluate_policy

from conformance.adapters.base import words
from conformance.adapters.stable_baselines import Sb3, Sb3Agent, _flat
from conformance.probe import Absent

CLASSES = {
    "trpo": ("TRPO", "Mlp"),
    "maskable_ppo": ("MaskablePPO", "Mlp"),
    "recurrent_ppo": ("RecurrentPPO", "MlpLstm"),
    "qrdqn": ("QRDQN", "Mlp"),
    "tqc": ("TQC", "Mlp"),
}


class ContribAgent(Sb3Agent):
    """The same with masks, memory and quantiles."""

    def values(self, obs: Any) -> np.ndarray:
        if self.algorithm != "recurrent_ppo":
            return super().values(obs)
        seen = self._seen(obs)
        lstm = self.model.policy.lstm_actor
        n = len(seen)
        state = tuple(torch.zeros(lstm.num_layers, n, lstm.hidden_size) for _ in range(2))
        with torch.no_grad():
            return self.model.policy.predict_values(seen, state, torch.ones(n)).numpy().ravel()

    def q_values(self, obs: Any) -> np.ndarray:
        with torch.no_grad():
            return self.model.quantile_net(self._seen(obs)).mean(1).numpy()

    def action_values(self, obs: Any, actions: Any) -> np.ndarray:
        with torch.no_grad():
            quantiles = self.model.critic(self._seen(obs), torch.as_tensor(np.asarray(actions)))
        return quantiles.mean((1, 2)).numpy()

    def _distribution(self, obs: Any, masks: Any) -> Any:
        if self.algorithm == "maskable_ppo":
            return self.model.policy.get_distribution(self._seen(obs), masks)
        return super()._distribution(obs, masks)

    def _evaluated_by(self) -> Any:
        return evaluate_masked if self.algorithm == "maskable_ppo" else evaluate_policy

    def targets(self) -> tuple:
        if hasattr(self.model, "quantile_net"):
            return _flat(self.model.quantile_net), _flat(self.model.quantile_net_target)
        return super().targets()


class Contrib(Sb3):
    """sb3-contrib."""

    offers = words(
        "trpo maskable_ppo recurrent_ppo qrdqn tqc values q_values action_values probs log_prob entropy predict",
        "evaluate evaluate_masked parameters save continues box quantile_huber",
    )
    agents = ContribAgent

    def model_of(self, algorithm: str) -> tuple[Any, str]:
        name, policy = CLASSES[algorithm]
        return getattr(sb3_contrib, name), policy

    def translated(self, algorithm: str, world: Any, settings: dict) -> dict:
        given = super().translated(algorithm, world, settings)
        if algorithm == "qrdqn":
            given["policy_kwargs"]["n_quantiles"] = 10
        if algorithm == "recurrent_ppo":
            given["policy_kwargs"]["lstm_hidden_size"] = 16
        if algorithm == "tqc" and given.get("ent_coef") == 0:
            given["policy_kwargs"]["n_quantiles"] = 5
        return given

    def agent(self, algorithm: str, world: Any, **settings: Any) -> Any:
        if algorithm == "maskable_ppo" and world.mask is None:
            # It refuses environments without masks: here all actions are legal.
            import dataclasses

            every = tuple((True,) * len(row) for row in world.next)
            if type(world.action_space).__name__ != "Discrete":
                raise Absent("MaskablePPO is for enumerable actions")
            world = dataclasses.replace(world, mask=every)
        return super().agent(algorithm, world, **settings)

    def quantile_huber(self, quantiles, target):
        tensor = lambda x: torch.as_tensor(x)
        return float(quantile_huber_loss(tensor(quantiles), tensor(target), sum_over_quantiles=True))


ADAPTER = Contrib
