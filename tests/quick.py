"""What makes the compiling cheap that nearly all the time of the tests goes to; import it before JAX's backend starts.

XLA optimises the small programs little, without its newer code generator and in one piece: half the time. (`optimized`
in conftest compiles as users do, but for `FLAGS`, which are read when the backend starts.) Children inherit both.

JAX lowers each program in an MLIR context of its own, whose making costs a third of a small program; here a thread uses
one for many. Nor is written into each operation where it was traced; and the collector of garbage looks seldom at the
many objects that stay.
"""

import contextlib
import functools
import gc
import os
import threading
import types
import weakref
import zlib

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


with contextlib.suppress(ImportError, AttributeError):  # not public either
    from jax._src import compilation_cache

    # What is written for the other processes is read within minutes: to pack it well takes longer than it saves.
    compilation_cache.zlib = types.SimpleNamespace(
        compress=functools.partial(zlib.compress, level=1), decompress=zlib.decompress
    )


def placed(shape, x, dims):
    """`x` along these dimensions of a shape, and alike along the others."""
    sizes = dict(zip(dims, x.shape, strict=True))
    return np.broadcast_to(x.reshape([sizes.get(i, 1) for i in range(len(shape))]), shape)


def cut(x, start, sizes):
    """A window of an array that is moved into it where it reaches beyond, as XLA does."""
    start = [min(max(int(s), 0), have - n) for s, have, n in zip(start, x.shape, sizes, strict=True)]
    return x[tuple(slice(s, s + n) for s, n in zip(start, sizes, strict=True))]


def padded(x, value, padding_config):
    """An array with so much of a value before, behind and between its entries."""
    if min(map(min, padding_config), default=0) < 0:
        raise Otherwise
    sizes = [
        low + n + max(n - 1, 0) * gap + high
        for n, (low, high, gap) in zip(x.shape, padding_config, strict=True)
    ]
    out, places = np.full(sizes, value, x.dtype), zip(sizes, padding_config, strict=True)
    out[tuple(slice(low, size - high, gap + 1) for size, (low, high, gap) in places)] = x
    return out


def gathered(x, index, dimension_numbers, slice_sizes, **_):
    """Windows of an array at these places, where all of them lie inside."""
    d, batch, places = dimension_numbers, index.shape[:-1], []
    window = [i for i in range(x.ndim) if i not in (*d.collapsed_slice_dims, *d.operand_batching_dims)]
    along = lambda n, i, dims: np.arange(n).reshape([n if k == i else 1 for k in dims])
    for i, (n, size) in enumerate(zip(x.shape, slice_sizes, strict=True)):
        if i in d.operand_batching_dims:
            of = d.start_indices_batching_dims[d.operand_batching_dims.index(i)]
            start = along(n, of, range(len(batch)))
        else:
            start = index[..., d.start_index_map.index(i)] if i in d.start_index_map else np.zeros(batch, int)
        if np.any(start < 0) or np.any(start > n - size):
            raise Otherwise
        offset = along(size, i, window) if i in window else 0
        places.append(start.reshape(*start.shape, *[1] * len(window)) + offset)
    found = np.broadcast_to(x[tuple(places)], (*batch, *(slice_sizes[i] for i in window)))
    return np.moveaxis(found, range(len(batch), found.ndim), d.offset_dims)


def ordered(function):
    """Otherwise where there are NaN or zeros of both signs, of which XLA may take another one."""

    def among(*xs, **params):
        floats = [x for x in xs if x.dtype.kind not in "biu"]
        zeros = [sign for x in floats for sign in np.signbit(x[x == 0]).tolist()]
        if len(set(zeros)) > 1 or any(np.isnan(x).any() for x in floats):
            raise Otherwise
        return function(*xs, **params)

    return among


def second(x, y):
    """x², by y = 2."""
    if y != 2:
        raise Otherwise
    return np.square(x)


def total(x, axes, **_):
    """A sum that is the same in any order: of integers, also of those that are floats."""
    if x.dtype.kind not in "iu":
        exact = 2.0 ** (jax.numpy.finfo(x.dtype).nmant + 1)
        if x.dtype.kind == "c" or not (np.all(x == np.rint(x)) and np.abs(x).sum(dtype=np.float64) < exact):
            raise Otherwise
    return np.sum(x, axes, x.dtype) + x.dtype.type(0)  # never −0


# A program of a few operations outside of any other, as of `x + 1` or `jnp.where`, takes ten milliseconds to compile
# and microseconds to run. NumPy gives the same bits where at most one of them rounds (XLA may contract two) and nothing
# is subnormal (XLA takes that for 0). What is called more often is compiled all the same.
EQUATIONS, CALLS, SMALL = 8, 150, 2**16  # the last in entries; larger ones may be no copy
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
    "neg": np.negative, "abs": np.abs, "max": ordered(np.maximum), "min": ordered(np.minimum),
    "reduce_max": ordered(lambda x, axes, **_: np.max(x, axes)),
    "reduce_min": ordered(lambda x, axes, **_: np.min(x, axes)),
    "argmax": lambda x, axes, index_dtype: np.argmax(x, *axes).astype(index_dtype),
    "argmin": lambda x, axes, index_dtype: np.argmin(x, *axes).astype(index_dtype),
    "reduce_sum": total,
    "integer_pow": second, "pad": padded, "gather": gathered, "tile": lambda x, reps: np.tile(x, reps),
    "split": lambda x, sizes, axis: np.split(x, np.cumsum(sizes)[:-1], axis),
    "unstack": lambda x, axis: list(np.moveaxis(x, axis, 0)),
}  # fmt: skip
ROUNDED = {"add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
           "square": np.square, "sqrt": np.sqrt}  # fmt: skip
DIFFERENT = {("div", "i"), ("div", "u"), ("select_n", "i"), ("select_n", "u")}
"""NumPy means another thing by these, of integers."""


class Otherwise(Exception):
    """XLA is to do it."""


def by_numpy(jaxpr, args, rounded=0):
    """What a program gives; Otherwise where NumPy would not do exactly the same. `rounded`: how often it has."""
    values = dict(zip([*jaxpr.jaxpr.constvars, *jaxpr.jaxpr.invars], [*jaxpr.consts, *args], strict=True))
    read = lambda atom: np.asarray(atom.val if hasattr(atom, "val") else values[atom], atom.aval.dtype)
    for eqn in jaxpr.eqns:
        name, out = eqn.primitive.name, eqn.outvars[0]
        if not all(map(plain, [*eqn.invars, *eqn.outvars])):
            raise Otherwise
        if name == "jit":  # a part of it, which may not round
            values |= zip(eqn.outvars, by_numpy(eqn.params["jaxpr"], map(read, eqn.invars), 1), strict=True)
            continue
        if name not in EXACT.keys() | ROUNDED.keys():
            raise Otherwise
        given = list(map(read, eqn.invars))
        first, last = given[0].dtype.kind if given else "i", out.aval.dtype.kind
        # XLA makes a choice of a factor that was a bool, and a number of its own of a NaN that becomes an integer.
        rounded += last == "f" and (name in ROUNDED or name == "integer_pow" or first == "b")
        whole = name == "convert_element_type" and first == "f" != last
        mixed = name in ROUNDED and any(x.dtype != out.aval.dtype for x in given)
        summed = name == "reduce_sum" and rounded
        # By a number that it knows XLA divides as it likes.
        known = name == "div" and not any(x is eqn.invars[1] for x in jaxpr.jaxpr.invars)
        if rounded > 1 or summed or known or whole or mixed or (name, first) in DIFFERENT:
            raise Otherwise
        x = ROUNDED[name](*given) if name in ROUNDED else EXACT[name](*given, **eqn.params)
        found = x if isinstance(x, list) else [x]
        if any(map(subnormal, [*given, *found])):
            raise Otherwise
        values |= zip(eqn.outvars, found, strict=True)
    return [np.array(read(out), order="C") for out in jaxpr.jaxpr.outvars]


def subnormal(x):
    return x.dtype.kind == "f" and bool(np.any((np.abs(x) < np.finfo(x.dtype).tiny) & (x != 0)))


def plain(atom):
    return isinstance(atom.aval.dtype, np.dtype) and atom.aval.size <= SMALL


with contextlib.suppress(ImportError, AttributeError):  # not public either
    from jax._src import pjit
    from jax._src.array import ArrayImpl

    compiled, calls = pjit._pjit_call_impl_python, weakref.WeakKeyDictionary()

    def put(x, aval):
        """NumPy's array as JAX's, weak where that is."""
        x = jax.device_put(x)
        weak = lambda: ArrayImpl(
            x.aval.update(weak_type=True), x.sharding, x._arrays, False, _skip_checks=True
        )
        return weak() if aval.weak_type else x

    def by_either(*args, jaxpr, **options):
        """NumPy's, of which a call can reuse nothing, or the compiled program's."""
        if len(jaxpr.eqns) <= EQUATIONS and not jaxpr.effects and calls.setdefault(jaxpr, 0) < CALLS:
            calls[jaxpr] += 1
            held = any(options["donated_invars"]) or any(
                isinstance(x, ArrayImpl) and x._committed for x in args
            )
            with contextlib.suppress(Otherwise), np.errstate(all="ignore"):
                if not held and all(map(plain, [*jaxpr.jaxpr.invars, *jaxpr.jaxpr.outvars])):
                    return list(map(put, by_numpy(jaxpr, args), jaxpr.out_avals)), None, None, []
            calls[jaxpr] = CALLS
        return compiled(*args, jaxpr=jaxpr, **options)

    pjit._pjit_call_impl_python = by_either
