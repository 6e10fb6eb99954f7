"""JAX set up for this library: imported before anything starts its backend. What it changes is documented.

- `XLA_FLAGS` (unless the user set these flags): a scheduler under which XLA:CPU does not deadlock on few
  cores, and one host device per core, over which seeds are sharded.
- `jax_cpu_enable_async_dispatch = False`: a small acting call costs less than half.
- the persistent compilation cache in the user's cache folder (`ACTRIX_CACHE_DIR`; empty = off).
"""

from __future__ import annotations

import functools
import os
import sys
import warnings

_FLAGS = {
    "--xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "--xla_force_host_platform_device_count": str(min(os.cpu_count() or 1, 64)),
}


def _backend_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bool(bridge is not None and getattr(bridge, "_backends", None))


def set_up() -> None:
    """Apply the settings above; warns where another library has started JAX's backend already."""
    flags = os.environ.get("XLA_FLAGS", "")
    missing = [f"{name}={value}" for name, value in _FLAGS.items() if name not in flags]
    if missing and _backend_started():
        warnings.warn(
            "JAX's backend was started before actrix was imported, so several seeds will run one after another; "
            "import actrix first.",
            RuntimeWarning,
            stacklevel=3,
        )
    elif missing:
        os.environ["XLA_FLAGS"] = " ".join([flags, *missing]).strip()

    import jax
    import platformdirs

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    cache = os.environ.get("ACTRIX_CACHE_DIR", platformdirs.user_cache_dir("actrix"))
    if cache and not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def one_thread() -> dict[str, str]:
    """Compiler options of a small program: XLA:CPU cuts the few rows that are written to a large replay memory into
    parallel loops as long as the memory, and waking the threads takes longer than the work (DQN on CartPole: a quarter
    of the time). Other backends have no such pass."""
    return {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"}


@functools.cache
def fewer_copies() -> dict[str, bool] | None:
    """Compiler options of a large program: XLA:CPU looks at where arrays live before it copies them, as on other
    backends, which leaves out a third of the copies (an update of TD3: 7% of its time). It also lets more operations
    be ready at once, and handing these to another thread takes a small program longer than doing them. None where XLA
    knows no such option."""
    import jax

    options = {"xla_cpu_copy_insertion_use_region_analysis": True}
    try:
        jax.jit(lambda x: x, compiler_options=options)(0.0)
    except jax.errors.JaxRuntimeError:
        return None
    return options
