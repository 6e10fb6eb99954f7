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

import jax

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
