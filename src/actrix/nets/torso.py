"""What observations are encoded by: dense, noisy and convolutional layers, written for ONE observation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import equinox as eqx
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Float

from actrix.core.host import full, split, zeros
from actrix.core.spaces import is_image, space_leaves
from actrix.core.types import Key, PyTree

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
    return [jax.device_put(x) for x in arrays(jax.random.key_data(key))]


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
        self.weight_std = full((inputs, outputs), std / np.sqrt(inputs))
        self.bias_std = full(outputs, std / np.sqrt(outputs))

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
        keys = split(key, max(len(sizes), 1))
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

    def __init__(self, space: spaces.Box, features: int, key: Key, normalize_images: bool = True):
        shape = space.shape
        # Channel-first images (PyTorch's habit) are recognised as SB3 does: the smallest axis comes first.
        self.channels_first = bool(np.argmin(shape) == 0)
        height, width, channels = (*shape[1:], shape[0]) if self.channels_first else shape
        self.scale = 1.0 / 255.0 if normalize_images and space.dtype == np.uint8 else 1.0
        large = min(height, width) >= 36
        layers = [(32, 8, 4), (64, 4, 2), (64, 3, 1)] if large else [(16, 3, 1)]
        kernels, biases, strides = [], [], []
        keys = split(key, len(layers) + 1)
        for (filters, size, stride), k in zip(layers, keys[1:], strict=True):
            flat = Linear(size * size * channels, filters, SQRT2, k).weight
            kernels.append(flat.reshape(size, size, channels, filters))
            biases.append(zeros(filters))
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

    def __init__(
        self, space: gym.Space, key: Key, cnn_features: int | None = None, cnn: bool = False,
        normalize_images: bool = True,
    ):  # fmt: skip
        leaves = space_leaves(space)
        composite = len(leaves) > 1
        features = cnn_features or (256 if composite else 512)
        cnns: list[ImageCNN | None] = []
        kinds: list[tuple] = []
        size = 0
        leaf: Any
        for leaf, k in zip(leaves, split(key, len(leaves)), strict=True):
            net, kind = None, cast(tuple, ())
            if is_image(leaf) or (cnn and isinstance(leaf, spaces.Box) and len(leaf.shape) == 3):
                n = features if sorted(leaf.shape)[1] >= 36 else min(features, 128)
                net, kind = ImageCNN(leaf, n, k, normalize_images), ("image",)
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


def resolve_activation(activation: str | Callable) -> Callable:
    """'tanh', 'relu', … or a JAX function; raises ValueError listing the names."""
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation_fn={activation!r}: choose one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[activation]
