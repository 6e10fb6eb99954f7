"""Nearly all the time of these tests is XLA compiling small programs: here it optimises them little, and each of them
is compiled once for all processes of a run.

`optimized` compiles as users do, but for the flags below, which are read when JAX's backend starts: without XLA's newer
code generator, and in one piece, programs compile in half the time. Child processes inherit all this.

JAX lowers each program in an MLIR context of its own, whose making costs a third of a small program; here a thread uses
one for many. And the collector of garbage looks seldom at the many objects that stay.
"""

import atexit
import contextlib
import ctypes
import gc
import os
import shutil
import tempfile
import threading
from pathlib import Path

FLAGS = {"--xla_cpu_use_fusion_emitters": "false", "--xla_cpu_parallel_codegen_split_count": "1"}
OPTION = "jax_disable_most_optimizations"
MEMORY = 1500  # MiB, of a process; it may take a third more within a file
PROGRAMS = 200  # that one MLIR context lowers: it keeps all their types and attributes

given = os.environ.get("XLA_FLAGS", "")
missing = [f"{name}={value}" for name, value in FLAGS.items() if name not in given]
os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()
os.environ[OPTION.upper()] = "1"
if "ACTRIX_CACHE_DIR" not in os.environ:
    os.environ["ACTRIX_CACHE_DIR"] = tempfile.mkdtemp(prefix="actrix-tests-")
    atexit.register(shutil.rmtree, os.environ["ACTRIX_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402

import actrix  # noqa: E402, F401 - sets JAX up before anything starts it

with contextlib.suppress(ImportError, AttributeError):  # not public: where it is no longer, tests are slower
    from jax._src.interpreters import mlir

    lowering, make_context = threading.local(), mlir.make_ir_context

    def shared_context():
        """The thread's MLIR context, made anew after so many programs."""
        if (count := getattr(lowering, "count", 0)) % PROGRAMS == 0:
            lowering.context = make_context()
        lowering.count = count + 1
        return lowering.context

    mlir.make_ir_context = shared_context

gc.set_threshold(50_000, 20, 20)


@pytest.fixture
def optimized():
    """Ask for it to compile with all optimisations."""
    before = jax.config.values[OPTION]
    jax.config.update(OPTION, False)
    yield
    jax.config.update(OPTION, before)


def used() -> float:
    """MiB that this process occupies; infinitely many where that is not known."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return float("inf")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    """Hundreds of compiled programs would fill the memory: they are forgotten between files, or earlier if they must
    be. (The allocator keeps what it got unless it is told.)"""
    result = yield
    group = lambda item: getattr(item, "group", item.path)
    if used() > (MEMORY if nextitem is None or group(item) != group(nextitem) else 1.33 * MEMORY):
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    return result
