"""Plain data survives JSON bit for bit; everything else is refused."""

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actrix.core.plain import MAX_DEPTH, copy_plain, from_bytes, pack, to_bytes, unpack

DTYPES = [
    "bool",
    "float16",
    "float32",
    "float64",
    *(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)),
]
dtypes = st.sampled_from([np.dtype(name) for name in DTYPES])
arrays = dtypes.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)))
scalars = dtypes.flatmap(lambda d: hnp.arrays(d, ())).map(lambda array: array[()])
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**200), 2**200), st.floats(), st.text(), arrays, scalars
)
plain = st.recursive(
    leaves,
    lambda part: st.one_of(
        st.lists(part, max_size=4),
        st.lists(part, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=5), part, max_size=4),
    ),
    max_leaves=15,
)


def same(a, b):
    """Equal types and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray | np.generic):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return a == b


def through(value):
    skeleton, found = pack(value)
    return unpack(json.loads(json.dumps(skeleton, allow_nan=False)), found)


@given(plain)
@settings(max_examples=300, deadline=None)
def test_round_trip(value):
    assert same(through(value), value)
    assert same(copy_plain(value), value)
    assert same(from_bytes(to_bytes(value)), value)


@pytest.mark.parametrize(
    "value",
    [
        [math.nan, math.inf, -math.inf, -0.0, 5e-324],
        [True, 1, 1.0, np.True_, np.int8(1), np.float32(1)],
        ([], (), {}, ("list",), ["array", 0, "float64", []], {"": None}),
        [2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**6000],
        ["\ud800", "\x00", "π"],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6)[::2],
    ],
)
def test_round_trip_of_the_awkward(value):
    assert same(through(value), value)
    assert same(from_bytes(to_bytes(value)), value)


def test_bytes_that_are_no_plain_data():
    whole = to_bytes([np.arange(3), {"a": 1}])
    for data in (whole[:-1], whole + b"x", whole[:20], b"", b"\xff" * 40, whole.replace(b"int64", b"objec")):
        with pytest.raises(ValueError, match=r"."):
            from_bytes(data)


def test_the_order_of_keys_in_the_skeleton_is_free():
    value = {"b": np.zeros(2), "a": np.ones(3)}
    skeleton, found = pack(value)
    back = unpack(json.loads(json.dumps(skeleton, sort_keys=True)), found)
    assert all(same(back[key], value[key]) for key in value)


def test_nothing_is_shared():
    array = np.zeros(3)
    skeleton, found = pack([array])
    out = unpack(skeleton, found)
    found[0][:] = 1
    assert (array == 0).all()
    assert (out[0] == 0).all()
    copied = copy_plain({"x": [array]})
    array[:] = 2
    assert (copied["x"][0] == 0).all()


class Sub(int):
    pass


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def cycle():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "the value is a object"),
        ({"a": [1, {2, 3}]}, r"the entry \['a'\]\[1\] is a set"),
        ({1: 2}, "the key 1"),
        (Sub(3), "Sub"),
        (b"bytes", "bytes"),
        (1j, "complex"),
        (np.array(["text"]), "<U4"),
        (np.array([None]), "object"),
        (np.str_("x"), "<U1"),
        (np.complex64(1), "complex64"),
        (np.array(0, "datetime64[s]"), "datetime64"),
        (np.zeros(2, ">f8"), ">f8"),
        (np.zeros(2, [("x", "f4")]), "'x'"),
        (np.ma.masked_array([1.0]), "MaskedArray"),
        (nested(MAX_DEPTH + 1), "deeper"),
        (cycle(), "deeper"),
    ],
)
def test_refused(value, says):
    for function in (pack, copy_plain):
        with pytest.raises(ValueError, match=says):
            function(value)


def test_the_deepest_comes_back():
    assert through(nested(MAX_DEPTH)) == nested(MAX_DEPTH)


@pytest.mark.parametrize(
    ("skeleton", "arrays"),
    [
        ([], []),
        (["set", 1], []),
        ([["list"]], []),
        (["array", 0, "float64", [2]], []),
        (["array", 0, "float64", [2]], [np.zeros(3)]),
        (["array", 0, "float64", [2.0]], [np.zeros(2)]),
        (["array", 0, "float64", 2], [np.zeros(2)]),
        (["array", 0, "float64"], [np.zeros(2)]),
        (["array", 0, "float32", [2]], [np.zeros(2)]),
        (["array", 0, "O", [2]], [np.array([None, None])]),
        (["array", 0, "object", [2]], [np.array([None, None])]),
        (["array", 0, ["float64"], [2]], [np.zeros(2)]),
        (["array", 0.0, "float64", [2]], [np.zeros(2)]),
        (["array", False, "float64", [2]], [np.zeros(2)]),
        (["array", -1, "float64", [2]], [np.zeros(2)]),
        (["array", 10**5000, "float64", [2]], [np.zeros(2)]),
        (["array", 0, "float64", [2]], [[0.0, 0.0]]),
        (["list", *[["array", 0, "float64", [2]]] * 2], [np.zeros(2)]),
        (["list"], [np.zeros(2)]),
        (["scalar", 0, "float64"], [np.zeros(1)]),
        (["scalar", 0, "float64", []], [np.zeros(())]),
        (["float", 0], [np.float32(0) * np.ones((), np.float32)]),
        (["float", "nan"], []),
        (["int", 5], []),
        (["int", "0x5"], []),
        (["int", "5_000"], []),
        (["int", "__import__('os')"], []),
        (["int", "0x1_0000_0000_0000_0000_0"], []),
        (math.nan, []),
        (2**64, []),
        ({1: 2}, []),
        ((1, 2), []),
        (b"x", []),
        (nested(100000), []),
    ],
)
def test_hostile_skeletons(skeleton, arrays):
    with pytest.raises(ValueError):
        unpack(skeleton, arrays)
