"""TorchRL's functions of arrays: estimators, distributions, prioritised replay. Its losses are not trained here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictPrioritizedReplayBuffer
from torchrl.modules import TanhNormal
from torchrl.objectives.value.functional import generalized_advantage_estimate

from conformance.adapters.base import Adapter, words
from conformance.probe import NotAsked

torch.set_num_threads(1)


class TorchRl(Adapter):
    """TorchRL."""

    offers = words("gae gae_truncated squashed_log_prob prioritized")

    def gae(self, reward, value, following, terminated, truncated, gamma, lam):
        rows = lambda x: torch.as_tensor(np.asarray(x).T[..., None].copy())
        f: Any = lambda x: rows(x).double()
        advantage, _ = generalized_advantage_estimate(
            gamma, lam, f(value), f(following), f(reward), rows(terminated | truncated), rows(terminated)
        )
        return advantage[..., 0].numpy().T

    def squashed_log_prob(self, mean, log_std, actions):
        tensor = lambda x: torch.as_tensor(np.broadcast_to(x, actions.shape).copy())
        made = TanhNormal(tensor(mean), tensor(np.exp(log_std)))
        return made.log_prob(tensor(actions)).numpy()

    def prioritized(self, priorities, alpha, beta, seed):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - its own random numbers
        n = len(priorities)
        try:
            buffer = TensorDictPrioritizedReplayBuffer(
                alpha=alpha, beta=beta, storage=LazyTensorStorage(n), batch_size=4096, priority_key="td_error"
            )
        except RuntimeError as error:  # its trees are C++, built for one version of torch
            raise NotAsked(f"its compiled trees do not load here ({str(error).partition('.')[0]})") from error
        buffer.extend(TensorDict({"x": torch.arange(n), "td_error": torch.zeros(n)}, [n]))
        rows = TensorDict({"index": torch.arange(n), "td_error": torch.as_tensor(priorities)}, [n])
        buffer.update_tensordict_priority(rows)
        drawn = buffer.sample()
        weights = drawn["priority_weight"] if "priority_weight" in set(drawn.keys()) else drawn["_weight"]
        return drawn["index"].numpy().ravel(), weights.numpy().ravel()


ADAPTER = TorchRl
