"""Schedules: parsed, hashed by value, written as text and read again."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actrix.core.schedules import Linear, Tabulated, as_schedule, bounds, evaluate

numbers = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("value", "schedule"),
    [
        (3e-4, 3e-4),
        (1, 1.0),
        (np.float32(0.5), 0.5),
        ("3e-4", 3e-4),
        ("lin_2.5e-4", Linear(2.5e-4)),
        ("lin_0.2_0.1", Linear(0.2, 0.1)),
        ("tab_1_0.5_0", Tabulated((1.0, 0.5, 0.0))),
        (Linear(1.0), Linear(1.0)),
    ],
)
def test_parsed(value, schedule):
    assert as_schedule(value) == schedule
    assert type(as_schedule(value)) is type(schedule)


@pytest.mark.parametrize("value", ["fast", "lin_", "lin_a", "lin_1_2_3", "tab_1", None, True, [1], ""])
def test_errors_name_the_setting(value):
    with pytest.raises(ValueError, match=r"clip_range=.*lin_<number>"):
        as_schedule(value, "clip_range")


def test_values_along_training():
    assert [evaluate(Linear(4.0, 2.0), p) for p in (0.0, 0.5, 1.0)] == [4.0, 3.0, 2.0]
    assert evaluate(0.3, 0.7) == 0.3
    table = as_schedule(lambda remaining: 0.1 * remaining**2)
    for progress in (0.0, 0.25, 0.333, 1.0):
        np.testing.assert_allclose(evaluate(table, progress), 0.1 * (1 - progress) ** 2, atol=3e-6)


@given(numbers, numbers, st.lists(numbers, min_size=2, max_size=5))
def test_text_and_back(a, b, values):
    for schedule in (Linear(a), Linear(a, b), Tabulated(tuple(values))):
        again = as_schedule(str(schedule))
        assert again == schedule
        assert hash(again) == hash(schedule)
    assert as_schedule(np.float64(a)) == a


def test_functions_hash_by_value():
    make = lambda slope: as_schedule(lambda remaining: slope * remaining)
    assert make(0.1) == make(0.1)
    assert hash(make(0.1)) == hash(make(0.1))
    assert make(0.1) != make(0.2)
    assert as_schedule(str(make(1 / 3))) == make(1 / 3)
    assert str(Linear(np.float64(0.25))) == "lin_0.25"


def test_bounds():
    assert bounds(Linear(0.1, 0.3)) == (0.1, 0.3)
    assert bounds(Tabulated((3.0, -1.0, 2.0))) == (-1.0, 3.0)
    assert bounds(0.5) == (0.5, 0.5)
    for bad in (math.nan, math.inf, Linear(math.inf), Tabulated((1.0, math.nan, 0.0))):
        assert all(math.isnan(b) for b in bounds(bad))
