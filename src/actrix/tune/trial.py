"""One trial: all its seeds trained side by side, and evaluated together at every checkpoint."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence

import jax
import numpy as np

from actrix.algorithms.settings import SettingError
from actrix.core.contract import Algorithm
from actrix.envs.base import HostEnv
from actrix.loops.evaluate import Policy, evaluate, evaluation_env
from actrix.loops.runner import SHARED, Runner
from actrix.loops.train import SeedRun, train
from actrix.runs.config import RunConfig
from actrix.runs.session import EVAL_EPISODES, make_runner
from actrix.runs.start import check_sizes, together
from actrix.tune.derive import values_of
from actrix.tune.plan import Plan

EPISODES = EVAL_EPISODES // 2
"""Of each seed at a checkpoint; the last one has `EVAL_EPISODES`."""
_PROGRAMS: list[Algorithm] = []
"""One algorithm for each program that this process has trained with."""
ROWS = ("train_freq", "n_steps")
"""The rows of a chunk: the first of these that an algorithm has (with a replay memory `n_steps` is the target's)."""
MANY = 8
"""Programs that are kept: each takes some 80 MB."""


class Trial:
    """The seeds of one configuration, in as few loops as can train them.

    Seeds of a compiled loop are one program (`runs.start.together`); where each would copy a replay memory, and in host
    loops, they take turns from checkpoint to checkpoint. Trials whose settings differ in numbers only
    (`core/numbers.py`) run the same compiled program. Raises ValueError for sizes that do not fit.
    """

    def __init__(self, config: RunConfig, evaluations: int = 1):
        self.config, self.algorithm, self.evaluations = config, config.build(), evaluations
        whole = together(config) or bool(config.dataset)
        groups = [config.seeds] if whole else [(seed,) for seed in config.seeds]
        self.groups: list[tuple[Runner, list[SeedRun]]] = []
        try:
            for seeds in groups:
                self.groups.append((self._runner(seeds), [SeedRun(seed) for seed in seeds]))
        except BaseException:
            self.close()
            raise

    def _runner(self, seeds: Sequence[int]) -> Runner:
        runner = make_runner(self.config, self.algorithm, seeds)
        try:
            if not self.config.dataset:
                check_sizes(self.config, self.algorithm, runner.spec, runner.num_envs)
                self._check_chunk(runner.rows * runner.num_envs)
        except BaseException:
            runner.close()
            raise
        # The learner has this trial's numbers; the program that follows reads them from it.
        runner.algorithm = shared_program(self.algorithm)  # type: ignore[misc]
        return runner

    def _check_chunk(self, chunk: int) -> None:
        """Raise ValueError for chunks that would take a trial past its checkpoints and far past its budget."""
        if _too_long(chunk, self.config, self.evaluations) and not self.algorithm.whole_episodes:
            between = self.config.n_timesteps // self.evaluations
            raise ValueError(
                f"a chunk of {chunk} steps is more than half of the {between} between two evaluations"
            )

    def advance(self, steps: int) -> None:
        """Train every seed until it has taken so many steps of the budget. Raises NonFiniteError, EnvError."""
        for runner, runs in self.groups:
            behind = functools.partial(_behind, runs, steps)
            if behind():
                train(runner, runs, self.config.n_timesteps, on_update=behind)

    def returns(self, env: HostEnv, episodes: int) -> list[float]:
        """Each seed's mean return of its present policy over fresh episodes."""
        found = []
        for runner, runs in self.groups:
            for run, acting in zip(runs, runner.actings, strict=True):
                policy = Policy(runner.algorithm, acting)
                found.append(float(np.mean(evaluate(policy, env, episodes, seed=run.seed + 10**6)[0])))
        return found

    def run(self, report: Callable[[int, list[float]], bool]) -> list[float] | None:
        """Train, and evaluate at equal distances: the seeds' final returns, or None where `report` stopped it.

        `report(steps, returns of the seeds)` is told of each checkpoint but the last, and says whether to go on.
        """
        total, evaluations = self.config.n_timesteps, self.evaluations
        env = evaluation_env(self.config.env_id, EPISODES, self.config.env_kwargs or None)
        try:
            for k in range(1, evaluations):
                steps = total * k // evaluations
                self.advance(steps)
                if not report(steps, self.returns(env, EPISODES)):
                    return None
            self.advance(total)
            return self.returns(env, EVAL_EPISODES)
        finally:
            env.close()

    def close(self) -> None:
        """Give the environments back."""
        for runner, _ in self.groups:
            runner.close()


def check_smallest(plan: Plan) -> None:
    """Raise SettingError where not even the smallest chunk that is searched fits between two checkpoints."""
    sizes = {one.name: one.ends() for one in plan.space if one.name in ("n_envs", *ROWS)}
    try:
        config = plan.changed({name: min(ends) for name, ends in sizes.items()})
    except (TypeError, SettingError):  # of a choice that is no number: every trial is asked by itself
        return
    algorithm = config.build()
    rows = next((x for name in ROWS for x in values_of(name, algorithm)), None) or 0
    chunk = rows * config.n_envs
    if not (config.dataset or algorithm.whole_episodes) and _too_long(chunk, config, plan.evaluations):
        raise SettingError(
            f"no trial fits into {config.n_timesteps} steps: the smallest chunk that is searched has {chunk}, and two "
            f"should fit between two of {plan.evaluations} evaluations; give --steps {2 * chunk * plan.evaluations} or "
            "more, or fewer --evaluations."
        )


def _too_long(chunk: int, config: RunConfig, evaluations: int) -> bool:
    return evaluations > 1 and 2 * chunk > config.n_timesteps // evaluations


def _behind(runs: Sequence[SeedRun], steps: int) -> bool:
    return min(run.steps for run in runs) < steps


def shared_program(algorithm: Algorithm) -> Algorithm:
    """The algorithm of this process that compiles to the same program: the first of those that differ in numbers."""
    for known in _PROGRAMS:
        if known.same_program(algorithm):
            return known
    if len(_PROGRAMS) >= MANY:
        _forget()
    _PROGRAMS.append(algorithm)
    return algorithm


def _forget() -> None:
    """Give back what compiled programs take: hundreds of trials would fill the memory."""
    _PROGRAMS.clear()
    for programs in SHARED:
        programs.clear()
    jax.clear_caches()
    gc.collect()
