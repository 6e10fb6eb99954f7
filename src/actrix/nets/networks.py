"""Networks, written for ONE observation as equinox modules; `apply` maps them over leading axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Float

from actrix.core.distributions import ActionHead, Distribution, action_head
from actrix.core.spaces import is_image
from actrix.core.types import Key, PyTree, Spec, record

ACTIVATIONS: dict[str, Callable] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "leaky_relu": jax.nn.leaky_relu,
}
SQRT2 = float(np.sqrt(2))


def host_draw(
    draw: Callable[[np.random.Generator], list[np.ndarray]], key: Key, shapes: Sequence[tuple[int, ...]]
) -> list[Array]:
    """`draw`'s arrays of these shapes as float32, drawn on the host from `key`: JAX would compile one program each.

    Under a trace nothing is drawn yet, so that the shapes of a network cost no memory.
    """

    def arrays(data: Any) -> list[np.ndarray]:
        return [np.asarray(x, np.float32) for x in draw(np.random.default_rng(np.asarray(data)))]

    if isinstance(key, jax.core.Tracer):
        out = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return jax.pure_callback(arrays, out, jax.random.key_data(key), vmap_method="sequential")
    return [jnp.asarray(x) for x in arrays(jax.random.key_data(key))]


class Linear(eqx.Module):
    """x ↦ xW + b with orthogonal W `[inputs, outputs]` of the given gain and b = 0 (Saxe et al. 2014).

    Gain None draws W and b from U(±1/√inputs), which is PyTorch's default.
    """

    weight: Array
    bias: Array

    def __init__(self, inputs: int, outputs: int, gain: float | None, key: Key):
        def draw(rng: np.random.Generator) -> list[np.ndarray]:
            if gain is None:
                bound = 1 / np.sqrt(max(inputs, 1))
                return [rng.uniform(-bound, bound, (inputs, outputs)), rng.uniform(-bound, bound, outputs)]
            q, r = np.linalg.qr(rng.standard_normal((max(inputs, outputs), min(inputs, outputs))))
            q = q * np.sign(np.diag(r))
            return [gain * (q if inputs > outputs else q.T), np.zeros(outputs)]

        self.weight, self.bias = host_draw(draw, key, [(inputs, outputs), (outputs,)])

    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " o"]:
        return x @ self.weight + self.bias


class NoisyLinear(eqx.Module):
    """x ↦ x(W + σ ⊙ ε) + b + σ_b ⊙ ε_b with factorised noise (Fortunato et al. 2018).

    Called as it is it uses the means; `perturb` gives a network that has drawn its noise.
    """

    weight: Array
    bias: Array
    weight_std: Array
    bias_std: Array

    def __init__(self, inputs: int, outputs: int, key: Key, std: float = 0.5):
        mean = Linear(inputs, outputs, None, key)
        self.weight, self.bias = mean.weight, mean.bias
        self.weight_std = jnp.full((inputs, outputs), std / np.sqrt(inputs))
        self.bias_std = jnp.full(outputs, std / np.sqrt(outputs))

    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " o"]:
        return x @ self.weight + self.bias

    def perturbed(self, noise: Float[Array, " i_plus_o"]) -> NoisyLinear:
        """The layer with its noise drawn: ε = f(ξ_in)f(ξ_out)ᵀ, ε_b = f(ξ_out), f(x) = sign(x)√|x|."""
        factor = jnp.sign(noise) * jnp.sqrt(jnp.abs(noise))
        inputs = self.weight.shape[0]
        row, column = factor[:inputs], factor[inputs:]
        weight = self.weight + self.weight_std * (row[:, None] * column[None, :])
        bias = self.bias + self.bias_std * column
        return eqx.tree_at(lambda n: (n.weight, n.bias), self, (weight, bias))


def _noisy_layers(net: Any) -> list[NoisyLinear]:
    is_noisy = lambda x: isinstance(x, NoisyLinear)
    return [x for x in jax.tree.leaves(net, is_leaf=is_noisy) if is_noisy(x)]


def noise_size(net: Any) -> int:
    """Length of the noise vector that `perturb` takes: Σ (inputs + outputs) over the noisy layers."""
    return sum(sum(layer.weight.shape) for layer in _noisy_layers(net))


def perturb(net: Any, noise: Float[Array, " m"]) -> Any:
    """The network with every noisy layer's weights drawn from one noise vector of `noise_size(net)` normals."""
    is_noisy = lambda x: isinstance(x, NoisyLinear)
    start = 0

    def draw(x: Any) -> Any:
        nonlocal start
        if not is_noisy(x):
            return x
        size = sum(x.weight.shape)
        start += size
        return x.perturbed(noise[start - size : start])

    return jax.tree.map(draw, net, is_leaf=is_noisy)


class MLP(eqx.Module):
    """Linear layers, each followed by [dropout → layer norm →] the activation.

    `noisy` makes the layers `NoisyLinear`. Dropout is on only where a key is given (Hiraoka et al. 2022).
    """

    layers: tuple[Linear | NoisyLinear, ...]
    norms: tuple[eqx.nn.LayerNorm, ...]
    activation: Callable = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        sizes: Sequence[int],
        activation: Callable,
        gain: float | None,
        key: Key,
        *,
        layer_norm: bool = False,
        dropout: float = 0.0,
        noisy: bool = False,
    ):
        widths = [inputs, *sizes]
        keys = jax.random.split(key, max(len(sizes), 1))
        self.layers = tuple(
            NoisyLinear(i, o, k) if noisy else Linear(i, o, gain, k)
            for i, o, k in zip(widths[:-1], widths[1:], keys, strict=False)
        )
        self.norms = tuple(eqx.nn.LayerNorm(n) for n in sizes) if layer_norm else ()
        self.activation, self.dropout = activation, dropout

    def __call__(self, x: Float[Array, " i"], key: Key | None = None) -> Float[Array, " o"]:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.dropout and key is not None:
                keep = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - self.dropout, x.shape)
                x = jnp.where(keep, x / (1 - self.dropout), 0.0)
            if self.norms:
                x = self.norms[i](x)
            x = self.activation(x)
        return x


class ImageCNN(eqx.Module):
    """Convolutions over a channel-last image, flattened, then one dense layer of `features` units.

    From 36 pixels up the layers are those of Mnih et al. 2015 (32 8×8/4, 64 4×4/2, 64 3×3/1); smaller images
    (MinAtar's 10×10) get one 3×3 layer of 16 filters, as in Young & Tian 2019.
    """

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]
    dense: Linear
    strides: tuple[int, ...] = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    channels_first: bool = eqx.field(static=True)

    def __init__(self, space: spaces.Box, features: int, key: Key):
        shape = space.shape
        # Channel-first images (PyTorch's habit) are recognised as SB3 does: the smallest axis comes first.
        self.channels_first = bool(np.argmin(shape) == 0)
        height, width, channels = (*shape[1:], shape[0]) if self.channels_first else shape
        self.scale = 1.0 / 255.0 if space.dtype == np.uint8 else 1.0
        large = min(height, width) >= 36
        layers = [(32, 8, 4), (64, 4, 2), (64, 3, 1)] if large else [(16, 3, 1)]
        kernels, biases, strides = [], [], []
        keys = jax.random.split(key, len(layers) + 1)
        for (filters, size, stride), k in zip(layers, keys[1:], strict=True):
            flat = Linear(size * size * channels, filters, SQRT2, k).weight
            kernels.append(flat.reshape(size, size, channels, filters))
            biases.append(jnp.zeros(filters))
            strides.append(stride)
            height, width, channels = (height - size) // stride + 1, (width - size) // stride + 1, filters
        self.kernels, self.biases, self.strides = tuple(kernels), tuple(biases), tuple(strides)
        self.dense = Linear(height * width * channels, features, SQRT2, keys[0])

    def __call__(self, image: Array) -> Float[Array, " f"]:
        x = image.astype(jnp.float32) * self.scale
        x = jnp.moveaxis(x, 0, -1) if self.channels_first else x
        for kernel, bias, stride in zip(self.kernels, self.biases, self.strides, strict=True):
            x = jax.nn.relu(_convolve(x, kernel, stride) + bias)
        return jax.nn.relu(self.dense(x.reshape(-1)))


def _convolve(x: Array, kernel: Array, stride: int) -> Array:
    """'VALID' convolution of one image [H, W, C] with [size, size, C, filters], as one matrix product.

    XLA:CPU runs a convolution inside a scan, and above all its gradient, many times slower than this.
    """
    size, filters = kernel.shape[0], kernel.shape[-1]
    rows, columns = (x.shape[0] - size) // stride + 1, (x.shape[1] - size) // stride + 1
    patches = [
        x[i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, filters)


class Encoder(eqx.Module):
    """Observation → feature vector: floats flattened, discrete kinds one-hot, images through a CNN.

    Dict and Tuple observations are encoded part by part and concatenated.
    """

    cnns: tuple[ImageCNN | None, ...]
    kinds: tuple[tuple, ...] = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(self, space: gym.Space, key: Key, cnn_features: int | None = None, cnn: bool = False):
        leaves = space_leaves(space)
        composite = len(leaves) > 1
        features = cnn_features or (256 if composite else 512)
        cnns: list[ImageCNN | None] = []
        kinds: list[tuple] = []
        size = 0
        leaf: Any
        for leaf, k in zip(leaves, jax.random.split(key, len(leaves)), strict=True):
            net, kind = None, cast(tuple, ())
            if is_image(leaf) or (cnn and isinstance(leaf, spaces.Box) and len(leaf.shape) == 3):
                n = features if sorted(leaf.shape)[1] >= 36 else min(features, 128)
                net, kind = ImageCNN(leaf, n, k), ("image",)
            elif isinstance(leaf, spaces.Discrete):
                kind, n = ("one-hot", (int(leaf.n),), (int(leaf.start),)), int(leaf.n)
            elif isinstance(leaf, spaces.MultiDiscrete):
                sizes = tuple(int(v) for v in leaf.nvec)
                kind, n = ("one-hot", sizes, tuple(int(v) for v in leaf.start)), sum(sizes)
            else:
                kind, n = ("flat",), int(np.prod(leaf.shape))
            cnns.append(net)
            kinds.append(kind)
            size += n
        self.cnns, self.kinds, self.size = tuple(cnns), tuple(kinds), size

    def __call__(self, obs: PyTree) -> Float[Array, " f"]:
        parts = []
        for x, kind, cnn in zip(jax.tree.leaves(obs), self.kinds, self.cnns, strict=True):
            if cnn is not None:
                parts.append(cnn(x))
            elif kind[0] == "one-hot":
                _, sizes, starts = kind
                x = jnp.atleast_1d(x)
                parts += [
                    jax.nn.one_hot(x[i] - s, n) for i, (n, s) in enumerate(zip(sizes, starts, strict=True))
                ]
            else:
                parts.append(x.reshape(-1).astype(jnp.float32))
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def space_leaves(space: gym.Space) -> list[gym.Space]:
    """The parts of a (nested) Dict or Tuple space, in the order in which JAX flattens an observation of it."""
    if isinstance(space, spaces.Dict):
        return [leaf for name in sorted(space.spaces) for leaf in space_leaves(space.spaces[name])]
    if isinstance(space, spaces.Tuple):
        return [leaf for part in space.spaces for leaf in space_leaves(part)]
    return [space]


def normalized_shapes(space: gym.Space) -> tuple[tuple[int, ...] | None, ...]:
    """Shape of each leaf whose observations are normalised (non-image Box), None for the others."""
    return tuple(
        leaf.shape if isinstance(leaf, spaces.Box) and not is_image(leaf) else None
        for leaf in space_leaves(space)
    )


@record
class Output:
    """What an actor-critic network says of one observation."""

    dist: Distribution
    value: Array
    """V(s) as a scalar, or Q(s, ·) as a vector for a Q critic."""


class ActorCriticNet(eqx.Module):
    """Encoder → optional recurrent cell → separate policy and value MLPs → heads.

    The hidden layers have gain √2, the policy head 0.01, the value head 1; `log_std` does not depend on the
    state. One encoder (and cell) serves both branches unless `share_features_extractor=False`.
    """

    encoder: Any
    vf_encoder: Any
    cell: Any
    pi: MLP
    vf: MLP
    pi_head: Linear
    vf_head: Linear
    log_std: Array | None
    head: ActionHead = eqx.field(static=True)
    q_values: bool = eqx.field(static=True)

    def __init__(
        self,
        observation_space: gym.Space,
        head: ActionHead,
        key: Key,
        *,
        net_arch: Mapping[str, Sequence[int]] | Sequence[int] | None = None,
        activation_fn: str | Callable = "tanh",
        ortho_init: bool = True,
        log_std_init: float = 0.0,
        share_features_extractor: bool = True,
        features_extractor_class: Callable | None = None,
        features_extractor_kwargs: Mapping[str, Any] | None = None,
        cnn: bool = False,
        cell: str | None = None,
        hidden_size: int = 64,
        q_values: bool = False,
    ):
        keys = jax.random.split(key, 8)
        activation = resolve_activation(activation_fn)
        build = features_extractor_class or (lambda space, key, **kw: Encoder(space, key, cnn=cnn, **kw))
        kwargs = dict(features_extractor_kwargs or {})
        self.encoder = build(observation_space, keys[0], **kwargs)
        self.vf_encoder = None if share_features_extractor else build(observation_space, keys[7], **kwargs)
        probe = jax.tree.map(jnp.asarray, observation_space.sample())
        size = jax.eval_shape(self.encoder, probe).shape[-1]
        has_cnn = not isinstance(self.encoder, Encoder) or any(c is not None for c in self.encoder.cnns)
        if net_arch is None:
            net_arch = [] if has_cnn and len(space_leaves(observation_space)) == 1 else [64, 64]
        arch = net_arch if isinstance(net_arch, Mapping) else {"pi": net_arch, "vf": net_arch}
        self.cell = None
        if cell is not None:
            kind = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[cell]
            self.cell = kind(size, hidden_size, key=keys[1])
            size = hidden_size
        gain = SQRT2 if ortho_init else 1.0
        self.pi = MLP(size, arch["pi"], activation, gain, keys[2])
        self.vf = MLP(size, arch["vf"], activation, gain, keys[3])
        self.pi_head = Linear([size, *arch["pi"]][-1], head.size, 0.01 if ortho_init else 1.0, keys[4])
        self.vf_head = Linear([size, *arch["vf"]][-1], head.size if q_values else 1, 1.0, keys[5])
        self.log_std = jnp.zeros(head.size) + log_std_init if head.continuous else None
        self.head = head
        self.q_values = q_values

    @property
    def recurrent(self) -> bool:
        """Whether there is a recurrent cell."""
        return self.cell is not None

    def initial_carry(self, batch: tuple[int, ...]) -> PyTree:
        """Zero memory `[*batch, hidden]` (a pair for an LSTM), or None without a cell."""
        if self.cell is None:
            return None
        zeros = jnp.zeros((*batch, self.cell.hidden_size))
        return (zeros, zeros) if isinstance(self.cell, eqx.nn.LSTMCell) else zeros

    def __call__(self, obs: PyTree, carry: PyTree, mask: Array | None) -> tuple[Output, PyTree]:
        """(dist, value) at one observation, and the memory after it."""
        features = self.encoder(obs)
        vf_features = features if self.vf_encoder is None else self.vf_encoder(obs)
        if self.cell is not None:
            carry = self.cell(features, carry)
            features = vf_features = carry[0] if isinstance(carry, tuple) else carry
        dist = self.head(self.pi_head(self.pi(features)), self.log_std, mask)
        value = self.vf_head(self.vf(vf_features))
        return Output(dist, value if self.q_values else value[0]), carry


class CustomNet(eqx.Module):
    """Adapter around a user's equinox module `obs -> (logits or mean, value)`; feed-forward only.

    Its leaves that are not arrays (activation functions) are held apart as static data.
    """

    arrays: PyTree
    log_std: Array | None
    static: Any = eqx.field(static=True)
    head: ActionHead = eqx.field(static=True)
    q_values: bool = eqx.field(static=True)

    def __init__(
        self, module: eqx.Module, head: ActionHead, q_values: bool = False, log_std_init: float = 0.0
    ):
        self.arrays, self.static = eqx.partition(module, eqx.is_array)
        self.log_std = jnp.zeros(head.size) + log_std_init if head.continuous else None
        self.head = head
        self.q_values = q_values

    recurrent = False

    def initial_carry(self, batch: tuple[int, ...]) -> None:
        return None

    def __call__(self, obs: PyTree, carry: None, mask: Array | None) -> tuple[Output, None]:
        out, value = eqx.combine(self.arrays, self.static)(obs)
        value = jnp.asarray(value)
        return Output(self.head(out, self.log_std, mask), value if self.q_values else value.reshape(())), None


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """How to build the network: `policy_kwargs` by their Stable-Baselines3 names, hashable and JSON-ready."""

    pi: tuple[int, ...] | None = None
    vf: tuple[int, ...] | None = None
    """Hidden layers of the two branches; None = 64, 64 (nothing after a CNN)."""
    activation_fn: str | Callable = "tanh"
    ortho_init: bool = True
    log_std_init: float = 0.0
    share_features_extractor: bool = True
    features_extractor_class: Callable | None = None
    features_extractor_kwargs: tuple[tuple[str, Any], ...] = ()
    cnn: bool = False
    """Use the CNN for float images too (uint8 images always get it)."""
    layer_norm: bool = False
    """Layer norm after each hidden layer (off-policy critics and Q networks)."""
    dropout: float = 0.0
    """Dropout rate of the off-policy critics' hidden layers while they learn."""
    cell: str | None = None
    """'lstm' or 'gru': a recurrent policy."""
    hidden_size: int = 64
    module: Callable | None = None
    """The user's `(spec, key) -> equinox module`, called as `module(obs) -> (logits or mean, value)`."""

    @property
    def custom(self) -> bool:
        """Holds code of the user's, so a file can only be loaded with a template."""
        return (
            self.module is not None
            or self.features_extractor_class is not None
            or not isinstance(self.activation_fn, str)
        )

    def build(self, spec: Spec, key: Key, q_values: bool = False) -> Any:
        """The network for one environment's spaces."""
        head = action_head(spec.action_space)
        if self.module is not None:
            return CustomNet(self.module(spec, key), head, q_values, self.log_std_init)
        arch = None if self.pi is None and self.vf is None else {"pi": self.pi or (), "vf": self.vf or ()}
        return ActorCriticNet(
            spec.observation_space,
            head,
            key,
            net_arch=arch,
            activation_fn=self.activation_fn,
            ortho_init=self.ortho_init,
            log_std_init=self.log_std_init,
            share_features_extractor=self.share_features_extractor,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=dict(self.features_extractor_kwargs),
            cnn=self.cnn,
            cell=self.cell,
            hidden_size=self.hidden_size,
            q_values=q_values,
        )


def resolve_activation(activation: str | Callable) -> Callable:
    """'tanh', 'relu', … or a JAX function; raises ValueError listing the names."""
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation_fn={activation!r}: choose one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[activation]


def apply(net: Any, obs: PyTree, carry: PyTree = None, mask: Array | None = None, axes: int = 1):
    """Map a network over `axes` leading axes of `obs`, `carry` and `mask`."""
    call = net
    for _ in range(axes):
        call = jax.vmap(call)
    return call(obs, carry, mask)


def zero_where(first: Array, carry: PyTree) -> PyTree:
    """Zero the memory `[N, hidden]` of the environments that start an episode."""
    return jax.tree.map(lambda c: jnp.where(first[:, None], 0.0, c), carry)


def unroll(
    net: Any, obs: PyTree, first: Array | None, carry0: PyTree, mask: Array | None, before: bool = False
) -> tuple[Output, PyTree]:
    """Outputs `[T, B]` along a sequence, and the memory after (or, `before=True`, before) each row.

    A feed-forward network is mapped over both axes at once; a recurrent one is scanned over time with the
    memory zeroed where `first` says that an episode starts.
    """
    if not net.recurrent:
        # One mapped axis: XLA:CPU multiplies [T·B, i] by [i, o] faster than [T, B, i].
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (obs, mask))
        out, _ = apply(net, flat[0], None, flat[1])
        lead = jax.tree.leaves(obs)[0].shape[:2]
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), out), None

    def step(carry: PyTree, row: tuple) -> tuple[PyTree, tuple]:
        x, start, legal = row
        carry = zero_where(start, carry)
        out, after = apply(net, x, carry, legal)
        return after, (out, carry if before else after)

    _, (out, carries) = jax.lax.scan(step, carry0, (obs, first, mask))
    return out, carries
