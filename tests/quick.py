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
import weakref

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


# A program of a few operations outside of any other, as of `x + 1` or `jnp.where`, takes ten milliseconds to compile
# and microseconds to run. NumPy gives the same bits where at most one of them rounds (XLA may contract two) and nothing
# is subnormal (XLA takes that for 0). What is called more often is compiled all the same.
EQUATIONS, CALLS, SMALL = 8, 50, 2**16  # the last in entries; larger ones may be no copy
EXACT = {
    "stage": lambda x: x,
    "copy": lambda x: x,
    "convert_element_type": lambda x, new_dtype, **_: x.astype(new_dtype),
    "iota": lambda dtype, shape, dimension, **_: placed(shape, np.arange(shape[dimension], dtype=dtype), [dimension]),
    "broadcast_in_dim": lambda x, shape, broadcast_dimensions, **_: placed(shape, x, broadcast_dimensions),
    "reshape": lambda x, new_sizes, **_: x.reshape(new_sizes),
    "squeeze": lambda x, dimensions: np.squeeze(x, dimensions),
    "transpose": lambda x, permutation: x.transpose(permutation),
    "rev": lambda x, dimensions: np.flip(x, dimensions),
    "stack": lambda *xs, axis: np.stack(xs, axis),
    "concatenate": lambda *xs, dimension: np.concatenate(xs, dimension),
    "slice": lambda x, start_indices, limit_indices, strides: x[
        tuple(map(slice, start_indices, limit_indices, strides or [None] * x.ndim))
    ],
    "dynamic_slice": lambda x, *start, slice_sizes: cut(x, start, slice_sizes),
    "select_n": lambda which, *cases: np.where(which, *reversed(cases)),
    "reduce_or": lambda x, axes, **_: np.any(x, axes),
    "reduce_and": lambda x, axes, **_: np.all(x, axes),
    "not": np.invert, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "is_finite": np.isfinite,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "neg": np.negative, "abs": np.abs,
}  # fmt: skip
ROUNDED = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
DIFFERENT = {("div", "i"), ("div", "u"), ("select_n", "i"), ("select_n", "u")}
"""NumPy means another thing by these, of integers."""


class Otherwise(Exception):
    """XLA is to do it."""


def by_numpy(jaxpr, args):
    """What a program gives; Otherwise where NumPy would not do exactly the same."""
    values = dict(zip([*jaxpr.jaxpr.constvars, *jaxpr.jaxpr.invars], [*jaxpr.consts, *args], strict=True))
    read = lambda atom: np.asarray(atom.val if hasattr(atom, "val") else values[atom], atom.aval.dtype)
    rounded = 0
    for eqn in jaxpr.eqns:
        name, (out, *more) = eqn.primitive.name, eqn.outvars
        if more or name not in EXACT.keys() | ROUNDED.keys() or not all(map(plain, [*eqn.invars, out])):
            raise Otherwise
        given = list(map(read, eqn.invars))
        first, last = given[0].dtype.kind if given else "i", out.aval.dtype.kind
        # XLA makes a choice of a factor that was a bool, and a number of its own of a NaN that becomes an integer.
        rounded += last == "f" and (name in ROUNDED or first == "b")
        whole = name == "convert_element_type" and first == "f" != last
        mixed = name in ROUNDED and any(x.dtype != out.aval.dtype for x in given)
        if rounded > 1 or whole or mixed or (name, first) in DIFFERENT:
            raise Otherwise
        x = ROUNDED[name](*given) if name in ROUNDED else EXACT[name](*given, **eqn.params)
        if any(map(subnormal, [*given, x])):
            raise Otherwise
        values[out] = x
    return [np.array(read(out), order="C") for out in jaxpr.jaxpr.outvars]


def subnormal(x):
    return x.dtype.kind == "f" and bool(np.any((np.abs(x) < np.finfo(x.dtype).tiny) & (x != 0)))


def plain(atom):
    return isinstance(atom.aval.dtype, np.dtype) and atom.aval.size <= SMALL


with contextlib.suppress(ImportError, AttributeError):  # not public either
    from jax._src import pjit
    from jax._src.array import ArrayImpl

    compiled, calls = pjit._pjit_call_impl_python, weakref.WeakKeyDictionary()

    def by_either(*args, jaxpr, **options):
        """NumPy's, of which a call can reuse nothing, or the compiled program's."""
        if len(jaxpr.eqns) <= EQUATIONS and not jaxpr.effects and calls.setdefault(jaxpr, 0) < CALLS:
            calls[jaxpr] += 1
            weak = any(x.weak_type for x in jaxpr.out_avals)
            held = any(options["donated_invars"]) or any(
                isinstance(x, ArrayImpl) and x._committed for x in args
            )
            with contextlib.suppress(Otherwise), np.errstate(all="ignore"):
                if not weak and not held and all(map(plain, jaxpr.jaxpr.invars)):
                    return list(map(jax.device_put, by_numpy(jaxpr, args))), None, None, []
            calls[jaxpr] = CALLS
        return compiled(*args, jaxpr=jaxpr, **options)

    pjit._pjit_call_impl_python = by_either
