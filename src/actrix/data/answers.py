"""Question 3 — does the behaviour match the target? — as a value: how transitions are kept and drawn again."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from actrix.core.fields import share, switch, whole
from actrix.core.schedules import Schedule, as_schedule, bounds


@dataclasses.dataclass(frozen=True)
class OnPolicy:
    """The policy that is learned acts; each chunk is used for one round of updates and dropped."""

    name: ClassVar[str] = "on-policy"


@dataclasses.dataclass(frozen=True)
class Lagged:
    """The policy of `lag` updates ago acts, as in a system of many actors and one learner (IMPALA's)."""

    lag: int = 8

    name: ClassVar[str] = "lag"

    def __post_init__(self) -> None:
        whole(self, "lag", least=0)


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """Each fresh chunk is learned from, then `replay_ratio` times short trajectories drawn from a ring (ACER)."""

    replay_ratio: int = 4
    """Updates from the memory per fresh chunk (ACER draws their number from a Poisson law of this mean)."""
    buffer_size: int = 50_000
    """Transitions kept, over all environments."""
    learning_starts: int = 1000
    """Environment steps before the first update from the memory."""

    name: ClassVar[str] = "replay"

    def __post_init__(self) -> None:
        whole(self, "buffer_size")
        whole(self, "replay_ratio", "learning_starts", least=0)


ON_POLICY_LIKE: dict[str, type] = {cls.name: cls for cls in (OnPolicy, Lagged, Trajectories)}
"""What `--data` offers to compositions of a critic and a stochastic actor."""


def parse_data(text: str) -> OnPolicy | Lagged | Trajectories:
    """'on-policy', 'lag:8', 'replay:4:50000' → the answer; ValueError lists the names."""
    name, *numbers = text.split(":")
    if name not in ON_POLICY_LIKE:
        raise ValueError(f"data {text!r}: unknown; choose one of {', '.join(ON_POLICY_LIKE)}.")
    cls = ON_POLICY_LIKE[name]
    fields = [f.name for f in dataclasses.fields(cls)]
    try:
        if len(numbers) > len(fields):
            raise ValueError
        return cls(**{f: int(float(n)) for f, n in zip(fields, numbers, strict=False)})
    except ValueError as error:
        form = ":".join([name, *fields])
        raise ValueError(f"data {text!r}: cannot read it; the form is {form}. {error}".strip()) from None


def format_data(data: Any) -> str:
    """The inverse of `parse_data`."""
    return ":".join([data.name, *(str(getattr(data, f.name)) for f in dataclasses.fields(data))])


@dataclasses.dataclass(frozen=True)
class ReplayBuffer:
    """Transitions in a ring, drawn at random: off-policy data, by Stable-Baselines3's names."""

    buffer_size: int = 1_000_000
    """Transitions kept, over all environments."""
    learning_starts: int = 100
    """Environment steps with uniformly random actions before the first update."""
    batch_size: int = 256
    train_freq: int = 1
    """Steps of each environment between updates."""
    gradient_steps: int = 1
    """Updates after `train_freq` steps; −1 = as many as transitions were added."""
    n_steps: int = 1
    """n of the n-step target. Replayed n-step targets with n > 1 are not corrected for the older behaviour."""
    prioritized: bool = False
    """Draw in proportion to the last error^`priority_alpha` (Schaul et al. 2016)."""
    priority_alpha: float = 0.6
    priority_beta: Schedule = 0.4
    """Exponent of the importance weights (N·P)^−β; 'lin_0.4_1.0' lets it grow to 1."""

    def __post_init__(self) -> None:
        if isinstance(self.train_freq, tuple | list):  # Stable-Baselines3 has (4, "step")
            if len(self.train_freq) != 2 or self.train_freq[1] != "step":
                raise ValueError(f"train_freq={self.train_freq}: only steps are offered, e.g. train_freq=4.")
            object.__setattr__(self, "train_freq", self.train_freq[0])
        whole(self, "buffer_size", "batch_size", "train_freq", "n_steps")
        whole(self, "learning_starts", least=0)
        whole(self, "gradient_steps", least=-1)
        switch(self, "prioritized")
        if self.gradient_steps == 0:
            raise ValueError("gradient_steps=0 would learn nothing; write −1 for one per step.")
        if self.batch_size > self.buffer_size:
            raise ValueError(
                f"batch_size={self.batch_size} is larger than buffer_size={self.buffer_size}: "
                "a batch could never be filled from the buffer."
            )
        share(self, "priority_alpha")
        if self.prioritized and not self.priority_alpha > 0:
            raise ValueError("priority_alpha=0 draws uniformly: leave out prioritized=True, or give another.")
        object.__setattr__(self, "priority_beta", as_schedule(self.priority_beta, "priority_beta"))
        low, high = bounds(self.priority_beta)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"priority_beta={self.priority_beta} must lie in [0, 1].")

    def updates(self, rows: int, num_envs: int) -> int:
        """Gradient steps after a chunk of `rows` steps of `num_envs` environments."""
        return rows * num_envs if self.gradient_steps < 0 else self.gradient_steps


@dataclasses.dataclass(frozen=True)
class Online:
    """Every transition is learned from once, when it has come, in the order in which they came."""

    train_freq: int = 1
    """Steps of each environment that the acting policy stays fixed for: 1 is the textbook's loop, more is faster."""

    name: ClassVar[str] = "online"

    def __post_init__(self) -> None:
        whole(self, "train_freq")
