"""Nearly all the time of these tests is XLA compiling small programs, so it optimises them little."""

import jax
import pytest

OPTION = "jax_disable_most_optimizations"


@pytest.fixture(autouse=True)
def little_optimization():
    before = jax.config.values[OPTION]
    jax.config.update(OPTION, True)
    yield
    jax.config.update(OPTION, before)
