"""Share of a run's time that is spent saving: `python benchmarks/checkpoints.py`, on a quiet machine.

PPO on LunarLander-v3 with the zoo's settings saves every second instead of every minute, so that there are enough saves
to measure; a save a minute then takes the mean of them in 60 seconds. `--record` appends that share, in percent, to
speed.jsonl.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
from speed import RESULTS, _row

from actrix.loops import train
from actrix.runs import start
from actrix.runs.config import resolve

COMMAND = "python benchmarks/checkpoints.py --record"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--algorithm", default="ppo")
    parser.add_argument("--env", default="LunarLander-v3")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    record.read(RESULTS, "name")  # a broken record is found before the work
    spent: list[float] = []
    inner = train.save_checkpoints

    def timed(*given: Any) -> None:
        begun = time.perf_counter()
        inner(*given)
        spent.append(time.perf_counter() - begun)

    train.save_checkpoints = timed
    try:
        config = resolve(args.algorithm, args.env, steps=args.steps, seeds=[0])
    except ValueError as error:
        record.refuse(str(error))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        start.start(config, Path(folder) / "run", quiet=True, checkpoint_seconds=1.0)
        seconds = time.perf_counter() - begun
        size = max(p.stat().st_size for p in (Path(folder) / "run" / "checkpoints").iterdir())
    mean = float(np.mean(spent))
    print(f"{config.title}: {len(spent)} saves of {size / 1e6:.2f} MB in {seconds:.0f} s")
    print(f"  a save   mean {1e3 * mean:.1f} ms, longest {1e3 * max(spent):.1f} ms")
    print(
        f"  share    {100 * mean / 60:.3f}% of the time with a save every minute (at most 3% are meant to be)"
    )
    print(f"           {100 * sum(spent) / seconds:.2f}% of this run, with a save every second")
    if len(spent) < 20:
        print(f"  {len(spent)} saves are few: give more --steps")
    if args.record:
        row = _row(f"checkpoints-{args.algorithm}-{args.env}-percent", [100 * mean / 60], 3.0, None, True)
        more = {"saves": len(spent), "save_seconds": mean, "file_bytes": size, "command": COMMAND}
        record.append(RESULTS, row | more)


if __name__ == "__main__":
    main()
