"""Each program is compiled once for all processes of a run, and little optimised: see `quick.py`."""

import atexit
import contextlib
import ctypes
import gc
import os
import shutil
import tempfile
from pathlib import Path

MEMORY = 2000  # MiB, of a process; it may take an eighth more within a file

# Of a process and its children: where several share the cores, OpenBLAS's threads wait for one another in loops, and
# the QR of a layer's first weights takes forty times its time. (xdist's workers are children and have it at once.)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Where no byte code may be written each process that is started would compile all modules anew, a third of a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if "ACTRIX_CACHE_DIR" not in os.environ:
    os.environ["ACTRIX_CACHE_DIR"] = tempfile.mkdtemp(prefix="actrix-tests-")
    atexit.register(shutil.rmtree, os.environ["ACTRIX_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402

import actrix  # noqa: E402, F401 - sets JAX up before anything starts it
from actrix.loops.runner import SHARED  # noqa: E402
from quick import OPTION  # noqa: E402

# The many programs of one operation are made again as quickly as they are written and read.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def optimized():
    """Ask for it to compile with all optimisations."""
    before = jax.config.values[OPTION]
    jax.config.update(OPTION, False)
    forget()
    yield
    jax.config.update(OPTION, before)
    forget()


TRACED = ("actors", "algorithms", "core", "critics", "data", "envs", "loops", "nets")
"""Rooms whose code is in the loops' programs; of the loops these files drive the programs and are in none:"""
DRIVERS = ("actrix.loops.train", "actrix.loops.evaluate", "actrix.loops.groups", "actrix.loops.answers")


@pytest.fixture
def monkeypatch(monkeypatch):
    """Programs traced before a part of them was replaced, or while it was, serve no other runner."""
    replace = monkeypatch.setattr

    def setattr_(target, *args, **kwargs):
        if traced(target):
            monkeypatch.replaced = True
            forget()
        replace(target, *args, **kwargs)

    monkeypatch.setattr, monkeypatch.replaced = setattr_, False
    yield monkeypatch
    if monkeypatch.replaced:
        forget()


def traced(target) -> bool:
    """Whether this module, class, object or dotted name belongs to what the loops' programs are traced from."""
    name = target if isinstance(target, str) else getattr(target, "__module__", None) or target.__name__
    rooms = f"{name}.".split(".")
    return rooms[0] == "actrix" and rooms[1] in TRACED and not name.startswith(DRIVERS)


def forget():
    """Make all programs of the loops anew."""
    for programs in SHARED:
        programs.clear()


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
    if used() > (MEMORY if nextitem is None or group(item) != group(nextitem) else 1.125 * MEMORY):
        forget()
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    return result
