"""A transformer as memory: a pre-norm decoder whose keys and values of the steps before are the carry.

Steps attend to the steps of their own episode, `context` of them at most with themselves (a sliding window), by
rotary positions (Su et al. 2021), grouped key/value heads (Ainslie et al. 2023), RMS norms (Zhang & Sennrich 2019) and
SwiGLU (Shazeer 2020), as Llama and Qwen2 have them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Float, Int

from actrix.core.fields import positive, switch, whole
from actrix.core.host import split
from actrix.core.types import Key, record
from actrix.nets.memory.cells import Forgets, Memory
from actrix.nets.torso import SQRT2, Linear, host_draw


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a decoder."""

    n_layers: int = 2
    n_heads: int = 4
    n_kv_heads: int | None = None
    """Heads of keys and values, each shared by n_heads / n_kv_heads queries; None = as many."""
    d_model: int = 64
    d_ff: int | None = None
    """Width of the feed-forward layers; None = 8/3 · d_model, up to a multiple of 8."""
    context: int = 64
    """Steps that are seen, with the present one; what is older is forgotten."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    head_dim: int | None = None
    """Width of a head; None = d_model / n_heads."""
    norm_eps: float = 1e-6
    """ε of the norms."""
    qkv_bias: bool = False
    """Whether queries, keys and values have biases, as in Qwen2."""

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model"):
            whole(self, name)
        whole(self, "context", least=2)
        for name in ("n_kv_heads", "d_ff", "head_dim"):
            if getattr(self, name) is not None:
                whole(self, name)
        positive(self, "rope_theta", "norm_eps")
        switch(self, "qkv_bias")
        if self.head_dim is not None and self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: pairs of numbers are rotated.")
        if self.head_dim is None and self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"d_model={self.d_model} must be a multiple of 2 · n_heads = {2 * self.n_heads}: rotary heads are even."
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads={self.n_heads} must be a multiple of n_kv_heads={self.n_kv_heads}.")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.head_dim or self.d_model // self.n_heads

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layers."""
        return self.d_ff or -(-8 * self.d_model // 24) * 8


@record
class Cache(Forgets):
    """The carry: a ring of keys and values of each layer. Step t of an episode is in slot t mod S, S = `context`.

    A key is rotated by its slot, once, when it is written; a query by its own, and by S more where it meets a slot
    behind its own, which was written in the round before.
    """

    keys: tuple[Float[Array, "*batch K S h"], ...]
    values: tuple[Float[Array, "*batch K S h"], ...]
    count: Int[Array, "*batch"]
    """Steps t of this episode so far, and from 2 S on S + t mod S: what no step has reached is not looked at."""

    def forget(self, first):
        return dataclasses.replace(self, count=jnp.where(first, 0, self.count))


@record
class Trail:
    """Keys, not rotated, and values of M = S − 1 steps before a sequence and of its rows, `[M + T, ...]`."""

    keys: tuple[Float[Array, "MT K h"], ...]
    values: tuple[Float[Array, "MT K h"], ...]
    episode: Int[Array, " MT"]
    """Which one the row is of: of those in the sequence 0, 1, …; −1 where the cache is empty."""


class Layer(eqx.Module):
    """x + W_o attention(norm(x)), then x + W_down(silu(W_gate n) ⊙ W_up n), n = norm(x)."""

    attention_norm: Float[Array, " d"]
    qkv: Float[Array, "d o"]
    qkv_bias: Float[Array, " o"] | None
    out: Float[Array, "o d"]
    ff_norm: Float[Array, " d"]
    gate_up: Float[Array, "d 2f"]
    down: Float[Array, "f d"]
    shape: Shape = eqx.field(static=True)

    def __init__(self, shape: Shape, key: Key):
        d, heads, hidden = shape.d_model, shape.n_heads * shape.head, shape.hidden
        small = 1 / np.sqrt(2 * shape.n_layers)  # the sum over all layers keeps its size (GPT-2)
        sizes = [
            ((d, heads + 2 * shape.kv_heads * shape.head), 1.0),
            ((heads, d), small),
            ((d, 2 * hidden), 1.0),
            ((hidden, d), small),
        ]

        def draw(rng: np.random.Generator) -> list[np.ndarray]:
            return [rng.standard_normal(size) * gain / np.sqrt(size[0]) for size, gain in sizes]

        self.qkv, self.out, self.gate_up, self.down = host_draw(draw, key, [size for size, _ in sizes])
        self.qkv_bias = jnp.zeros(sizes[0][0][1], jnp.float32) if shape.qkv_bias else None
        self.attention_norm, self.ff_norm = jnp.ones(d, jnp.float32), jnp.ones(d, jnp.float32)
        self.shape = shape

    def heads(self, x: Float[Array, "T d"]) -> tuple[Array, Array, Array]:
        """Queries `[T, K, G, h]`, keys and values `[T, K, h]` of some rows."""
        s = self.shape
        y = rms_norm(x, self.attention_norm, s.norm_eps) @ self.qkv
        y = y if self.qkv_bias is None else y + self.qkv_bias[None]
        y = y.reshape(len(x), s.n_heads + 2 * s.kv_heads, s.head)
        q, k, v = jnp.split(y, [s.n_heads, s.n_heads + s.kv_heads], axis=1)
        return q.reshape(len(x), s.kv_heads, -1, s.head), k, v

    def rest(self, x: Float[Array, "T d"], attended: Float[Array, "T K G h"]) -> Float[Array, "T d"]:
        """The rows after this layer."""
        x = x + attended.reshape(len(x), -1) @ self.out
        gate, up = jnp.split(rms_norm(x, self.ff_norm, self.shape.norm_eps) @ self.gate_up, 2, axis=-1)
        return x + (jax.nn.silu(gate) * up) @ self.down


class Tokens(eqx.Module):
    """The encoder of a Discrete observation for a transformer: its number from 0 on, whose embedding is a row."""

    start: int = eqx.field(static=True)

    def __init__(self, space: spaces.Discrete, key: Key):
        self.start = int(space.start)

    def __call__(self, obs: Array) -> Int[Array, " 1"]:
        return jnp.atleast_1d(obs - self.start)


class Transformer(Memory, eqx.Module):
    """A decoder over the episode so far; all rows of a sequence at once where `along`, with the same result."""

    embed: Linear | Float[Array, "V d"]
    layers: tuple[Layer, ...]
    norm: Float[Array, " d"]
    shape: Shape = eqx.field(static=True)

    def __init__(self, inputs: int, shape: Shape, key: Key, *, tokens: int | None = None):
        first, *keys = split(key, shape.n_layers + 1)
        if tokens is None:
            self.embed = Linear(inputs, shape.d_model, SQRT2, first)
        else:
            size, scale = (tokens, shape.d_model), SQRT2 / np.sqrt(shape.d_model)
            (self.embed,) = host_draw(lambda rng: [rng.standard_normal(size) * scale], first, [size])
        self.layers = tuple(Layer(shape, k) for k in keys)
        self.norm, self.shape = jnp.ones(shape.d_model, jnp.float32), shape

    @property
    def outputs(self) -> int:  # type: ignore[override]
        """Numbers of what it says."""
        return self.shape.d_model

    def initial(self, batch):
        s, like = self.shape, self.norm.dtype
        zeros = tuple(jnp.zeros((*batch, s.kv_heads, s.context, s.head), like) for _ in self.layers)
        return Cache(zeros, zeros, jnp.zeros(batch, jnp.int32))

    def __call__(self, features, carry):
        x, ring = self._embedded(features[None]), Ring(self.shape, carry.count)
        all_keys, all_values = [], []
        for layer, keys, values in zip(self.layers, carry.keys, carry.values, strict=True):
            q, k, v = layer.heads(x)
            attended, keys, values = ring(q[0], k[0], v[0], keys, values)
            x = layer.rest(x, attended[None])
            all_keys.append(keys)
            all_values.append(values)
        out = rms_norm(x, self.norm, self.shape.norm_eps)[0]
        return out, Cache(tuple(all_keys), tuple(all_values), ring.count)

    def along(self, features, first, carry0):
        past = unrolled(self.shape, carry0)
        episode = jnp.concatenate([past.episode, jnp.cumsum(first, dtype=past.episode.dtype)])
        past = dataclasses.replace(past, episode=episode)
        return self._pass(past, features, episode[self.shape.context - 1 :])

    def after(self, trail, features):
        past = jax.tree.map(lambda x: x[1:], trail)
        return self._pass(past, features, past.episode[self.shape.context - 2 :])[0]

    def starts(self, trail, length):
        kept = self.shape.context - 1
        rows = range(0, len(trail.episode) - kept, length)
        windows = lambda x: jnp.stack([x[t : t + kept] for t in rows])
        count = jnp.sum(windows(trail.episode) == trail.episode[kept::length, None], 1, jnp.int32)
        slots = jnp.arange(kept + 1)
        table = rotation(self.shape, kept + 1)

        def ring(x: Array, n: Array) -> Array:  # the newest n of M rows `[M, K, h]`, into slots 0 … n − 1
            placed = x[jnp.clip(kept - n + slots, 0, kept - 1)]
            return jnp.where((slots < n)[:, None, None], placed, 0)

        rows_of = lambda xs: [jax.vmap(ring)(windows(x), count) for x in xs]
        turned = lambda xs: tuple(jnp.moveaxis(x, 1, 2) for x in xs)
        keys = [rotate(x, table) for x in rows_of(trail.keys)]
        return Cache(turned(keys), turned(rows_of(trail.values)), count)

    def _embedded(self, features: Array) -> Float[Array, "T d"]:
        return jax.vmap(self.embed)(features) if callable(self.embed) else self.embed[features[:, 0]]

    def _pass(self, past: Trail, features: Array, episode: Int[Array, " T"]) -> tuple[Array, Trail]:
        """(what is said `[T, d]`, trail): row t sees itself and rows t … t + M − 1 of `past` that are of its episode.

        Where the past's keys and values are those of the cache only, the rows' own are put behind them.
        """
        x = self._embedded(features)
        see = Window(self.shape, past.episode, episode)
        all_keys, all_values = [], []
        for layer, keys, values in zip(self.layers, past.keys, past.values, strict=True):
            q, k, v = layer.heads(x)
            if len(keys) < len(past.episode):
                keys, values = jnp.concatenate([keys, k]), jnp.concatenate([values, v])
            x = layer.rest(x, see(q, k, v, keys, values))
            all_keys.append(keys)
            all_values.append(values)
        return rms_norm(x, self.norm, self.shape.norm_eps), Trail(
            tuple(all_keys), tuple(all_values), past.episode
        )


WHOLE = ContextVar("WHOLE", default=False)


@contextlib.contextmanager
def rings_written_whole() -> Iterator[None]:
    """Within it a step writes every slot of a ring anew, as ONNX cannot write another slot for each row of a batch."""
    token = WHOLE.set(True)
    try:
        yield
    finally:
        WHOLE.reset(token)


class Ring:
    """Attention of one step to itself and to its episode in a ring: slots up to its own, all once the ring is full."""

    def __init__(self, shape: Shape, count: Int[Array, ""]):
        self.size, self.scale = shape.context, 1 / float(np.sqrt(shape.head))
        self.slot = jnp.where(count < self.size, count, count - self.size)
        self.count = jnp.where(count + 1 < 2 * self.size, count + 1, self.size)
        slots = jnp.arange(self.size)[None, None]  # [1, 1, S], as scores are
        self.newer, self.here = slots <= self.slot, jnp.moveaxis(slots, 2, 1) == self.slot
        self.seen = self.newer | (count >= self.size)
        table = jnp.asarray(rotation(shape, 2 * self.size))
        self.turns = jnp.stack([table[:, self.slot], table[:, self.slot + self.size]], 1)

    def __call__(
        self, q: Array, k: Array, v: Array, keys: Array, values: Array
    ) -> tuple[Array, Array, Array]:
        """(Σ softmax(q·k / √h) v `[K, G, h]`, keys, values) of q `[K, G, h]`, k and v `[K, h]`, which are written."""
        keys = self.written(keys, rotate(k[None, None], self.turns[:, :1])[0, 0])
        values = self.written(values, v)
        # One product each: XLA:CPU is a quarter slower over both at once.
        turned = rotate(jnp.stack([q, q])[None], self.turns)[0]
        newer, older = (jnp.einsum("kgh,ksh->kgs", x, keys) * self.scale for x in turned)
        scores = jnp.where(self.seen, jnp.where(self.newer, newer, older), -jnp.inf)
        weight = jax.nn.softmax(scores, axis=-1)
        return jnp.einsum("kgs,ksh->kgh", weight, values), keys, values

    def written(self, ring: Float[Array, "K S h"], x: Float[Array, "K h"]) -> Float[Array, "K S h"]:
        """The ring with x in this step's slot."""
        if WHOLE.get():
            return jnp.where(self.here, x[:, None], ring)
        return ring.at[:, self.slot].set(x, wrap_negative_indices=False)


def unrolled(shape: Shape, cache: Cache) -> Trail:
    """What a ring holds as rows `[M, ...]`, the newest last; episode 0, and −1 where there is none."""
    kept = shape.context - 1
    slots = (cache.count - kept + jnp.arange(kept)) % shape.context
    cos, sin = jnp.asarray(rotation(shape, shape.context))[:, slots]
    rows = lambda ring: jnp.moveaxis(ring[:, slots], 0, 1)
    keys = tuple(rotate(rows(ring)[None], (cos, -sin))[0] for ring in cache.keys)
    episode = jnp.where(jnp.arange(kept) >= kept - cache.count, 0, -1)
    return Trail(keys, tuple(map(rows, cache.values)), episode)


class Window:
    """Attention of T rows to themselves and to the M before each, in blocks of at most `context` rows.

    Blocks make its cost T · context and not T². Positions count from a block's beginning: only differences matter.
    """

    def __init__(self, shape: Shape, past: Int[Array, " P"], episode: Int[Array, " T"]):
        self.kept, rows = shape.context - 1, len(episode)
        self.length = min(rows, shape.context)
        self.blocks = -(-rows // self.length)
        self.seen = self.length + self.kept - 1
        self.scale = 1 / float(np.sqrt(shape.head))
        age = self.kept + np.arange(self.length)[:, None] - np.arange(self.seen)
        same = self._rows(episode)[:, :, None] == self._past(past)[:, None, :]
        self.allowed = same & ((age >= 1) & (age <= self.kept))[None]
        self.table = rotation(shape, self.kept + self.length)

    def __call__(self, q: Array, k: Array, v: Array, keys: Array, values: Array) -> Float[Array, "T K G h"]:
        """Σ softmax(q·k / √h) v over a row's own (k, v) and those of its window."""
        here = self.table[:, self.kept :]
        q, own = rotate(self._rows(q), here), rotate(self._rows(k), here)
        before = rotate(self._past(keys), self.table[:, : self.seen])
        scores = jnp.einsum("blkgh,bskh->bkgls", q, before)
        scores = jnp.where(self.allowed[:, None, None], scores * self.scale, -jnp.inf)
        self_score = jnp.einsum("blkgh,blkh->bkgl", q, own)[..., None] * self.scale
        weight = jax.nn.softmax(jnp.concatenate([scores, self_score], axis=-1), axis=-1)
        out = jnp.einsum("bkgls,bskh->blkgh", weight[..., :-1], self._past(values))
        out = out + jnp.moveaxis(weight[..., -1], 3, 1)[..., None] * self._rows(v)[:, :, :, None]
        return out.reshape(-1, *out.shape[2:])[: len(k)]

    def _rows(self, x: Array) -> Array:
        """Rows `[blocks, length, ...]`."""
        return _padded(x, self.blocks * self.length).reshape(self.blocks, self.length, *x.shape[1:])

    def _past(self, x: Array) -> Array:
        """What is before each block's last row, `[blocks, length + M − 1, ...]`."""
        x = _padded(x, self.blocks * self.length + self.kept - 1)
        return jnp.stack([x[i * self.length :][: self.seen] for i in range(self.blocks)])


def _padded(x: Array, rows: int) -> Array:
    """So many rows, the missing ones zero."""
    x = x[:rows]
    return x if len(x) == rows else jnp.pad(x, [(0, rows - len(x)), *[(0, 0)] * (x.ndim - 1)])


def rms_norm(x: Float[Array, "T d"], weight: Float[Array, " d"], epsilon: float) -> Float[Array, "T d"]:
    """w ⊙ x / √(mean x² + ε)."""
    return weight[None] * (x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon))


def rotation(shape: Shape, positions: int) -> np.ndarray:
    """cos and sin `[2, positions, h/2]` of position · θ^(−2i/h), computed in float64."""
    frequency = shape.rope_theta ** (-np.arange(0, shape.head, 2) / shape.head)
    angle = np.arange(positions)[:, None] * frequency
    return np.stack([np.cos(angle), np.sin(angle)])


def rotate(
    x: Float[Array, "B P ... h"], table: Array | np.ndarray | tuple[Array, Array]
) -> Float[Array, "B P ... h"]:
    """Each pair (x_i, x_{i+h/2}) turned by its position's angle: Llama's order, in which weights are published."""
    lead = (1, x.shape[1], *[1] * (x.ndim - 3), -1)
    cos, sin = (part.astype(x.dtype).reshape(lead) for part in table)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
