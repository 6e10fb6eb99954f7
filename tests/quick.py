"""What makes the compiling cheap that nearly all the time of the tests goes to; import it before JAX's backend starts.

XLA optimises the small programs little, without its newer code generator and in one piece: half the time. (`optimized`
in conftest compiles as users do, but for `FLAGS`, which are read when the backend starts.) Children inherit both.

JAX lowers each program in an MLIR context of its own, whose making costs a third of a small program; here a thread uses
one for many. Nor is written into each operation where it was traced; and the collector of garbage looks seldom at the
many objects that stay.
"""

import contextlib
import gc
import os
import threading

import jax
import numpy as np

FLAGS = {"--xla_cpu_use_fusion_emitters": "false", "--xla_cpu_parallel_codegen_split_count": "1"}
OPTION = "jax_disable_most_optimizations"
PROGRAMS = 200  # that one context lowers: it keeps all their types and attributes

given = os.environ.get("XLA_FLAGS", "")
missing = [f"{name}={value}" for name, value in FLAGS.items() if name not in given]
os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()
os.environ[OPTION.upper()] = "1"
jax.config.update(OPTION, True)
jax.config.update("jax_traceback_in_locations_limit", 0)
gc.set_threshold(200_000, 20, 50)

with contextlib.suppress(ImportError, AttributeError):  # not public: where it is no longer, tests are slower
    from jax._src.interpreters import mlir

    kept, make = threading.local(), mlir.make_ir_context

    def shared():
        """The thread's MLIR context, made anew after so many programs."""
        if (count := getattr(kept, "count", 0)) % PROGRAMS == 0:
            kept.context = make()
        kept.count = count + 1
        return kept.context

    mlir.make_ir_context = shared


def placed(shape, x, dims):
    """`x` along these dimensions of a shape, and alike along the others."""
    sizes = dict(zip(dims, x.shape, strict=True))
    return np.broadcast_to(x.reshape([sizes.get(i, 1) for i in range(len(shape))]), shape)


def cut(x, start, sizes):
    """A window of an array that is moved into it where it reaches beyond, as XLA does."""
    start = [min(max(int(s), 0), have - n) for s, have, n in zip(start, x.shape, sizes, strict=True)]
    return x[tuple(slice(s, s + n) for s, n in zip(start, sizes, strict=True))]


# What only moves or fills, outside of a program: NumPy does exactly the same, and nothing is compiled for each shape.
MOVES = {
    "stage": lambda x: x,
    "copy": lambda x: x,
    "broadcast_in_dim": lambda x, shape, broadcast_dimensions, sharding: placed(
        shape, x, broadcast_dimensions
    ),
    "reshape": lambda x, new_sizes, dimensions, sharding: x.reshape(new_sizes),
    "squeeze": lambda x, dimensions: np.squeeze(x, dimensions),
    "concatenate": lambda *xs, dimension: np.concatenate(xs, dimension),
    "slice": lambda x, start_indices, limit_indices, strides: x[
        tuple(map(slice, start_indices, limit_indices, strides or [None] * x.ndim))
    ],
    "dynamic_slice": lambda x, *start, slice_sizes: cut(x, start, slice_sizes),
    "convert_element_type": lambda x, new_dtype, weak_type, sharding: x.astype(new_dtype),
}
SMALL = 2**16  # entries; larger ones may be no copy


def on_host(primitive, move):
    """Let NumPy do it where everything is a small array of one device."""
    otherwise = primitive.impl

    def plain(x):
        if isinstance(x, TypedNdArray):
            return x.size <= SMALL and x.dtype.itemsize <= 4 and not x.weak_type
        return isinstance(x, ArrayImpl) and not x.weak_type and x.size <= SMALL and len(x.devices()) == 1

    def impl(*args, **options):
        to = options.get("new_dtype")
        rounds = to is not None and np.dtype(to).kind != "f"  # what is no number becomes one as XLA says
        if not all(map(plain, args)) or options.get("sharding") or options.get("weak_type") or rounds:
            return otherwise(*args, **options)
        return jax.device_put(np.array(move(*map(np.asarray, args), **options), order="C"))

    primitive.def_impl(impl)


with contextlib.suppress(ImportError, AttributeError):  # not public either
    from jax._src.array import ArrayImpl
    from jax._src.lax import lax, slicing
    from jax._src.literals import TypedNdArray

    for name, move in MOVES.items():
        on_host(getattr(lax, f"{name}_p", None) or getattr(slicing, f"{name}_p"), move)
