"""π(·|s) as `model.policy.get_distribution` gives it, with what Stable-Baselines3's distributions have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from actrix.core.spaces import from_env_action, unclipped_env_action


class Parameters:
    """The parameters of a distribution under PyTorch's names, as NumPy's arrays.

    Of a Discrete action `probs` and `logits`; of a Box `mean` (or `loc`) and `stddev` (or `scale`), `log_std`,
    `variance`, in the policy's coordinates, before the tanh of a squashed one.
    """

    def __init__(self, inner: Any):
        self._inner = inner

    def __getattr__(self, name: str) -> np.ndarray:
        """AttributeError says what there is."""
        if name.startswith("_"):
            raise AttributeError(name)
        if name in _SPELLED:
            own, spelled = _SPELLED[name]
            if hasattr(self._inner, own):
                return spelled(np.asarray(getattr(self._inner, own)))
        there = ", ".join(n for n, (own, _) in _SPELLED.items() if hasattr(self._inner, own))
        raise AttributeError(
            f"the parameters of a {type(self._inner).__name__} are {there}, not {name!r}: log_prob, entropy, mode and "
            "sample are get_distribution(obs)'s own, in the environment's units."
        )


_SPELLED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "probs": ("logits", np.exp),
    "logits": ("logits", np.asarray),
    "mean": ("mean", np.asarray),
    "loc": ("mean", np.asarray),
    "log_std": ("log_std", np.asarray),
    "stddev": ("log_std", np.exp),
    "scale": ("log_std", np.exp),
    "variance": ("log_std", lambda x: np.exp(2 * x)),
}
"""Name → (what it is made of, how)."""


class ActionDistribution:
    """π(·|s) for a batch of N observations. Box actions are in the environment's units; densities are per unit of the
    policy's coordinates, where [−1, 1] spans the bounds (SB3's of an on-policy Gaussian: the environment's units).

    `key` draws the noise of a sample: () → the next random key.
    """

    def __init__(self, distribution: Any, head: Any, space: Any, key: Callable[[], jax.Array]):
        self._inner, self._head, self._space, self._key = distribution, head, space, key

    @property
    def distribution(self) -> Any:
        """The parameters underneath (`Parameters`); of several discrete components a tuple with those of each."""
        parts = getattr(self._inner, "parts", None)
        return Parameters(self._inner) if parts is None else tuple(map(Parameters, parts))

    def log_prob(self, actions: Any) -> np.ndarray:
        """log π(a|s) `[N]` of actions `[N, …]`."""
        inner = self._head.flatten_action(from_env_action(self._space, np.asarray(actions)))
        return np.asarray(self._inner.log_prob(inner))

    def entropy(self) -> np.ndarray:
        """In nats `[N]`; AttributeError for SAC's squashed Gaussian, which has no closed form."""
        if not hasattr(self._inner, "entropy"):
            raise AttributeError(
                f"the entropy of a {type(self._inner).__name__} has no closed form: -log_prob(sample()) is an unbiased "
                "estimate."
            )
        return np.asarray(self._inner.entropy())

    @property
    def probs(self) -> np.ndarray:
        """Probabilities `[N, A]` of a Discrete action; AttributeError for others."""
        if hasattr(self._inner, "parts"):
            raise AttributeError(
                "probs: there are several components, [one.probs for one in dist.distribution]."
            )
        return self.distribution.probs

    def mode(self) -> np.ndarray:
        """The likeliest actions `[N, …]`: of a squashed Gaussian the tanh of its mean."""
        return self._shown(self._inner.mode())

    def sample(self) -> np.ndarray:
        """Actions `[N, …]` drawn anew at every call, of a Gaussian not clipped to the bounds, as in SB3."""
        batch = np.shape(jax.tree.leaves(self._inner)[0])[:-1]
        return self._shown(self._inner.sample(self._head.draw(self._key(), batch)))

    def get_actions(self, deterministic: bool = False) -> np.ndarray:
        """`mode()` or `sample()`."""
        return self.mode() if deterministic else self.sample()

    def _shown(self, action: Any) -> np.ndarray:
        action = unclipped_env_action(self._space, self._head.unflatten_action(np.asarray(action)))
        return np.asarray(action, self._space.dtype)

    def __getattr__(self, name: str) -> Any:
        """Say what there is of a distribution."""
        if hasattr(type(self), name):  # a property that raised: once more, for its own words
            return object.__getattribute__(self, name)
        hint = "get_distribution(obs, action_masks=…) takes masks" if "mask" in name else _HAS
        raise AttributeError(f"a distribution has no {name!r}: {hint}.")


_HAS = "get_distribution(obs) makes it, with log_prob, entropy, mode, sample, get_actions, probs and distribution"
