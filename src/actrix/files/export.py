"""A policy as one file that runs without actrix: ONNX, or StableHLO through `jax.export`.

The file holds the deterministic policy with all that stands around the network: observation statistics, action masks,
the memory of a recurrent policy, the map to the environment's actions. What goes in and what comes out has names.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from actrix.core.contract import Algorithm
from actrix.core.spaces import space_leaves, to_env_action
from actrix.core.types import PyTree, Spec
from actrix.files import atomic, container, modelfile
from actrix.nets.memory import zero_where
from actrix.nets.memory.decoder import rings_written_whole

FORMATS = {"onnx": ".onnx", "stablehlo": ".stablehlo"}
"""What may be exported to, and how such a file's name ends."""
OPSET = 21
"""Of ONNX 1.16."""
PLATFORMS = ("cpu", "cuda")
"""Where a StableHLO file runs, wherever it was written."""


class ExportError(ValueError):
    """A policy that cannot be exported, or not in this format or to this name."""


@dataclasses.dataclass(frozen=True)
class Port:
    """One named array that goes in or comes out; the batch axis, of any length, stands before `shape`."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.name}  {self.dtype.name} [{', '.join(map(str, ('n', *self.shape)))}]"


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written, and how it is called."""

    path: Path
    to: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def snippet(self) -> str:
        """Three lines of Python that run the file on a batch of one."""
        fill = lambda port: "ones" if port.name == "action_mask" else "zeros"
        array = lambda p: f"np.{fill(p)}({(1, *p.shape)}, np.{p.dtype.name})"
        inputs = ", ".join(f"{port.name!r}: {array(port)}" for port in self.inputs)
        path = str(self.path)
        if self.to == "onnx":
            head = "import numpy as np, onnxruntime"
            call = f'onnxruntime.InferenceSession({path!r}).run(["action"], inputs)[0]'
        else:
            head = "import pathlib, jax.export, numpy as np"
            call = f'jax.export.deserialize(pathlib.Path({path!r}).read_bytes()).call(**inputs)["action"]'
        return f"{head}\ninputs = {{{inputs}}}\naction = {call}"

    def __str__(self) -> str:
        rows = [("in", port) for port in self.inputs] + [("out", port) for port in self.outputs]
        lines = [f"wrote {self.path} ({self.path.stat().st_size:,} bytes)"]
        lines += [f"  {way:3}  {port}" for way, port in rows]
        return "\n".join(map(container.printable, [*lines, *self.snippet.splitlines()]))


def export(
    path: str | os.PathLike,
    to: str,
    algorithm: Algorithm,
    acting: PyTree,
    spec: Spec,
    *,
    name: str,
    env_id: str | None = None,
) -> Exported:
    """Write the deterministic policy to `path`, whole or not at all; its format's ending is added if there is none.

    In: `observation` (for Dict and Tuple spaces one input per part, `observation.a`), as the environment gives it;
    `action_mask` where the environment offers masks; for a recurrent policy `episode_start` and `state` (`state.0`,
    `state.1` for an LSTM), zeros at first. Out: `action` in the environment's coordinates and dtype, and `next_state`.
    ONNX has the spaces' own dtypes; StableHLO, like JAX, has 32 bits where they have 64.

    Raises ExportError (a policy that is random itself, an unknown format, another format's ending, an operation that
    ONNX does not have) and ImportError (ONNX without its packages).
    """
    target = output_path(path, to)
    if algorithm.plays_at_random:
        raise ExportError(
            f"{name} cannot be exported: its policy draws each action at random, and a file holds no random numbers."
        )
    call, inputs, outputs = _function(algorithm, acting, spec)
    if to == "stablehlo":
        inputs, outputs = (tuple(map(_narrow, ports)) for ports in (inputs, outputs))
        data = _stablehlo(call, inputs, outputs, name)
    else:
        properties = {"algorithm": name, "env_id": env_id or "", "actrix": modelfile.versions()["actrix"]}
        data = _onnx(call, inputs, outputs, spec, properties)
    atomic.write_bytes(target, data)
    return Exported(target, to, inputs, outputs)


def output_path(path: str | os.PathLike, to: str) -> Path:
    """`path` with the ending of the format `to`; raises ExportError for an unknown format or another's ending."""
    if to not in FORMATS:
        raise ExportError(f"to={to!r} is no format to export to: choose {' or '.join(FORMATS)}.")
    target = atomic.with_suffix(path, FORMATS[to])
    if target.suffix != FORMATS[to]:
        raise ExportError(f"{target} ends in {target.suffix}; a file of {to} must end in {FORMATS[to]}.")
    return target


# ---------------------------------------------------------------------------- the function


def _function(
    algorithm: Algorithm, acting: PyTree, spec: Spec
) -> tuple[Callable[..., tuple[jax.Array, ...]], tuple[Port, ...], tuple[Port, ...]]:
    """(arrays → arrays, its inputs, its outputs): what `predict` does to a batch, traceable as a whole."""
    space, acting = spec.action_space, jax.tree.map(jnp.asarray, acting)
    example = copy.deepcopy(spec.observation_space).sample()
    named, tree = jax.tree.flatten_with_path(example)
    leaves = space_leaves(spec.observation_space)
    ports = [
        Port(_name("observation", keys), np.shape(x), np.dtype(leaf.dtype))
        for (keys, x), leaf in zip(named, leaves, strict=True)
    ]
    masked = spec.mask_size is not None
    if spec.mask_size is not None:
        ports.append(Port("action_mask", (spec.mask_size,), np.dtype(bool)))
    memory = algorithm.initial_memory(acting, 1)
    states, memory_tree = jax.tree.flatten_with_path(memory)
    state = [Port(_name("state", keys), x.shape[1:], np.dtype(x.dtype)) for keys, x in states]
    if state:
        ports += [Port("episode_start", (), np.dtype(bool)), *state]
    names = [port.name for port in ports]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ExportError(f"two parts of the observation would both be named {twice[0]!r}: rename one.")
    outputs = [Port("action", space.shape or (), np.dtype(space.dtype))]
    outputs += [dataclasses.replace(port, name=f"next_{port.name}") for port in state]

    def call(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        given = iter(arrays)
        parts = [next(given) for _ in leaves]
        parts = [x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in parts]
        mask = next(given) if masked else None
        carry = None
        if state:
            first = next(given)
            carry = zero_where(first, jax.tree.unflatten(memory_tree, list(given)))
        action, carry = algorithm.policy(acting, carry, jax.tree.unflatten(tree, parts), mask, None)
        return _environment_action(space, action), *jax.tree.leaves(carry)

    return call, tuple(ports), tuple(outputs)


def _name(root: str, keys: Any) -> str:
    """'observation.camera.0' for the path of a leaf."""
    part = lambda key: next(getattr(key, x) for x in ("key", "idx", "name") if hasattr(key, x))
    return ".".join([root, *(str(part(key)) for key in keys)])


def _environment_action(space: Any, action: jax.Array) -> jax.Array:
    """The action in the environment's coordinates; never outside float64 bounds that float32 has to round."""
    with np.errstate(over="ignore"):
        action = to_env_action(space, action)
        if isinstance(space, spaces.Box) and space.dtype == np.float64:
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
            low = np.where(low < space.low, np.nextafter(low, np.float32(np.inf)), low)
            high = np.where(high > space.high, np.nextafter(high, np.float32(-np.inf)), high)
            action = jnp.clip(action, low, high)
    return action.astype(_dtype(space.dtype))


def _dtype(dtype: Any) -> np.dtype:
    """The dtype that JAX computes with: 32 bits for 64."""
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def _narrow(port: Port) -> Port:
    return dataclasses.replace(port, dtype=_dtype(port.dtype))


# ---------------------------------------------------------------------------- StableHLO


def _stablehlo(call: Callable, inputs: tuple[Port, ...], outputs: tuple[Port, ...], name: str) -> bytes:
    """The bytes of `jax.export`: a function of keyword arguments that returns a dict."""
    from jax import export as jax_export

    try:
        import flatbuffers  # noqa: F401 - what `serialize` imports
    except ImportError as error:
        raise ImportError(f'StableHLO needs flatbuffers ({error}): pip install "actrix[export]"') from None

    def policy(**arrays: jax.Array) -> dict[str, jax.Array]:
        out = call(*(arrays[port.name] for port in inputs))
        return {port.name: x for port, x in zip(outputs, out, strict=True)}

    (n,) = jax_export.symbolic_shape("n")
    shapes = {port.name: jax.ShapeDtypeStruct((n, *port.shape), port.dtype) for port in inputs}
    try:
        return bytes(jax_export.export(jax.jit(policy), platforms=PLATFORMS)(**shapes).serialize())
    except Exception as error:  # a network of the user's own that calls back into Python
        raise ExportError(f"this {name} policy cannot be written as StableHLO ({_reason(error)}).") from error


# ---------------------------------------------------------------------------- ONNX


def _onnx(
    call: Callable,
    inputs: tuple[Port, ...],
    outputs: tuple[Port, ...],
    spec: Spec,
    properties: dict[str, str],
) -> bytes:
    """The bytes of an ONNX model that was compared with `call` in onnxruntime."""
    try:
        jax2onnx, onnx, runtime = map(importlib.import_module, ("jax2onnx", "onnx", "onnxruntime"))
    except ImportError as error:
        raise ImportError(
            f'ONNX needs jax2onnx and onnxruntime ({error}): pip install "actrix[export]"'
        ) from None
    try:
        with _quiet(), rings_written_whole():
            model = jax2onnx.to_onnx(
                call, [jax.ShapeDtypeStruct(("n", *port.shape), _dtype(port.dtype)) for port in inputs],
                model_name="policy", opset=OPSET, input_names=[port.name for port in inputs],
                output_names=[port.name for port in outputs],
            )  # fmt: skip
        _widen(onnx, model, inputs, outputs)
        model.producer_name = "actrix"
        onnx.helper.set_model_props(model, properties)
        onnx.checker.check_model(model)
        data = model.SerializeToString()
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # it warns of what it optimises
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a converter, a checker and a runtime, each with its own
        raise _refusal(properties, _reason(error)) from error
    if not _agree(call, session, inputs, outputs, spec):
        raise _refusal(properties, "onnxruntime gets other actions from it")
    return data


def _refusal(properties: dict[str, str], reason: str) -> ExportError:
    policy = f"this {properties['algorithm']} policy"
    return ExportError(f"{policy} cannot be written as ONNX ({reason}): export it to stablehlo.")


def _reason(error: Exception) -> str:
    """The first line of another library's error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """jax2onnx logs what it skips, gives the root logger a handler, asks JAX for float64 in passing, and leaves a
    `jnp.cumsum` behind that takes no positional axis."""
    handlers, level, numpy = logging.root.handlers[:], logging.root.manager.disable, dict(vars(jnp))
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype float64", UserWarning)
            yield
    finally:
        logging.disable(level)
        logging.root.handlers[:] = handlers
        vars(jnp).update(numpy)


def _widen(onnx: Any, model: Any, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> None:
    """Give 64-bit arrays their own dtype: onnxruntime converts nothing, and JAX wrote a model with 32 bits."""
    graph, helper = model.graph, onnx.helper
    inner = {port.name: f"{port.name}:32" for port in (*inputs, *outputs) if _narrow(port) != port}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inner.get(name, name) for name in names]
    before, after = [], []
    for port, value in zip((*inputs, *outputs), (*graph.input, *graph.output), strict=True):
        if port.name not in inner:
            continue
        own, narrow = (helper.np_dtype_to_tensor_dtype(d) for d in (port.dtype, _dtype(port.dtype)))
        value.type.tensor_type.elem_type = own
        if port in inputs:
            before.append(helper.make_node("Cast", [port.name], [inner[port.name]], to=narrow))
        else:
            after.append(helper.make_node("Cast", [inner[port.name]], [port.name], to=own))
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)


ROWS = 16


def _agree(
    call: Callable, session: Any, inputs: tuple[Port, ...], outputs: tuple[Port, ...], spec: Spec
) -> bool:
    """Whether onnxruntime computes what JAX does, on random observations, masks and memories.

    One row in 16 may differ: the last bit decides between two actions that are as good as equal.
    """
    rng, space = np.random.default_rng(0), copy.deepcopy(spec.observation_space)
    space.seed(0)
    rows = zip(*(jax.tree.leaves(space.sample()) for _ in range(ROWS)), strict=True)
    arrays = [np.stack(part) for part in rows]
    for port in inputs[len(arrays) :]:
        shape = (ROWS, *port.shape)
        arrays.append(rng.random(shape) < 0.7 if port.dtype == bool else rng.normal(size=shape))
    arrays = [x.astype(port.dtype) for x, port in zip(arrays, inputs, strict=True)]
    expected = jax.jit(call)(*(x.astype(_dtype(x.dtype)) for x in arrays))
    got = session.run(
        [port.name for port in outputs], {p.name: x for p, x in zip(inputs, arrays, strict=True)}
    )
    near = np.ones(ROWS, bool)
    for one, other in zip(expected, got, strict=True):
        same = np.isclose(np.asarray(one, np.float64), other, rtol=1e-4, atol=1e-5, equal_nan=True)
        near &= same.reshape(ROWS, -1).all(axis=1)
    return near.sum() >= ROWS - 1
