"""ψ of episodes that are compared with others of a group, ψ = 1 of actions that are shown, and the table of every ψ."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from actrix.actors.psi import (
    ActionValue,
    Advantage,
    LessMovingAverage,
    LessOptimal,
    Psi,
    RewardToGo,
    TDError,
    WholeReturn,
)
from actrix.core.fields import finite, switch, whole
from actrix.core.rows import Rows
from actrix.critics import groups
from actrix.critics.value import monte_carlo

ALIKE = "looks for groups whose rewards are all the same, and a KL in them leaves none"
"""What `spoiled` says of those that compare groups by whether they vary."""


@dataclasses.dataclass(frozen=True)
class Group(WholeReturn):
    """R(τ) − the mean return of its group: the episodes of `group_size` neighbouring environments (Dr.GRPO)."""

    group_size: int | None = None
    """G; None = the environment's groups, or where it has none all episodes of a chunk."""
    dynamic: bool = False
    """Groups whose returns are all the same do not count in averages (DAPO's dynamic sampling)."""
    keep: int | None = None
    """With `dynamic`, the groups of a batch: the first so many that vary of all drawn; None = all that vary."""

    name: ClassVar[str] = "group"
    says: ClassVar[str] = "R(τ) − the mean of its group (Dr.GRPO)"
    centred: ClassVar[bool] = True

    def __post_init__(self) -> None:
        switch(self, "dynamic")
        if self.group_size is not None:
            whole(self, "group_size", least=2)
        if self.keep is not None:
            whole(self, "keep")
            if not self.dynamic:
                raise ValueError(f"keep={self.keep} is of groups that vary: say dynamic=true, too.")

    def check(self, spec, num_envs, recurrent):
        size = self.group_size or (num_envs if spec.prompts is None else spec.prompts.group)
        if size < 2:
            raise ValueError(
                f"psi '{self.name}' compares the answers of a group, and one alone has none to compare with: take more "
                "than one (env_kwargs group, n_envs)."
            )
        if num_envs % size:
            raise ValueError(
                f"psi '{self.name}': n_envs={num_envs} is not a multiple of the group size {size}."
            )
        if spec.prompts is not None and spec.prompts.group % size:
            raise ValueError(
                f"psi '{self.name}': group_size={size} does not divide {spec.prompts.group}, the number of answers to "
                "a prompt (env_kwargs group)."
            )
        if self.keep is not None and self.keep > num_envs // size:
            raise ValueError(
                f"psi '{self.name}': keep={self.keep} groups of {num_envs // size} that are drawn (n_envs={num_envs} / "
                f"{size}): more are drawn with more n_envs."
            )

    def spoiled(self):
        return ALIKE if self.dynamic else ""

    def returns(self, rows: Rows) -> jax.Array:
        """R(τ) `[P, G]`."""
        whole = monte_carlo(rows, jnp.zeros_like(rows.reward))[0]
        given = whole.size if rows.prompts is None else rows.prompts.group
        return whole.reshape(-1, self.group_size or given)

    def compared(self, returns: jax.Array) -> jax.Array:
        """The advantage of each, `[P, G]`."""
        return groups.group_mean(returns)

    def weight(self, critic, view, rows, est, kept):
        advantage = self.compared(self.returns(rows)).reshape(-1)
        return rows.samples(jnp.broadcast_to(advantage, rows.reward.shape))

    def varied(self, rows):
        if not self.dynamic:
            return None
        returns = self.returns(rows)
        varies, _ = groups.until_full(returns, self.keep)
        return jnp.broadcast_to(varies[:, None], returns.shape).reshape(-1)

    def told(self, rows):
        if not self.dynamic:
            return {}
        kept, drawn = groups.until_full(self.returns(rows), self.keep)
        return {
            "rollout/groups_kept": jnp.sum(kept).astype(rows.reward.dtype),
            "rollout/groups_drawn": drawn.astype(rows.reward.dtype),
        }


@dataclasses.dataclass(frozen=True)
class GroupStd(Group):
    """(R(τ) − mean)/deviation of its group, the sample's; 0 where all are the same (GRPO)."""

    name: ClassVar[str] = "group-std"
    says: ClassVar[str] = "(R(τ) − mean)/deviation of its group (GRPO)"

    def compared(self, returns):
        return groups.group_standardised(returns)


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(Group):
    """R(τ) − the mean return of the others of its group (RLOO)."""

    name: ClassVar[str] = "leave-one-out"
    says: ClassVar[str] = "R(τ) − the mean of the others of its group (RLOO)"

    def compared(self, returns):
        return groups.leave_one_out(returns)


@dataclasses.dataclass(frozen=True)
class GPG(Group):
    """α·(R(τ) − the mean of its group), α = groups / groups that are not all alike (GPG)."""

    name: ClassVar[str] = "gpg"
    says: ClassVar[str] = "α·(R(τ) − the mean of its group), α = groups / groups not all alike (GPG)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dynamic:
            raise ValueError(
                "gpg's α makes of a mean over all groups one over those that vary, and dynamic=true would do so again: "
                "take gpg, or group,dynamic=true."
            )

    def spoiled(self):
        return ALIKE

    def compared(self, returns):
        return groups.gpg(returns)


@dataclasses.dataclass(frozen=True)
class Right(WholeReturn):
    """1 where R(τ) > `threshold`, and averages count those episodes alone: the likelihood of right answers.

    Expert iteration, one step to a batch: sample, keep what is right, clone it. Anthony, Tian & Barber, "Thinking Fast
    and Slow with Deep Learning and Tree Search" (2017); as here Dong et al., "RAFT" (2023), with its n best replaced by
    all that are right. It follows ∇E[r]/E[r] in expectation where prompts are alike, so that its steps do not shrink
    where right answers are rare.
    """

    threshold: float = 0.5
    """A larger return is a right answer's."""

    name: ClassVar[str] = "right"
    says: ClassVar[str] = "1 of right answers, which alone count (expert iteration)"

    def __post_init__(self) -> None:
        finite(self, "threshold")

    def weight(self, critic, view, rows, est, kept):
        whole = super().weight(critic, view, rows, est, kept)
        return rows.samples((whole > self.threshold).astype(rows.reward.dtype))

    def varied(self, rows):
        return monte_carlo(rows, jnp.zeros_like(rows.reward))[0] > self.threshold

    def spoiled(self):
        return "asks whether a return is beyond its threshold, and a KL in it would say no of right answers"


@dataclasses.dataclass(frozen=True)
class One(WholeReturn):
    """1: actions that are shown are right ones, and the score so weighted is the gradient of their likelihood."""

    name: ClassVar[str] = "one"
    says: ClassVar[str] = "1, of actions that are shown"
    shown: ClassVar[bool] = True

    def weight(self, critic, view, rows, est, kept):
        return rows.samples(jnp.ones_like(rows.reward))


PSI: tuple[type[Psi], ...] = (
    WholeReturn, RewardToGo, LessMovingAverage, LessOptimal, Group, GroupStd, LeaveOneOut, GPG, Advantage, ActionValue,
    TDError, Right, One,
)  # fmt: skip
