"""Games side by side as a `HostEnv` whose rows are agents, and one game as an environment to play and draw."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector.utils import batch_space

from actrix.core.types import Spec
from actrix.envs.agents.table import Table
from actrix.envs.base import Step, episode_info
from actrix.envs.gymnasium import action_map


@dataclasses.dataclass(frozen=True)
class Played:
    """A game that is over."""

    returns: dict[Any, float]
    """What each agent earned, undiscounted."""
    length: int
    """Steps (turns, where agents act one after the other)."""

    @property
    def team(self) -> float:
        """The sum over agents."""
        return sum(self.returns.values())


class AgentEnvs:
    """PettingZoo environments, parallel or AEC, as `len(envs) · k` rows, k = number of `possible_agents`.

    Row g·k + i is agent i of game g; all share one policy. An agent's episode ends when it leaves: terminated, unless
    the environment says truncated. A row without an agent is no sample (`valid` false), and may be taken up again. A
    game without agents is reset right after the step.

    In turn-based (AEC) environments a step is one turn; an agent that waits has one legal action, which is not used.
    Masks stand in `observation["action_mask"]` (which the policy then does not see) or in `info["action_mask"]`.

    `infos()` has at an agent's end `episode` = {"r": its return, "l": its length, "t": seconds since these environments
    were made}, and at a game's end, in each of its rows, `game` = {"r": the team's return, "l": steps, "agents":
    {agent: return}}; `games` keeps the last hundred.
    Steps are counted in rows that are samples.

    Raises EnvError, UnsupportedSpaceError, ValueError (no environment, or one object twice).
    """

    backend = "pettingzoo"

    def __init__(self, envs: Sequence[Any], seeds: Sequence[int] | None = None):
        """`seeds` serve the first reset, one per game."""
        if not envs or len({id(env) for env in envs}) < len(envs):
            raise ValueError(
                "AgentEnvs takes at least one environment, each an object of its own: [make() for _ in range(n)]."
            )
        self.tables = [Table(env, g) for g, env in enumerate(envs)]
        one = self.tables[0]
        for table in self.tables:
            table.find_masks()
            if table.agents != one.agents or table.observation_space != one.observation_space:
                table.game.complain(f"its agents {table.agents} or their spaces are not those of game 0.")
        self.agents, self.num_envs = one.agents, len(envs) * len(one.agents)
        limit = None if one.game.in_turns else _cycles(one.game.env)
        self.spec = Spec(one.observation_space, one.action_space, limit, one.mask_size)
        self.copies, self._to_env = len(envs), action_map(one.action_space)
        self._seeds = None if seeds is None else [seed for seed in seeds for _ in one.agents]
        self.games: deque[Played] = deque(maxlen=100)
        self._infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._return, self._length = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        self._began = time.time()

    def infos(self) -> list[dict[str, Any]]:
        """What each agent was told by the last step."""
        return [dict(info) for info in self._infos]

    def reset(self, seeds: Sequence[int] | None = None) -> tuple[Any, np.ndarray | None]:
        """Begin every game anew, each from the seed of its first row; return (obs [N, ...], mask [N, n] or None)."""
        seeds, self._seeds = (self._seeds if seeds is None else seeds), None
        k = len(self.agents)
        for g, table in enumerate(self.tables):
            table.reset(None if seeds is None else int(seeds[g * k]))
        self._return[:], self._length[:] = 0, 0
        return _joined([table.obs() for table in self.tables]), self._mask()

    def step(self, action: np.ndarray) -> Step:
        """Apply actions [N, ...] in policy coordinates."""
        actions, k = self._to_env(action), len(self.agents)
        steps, self._infos = [], []
        for g, table in enumerate(self.tables):
            step, infos = table.move(actions[g * k : (g + 1) * k])
            self._note(slice(g * k, (g + 1) * k), step, infos)
            if table.over:
                self._over(table, infos)
                table.reset()
                step = step._replace(
                    obs=table.obs(), mask=None if table.masks is None else table.masks.copy()
                )
            steps.append(step)
            self._infos += infos
        return Step(*map(_joined, zip(*steps, strict=True)))

    @property
    def unsupported(self) -> str:
        """Why the games' state cannot be saved: open episodes are dropped when a run is resumed."""
        return (
            f"the state of {type(self.tables[0].game.env).__name__}, a game of several agents, is not known"
        )

    def close(self) -> None:
        for table in self.tables:
            table.game.env.close()

    def _mask(self) -> np.ndarray | None:
        masks = [table.masks for table in self.tables]
        return _joined([None if mask is None else mask.copy() for mask in masks])

    def _note(self, rows: slice, step: Step, infos: list[dict[str, Any]]) -> None:
        """Add up what agents earn, and say it where one's episode ends."""
        self._return[rows] += np.where(step.valid, step.reward, 0)
        self._length[rows] += step.valid
        for i in np.flatnonzero(step.terminated | step.truncated):
            n = rows.start + i
            infos[i]["episode"] = episode_info(self._return[n], self._length[n], self._began)
            self._return[n], self._length[n] = 0, 0

    def _over(self, table: Table, infos: list[dict[str, Any]]) -> None:
        game = Played(table.totals, table.length)
        self.games.append(game)
        for info in infos:
            info["game"] = {"r": game.team, "l": game.length, "agents": dict(game.returns)}


class TeamEnv(gym.Env):
    """One game as a `gym.Env` to play and draw: observations `[k, ...]` and actions `[k, ...]` of all its agents.

    The reward is the team's. `mask` is what is legal, `[k, n]` or None. It ends when no agent is left.
    """

    def __init__(self, env: Any):
        self.table = Table(env)
        self.table.find_masks()
        self.game, self.k = self.table.game, len(self.table.agents)
        self.observation_space = batch_space(self.table.observation_space, self.k)
        self.action_space = batch_space(self.table.action_space, self.k)
        self.render_mode = getattr(self.game.env, "render_mode", None)
        self.metadata = dict(getattr(self.game.env, "metadata", None) or {})

    @property
    def mask(self) -> np.ndarray | None:
        """Legal actions now."""
        return self.table.masks

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin anew."""
        self.table.reset(seed)
        return self.table.obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of all agents."""
        step, infos = self.table.move(action)
        told = dict(zip(self.table.agents, infos, strict=True))
        return step.obs, float(step.reward.sum()), self.table.over, False, told

    def render(self) -> Any:
        """The game's picture."""
        return self.game.env.render()

    def close(self) -> None:
        """Close the game."""
        self.game.env.close()


def _cycles(env: Any) -> int | None:
    """The time limit by PettingZoo's usual name."""
    limit = getattr(getattr(env, "unwrapped", env), "max_cycles", None)
    return int(limit) if isinstance(limit, int | np.integer) and limit > 0 else None


def _joined(parts: Sequence[Any]) -> Any:
    """Trees of arrays [k, ...] one after the other; None stays None."""
    return None if parts[0] is None else jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
