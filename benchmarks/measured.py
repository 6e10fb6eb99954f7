"""Run a script with arguments, then print one more line of JSON: how long JAX compiled, and which actrix ran.

    python benchmarks/measured.py CHECKOUT/benchmarks/ours.py ppo '{"env_id": "CartPole-v1"}'

So that a checkout is measured which knows nothing of this.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from pathlib import Path

from jax import monitoring

spans: list[tuple[float, float]] = []


def listen(event: str, seconds: float, **_: object) -> None:
    if event.startswith("/jax/core/compile/"):  # tracing, lowering, XLA
        now = time.perf_counter()
        spans.append((now - seconds, now))


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union: a function traced inside another one's trace counts once."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


if __name__ == "__main__":
    monitoring.register_event_duration_secs_listener(listen)
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
    print(json.dumps({"compile_seconds": covered(spans), "package": sys.modules["actrix"].__file__}))
