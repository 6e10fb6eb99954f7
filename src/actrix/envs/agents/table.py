"""A game's rows: arrays with a place for each agent that may appear, written only where one is."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array

from actrix.core.spaces import check_action_space, check_observation_space, mask_length
from actrix.envs.agents.game import MASK, Game, game_of, shared_space, split, without_mask
from actrix.envs.base import Step
from actrix.envs.guard import as_scalar, conform
from actrix.envs.gymnasium import own
from actrix.envs.masks import told
from actrix.envs.rows import write_row


class Table:
    """The k rows of one game, in the order of `possible_agents`.

    The row of an agent that is not there is no sample: it keeps what stood there, with every action legal.
    Raises EnvError where agents' spaces differ, where masks cannot be told, and for what the game does wrongly;
    UnsupportedSpaceError.
    """

    def __init__(self, env: Any, number: int = 0):
        self.game: Game = game_of(env, number)
        self.agents = self.game.agents
        raw = shared_space(self.game, "observation_space")
        self.observation_space, self.action_space = (
            without_mask(raw),
            shared_space(self.game, "action_space"),
        )
        check_observation_space(self.observation_space)
        check_action_space(self.action_space)
        continuous = isinstance(self.action_space, spaces.Box)
        if continuous and self.game.in_turns:
            self.game.complain(
                "agents that take turns need discrete actions, of which one is legal while they wait: give its "
                "parallel environment, or set metadata['is_parallelizable'] = True if all move before anything happens."
            )
        self._in_obs = raw is not self.observation_space
        self._continuous, self._size = continuous, 0 if continuous else mask_length(self.action_space)
        self.mask_size: int | None = None
        self._obs: Any = create_empty_array(self.observation_space, len(self.agents))
        self.masks: np.ndarray | None = None
        self.totals: dict[Any, float] = {}
        """What each agent has earned in this game."""
        self.length = 0

    def find_masks(self) -> bool:
        """Whether there are masks; resets the game."""
        self.game.reset()
        found = (told(info, self._size) for info in self.game.infos.values())
        masked = any(mask is not None for mask in found)
        if not self._continuous and (self._in_obs or masked or self.game.in_turns):
            self.mask_size = self._size
        return self.mask_size is not None

    def reset(self, seed: int | None = None) -> None:
        """Begin anew."""
        self.game.reset(seed)
        if not self.game.here:
            self.game.complain("no agent is there after reset.")
        self.begin()

    def begin(self) -> None:
        """Take up a game that has just begun."""
        game = self.game
        if not self.totals:  # nothing stands in any row yet: what one of them observes is of their space
            for anyone in list(game.here)[:1]:
                for i in range(len(self.agents)):
                    self._write(i, anyone, game.here[anyone], game.infos[anyone])
        self.totals, self.length = dict.fromkeys(self.agents, 0.0), 0
        self.masks = None if self.mask_size is None else np.ones((len(self.agents), self.mask_size), bool)
        self.look()

    def obs(self) -> Any:
        """What the rows hold, [k, ...], of the caller's own."""
        return own(self._obs)

    @property
    def over(self) -> bool:
        """No agent is left."""
        return not self.game.here

    def move(self, actions: Any) -> tuple[Step, list[dict[str, Any]]]:
        """One step of the agents that are there, actions [k, ...] in the environment's units; their infos.

        `obs` and `mask` of the step are of the same game, also where it is over.
        """
        k, game = len(self.agents), self.game
        infos: list[dict[str, Any]] = [{} for _ in range(k)]
        reward = np.zeros(k, np.float32)
        terminated, truncated, valid = np.zeros(k, bool), np.zeros(k, bool), np.zeros(k, bool)
        ended = []
        moved = game.step({agent: actions[i] for i, agent in enumerate(self.agents) if agent in game.here})
        for i, agent in enumerate(self.agents):
            if (m := moved.get(agent)) is None:
                continue
            reward[i], terminated[i], truncated[i], valid[i] = self._number(agent, m.reward), *m[2:4], True
            truncated[i] &= ~terminated[i]
            self.totals[agent] += float(m.reward)
            infos[i] = dict(m.info or {})
            if m.obs is not None:
                self._write(i, agent, m.obs, m.info, last=bool(terminated[i] or truncated[i]))
            elif not terminated[i]:
                game.complain(f"agent {agent!r} was cut off, but its last observation is not there.")
            if terminated[i] or truncated[i]:
                ended.append(i)
        self.length += 1
        next_obs, next_mask = self.obs(), self._legal(ended)
        self.look()
        mask = None if self.masks is None else self.masks.copy()
        return Step(self.obs(), next_obs, reward, terminated, truncated, valid, mask, next_mask), infos

    def _legal(self, ended: list[int]) -> np.ndarray | None:
        """The masks after a step; all is legal where an agent ended and nothing was said."""
        if self.masks is None:
            return None
        mask = self.masks.copy()
        mask[[i for i in ended if not mask[i].any()]] = True
        return mask

    def look(self) -> None:
        """Write what the agents that are there observe, and what they may do."""
        game = self.game
        for i, agent in enumerate(self.agents):
            if agent in game.here:
                self._write(i, agent, game.here[agent], game.infos[agent])
                if self.masks is not None and not self.masks[i].any():
                    game.complain(f"the action mask of agent {agent!r} allows no action.")
            elif self.masks is not None:
                self.masks[i] = True

    def _write(self, i: int, agent: Any, obs: Any, info: dict[str, Any], last: bool = False) -> None:
        """Put what an agent observes into row i; of its `last` observation no mask is asked."""
        game = self.game
        obs, mask = split(obs, info, self._size or None)
        field = f"the observation of agent {agent!r}"
        write_row(self._obs, i, conform(self.observation_space, obs, game.complain, field))
        if self.masks is None:
            return
        if game.waits(agent):
            self.masks[i] = _one_legal(self.action_space, self._size)
        elif mask is not None:
            mask = np.asarray(mask)
            if mask.shape != (self._size,):
                game.complain(
                    f"the action mask of agent {agent!r} has shape {mask.shape}; it must be ({self._size},)."
                )
            self.masks[i] = mask.astype(bool)
        elif last or game.in_turns:
            self.masks[i] = True
        else:
            game.complain(f"agent {agent!r} has no {MASK}, which others had.")

    def _number(self, agent: Any, reward: Any) -> float:
        array = as_scalar(reward)
        if array is None or array.dtype.kind not in "biuf":
            self.game.complain(f"the reward of agent {agent!r} is {str(reward)[:60]}; it must be a number.")
        return float(array)


def _one_legal(space: gym.Space, size: int) -> np.ndarray:
    """The mask that leaves the first action of each part."""
    mask = np.zeros(size, bool)
    if isinstance(space, spaces.MultiDiscrete):
        mask[np.cumsum([0, *space.nvec.ravel()[:-1]])] = True
    elif isinstance(space, spaces.MultiBinary):
        mask[::2] = True
    else:
        mask[0] = True
    return mask
