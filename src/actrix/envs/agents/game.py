"""One environment of several agents, parallel or in turns, behind one interface: who is there, who may act, what came.

Only PettingZoo's API is relied on, not its package: an environment need not inherit from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import gymnasium as gym
from gymnasium import spaces

from actrix.envs.guard import EnvError, words
from actrix.envs.masks import told

MASK = "action_mask"


def is_game(env: Any) -> bool:
    """Whether `env`, an object or a class, has PettingZoo's API: spaces are asked for by an agent's name."""
    return not isinstance(env, gym.Env | type(None)) and all(
        callable(getattr(env, name, None)) for name in ("observation_space", "action_space", "reset", "step")
    )


class Moved(NamedTuple):
    """What one step brought an agent."""

    obs: Any
    """What it observes after the step, before any reset; None where an agent that left was told nothing."""
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class Game:
    """The agents of one environment. Raises EnvError, one sentence, for what it raises or returns wrongly.

    `here` is what each agent that is there observes, `infos` what it was told; both change with `reset` and `step`.
    """

    in_turns = False
    """Whether a step is the turn of one agent."""

    def __init__(self, env: Any, number: int = 0):
        self.env, self.number, self.steps = env, number, 0
        agents = getattr(env, "possible_agents", None)
        if not agents:
            self.complain(
                "it has no possible_agents: every agent that may appear is a row, and must be named before."
            )
        self.agents: list[Any] = list(agents)
        self.here: dict[Any, Any] = {}
        self.infos: dict[Any, dict[str, Any]] = {}

    def reset(self, seed: int | None = None) -> None:
        """Begin anew."""
        raise NotImplementedError

    def step(self, actions: dict[Any, Any]) -> dict[Any, Moved]:
        """Let the agents of `here` act (of those whose turn it is not, the action is not used)."""
        raise NotImplementedError

    def waits(self, agent: Any) -> bool:
        """Whether it is there, and not its turn."""
        return False

    def numbered(self, number: int) -> Game:
        """The same, as the game of this number."""
        self.number = number
        return self

    def complain(self, sentence: str, cause: BaseException | None = None) -> NoReturn:
        """Raise EnvError that names the game and the step."""
        raise EnvError(f"game {self.number} at step {self.steps}: {sentence}") from cause

    def call(self, what: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A method of the environment; EnvError where it raises."""
        try:
            return what(*args, **kwargs)
        except Exception as error:
            name = getattr(what, "__name__", "it")
            self.complain(f"{name} raised {type(error).__name__}: {words(error)}", error)

    def known(self, agents: Any) -> None:
        """EnvError where an agent appears that has no row."""
        for agent in agents:
            if agent not in self.agents:
                self.complain(f"agent {agent!r} appeared, which possible_agents {self.agents} does not name.")


class Parallel(Game):
    """All agents act at once (PettingZoo's `ParallelEnv`)."""

    def reset(self, seed: int | None = None) -> None:
        """Begin anew."""
        result = self.call(self.env.reset, seed=seed)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], dict)):
            self.complain("reset did not return (observations, infos), two dicts by agent.")
        self._take(*result)

    def step(self, actions: dict[Any, Any]) -> dict[Any, Moved]:
        """One step of all."""
        self.steps += 1
        result = self.call(self.env.step, actions)
        if not (isinstance(result, tuple) and len(result) == 5 and all(isinstance(x, dict) for x in result)):
            self.complain(
                "step did not return (observations, rewards, terminations, truncations, infos), dicts by agent."
            )
        obs, rewards, terminations, truncations, infos = result
        moved = {}
        for agent in actions:
            truncated = bool(truncations.get(agent, False))
            # One that is gone without a word has left: nothing of the future is its own.
            left = not truncated and agent not in self.env.agents
            moved[agent] = Moved(
                obs.get(agent), rewards.get(agent, 0.0), bool(terminations.get(agent, False)) or left,
                truncated, infos.get(agent, {}),
            )  # fmt: skip
        self._take(obs, infos)
        return moved

    def _take(self, obs: dict[Any, Any], infos: dict[Any, Any]) -> None:
        self.known(self.env.agents)
        for agent in self.env.agents:
            if agent not in obs:
                self.complain(f"agent {agent!r} is there, but has no observation.")
        self.here = {agent: obs[agent] for agent in self.env.agents}
        self.infos = {agent: (infos or {}).get(agent, {}) for agent in self.here}


class Turns(Game):
    """One agent acts after the other (PettingZoo's `AECEnv`): a step is one turn.

    Agents whose turn it is not observe and are rewarded at every turn, too: to them it is a step with one legal action.
    So what one does is followed by what it brings, however many turns later.
    """

    in_turns = True

    def reset(self, seed: int | None = None) -> None:
        """Begin anew."""
        self.call(self.env.reset, seed=seed)
        self._take()

    def step(self, actions: dict[Any, Any]) -> dict[Any, Moved]:
        """The turn of one agent."""
        self.steps += 1
        before, env = list(self.here), self.env
        self.call(env.step, actions[env.agent_selection])
        moved = {agent: self._moved(agent) for agent in before}
        self._take()
        return {  # those who stay, as they are when the next turn begins
            agent: m if m.terminated or m.truncated else m._replace(obs=self.here[agent])
            for agent, m in moved.items()
        }

    def waits(self, agent: Any) -> bool:
        """Whether it is there, and not its turn."""
        return agent in self.here and agent != self.env.agent_selection

    def _moved(self, agent: Any) -> Moved:
        env = self.env
        if agent not in env.agents:
            return Moved(None, env.rewards.get(agent, 0.0), True, False, {})
        flags = bool(env.terminations[agent]), bool(env.truncations[agent])
        return Moved(
            self.call(env.observe, agent), env.rewards.get(agent, 0.0), *flags, env.infos.get(agent, {})
        )

    def _take(self) -> None:
        env = self.env
        # PettingZoo asks an agent that has ended for one more step, of None.
        while env.agents and self._ended(env.agent_selection):
            self.call(env.step, None)
        self.known(env.agents)
        there = [agent for agent in env.agents if not self._ended(agent)]
        self.here = {agent: self.call(env.observe, agent) for agent in there}
        self.infos = {agent: env.infos.get(agent, {}) for agent in there}

    def _ended(self, agent: Any) -> bool:
        return bool(self.env.terminations.get(agent, False) or self.env.truncations.get(agent, False))


def game_of(env: Any, number: int = 0) -> Game:
    """The game that `env` is; one in turns whose agents all move before anything happens is taken as parallel."""
    if isinstance(env, Game):
        return env.numbered(number)
    if not callable(getattr(env, "last", None)):
        return Parallel(env, number)
    if (getattr(env, "metadata", None) or {}).get("is_parallelizable"):
        from pettingzoo.utils.conversions import aec_to_parallel

        return Parallel(aec_to_parallel(env), number)
    return Turns(env, number)


def shared_space(game: Game, name: str) -> gym.Space:
    """The space (`observation_space`, `action_space`) that all agents have; EnvError where they differ."""
    of = {agent: game.call(getattr(game.env, name), agent) for agent in game.agents}
    first = game.agents[0]
    for agent, space in of.items():
        if space != of[first]:
            game.complain(
                f"agents share one policy, but the {name} of {agent!r} is {space} and that of {first!r} {of[first]}: "
                "give all the same, e.g. by padding it, or those that differ roles of their own (RoleGame, --roles)."
            )
    return of[first]


def without_mask(space: gym.Space) -> gym.Space:
    """What is observed besides the action mask, where a Dict space holds both."""
    if not isinstance(space, spaces.Dict) or MASK not in space.spaces:
        return space
    rest = {key: part for key, part in space.spaces.items() if key != MASK}
    return rest["observation"] if rest.keys() == {"observation"} else spaces.Dict(rest)


def split(obs: Any, info: dict[str, Any], size: int | None) -> tuple[Any, Any]:
    """(what is observed, the mask or None): the mask stands in the observation, or in the info."""
    if not isinstance(obs, dict) or MASK not in obs:
        return obs, told(info or {}, size)
    rest = {key: part for key, part in obs.items() if key != MASK}
    return (rest["observation"] if rest.keys() == {"observation"} else rest), obs[MASK]
