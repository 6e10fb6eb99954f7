"""`Monitor`: returns, lengths and times of an environment's episodes, in Stable-Baselines3's CSV files."""

from __future__ import annotations

import csv
import json
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym

from actrix.envs.base import episode_info

ENDING = "monitor.csv"


class LoadMonitorResultsError(FileNotFoundError):
    """A folder without files of `Monitor`."""


class Monitor(gym.Wrapper):
    """Adds `info["episode"] = {"r", "l", "t"}` where an episode ends, and writes it to `FILENAME.monitor.csv`.

    Training counts returns without it. `info_keywords` of the last info are added; `reset_keywords` of reset's options
    (or of its keywords) are. Where `override_existing` is false a file that exists goes on. Raises RuntimeError for a
    step after the end and, where `allow_early_resets` is false, an early reset; ValueError where reset was not given a
    `reset_keyword`; KeyError for an `info_keyword` that is not there.
    """

    def __init__(
        self, env: gym.Env, filename: str | os.PathLike | None = None, allow_early_resets: bool = True,
        reset_keywords: tuple[str, ...] = (), info_keywords: tuple[str, ...] = (), override_existing: bool = True,
    ):  # fmt: skip
        super().__init__(env)
        self.allow_early_resets, self.reset_keywords = allow_early_resets, reset_keywords
        self.info_keywords, self.t_start = info_keywords, time.time()
        self.rewards: list[float] = []
        self.needs_reset, self.total_steps = True, 0
        self.current_reset_info: dict[str, Any] = {}
        self._episodes: list[tuple[float, int, float]] = []
        self._file: Rows | None = None
        self.folder: tuple[str | os.PathLike, int] | None = None
        """Where the file goes, and the number of environment 0, for one that learns its number later."""
        if filename is not None:
            self._open(filename, override_existing)

    def _open(self, filename: str | os.PathLike, override: bool) -> None:
        columns = ["r", "l", "t", *self.reset_keywords, *self.info_keywords]
        spec = getattr(self.env, "spec", None)
        self._file = Rows(filename, columns, self.t_start, spec and spec.id, override)
        self.t_start = self._file.start

    def numbered(self, index: int) -> None:
        """Go on with the file of environment `index` in `folder`: told to each, in whichever process it is built."""
        if self.folder is not None:
            folder, start = self.folder
            self._open(os.path.join(folder, str(start + index)), override=False)

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """That of the environment, of which nothing is changed."""
        return self.env.spec

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """As the environment's."""
        if not (self.allow_early_resets or self.needs_reset):
            raise RuntimeError("Tried to reset an environment before done, and allow_early_resets is False.")
        given = {"seed": seed, "options": options} | (options or {})
        for name in self.reset_keywords:
            if given.get(name) is None:
                raise ValueError(
                    f"Expected you to pass keyword argument {name} into reset, or options={{{name!r}: …}}."
                )
        self.current_reset_info = {name: given[name] for name in self.reset_keywords}
        self.rewards, self.needs_reset = [], False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any):
        """As the environment's, with the episode in `info` where it ends."""
        if self.needs_reset:
            raise RuntimeError("Tried to step environment that needs reset: its episode has ended.")
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.rewards.append(float(reward))
        self.total_steps += 1
        if terminated or truncated:
            self.needs_reset = True
            info = dict(info or {}) | {"episode": self._ended(info or {})}
        return obs, reward, terminated, truncated, info

    def _ended(self, info: dict[str, Any]) -> dict[str, Any]:
        episode = episode_info(sum(self.rewards), len(self.rewards), self.t_start)
        self._episodes.append((episode["r"], episode["l"], episode["t"]))
        kept = {name: info[name] for name in self.info_keywords} | self.current_reset_info
        if self._file is not None:
            self._file.write(episode | kept)
        return episode | kept

    def close(self) -> None:
        """Close the environment and the file."""
        super().close()
        if self._file is not None:
            self._file.close()

    def get_total_steps(self) -> int:
        """Steps taken so far."""
        return self.total_steps

    def get_episode_rewards(self) -> list[float]:
        """Returns of the finished episodes."""
        return [r for r, _, _ in self._episodes]

    def get_episode_lengths(self) -> list[int]:
        """Their lengths."""
        return [n for _, n, _ in self._episodes]

    def get_episode_times(self) -> list[float]:
        """Seconds from the start to their ends."""
        return [t for _, _, t in self._episodes]

    def get_state(self) -> dict[str, Any]:
        """The open episode, so that a resumed run counts it whole."""
        return {
            "rewards": list(self.rewards),
            "needs_reset": self.needs_reset,
            "total_steps": self.total_steps,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.rewards, self.needs_reset = list(state["rewards"]), state["needs_reset"]
        self.total_steps = state["total_steps"]


class Rows:
    """A CSV file whose first line is a comment in JSON, as SB3's readers and plotters know it."""

    def __init__(
        self, filename: str | os.PathLike, columns: list[str], start: float, env_id: str | None,
        override: bool = True,
    ):  # fmt: skip
        name = os.fspath(filename)
        if not name.endswith(ENDING):
            name = os.path.join(name, ENDING) if os.path.isdir(name) else f"{name}.{ENDING}"
        self.path = Path(name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = override or not self.path.exists()
        self.start = start if fresh else _start_of(self.path)
        self.file = open(self.path, "w" if fresh else "a", newline="")  # noqa: SIM115 - it stays open
        weakref.finalize(self, self.file.close)
        self.writer = csv.DictWriter(self.file, columns)
        if fresh:
            self.file.write("#" + json.dumps({"t_start": start, "env_id": env_id}) + "\n")
            self.writer.writeheader()
        self.file.flush()

    def write(self, row: dict[str, Any]) -> None:
        """Add an episode."""
        self.writer.writerow(row)
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def get_monitor_files(path: str | os.PathLike) -> list[str]:
    """The files of `Monitor` in a folder."""
    return sorted(str(p) for p in Path(path).glob("*" + ENDING))


def load_results(path: str | os.PathLike) -> Any:
    """All episodes of a folder's `Monitor` files, in the order of time, as a pandas DataFrame.

    Raises LoadMonitorResultsError without such files, ValueError for a file that `Monitor` did not write, ImportError
    without pandas.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("load_results returns a DataFrame: pip install pandas.") from error
    files = get_monitor_files(path)
    if not files:
        raise LoadMonitorResultsError(f"{path} has no file that ends in {ENDING}.")
    frames, starts = zip(*_frames(files, pandas), strict=True)
    for frame, start in zip(frames, starts, strict=True):
        frame["t"] += start - min(starts)
    # One without episodes would decide the columns' types.
    table = pandas.concat([frame for frame in frames if len(frame)] or frames)
    return table.sort_values("t").reset_index()


def _start_of(path: Path | str) -> float:
    """The time that a file of `Monitor` counts from."""
    with open(path, encoding="utf-8") as file:
        first = file.readline()
    if not first.startswith("#"):
        raise ValueError(f"{path} does not begin with the comment that Monitor writes.")
    return json.loads(first[1:])["t_start"]


def _frames(files: list[str], pandas: Any) -> Iterator[tuple[Any, float]]:
    for name in files:
        yield pandas.read_csv(name, skiprows=1, index_col=None), _start_of(name)
