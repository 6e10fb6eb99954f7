"""Hindsight experience replay: most of a batch is learned from as if a goal had been pursued that was reached later."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jaxtyping import Array, Bool, Int

from actrix.core.fields import choose, switch, whole
from actrix.core.spaces import check_goals
from actrix.core.types import GOAL_KEYS, Chunk, Goals, NoInfo
from actrix.data.replay import Replay, jump
from actrix.data.ring import Draw, Memory

STRATEGIES = {
    "future": lambda now, first, last: (now + 1, last),
    "final": lambda now, first, last: (last, last),
    "episode": lambda now, first, last: (first, last),
}
"""From which states of its episode a row's goal is drawn: the numbers of the first and the last of them."""


@dataclasses.dataclass(frozen=True)
class Hindsight(Replay):
    """Replayed transitions, most of them with another goal: one that a state of the same episode achieved."""

    n_sampled_goal: int = 4
    """Relabelled transitions per real one in a batch."""
    goal_selection_strategy: str = "future"
    """Which states' goals: `future` ones (the successor's included), the `final` one, any of the `episode`."""
    copy_info_dict: bool = False
    """Stable-Baselines3's; infos are not remembered, so with True a `compute_reward` that reads them is refused."""

    name: ClassVar[str] = "hindsight"

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.goal_selection_strategy  # Stable-Baselines3 also has GoalSelectionStrategy.FUTURE
        object.__setattr__(self, "goal_selection_strategy", str(getattr(kind, "name", kind)).lower())
        choose(self, goal_selection_strategy=tuple(STRATEGIES))
        whole(self, "n_sampled_goal")
        switch(self, "copy_info_dict")

    @property
    def info(self) -> dict:
        """What takes the place of the infos."""
        return NoInfo() if self.copy_info_dict else {}

    def check(self, spec, num_envs, config):
        super().check(spec, num_envs, config)
        if self.prioritized or self.n_steps > 1:
            raise ValueError("data hindsight relabels transitions drawn uniformly: no per, and n_steps=1.")
        check_goals(spec, self.info)
        limit = spec.max_episode_steps or 0
        for name in ("buffer_size", "learning_starts"):
            if getattr(self, name) < limit * num_envs:
                raise ValueError(
                    f"{name}={getattr(self, name)} is less than one episode of {limit} steps in each of {num_envs} "
                    "environments, and data hindsight draws from finished episodes only."
                )

    def room(self, head, spec, num_envs, transitions):
        """An empty memory for so many transitions, with a number beside every state."""
        number = spaces.Box(0, np.iinfo(np.int32).max, (), np.int32)
        space = spaces.Dict(state=spec.observation_space, number=number)
        plain = super().room(head, dataclasses.replace(spec, observation_space=space), num_envs, transitions)
        return Episodes(plain.rows, plain.ring, spec.goals)

    def sample(self, memory, rows, key, gamma, progress):
        """(where in the ring, a batch of transitions), most of these with the goal that a later state achieved."""
        draw_key, goal_key = jax.random.split(key)
        draw = memory.ring.draw(rows, draw_key, self.batch_size, memory.finished)
        ends = memory.ring.ends(rows, draw, 1)
        obs, next_obs, now = ends.obs["state"], ends.next_obs["state"], ends.obs["number"]
        # Rows are drawn independently, so that it may be the first ones that get another goal.
        k = self.batch_size * self.n_sampled_goal // (self.n_sampled_goal + 1)
        low, high = STRATEGIES[self.goal_selection_strategy](now, *memory.span(draw, now))
        ahead = jax.random.randint(goal_key, now.shape, low, high + 1) - now
        place = memory.ring.wrapped(draw.index + ahead)
        goal = jax.tree.map(lambda x: x[place, draw.env], rows.obs["state"]["achieved_goal"])
        pursue = lambda old: jax.tree.map(lambda x, g: x.at[:k].set(g[:k].astype(x.dtype)), old, goal)
        obs, next_obs = (x | {"desired_goal": pursue(x["desired_goal"])} for x in (obs, next_obs))
        reached, wanted = (jax.tree.map(lambda x: x[:k], next_obs[name]) for name in GOAL_KEYS[1:])
        reward, terminated = memory.goals.compute_reward(reached, wanted, self.info), ends.terminated
        reward = ends.reward.at[0, :k].set(reward.astype(jnp.float32))
        if memory.goals.compute_terminated is not None:
            terminated = terminated.at[0, :k].set(memory.goals.compute_terminated(reached, wanted, self.info))
        ends = dataclasses.replace(ends, obs=obs, next_obs=next_obs, reward=reward, terminated=terminated)
        return draw, jump(ends, draw.ok.astype(jnp.float32), gamma)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Episodes(Memory):
    """A ring of states that are numbered in their episodes: s_0, s_1, … lie one behind the other."""

    goals: Goals | None = dataclasses.field(metadata=dict(static=True))

    @property
    def newest(self) -> Int[Array, " N"]:
        """The number of each environment's newest state, where its episode is still open."""
        return self.rows.obs["number"][self.rows.head, jnp.arange(len(self.rows.head))]

    def append(self, chunk: Chunk) -> Episodes:
        """The memory with a chunk added, its states numbered."""
        steps, never = jnp.arange(len(chunk.reward))[:, None], jnp.zeros(chunk.reward.shape, bool)
        first = never if chunk.first is None else jnp.asarray(chunk.first)
        ends = chunk.terminated | chunk.truncated | (never if chunk.valid is None else ~chunk.valid)
        starts = first | jnp.concatenate([~self.rows.open[None], ends[:-1]])
        start = jax.lax.cummax(jnp.where(starts, steps, -1), axis=0)
        number = jnp.where(start < 0, self.newest + steps, steps - start).astype(jnp.int32)
        numbered = lambda state, number: {"state": state, "number": number}
        obs, next_obs = numbered(chunk.obs, number), numbered(chunk.next_obs, number + 1)
        chunk = dataclasses.replace(chunk, obs=obs, next_obs=next_obs)
        return super().append(chunk)  # type: ignore[return-value]

    def finished(self, index: Int[Array, "*B"], env: Int[Array, "*B"]) -> Bool[Array, "*B"]:
        """Whether these rows' episodes have ended: an open one has as many rows as its newest state's number."""
        return ~self.rows.open[env] | (self.ring.age(self.rows, index, env) > self.newest[env])

    def span(self, draw: Draw, now: Int[Array, " B"]) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        """Numbers of the first state after s_0, and of the last, of drawn rows' episodes that are still there."""
        age, number = self.ring.age(self.rows, draw.index, draw.env), self.rows.obs["number"]

        def halve(_: int, between: tuple[Array, Array]) -> tuple[Array, Array]:
            # s_{now + low} is of the episode, s_{now + high} is not: numbers go on until its end.
            low, high = between
            middle = (low + high) // 2
            same = number[self.ring.wrapped(draw.index + middle), draw.env] == now + middle
            return jnp.where(same, middle, low), jnp.where(same, high, middle)

        low, _ = jax.lax.fori_loop(0, self.ring.capacity.bit_length(), halve, (jnp.ones_like(age), age))
        return jnp.maximum(1, now + age + 1 - self.ring.capacity), now + low
