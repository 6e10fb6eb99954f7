"""A game of several agents, played at random: who is there, how agents and games end."""

from __future__ import annotations

import time

import numpy as np

from actrix.core.spaces import from_env_action
from actrix.doctor import play
from actrix.doctor.finding import Finding, blame, fine, note
from actrix.doctor.play import legal_action
from actrix.envs.agents.envs import AgentEnvs


def played(envs: AgentEnvs, seed: int) -> list[Finding]:
    """Findings of random legal play, as long as that of one agent; what it raises is one."""
    findings: list[Finding] = []
    with blame(findings, "data"):
        begun, rows, steps, space = time.perf_counter(), envs.num_envs, 0, envs.spec.action_space
        space.seed(seed)
        seen, ends = np.zeros(rows, bool), np.zeros(2, int)
        _, mask = envs.reset([seed] * rows)
        while (
            steps < play.STEPS
            and len(envs.games) < play.EPISODES
            and time.perf_counter() - begun < play.SECONDS
        ):
            actions = [space.sample() if mask is None else legal_action(space, mask[i].astype(np.int8))
                       for i in range(rows)]  # fmt: skip
            step = envs.step(from_env_action(space, np.stack(actions)))
            mask, steps, seen = step.mask, steps + 1, seen | step.valid
            ends += step.terminated.sum(), step.truncated.sum()
        masks = "no action masks" if mask is None else "with action masks"
        findings.append(fine("data", f"{steps} random steps of {rows} agents, {masks}"))
        if not ends.sum():
            findings.append(
                note("ends", f"no agent's episode ended in {steps} steps", "give it a time limit")
            )
        else:
            text = (
                f"agents' episodes: {ends[0]} terminated, {ends[1]} truncated; {len(envs.games)} games over"
            )
            findings.append(fine("ends", text))
        if not seen.all():
            never = [agent for agent, s in zip(envs.agents, seen, strict=True) if not s]
            findings.append(
                note("agents", f"never there: {never}", "leave out of possible_agents who cannot come")
            )
    return findings
