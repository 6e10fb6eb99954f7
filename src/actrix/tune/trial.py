"""One trial: all its seeds trained side by side, and evaluated together at every checkpoint."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence

import jax
import numpy as np

from actrix.core.contract import Algorithm
from actrix.envs.base import HostEnv
from actrix.loops.evaluate import Policy, evaluate, evaluation_env
from actrix.loops.runner import SHARED, Runner
from actrix.loops.train import SeedRun, train
from actrix.runs.config import RunConfig
from actrix.runs.session import EVAL_EPISODES, make_runner
from actrix.runs.start import check_sizes, together

EPISODES = EVAL_EPISODES // 2
"""Of each seed at a checkpoint; the last one has `EVAL_EPISODES`."""
_PROGRAMS: list[Algorithm] = []
"""One algorithm for each program that this process has trained with."""
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
        between = self.config.n_timesteps // self.evaluations
        if 2 * chunk > between and self.evaluations > 1 and not self.algorithm.whole_episodes:
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
