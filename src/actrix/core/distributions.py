"""Action distributions as pytrees of parameters, sampled from noise that was drawn in bulk beforehand."""

from __future__ import annotations

import dataclasses
import itertools
import math

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Float, Int

from actrix.core.spaces import UnsupportedSpaceError
from actrix.core.types import Key, record

ILLEGAL = -1e9  # a finite "minus infinity": exp gives exactly 0 and 0·ILLEGAL stays 0 in the entropy


@record
class Categorical:
    """One discrete action; `logits[*B, n]` are normalised log-probabilities."""

    logits: Float[Array, "*B n"]

    def sample(self, noise: Float[Array, "*B n"]) -> Int[Array, "*B"]:
        """argmax(logits + Gumbel noise), an exact draw; an illegal action never wins."""
        return jnp.argmax(self.logits + noise, axis=-1).astype(jnp.int32)

    def mode(self) -> Int[Array, "*B"]:
        """The most likely action."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: Int[Array, "*B"]) -> Float[Array, "*B"]:
        """log p(action); for `DiagGaussian` the log density."""
        return jnp.take_along_axis(self.logits, action[..., None].astype(jnp.int32), axis=-1)[..., 0]

    def entropy(self) -> Float[Array, "*B"]:
        """−Σ p log p (nats)."""
        return -jnp.sum(jnp.exp(self.logits) * self.logits, axis=-1)

    def kl(self, other: Categorical) -> Float[Array, "*B"]:
        """KL(self ‖ other) = Σ p (log p − log q)."""
        return jnp.sum(jnp.exp(self.logits) * (self.logits - other.logits), axis=-1)

    def fisher(self, tangent: Categorical) -> Categorical:
        """M·tangent, M = E_{a∼p}[∇log p(a) ∇log p(a)ᵀ], the Fisher matrix in the distribution's own parameters.

        Here diag(p): the parameters are log-probabilities, whose tangents keep Σp = 1.
        """
        return Categorical(jnp.exp(self.logits) * tangent.logits)

    def uniform(self) -> Categorical:
        """The uniform distribution over the same legal actions."""
        legal = self.logits > 0.5 * ILLEGAL
        return _categorical(jnp.zeros_like(self.logits), legal)


@record
class MultiCategorical:
    """Independent discrete actions; `parts[i]` rules component i (MultiDiscrete, MultiBinary)."""

    parts: tuple[Categorical, ...]

    def sample(self, noise: Float[Array, "*B n"]) -> Int[Array, "*B k"]:
        start, out = 0, []
        for part in self.parts:
            stop = start + part.logits.shape[-1]
            out.append(part.sample(noise[..., start:stop]))
            start = stop
        return jnp.stack(out, axis=-1)

    def mode(self) -> Int[Array, "*B k"]:
        return jnp.stack([p.mode() for p in self.parts], axis=-1)

    def log_prob(self, action: Int[Array, "*B k"]) -> Float[Array, "*B"]:
        return sum(p.log_prob(action[..., i]) for i, p in enumerate(self.parts))  # type: ignore[return-value]

    def entropy(self) -> Float[Array, "*B"]:
        return sum(p.entropy() for p in self.parts)  # type: ignore[return-value]

    def kl(self, other: MultiCategorical) -> Float[Array, "*B"]:
        return sum(p.kl(q) for p, q in zip(self.parts, other.parts, strict=True))  # type: ignore[return-value]

    def fisher(self, tangent: MultiCategorical) -> MultiCategorical:
        return MultiCategorical(tuple(p.fisher(t) for p, t in zip(self.parts, tangent.parts, strict=True)))

    def uniform(self) -> MultiCategorical:
        return MultiCategorical(tuple(p.uniform() for p in self.parts))


@record
class DiagGaussian:
    """Independent normals; `mean` and `log_std` are `[*B, d]`, in policy coordinates, unbounded."""

    mean: Float[Array, "*B d"]
    log_std: Float[Array, "*B d"]

    def sample(self, noise: Float[Array, "*B d"]) -> Float[Array, "*B d"]:
        """mean + std·ξ, ξ ~ N(0, I): reparametrised."""
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> Float[Array, "*B d"]:
        return self.mean

    def log_prob(self, action: Float[Array, "*B d"]) -> Float[Array, "*B"]:
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * z**2 + self.log_std + 0.5 * math.log(2 * math.pi), axis=-1)

    def entropy(self) -> Float[Array, "*B"]:
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)

    def kl(self, other: DiagGaussian) -> Float[Array, "*B"]:
        """KL(self ‖ other), closed form."""
        ratio = jnp.exp(2 * (self.log_std - other.log_std))
        shift = ((self.mean - other.mean) * jnp.exp(-other.log_std)) ** 2
        return 0.5 * jnp.sum(ratio + shift - 1 - 2 * (self.log_std - other.log_std), axis=-1)

    def fisher(self, tangent: DiagGaussian) -> DiagGaussian:
        """M·tangent with M = diag(1/std²) for the mean and 2·I for log std."""
        return DiagGaussian(tangent.mean * jnp.exp(-2 * self.log_std), 2 * tangent.log_std)


@record
class BoundedGaussian(DiagGaussian):
    """A `DiagGaussian` whose samples are cut to [−1, 1]; the density is the uncut one's."""

    def sample(self, noise: Float[Array, "*B d"]) -> Float[Array, "*B d"]:
        """clip(mean + std·ξ, ±1), ξ ~ N(0, I)."""
        return jnp.clip(self.mean + jnp.exp(self.log_std) * noise, -1.0, 1.0)


@record
class TanhGaussian:
    """a = tanh(u), u ~ N(mean, std²), independent per dimension: actions in (−1, 1) (Haarnoja et al. 2018).

    The log density carries the exact correction −Σ log(1 − tanh²(u)), written 2(log 2 − u − softplus(−2u)) so
    that it stays finite for any u.
    """

    mean: Float[Array, "*B d"]
    log_std: Float[Array, "*B d"]

    def sample(self, noise: Float[Array, "*B d"]) -> Float[Array, "*B d"]:
        """tanh(mean + std·ξ), ξ ~ N(0, I): reparametrised."""
        return jnp.tanh(self.mean + jnp.exp(self.log_std) * noise)

    def sample_with_log_prob(
        self, noise: Float[Array, "*B d"]
    ) -> tuple[Float[Array, "*B d"], Float[Array, "*B"]]:
        """A sample and its log density from u itself, which loses nothing near ±1."""
        u = self.mean + jnp.exp(self.log_std) * noise
        return jnp.tanh(u), self._log_prob(u, noise)

    def mode(self) -> Float[Array, "*B d"]:
        """tanh(mean): the action of the most likely u (not the mode of a's own density)."""
        return jnp.tanh(self.mean)

    def log_prob(self, action: Float[Array, "*B d"]) -> Float[Array, "*B"]:
        """log p(a); actions are pulled 1e-6 inside ±1, where atanh is infinite."""
        u = jnp.arctanh(jnp.clip(action, -1 + 1e-6, 1 - 1e-6))
        return self._log_prob(u, (u - self.mean) * jnp.exp(-self.log_std))

    def _log_prob(self, u: jax.Array, z: jax.Array) -> jax.Array:
        gaussian = -0.5 * z**2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return jnp.sum(gaussian - 2 * (math.log(2) - u - jax.nn.softplus(-2 * u)), axis=-1)


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
"""Gauss–Hermite quadrature of a standard normal (weights times √2π)."""


@record
class SquashedGaussian(TanhGaussian):
    """A `TanhGaussian` for policy gradients: its entropy by quadrature, and its KL, which tanh does not change."""

    def entropy(self) -> Float[Array, "*B"]:
        """H(u) + Σ E[log(1 − tanh²(u))], each expectation by 32 nodes."""
        u = self.mean[..., None] + jnp.exp(self.log_std)[..., None] * NODES
        slope = 2 * (math.log(2) - u - jax.nn.softplus(-2 * u)) @ (WEIGHTS / math.sqrt(2 * math.pi))
        return DiagGaussian(self.mean, self.log_std).entropy() + jnp.sum(slope, axis=-1)

    def kl(self, other: SquashedGaussian) -> Float[Array, "*B"]:
        """KL(self ‖ other) of the normals underneath."""
        return DiagGaussian(self.mean, self.log_std).kl(DiagGaussian(other.mean, other.log_std))

    def fisher(self, tangent: SquashedGaussian) -> SquashedGaussian:
        """That of the normal underneath."""
        product = DiagGaussian(self.mean, self.log_std).fisher(DiagGaussian(tangent.mean, tangent.log_std))
        return SquashedGaussian(product.mean, product.log_std)


Distribution = Categorical | MultiCategorical | DiagGaussian | SquashedGaussian


@dataclasses.dataclass(frozen=True)
class ActionHead:
    """How a network's output becomes a distribution over one action space.

    `sizes` is the number of choices of each discrete component, or (d,) for a Box of d numbers.
    """

    kind: str
    """'categorical', 'multi' or 'gaussian'."""
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    """Shape of one action."""

    @property
    def size(self) -> int:
        """Number of network outputs (also the length of the noise vector)."""
        return sum(self.sizes)

    @property
    def continuous(self) -> bool:
        """Whether the actions are real numbers (Box)."""
        return self.kind == "gaussian"

    def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*B n"]:
        """Noise for `prod(shape)` actions: Gumbel for discrete kinds, standard normal for Box."""
        draw = jax.random.normal if self.continuous else jax.random.gumbel
        return draw(key, (*shape, self.size))

    def __call__(
        self,
        out: Float[Array, "*B n"],
        log_std: Float[Array, " n"] | None = None,
        mask: Bool[Array, "*B n"] | None = None,
    ) -> Distribution:
        """The distribution whose logits (or mean) are `out`; actions with mask False get probability 0."""
        if self.continuous:
            assert log_std is not None
            return DiagGaussian(out, jnp.broadcast_to(log_std, out.shape))
        if self.kind == "categorical":
            return _categorical(out, mask)
        stops = list(itertools.accumulate(self.sizes))
        pieces = jnp.split(out, stops[:-1], axis=-1)
        masks = jnp.split(mask, stops[:-1], axis=-1) if mask is not None else [None] * len(pieces)
        return MultiCategorical(tuple(_categorical(o, m) for o, m in zip(pieces, masks, strict=True)))

    def flatten_action(self, action: jax.Array) -> jax.Array:
        """Action of one environment shape → the distribution's shape (Box actions are flattened)."""
        return (
            action.reshape(*action.shape[: action.ndim - len(self.shape)], -1) if self.continuous else action
        )

    def unflatten_action(self, action: jax.Array) -> jax.Array:
        """The inverse of `flatten_action`."""
        return action.reshape(*action.shape[:-1], *self.shape) if self.continuous else action


def _categorical(logits: jax.Array, mask: jax.Array | None) -> Categorical:
    if mask is not None:
        logits = jnp.where(mask, logits, ILLEGAL)
    return Categorical(jax.nn.log_softmax(logits, axis=-1))


def action_head(space: gym.Space) -> ActionHead:
    """The head for an action space; raises `UnsupportedSpaceError` where there is none."""
    if isinstance(space, spaces.Discrete):
        return ActionHead("categorical", (int(space.n),), ())
    if isinstance(space, spaces.MultiDiscrete):
        return ActionHead("multi", tuple(int(n) for n in space.nvec), space.shape)
    if isinstance(space, spaces.MultiBinary):
        return ActionHead("multi", (2,) * int(space.shape[0]), space.shape)
    if isinstance(space, spaces.Box):
        return ActionHead("gaussian", (math.prod(space.shape),), space.shape)
    raise UnsupportedSpaceError(f"no action distribution for {type(space).__name__}.")


# ---------------------------------------------------------------------------- legal and greedy actions, ratios


def legal_actions(like: Float[Array, "*B n"], mask: Bool[Array, "*B n"] | None) -> Bool[Array, "*B n"]:
    """The legal actions; all of them where there is no mask, or one that allows nothing."""
    if mask is None:
        return jnp.ones(like.shape, bool)
    mask = jnp.asarray(mask, bool)
    return mask | ~jnp.any(mask, axis=-1, keepdims=True)


def greedy_action(q: Float[Array, "*B n"], mask: Bool[Array, "*B n"] | None = None) -> Int[Array, "*B"]:
    """argmax_a Q(s, a) over the legal actions, the first of equals; never an illegal one, even if Q = −∞."""
    q = jnp.asarray(q)
    bounded = jnp.maximum(q, jnp.finfo(q.dtype).min)
    return jnp.argmax(jnp.where(legal_actions(q, mask), bounded, -jnp.inf), axis=-1).astype(jnp.int32)


def positive(temperature: Array) -> Array:
    """τ ≥ 0 so bounded from below that dividing by it gives the limit τ → 0 instead of 0/0."""
    return jnp.maximum(temperature, jnp.finfo(temperature.dtype).tiny)


MAX_LOG_RATIO = 20.0
"""Bound on |log π − log μ| of a single row in `importance_ratio`."""


def importance_ratio(log_prob: Float[Array, "*S"], old_log_prob: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """ρ_t = π(a_t|s_t)/μ(a_t|s_t) = exp(log π − log μ), with the log difference clipped to ±20.

    So ρ lies in [2·10⁻⁹, 5·10⁸], always finite, and is never exactly 0: an action that π excludes (log π = −∞)
    gets e⁻²⁰. Outside ±20 its gradient is 0. NaN stays NaN.
    """
    return jnp.exp(jnp.clip(log_prob - old_log_prob, -MAX_LOG_RATIO, MAX_LOG_RATIO))
