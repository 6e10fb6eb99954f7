"""Question 3 — does the behaviour match the target? — as a value: how transitions are kept and drawn again."""

from __future__ import annotations

import dataclasses

from actrix.core.schedules import Schedule, as_schedule, bounds


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
        for name, least in (("buffer_size", 1), ("learning_starts", 0), ("batch_size", 1), ("train_freq", 1),
                            ("n_steps", 1), ("gradient_steps", -1)):  # fmt: skip
            value = getattr(self, name)
            if name == "train_freq" and isinstance(value, tuple):
                if value[1] != "step":
                    raise ValueError(f"train_freq={value}: only steps are offered, e.g. train_freq=4.")
                value = value[0]
            if isinstance(value, bool | str) or int(value) != value or value < least:
                raise ValueError(f"{name}={value!r} must be a whole number of at least {least}.")
            object.__setattr__(self, name, int(value))
        if self.gradient_steps == 0:
            raise ValueError("gradient_steps=0 would learn nothing; write −1 for one per step.")
        if self.batch_size > self.buffer_size:
            raise ValueError(
                f"batch_size={self.batch_size} is larger than buffer_size={self.buffer_size}: "
                "a batch could never be filled from the buffer."
            )
        if not 0 <= self.priority_alpha <= 1:
            raise ValueError(f"priority_alpha={self.priority_alpha} must lie in [0, 1].")
        object.__setattr__(self, "priority_beta", as_schedule(self.priority_beta, "priority_beta"))
        low, high = bounds(self.priority_beta)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"priority_beta={self.priority_beta} must lie in [0, 1].")

    def updates(self, rows: int, num_envs: int) -> int:
        """Gradient steps after a chunk of `rows` steps of `num_envs` environments."""
        return rows * num_envs if self.gradient_steps < 0 else self.gradient_steps
