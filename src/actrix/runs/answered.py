"""Answers while training goes on: a few to see, and how many the verifier finds right; no random stream is touched."""

from __future__ import annotations

from collections.abc import Sequence

from actrix.envs.tokens.env import TokenEnv
from actrix.loops.answers import answers
from actrix.loops.evaluate import Policy
from actrix.loops.runner import Runner
from actrix.loops.train import SeedRun
from actrix.show.display import Display

LOOKS = 10
"""How often in a run."""
ASKED, SHOWN = 64, 4
"""Prompts asked each time, and those of them that are shown."""


class LiveAnswers:
    """After each tenth of the budget: the most likely answers to fresh prompts, `eval/pass@1` by the verifier.

    That is the true one also where training's reward is another (a reward model, a penalty). Prompts are those of the
    run's seed, the same each time.
    """

    def __init__(
        self, env: TokenEnv, runner: Runner, runs: Sequence[SeedRun], total_steps: int, display: Display
    ):
        self.env, self.runner, self.runs, self.display = env, runner, runs, display
        self.total = total_steps
        self.every = max(1, total_steps // LOOKS)
        self.next = (runs[0].steps // self.every + 1) * self.every

    def __call__(self) -> bool:
        """Ask where it is time to; training goes on."""
        if self.runs[0].steps < self.next or self.runs[0].steps >= self.total:
            return True
        self.next = (self.runs[0].steps // self.every + 1) * self.every
        for run, acting in zip(self.runs, self.runner.actings, strict=True):
            found = answers(Policy(self.runner.algorithm, acting), self.env, ASKED, run.seed)
            if run.logger is not None:
                run.logger.record("eval/pass@1", sum(a.right for a in found) / len(found))
            if run is self.runs[0]:
                self.display.answers(found[:SHOWN])
        return True
