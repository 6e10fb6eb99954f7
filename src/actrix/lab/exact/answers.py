"""A tiny decoder whose answers can all be written down: the exact reward, KL and gradients of a policy of tokens.

π(y|x) = Π_t π(y_t | x, y_<t). An answer ends with token 0 or is cut after T tokens, so that of V^T sequences
Σ_{t<T} (V−1)^{t−1} + (V−1)^{T−1}·V differ. Everything is a sum over them, in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

Array = np.ndarray


class Sizes(NamedTuple):
    """V tokens (0 ends an answer), X prompts, at most T tokens of an answer, D channels."""

    vocabulary: int
    prompts: int
    horizon: int
    width: int = 8

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The decoder's parameters, in the order in which they lie in θ."""
        d = self.width
        square, gated = (
            dict.fromkeys(("query", "key", "value", "mixed"), (d, d)),
            dict.fromkeys(("gate", "up"), (d, 2 * d)),
        )
        tables = {"token": (self.vocabulary + self.prompts, d), "place": (self.horizon, d)}
        return {**tables, **square, **gated, "down": (2 * d, d), "out": (d, self.vocabulary)}


def initial(sizes: Sizes, seed: int) -> Float[np.ndarray, "P"]:
    """θ of a new decoder: normal numbers of variance 1/(rows of the matrix), tables of variance 1, a small output."""
    rng, scale = np.random.default_rng(seed), {"token": 1.0, "place": 1.0, "out": 0.1}
    draw = lambda name, shape: rng.normal(size=shape) * scale.get(name, 1 / np.sqrt(shape[0]))
    return np.concatenate([draw(name, shape).ravel() for name, shape in sizes.shapes().items()])


def log_probs(sizes: Sizes, theta: Any, prompt: Any, token: Any) -> Any:
    """log π(·|x, y_<t) [T, V] for the tokens [T] of one answer: one pre-norm block, one head, RMSNorm, SwiGLU.

    Row t reads the prompt and tokens before t only.
    """
    ends = np.cumsum([np.prod(shape) for shape in sizes.shapes().values()])
    parts = jnp.split(theta, ends[:-1])
    w = {name: x.reshape(shape) for (name, shape), x in zip(sizes.shapes().items(), parts, strict=True)}
    norm = lambda x: x / jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
    seen = jnp.concatenate([jnp.asarray(prompt)[None] + sizes.vocabulary, token[:-1]])
    h = w["token"][seen] + w["place"]
    x = norm(h)
    scores = (x @ w["query"]) @ (x @ w["key"]).T / np.sqrt(sizes.width)
    scores = jnp.where(np.tri(sizes.horizon, dtype=bool), scores, -jnp.inf)
    h = h + jax.nn.softmax(scores, axis=-1) @ (x @ w["value"]) @ w["mixed"]
    x = norm(h)
    h = h + (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]
    return jax.nn.log_softmax(norm(h) @ w["out"], axis=-1)


def every_answer(sizes: Sizes) -> tuple[Int[np.ndarray, "T N"], Bool[np.ndarray, "T N"]]:
    """The tokens of all answers, 0 after the end, and which of them belong to the answer (the end does)."""
    columns = []
    for whole in itertools.product(range(sizes.vocabulary), repeat=sizes.horizon):
        length = whole.index(0) + 1 if 0 in whole else sizes.horizon
        if not any(whole[length:]):
            columns.append((whole, [t < length for t in range(sizes.horizon)]))
    token, valid = (np.array(x).T for x in zip(*columns, strict=True))
    return token, valid


class Answers:
    """All answers to every prompt under a verifier: `verify(prompt, tokens)` gives the reward of a tuple of tokens."""

    def __init__(self, sizes: Sizes, verify: Callable[[int, tuple[int, ...]], float]):
        self.sizes = sizes
        self.token, self.valid = every_answer(sizes)
        self.length = self.valid.sum(axis=0)
        words = [tuple(map(int, y[:n])) for y, n in zip(self.token.T, self.length, strict=True)]
        self.reward = np.array([[verify(x, y) for y in words] for x in range(sizes.prompts)], float)
        prompts, tokens = jnp.arange(sizes.prompts), jnp.asarray(self.token.T)
        over = lambda f: jax.vmap(jax.vmap(f, (None, None, 0)), (None, 0, None))
        one = lambda theta, x, y: log_probs(sizes, theta, x, y)
        taken = lambda theta, x, y: jnp.take_along_axis(one(theta, x, y), y[:, None], axis=1)[:, 0]
        time_major = lambda a: jnp.moveaxis(a, 1, 2)
        self._all = jax.jit(lambda theta: time_major(over(one)(theta, prompts, tokens)))
        self._taken = jax.jit(lambda theta: time_major(over(taken)(theta, prompts, tokens)))
        self._scores = jax.jit(lambda theta: time_major(over(jax.jacrev(taken))(theta, prompts, tokens)))

    def vocabulary(self, theta: Any) -> Any:
        """log π(·|x, y_<t) at each token of each answer, [X, T, N, V]; rows after the end mean nothing."""
        return self._all(theta)

    def taken(self, theta: Any) -> Any:
        """log π(y_t|x, y_<t), [X, T, N], 0 after the end."""
        return jnp.where(self.valid, self._taken(theta), 0)

    def scores(self, theta: Any) -> Float[np.ndarray, "X T N P"]:
        """∇log π(y_t|x, y_<t), 0 after the end."""
        return np.where(self.valid[:, :, None], np.asarray(self._scores(theta)), 0)

    def probability(self, theta: Any) -> Float[np.ndarray, "X N"]:
        """π(y|x) of each answer."""
        return np.exp(np.asarray(self.taken(theta)).sum(axis=1))

    def success(self, theta: Any) -> Float[np.ndarray, "X"]:
        """E_π[r|x] of each prompt."""
        return np.sum(self.probability(theta) * self.reward, axis=1)

    def gradient(self, theta: Any) -> Float[np.ndarray, "P"]:
        """∇ of the mean over prompts of E_π[r|x]: Σ_y ∇π(y|x) r(x, y), by differentiating the sum itself."""
        objective = lambda th: jnp.mean(jnp.sum(jnp.exp(self.taken(th).sum(axis=1)) * self.reward, axis=1))
        return np.asarray(jax.grad(objective)(jnp.asarray(theta)))

    def kl(self, theta: Any, other: Any) -> Any:
        """KL(π_θ‖π_other) of the answers to each prompt, Σ_y π(y|x) log(π/π_other), [X]; differentiable in θ."""
        ours, theirs = self.taken(theta).sum(axis=1), self.taken(other).sum(axis=1)
        return jnp.sum(jnp.exp(ours) * (ours - theirs), axis=1)

    def prefix_values(self, theta: Any) -> Float[np.ndarray, "X T1 N"]:
        """V(x, y_<t) = E[r | x, y_<t] for t = 0 … T along each answer; once it has ended, its reward."""
        probability, horizon = self.probability(theta), self.sizes.horizon
        out = np.empty((self.sizes.prompts, horizon + 1, len(self.length)))
        code = np.zeros(len(self.length), int)
        for t in range(horizon + 1):
            # Ended answers differ from all others: their last token is the end.
            _, same = np.unique(code, return_inverse=True)
            total = lambda x, same=same: np.bincount(same, x)[same]
            out[:, t] = [total(p * r) / total(p) for p, r in zip(probability, self.reward, strict=True)]
            if t < horizon:
                code = code * (self.sizes.vocabulary + 1) + np.where(self.valid[t], self.token[t] + 1, 0)
        return out
