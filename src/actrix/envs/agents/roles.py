"""A game of several agents as one role sees it: its agents are the rows, the others act by policies or at random."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from actrix.envs.agents.game import Game, Moved, game_of
from actrix.envs.agents.table import Table
from actrix.envs.gymnasium import action_map
from actrix.envs.masks import sample_legal

ROLE_KWARGS = ("role", "roles", "others", "deterministic")
"""The arguments of `RoleGame` that may stand among those of an environment."""
PATIENCE = 10_000
"""Steps for which the others play on while a role has no agent: then it is taken for one that does not come back."""


def members(
    agents: Sequence[Any], roles: Mapping[str, Iterable[Any]] | Iterable[str]
) -> dict[str, list[Any]]:
    """Role → its agents, in the order of `agents`. A role's word is an agent's name or what stands before its last `_`:
    `knight` for `knight_0` and `knight_1`. Roles without words are such a word themselves.

    Raises ValueError, one sentence, for a word that names nobody, an agent in two roles or in none, and no role.
    """
    words = {role: [role] for role in roles} if not isinstance(roles, Mapping) else {**roles}
    if not words:
        raise ValueError(f"no role is named: the agents are {', '.join(map(str, agents))}.")
    found: dict[str, list[Any]] = {role: [] for role in words}
    for role, names in words.items():
        names = [names] if isinstance(names, str) else list(names)
        for name in names or [""]:
            mine = [agent for agent in agents if str(name) in (str(agent), str(agent).rpartition("_")[0])]
            if not mine or not name:
                what = f"role {role!r}" if name in (role, "") else f"{name!r} of role {role!r}"
                raise ValueError(f"{what} has no agent: the agents are {', '.join(map(str, agents))}.")
            found[role] += [agent for agent in mine if agent not in found[role]]
    for agent in agents:
        of = [role for role, mine in found.items() if agent in mine]
        if len(of) != 1:
            where = f"in two roles, {of[0]} and {of[1]}" if of else "in no role"
            raise ValueError(f"agent {agent!r} is {where}: each agent has one of {', '.join(found)}.")
    return {role: [agent for agent in agents if agent in mine] for role, mine in found.items()}


class View(Game):
    """Some agents of a game, which somebody else begins and moves."""

    def __init__(self, whole: Game, agents: Sequence[Any]):
        self.whole, self.env, self.agents = whole, whole.env, list(agents)
        self.in_turns = whole.in_turns
        self.here, self.infos = {}, {}

    def reset(self, seed: int | None = None) -> None:
        """Look at the game, which has begun."""
        self.look()

    def look(self) -> None:
        """Take what these agents observe now."""
        self.here = {agent: x for agent, x in self.whole.here.items() if agent in self.agents}
        self.infos = {agent: self.whole.infos[agent] for agent in self.here}

    def waits(self, agent: Any) -> bool:
        """Whether it is there, and not its turn."""
        return self.whole.waits(agent)

    def numbered(self, number: int) -> Game:
        """The same, as the game of this number."""
        self.whole.numbered(number)
        return self

    def complain(self, sentence: str, cause: BaseException | None = None) -> NoReturn:
        """Raise EnvError that names the game and the step."""
        self.whole.complain(sentence, cause)


class Other:
    """A role that does not learn here: its agents act by a policy, or, without one, uniformly at random."""

    def __init__(self, view: View, role: str, policy: Any, deterministic: bool):
        self.view, self.given, self.deterministic = view, policy, deterministic
        self.table = Table(view)
        self.table.find_masks()
        self.space = copy.deepcopy(self.table.action_space)
        self._to_env, self._memory = action_map(self.space), None
        self._held: Any = None
        self._policy: Any = None
        held = None if policy is None else policy.policy.spec
        for what in ("observation_space", "action_space") if held is not None else ():
            if getattr(held, what) != getattr(self.table, what):
                raise ValueError(
                    f"the policy of role {role!r} has the {what} {getattr(held, what)}, and the role has "
                    f"{getattr(self.table, what)}."
                )

    def begin(self, seed: int, anew: bool) -> None:
        """Take up a new game with the policy as it is now; its random numbers begin with `seed` where it is another
        one or `anew`."""
        self.view.look()
        self.table.begin()
        self._first = np.ones(len(self.view.agents), bool)
        if anew:
            self.space.seed(seed)
        if self.given is None:
            return
        if anew or self.given.policy is not self._held:
            self._held = self.given.policy
            self._policy = self._held.evaluated(seed)
        self._memory = self._policy.initial_memory(len(self._first))

    def act(self) -> dict[Any, Any]:
        """What those of its agents do that are there, in the environment's units."""
        view = self.view
        here = [(i, agent) for i, agent in enumerate(view.agents) if agent in view.here]
        if not here or (self._memory is None and all(view.waits(agent) for _, agent in here)):
            return {}
        masks = self.table.masks
        if self._policy is None:
            return {a: sample_legal(self.space, None if masks is None else masks[i]) for i, a in here}
        action, self._memory = self._policy(
            self.table.obs(), self._memory, self._first, masks, self.deterministic
        )
        moves = self._to_env(action)
        return {agent: moves[i] for i, agent in here}

    def note(self, moved: dict[Any, Moved]) -> None:
        """Look at the game after a step; who is not in it any more begins anew if it comes back."""
        self.view.look()
        self.table.look()
        stays = lambda agent: agent in moved and not (moved[agent].terminated or moved[agent].truncated)
        self._first = np.array([not stays(agent) for agent in self.view.agents])


class RoleGame(View):
    """A PettingZoo environment, parallel or AEC, as the game of one role: what `AgentEnvs`, and a model's `env`, take.

    `roles` maps each role to its agents, by name or by what stands before the last `_` (a list of such words does
    for roles of their own names); `role` is the one that learns. The agents of a role share a policy, and so have the
    same spaces; other roles' may differ. `others` maps roles to what plays them: a `Model`, or its `policy`, whose
    parameters of this moment serve at the beginning of each game; a role without one acts uniformly at random. Actions
    are sampled, or with `deterministic` the most likely. Their random numbers follow from the seed of `reset`.

    While no agent of the role is there the others play on, until one comes back or the game is over; that is no step.

    Raises ValueError for roles that do not fit (`members`) or a policy of other spaces, EnvError.
    """

    def __init__(
        self, env: Any, role: str, roles: Mapping[str, Iterable[Any]] | Iterable[str],
        others: Mapping[str, Any] | None = None, deterministic: bool = False,
    ):  # fmt: skip
        whole = game_of(env)
        self.roles = members(whole.agents, roles)
        unknown = [name for name in (role, *(others or {})) if name not in self.roles]
        if unknown or role in (others or {}):
            name = unknown[0] if unknown else role
            why = f"is none of {', '.join(self.roles)}" if unknown else "learns here: `others` are the others"
            raise ValueError(f"role {name!r} {why}.")
        super().__init__(whole, self.roles[role])
        self.role, self.possible_agents = role, self.agents
        whole.reset()  # masks are found in what agents are told
        self.others = [
            Other(View(whole, mine), name, (others or {}).get(name), deterministic)
            for name, mine in self.roles.items()
            if name != role
        ]
        self._rng = np.random.default_rng()

    def observation_space(self, agent: Any) -> gym.Space:
        """The environment's, of this agent."""
        return self.env.observation_space(agent)

    def action_space(self, agent: Any) -> gym.Space:
        """Likewise."""
        return self.env.action_space(agent)

    def reset(self, seed: int | None = None) -> None:
        """Begin anew; the others' random numbers follow from `seed`, too."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.whole.reset(seed)
        for other in self.others:
            other.begin(int(self._rng.integers(2**31)), seed is not None)
        self.look()
        self._play_on()

    def step(self, actions: dict[Any, Any]) -> dict[Any, Moved]:
        """One step of all; what it brought the role's agents."""
        moved = self._move(actions)
        self._play_on()
        return {agent: m for agent, m in moved.items() if agent in self.agents}

    def _move(self, actions: dict[Any, Any]) -> dict[Any, Moved]:
        for other in self.others:
            actions = actions | other.act()
        moved = self.whole.step(actions)
        self.look()
        for other in self.others:
            other.note(moved)
        return moved

    def _play_on(self) -> None:
        for _ in range(PATIENCE):
            if self.here or not self.whole.here:
                break
            self._move({})


def take_role(env_kwargs: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """An environment's arguments without those that say which role of the game is played, and these; None where
    `role` and `roles` are not both among them."""
    kwargs = dict(env_kwargs or {})
    if not {"role", "roles"} <= kwargs.keys():
        return kwargs, None
    return kwargs, {name: kwargs.pop(name) for name in ROLE_KWARGS if name in kwargs}
