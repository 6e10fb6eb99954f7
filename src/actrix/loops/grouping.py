"""Who collects and who learns: how many, in which groups, how far behind; and what of it makes no sense."""

from __future__ import annotations

import dataclasses
from typing import Any

from actrix.core.contract import Algorithm
from actrix.envs.workers.process import STEP_TIMEOUT, check_timeout
from actrix.loops.host import check_behind
from actrix.loops.learners import check_learners

ANY = "any"
"""`behind` where the learner waits for nobody."""


@dataclasses.dataclass(frozen=True)
class Grouping:
    """Who collects: environments in groups, by so many actors, with a policy so many updates behind."""

    actors: int = 0
    """Processes on Ray; 0 = the learner's own collects."""
    envs_per_group: int | None = None
    """None: with actors an equal share for each of them, else no groups."""
    behind: int | str | None = None
    """None: 1 with actors, else 0; `ANY`: the learner takes what is there."""
    address: str | None = None
    """Of a Ray cluster; None starts Ray on this machine."""
    learners: int = 1
    """Devices that learn, each from a share of every batch."""
    learner_processes: int = 1
    """Processes on Ray that hold them; 1 = the learner's own."""
    step_timeout: float = STEP_TIMEOUT

    def __post_init__(self) -> None:
        if not _whole(self.actors, 0):
            raise ValueError(f"actors={self.actors!r} must be a whole number of at least 0.")
        if self.envs_per_group is not None and not _whole(self.envs_per_group, 1):
            raise ValueError(f"envs_per_group={self.envs_per_group!r} must be a whole number of at least 1.")
        for name in ("learners", "learner_processes"):
            if not _whole(getattr(self, name), 1):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number of at least 1.")
        check_timeout(self.step_timeout)
        if self.learners % self.learner_processes:
            raise ValueError(
                f"learners={self.learners} cannot be shared equally by learner_processes={self.learner_processes}."
            )
        if self.behind not in (None, ANY) and not (_whole(self.behind, 0) and self.behind <= 1):  # type: ignore[operator]
            raise ValueError(
                f"behind={self.behind!r} must be 0, 1 or any: how many updates the policy that collects is behind."
            )
        if self.free and not self.actors:
            raise ValueError(
                "behind='any' takes what actors have ready, whichever they are: give actors=N too."
            )
        if self.address is not None and not self.actors and self.learner_processes == 1:
            raise ValueError(
                f"address={self.address!r} is of a Ray cluster, which actors need: give actors=N too."
            )

    def __bool__(self) -> bool:
        """Whether there are groups."""
        return bool(self.actors or self.envs_per_group)

    @property
    def on_host(self) -> bool:
        """Whether chunks come from outside the learner's program, which collects by itself in the compiled loop."""
        return bool(self or self.lag or self.learner_processes > 1)

    @property
    def ordinary(self) -> bool:
        """Whether one process collects from all environments at once and learns on one device."""
        return not self.on_host and self.learners == 1

    @property
    def free(self) -> bool:
        """Whether the learner takes whichever chunks are there."""
        return self.behind == ANY

    @property
    def lag(self) -> int:
        """How many updates behind, where that is fixed."""
        if self.free:
            return 0
        return int(self.actors > 0) if self.behind is None else int(self.behind)

    def check_data_set(self) -> None:
        """Raise ValueError where there is more of anything than a data set has a use for."""
        if not self.ordinary:
            raise ValueError("actors, groups and learners are of environments: a data set has none.")

    def check_shares(self, n_envs: int) -> None:
        """Raise ValueError where so many environments cannot be shared by the learners."""
        if n_envs % self.learners:
            raise ValueError(
                f"{n_envs} environments cannot be shared equally by learners={self.learners}: take n_envs="
                f"{(n_envs // self.learners + 1) * self.learners}."
            )

    def groups(self, n_envs: int) -> int:
        """How many groups so many environments are; ValueError where they cannot be shared so."""
        size, actors = self.envs_per_group, self.actors
        if size is None:
            if actors > n_envs:
                raise ValueError(
                    f"actors={actors} are more than the {n_envs} environments: take n_envs={actors}."
                )
            if n_envs % actors:
                raise ValueError(
                    f"{n_envs} environments cannot be shared equally by actors={actors}: take n_envs="
                    f"{n_envs // actors * actors} or {(n_envs // actors + 1) * actors}, or give envs_per_group."
                )
            return actors
        if n_envs % size:
            fitting = [d for d in range(1, n_envs + 1) if n_envs % d == 0]
            raise ValueError(
                f"envs_per_group={size} does not divide the {n_envs} environments: take one of "
                f"{', '.join(map(str, fitting))}."
            )
        if self.free and n_envs // size % actors:
            raise ValueError(
                f"behind='any' needs actors alike: {n_envs // size} groups cannot be shared equally by actors={actors}."
            )
        if actors > n_envs // size:
            raise ValueError(
                f"actors={actors} are more than the {n_envs // size} groups of envs_per_group={size} in {n_envs} "
                "environments: take fewer actors, or smaller groups."
            )
        return n_envs // size


def limited(grouping: Grouping, step_timeout: float | None) -> Grouping:
    """The same, whose actors have so many seconds for a step (None: the usual); ValueError where there are none."""
    if step_timeout is None:
        return grouping
    if not grouping.actors:
        raise ValueError(
            f"step_timeout={step_timeout!r} is of actors: give actors=N too, or for environments in processes "
            f"env=make_vec_env(id, n_envs, workers=True, step_timeout={step_timeout!r})."
        )
    return dataclasses.replace(grouping, step_timeout=step_timeout)


def _whole(x: Any, least: int) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= least


def check_grouping(
    algorithm: Algorithm, grouping: Grouping, backend: str, workers: bool | int = False
) -> None:
    """Raise ValueError where this algorithm cannot collect so, before anything is started."""
    if backend == "jax" and (grouping or grouping.lag):
        raise ValueError(
            "backend='jax' trains in the compiled loop, which collects by itself: actors, envs_per_group and behind "
            "are for backend='gymnasium' or 'envpool'."
        )
    if grouping and algorithm.steps_singly and not algorithm.replays_transitions:
        raise ValueError(
            "actors and groups collect for one learner, and this algorithm learns online, from each step before the "
            "next: take one that learns from chunks (ppo, a2c, v-trace, …) or from a replay memory (dqn, sac, …)."
        )
    if grouping and algorithm.warms_up_whole != algorithm.whole_episodes:
        raise ValueError(
            "train_freq=(1, 'episode') is of environments that one process steps together: count steps, or leave "
            "actors, envs_per_group and behind out."
        )
    check_behind(algorithm, grouping.lag)
    if grouping.free and (reason := algorithm.refuses_any_order()) is not None:
        raise ValueError(f"behind='any' learns from what older policies did, as it comes, and {reason}.")
    check_learners(
        algorithm, grouping.learners // grouping.learner_processes, grouping.learner_processes, backend,
        bool(grouping),
    )  # fmt: skip
    if grouping and workers:
        raise ValueError("workers are processes of one learner: take either workers or actors and groups.")
