"""A decoder's weights from a folder: `config.json` and `model.safetensors` of Llama's or Qwen2's form; data only.

Nothing is imported or run that the folder names. Names, shapes and types are compared before a number is read.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from actrix.core.pretrained import WeightsError, positive, read_config, read_json
from actrix.core.types import Key
from actrix.nets.memory.decoder import Shape
from actrix.nets.torso import host_draw

DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
MAX_HEADER = 2**24
KINDS = ("llama", "qwen2")
_SIZES = {
    "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads",
    "d_model": "hidden_size", "d_ff": "intermediate_size",
}  # fmt: skip
_MUST_BE = {
    "hidden_act": ("silu",), "attention_bias": (None, False), "mlp_bias": (None, False), "rope_scaling": (None,),
    "use_sliding_window": (None, False), "quantization_config": (None,),
}  # fmt: skip


def sizes(folder: str | Path) -> dict[str, Any]:
    """The sizes that `config.json` says, by the names of `Shape`, and `vocabulary` and `positions`; WeightsError."""
    path, config = read_config(folder)
    kind = config.get("model_type")
    if kind not in KINDS:
        raise WeightsError(f"{path}: model_type is {str(kind)[:40]!r}; known are {' and '.join(KINDS)}.")
    for name, allowed in _MUST_BE.items():
        if config.get(name) not in allowed:
            raise WeightsError(
                f"{path}: {name}={str(config[name])[:80]} is not known here, only {allowed[-1]}."
            )
    rope = config.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise WeightsError(f"{path}: rope_parameters={str(rope)[:80]} are not known here, only the default.")
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    out = {name: positive(path, config, theirs) for name, theirs in _SIZES.items()}
    out["head_dim"] = config.get("head_dim") or out["d_model"] // out["n_heads"]
    theta = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    out |= {"rope_theta": theta, "norm_eps": config.get("rms_norm_eps", 1e-6), "qkv_bias": kind == "qwen2"}
    out["vocabulary"] = positive(path, config, "vocab_size")
    return out | {"positions": positive(path, config, "max_position_embeddings")}


def pretrained(net: Any, folder: str, key: Key) -> Any:
    """The network with the folder's embedding and layers, and its `lm_head` where the policy has a logit per token.

    Under a trace nothing is read. Raises WeightsError.
    """
    cell, head = net.cell, net.pi_head
    taken = not net.pi.layers and head.weight.shape == cell.embed.shape[::-1]
    leaves, tree = jax.tree.flatten(cell)
    shapes = [x.shape for x in leaves] + ([head.weight.shape] if taken else [])
    arrays = host_draw(lambda _: _arranged(folder, cell.shape, len(cell.embed))[: len(shapes)], key, shapes)
    net = eqx.tree_at(lambda n: n.cell, net, jax.tree.unflatten(tree, arrays[: len(leaves)]))
    return eqx.tree_at(lambda n: n.pi_head.weight, net, arrays[-1]) if taken else net


def _arranged(folder: str, shape: Shape, vocabulary: int) -> list[np.ndarray]:
    """The arrays in the order of a `Transformer`'s leaves, then the head `[d, V]`."""
    if (rows := sizes(folder)["vocabulary"]) != vocabulary:
        raise WeightsError(
            f"the weights in {folder} have {rows} tokens and the environment {vocabulary}: it must speak theirs, as "
            "Questions(tokenizer=…) does."
        )
    found = read(
        Path(folder) / "model.safetensors", expected(shape, vocabulary), optional=("lm_head.weight",)
    )
    out = [found["model.embed_tokens.weight"]]
    for i in range(shape.n_layers):
        get = lambda name, i=i: found[f"model.layers.{i}.{name}"]
        attention, joined = (
            "self_attn.{}_proj.",
            lambda names, get=get: np.concatenate([get(n).T for n in names], -1),
        )
        parts = [attention.format(x) for x in "qkv"]
        out += [get("input_layernorm.weight"), joined([x + "weight" for x in parts])]
        out += [joined([x + "bias" for x in parts])] if shape.qkv_bias else []
        out += [get("self_attn.o_proj.weight").T, get("post_attention_layernorm.weight")]
        out += [joined(["mlp.gate_proj.weight", "mlp.up_proj.weight"]), get("mlp.down_proj.weight").T]
    return [*out, found["model.norm.weight"], found.get("lm_head.weight", out[0]).T]


def expected(shape: Shape, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Name → shape `[outputs, inputs]` of every tensor of such a decoder."""
    d, wide, narrow = shape.d_model, shape.n_heads * shape.head, shape.kv_heads * shape.head
    out: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, d),
        "model.norm.weight": (d,),
    }
    for i in range(shape.n_layers):
        layer: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (d,),
            "post_attention_layernorm.weight": (d,),
        }
        layer |= {f"mlp.{name}_proj.weight": (shape.hidden, d) for name in ("gate", "up")}
        layer |= {"mlp.down_proj.weight": (d, shape.hidden), "self_attn.o_proj.weight": (d, wide)}
        for name, size in (("q", wide), ("k", narrow), ("v", narrow)):
            layer[f"self_attn.{name}_proj.weight"] = (size, d)
            if shape.qkv_bias:
                layer[f"self_attn.{name}_proj.bias"] = (size,)
        out |= {f"model.layers.{i}.{name}": size for name, size in layer.items()}
    return out | {"lm_head.weight": (vocabulary, d)}


def read(
    path: Path, wanted: dict[str, tuple[int, ...]], optional: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as float32; WeightsError that lists every difference from what is wanted."""
    if not path.is_file():
        more = (
            " (weights in several files are not read)"
            if path.with_name(path.name + ".index.json").exists()
            else ""
        )
        raise WeightsError(f"there is no {path}{more}.")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, path.stat().st_size - 8):
            raise WeightsError(
                f"{path} is cut short or no safetensors file: its header would have {length} bytes."
            )
        header = read_json(path, file.read(length))
    header.pop("__metadata__", None)
    shapes = {name: _shape(path, name, entry) for name, entry in header.items()}
    wrong = [f"missing {n}" for n in wanted if n not in shapes and n not in optional]
    wrong += [f"unknown {n[:80]!r}" for n in shapes if n not in wanted]
    wrong += [
        f"{n} is {list(shapes[n])}, expected {list(size)}"
        for n, size in wanted.items()
        if shapes.get(n, size) != size
    ]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise WeightsError(f"{path} does not fit: {'; '.join(wrong[:4])}{more}.")
    data = np.memmap(path, np.uint8, "r", offset=8 + length)
    return {name: _tensor(path, name, entry, data) for name, entry in header.items()}


def _shape(path: Path, name: str, entry: Any) -> tuple[int, ...]:
    whole = lambda x: isinstance(x, list) and all(type(n) is int and n >= 0 for n in x)
    if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES or not whole(entry.get("shape")):
        raise WeightsError(
            f"{path}: tensor {name[:80]!r} must have a shape and a dtype of {', '.join(DTYPES)}."
        )
    return tuple(entry["shape"])


def _tensor(path: Path, name: str, entry: Any, data: np.ndarray) -> np.ndarray:
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
    begin, end = (*(entry.get("data_offsets") or ()), -1, -1)[:2]
    if not (0 <= begin <= end <= len(data)) or end - begin != math.prod(shape) * dtype.itemsize:
        raise WeightsError(
            f"{path}: {name} stands at [{begin}, {end}], which does not hold {list(shape)} numbers."
        )
    x = data[begin:end].view(dtype).reshape(shape).astype(np.float32)
    if not np.isfinite(x).all():
        raise WeightsError(f"{path}: {name} holds non-finite numbers.")
    return x
