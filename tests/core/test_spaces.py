"""Policy coordinates and environment coordinates; which spaces are refused, by name."""

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from actrix.core.spaces import (
    UnsupportedSpaceError,
    check_action_space,
    check_observation_space,
    from_env_action,
    is_image,
    mask_length,
    to_env_action,
)

finite = st.floats(-1e6, 1e6, width=32)


@given(st.tuples(finite, finite).filter(lambda b: b[1] - b[0] > 1e-2), st.floats(-1, 1, width=32))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_box_spans_its_bounds_and_back(bounds, action):
    space = spaces.Box(*bounds, (1,), np.float32)
    action = np.array([action], np.float32)
    there = to_env_action(space, action)
    assert space.low[0] <= there[0] <= space.high[0]
    size = max(map(abs, bounds)) / (bounds[1] - bounds[0])
    np.testing.assert_allclose(from_env_action(space, there), action, atol=1e-6 * (1 + 4 * size))
    np.testing.assert_allclose(there, bounds[0] + (action + 1) / 2 * (bounds[1] - bounds[0]), rtol=1e-5,
                               atol=1e-6 * max(map(abs, bounds)))  # fmt: skip


@pytest.mark.parametrize("backend", [np, jnp])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_box_edges(backend, dtype):
    inf = np.inf
    low = np.array([-2, -inf, 1, -inf, -3e38, 0], dtype)
    high = np.array([4, inf, inf, 5, 3e38, 1], dtype)
    space = spaces.Box(low, high, dtype=dtype)
    act = lambda *x: np.asarray(to_env_action(space, backend.asarray(x, dtype="float32")))
    np.testing.assert_allclose(act(-1, 0.3, 7, -9, 0, 0), [-2, 0.3, 7, -9, 0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(act(1, -8, 0, 9, 1, 1), [4, -8, 1, 5, 3e38, 1], rtol=1e-6)
    np.testing.assert_allclose(act(-50, 50, -50, 50, -1, -50), [-2, 50, 1, 5, -3e38, 0], rtol=1e-6)
    inside = backend.asarray([0.5, 3, 2, -4, 0.25, -0.5], dtype="float32")
    back = np.asarray(from_env_action(space, to_env_action(space, inside)))
    np.testing.assert_allclose(back, inside, rtol=1e-5, atol=1e-6)


def test_bounds_beyond_float32_count_as_none():
    space = spaces.Box(-1e300, 1e300, (1,), np.float64)
    np.testing.assert_array_equal(to_env_action(space, np.float32([0.5])), [0.5])


@pytest.mark.parametrize(
    ("space", "policy", "env"),
    [
        (spaces.Discrete(3, start=5), [0, 1, 2], [5, 6, 7]),
        (spaces.Discrete(3, start=-1), [0, 1, 2], [-1, 0, 1]),
        (spaces.Discrete(1), [0], [0]),
        (spaces.MultiDiscrete([2, 3], start=[4, -1]), [[0, 0], [1, 2]], [[4, -1], [5, 1]]),
        (spaces.MultiBinary(2), [[0, 1]], [[0, 1]]),
    ],
)
def test_discrete_kinds_start_where_they_start(space, policy, env):
    for array in (np.asarray(policy, np.int32), jnp.asarray(policy, jnp.int32)):
        there = to_env_action(space, array)
        np.testing.assert_array_equal(there, env)
        np.testing.assert_array_equal(from_env_action(space, there), policy)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Text(3), "action space is Text; supported are Discrete, MultiDiscrete, MultiBinary, Box"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "action space is Dict"),
        (spaces.Tuple([spaces.Discrete(2)]), "action space is Tuple"),
        (spaces.MultiDiscrete([[2, 2], [2, 2]]), "several axes"),
        (spaces.MultiBinary([2, 2]), "must have one axis"),
        (spaces.Box(0, 5, (2,), np.int32), "holds int32"),
        (spaces.Box(np.float32([0, 1]), np.float32([1, 1])), r"low 1.0 >= high 1.0 at index \[1\]"),
    ],
)
def test_refused_action_spaces(space, message):
    with pytest.raises(UnsupportedSpaceError, match=message):
        check_action_space(space)


def test_observation_spaces():
    box = spaces.Box(-1, 1, (2,))
    good = [box, spaces.Discrete(2, start=1), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary([2, 2])]
    check_observation_space(spaces.Dict({"a": spaces.Tuple(good), "b": box}))
    for bad, name in [
        (spaces.Graph(box, None), "Graph"),
        (spaces.Sequence(box), "Sequence"),
        (spaces.Text(2), "Text"),
    ]:
        with pytest.raises(UnsupportedSpaceError, match=rf"\['b'\]\[1\] is {name}; supported are Box"):
            check_observation_space(spaces.Dict({"a": box, "b": spaces.Tuple((box, bad))}))
    with pytest.raises(UnsupportedSpaceError, match="2 axes"):
        check_observation_space(spaces.MultiDiscrete([[2, 2]]))


def test_images_and_masks():
    assert is_image(spaces.Box(0, 255, (84, 84, 3), np.uint8))
    assert not is_image(spaces.Box(0, 255, (84, 84), np.uint8))
    assert not is_image(spaces.Box(0, 1, (84, 84, 3), np.float32))
    assert not is_image(spaces.Box(0, 200, (84, 84, 3), np.uint8))
    assert mask_length(spaces.Discrete(4)) == 4
    assert mask_length(spaces.MultiDiscrete([2, 3])) == 5
    assert mask_length(spaces.MultiBinary(3)) == 6
    with pytest.raises(UnsupportedSpaceError, match="not Box"):
        mask_length(spaces.Box(-1, 1, (2,)))
