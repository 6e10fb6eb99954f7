"""See helpers.py. Nearly all the time of these tests is XLA compiling small programs: it optimises them little here.

`optimized` compiles as users do, but for the flag below, which is read when JAX's backend starts: without XLA's newer
code generator programs compile in half the time.
"""

import os

import jax
import pytest

OPTION = "jax_disable_most_optimizations"
FLAG = "--xla_cpu_use_fusion_emitters"
if FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}=false".strip()


@pytest.fixture(autouse=True)
def little_optimization(request):
    before = jax.config.values[OPTION]
    jax.config.update(OPTION, "optimized" not in request.fixturenames)
    yield
    jax.config.update(OPTION, before)


@pytest.fixture
def optimized():
    """Ask for it to compile with all optimisations."""


@pytest.fixture(autouse=True, scope="module")
def forget_programs(request):
    """Hundreds of programs would fill the memory; those of the presets serve the next file too."""
    yield
    if request.module.__name__ != "test_learning":
        jax.clear_caches()
