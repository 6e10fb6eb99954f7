"""A prompt, then an answer token by token, then a verifier's reward: an ordinary environment of discrete actions."""

from __future__ import annotations

import abc
import dataclasses
import functools
import os
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces

from actrix.core.fields import switch, whole
from actrix.core.types import Prompts, Spec
from actrix.envs.tokens.preferences import load_reward
from actrix.envs.tokens.texts import END, Characters, Texts


class Instance(NamedTuple):
    """A question."""

    prompt: jax.Array
    """Its tokens `[prompt_room]`."""
    length: jax.Array
    """How many of them there are."""
    solution: jax.Array
    """A right answer, with its end, `[answer_room]`."""


class TokenState(NamedTuple):
    """The question, what has been answered `[answer_room]`, and the place of the token that is observed."""

    instance: Instance
    answer: jax.Array
    t: jax.Array


@dataclasses.dataclass(frozen=True)
class TokenEnv(abc.ABC):
    """What every task is like (a `JaxEnv`): the observation is the newest token, the action the next one.

    While the prompt lasts, one action is legal, its next token. Then every token is; the answer ends with `texts.end`
    or where its room is used up, and its reward is 1 where it is right, else 0.
    """

    group: int = dataclasses.field(default=8, kw_only=True)
    """G: environments i with the same i // G answer the same prompt."""
    held_out: bool = dataclasses.field(default=False, kw_only=True)
    """Longer questions than those of training, for evaluation."""
    overlong: int = dataclasses.field(default=0, kw_only=True)
    """Tokens before the end of the room in which an answer costs the more the longer it is (`lateness`); 0 = off."""

    reward_model: str = dataclasses.field(default="", kw_only=True)
    """A file of `RewardModel.save`, whose reward an answer gets in place of the verifier's; "" = the verifier's."""

    symbols: ClassVar[tuple[str, ...]]
    """How each token is written; the first is the end of an answer."""
    beyond: ClassVar[str] = "longer than in training"
    """What held-out questions are."""

    @property
    def answered(self) -> bool:
        """Whether it has a right answer to each question."""
        return True

    def __post_init__(self) -> None:
        whole(self, "group")
        switch(self, "held_out")
        whole(self, "overlong", least=0)
        object.__setattr__(self, "reward_model", os.fspath(self.reward_model))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """How each token is written."""
        return self.symbols

    @functools.cached_property
    def texts(self) -> Texts:
        """How texts are tokens."""
        return Characters(self.vocabulary)

    @property
    @abc.abstractmethod
    def prompt_room(self) -> int:
        """Tokens of the longest prompt."""

    @property
    @abc.abstractmethod
    def answer_room(self) -> int:
        """Tokens of the longest answer, its end among them."""

    @abc.abstractmethod
    def draw(self, key: jax.Array) -> Instance:
        """A random question."""

    def right(self, instance: Instance, answer: jax.Array) -> jax.Array:
        """Whether an answer `[answer_room]`, `texts.end` behind its end, is right: the solution's tokens."""
        return jnp.all(answer == instance.solution)

    def score(self, instance: Instance, answer: jax.Array, done: jax.Array) -> jax.Array:
        """The verifier's reward where the answer is done: 1 if it is right; else 0."""
        return jnp.where(done & self.right(instance, answer), 1.0, 0.0)

    def lateness(self, length: jax.Array, ended: jax.Array) -> jax.Array:
        """0 up to L − c tokens, (L − c − length)/c up to L, −1 of an answer that was cut; L the room, c = `overlong`.

        Soft overlong punishment: Yu et al., "DAPO" (2025), eq. 13, with the end counted as a token. It is added to the
        verifier's reward.
        """
        c = max(self.overlong, 1)
        return jnp.where(ended, jnp.clip((self.answer_room - c - length) / c, -1.0, 0.0), -1.0)

    @functools.cached_property
    def spec(self) -> Spec:
        space, steps = spaces.Discrete(len(self.vocabulary)), self.prompt_room - 1 + self.answer_room
        if self.overlong >= self.answer_room:
            raise ValueError(
                f"overlong={self.overlong} must be less than {self.answer_room}, the tokens of the longest answer."
            )
        if self.reward_model:
            load_reward(self.reward_model, self)
        verified = not (self.overlong or self.reward_model)
        prompts = Prompts(self.group, self.answer_room, verified, self.answered)
        return Spec(space, space, steps, len(self.vocabulary), prompts=prompts)

    def verifier(self) -> TokenEnv:
        """The same questions, with the verifier's reward alone."""
        return dataclasses.replace(self, overlong=0, reward_model="")

    def reset(self, key: jax.Array) -> tuple[TokenState, jax.Array]:
        """Return (state, obs) of a new question."""
        instance = self.draw(key)
        nothing = jnp.full(self.answer_room, self.texts.end, jnp.int32)
        return TokenState(instance, nothing, jnp.zeros((), jnp.int32)), instance.prompt[0]

    def step(self, key: jax.Array, state: TokenState, action: jax.Array) -> tuple[Any, ...]:
        """Return (state, obs, reward, terminated, truncated)."""
        instance, t = state.instance, state.t + 1
        asked = t < instance.length
        token = jnp.where(asked, instance.prompt[t], action.astype(jnp.int32))
        place = t - instance.length
        answer = state.answer.at[jnp.where(asked, self.answer_room, place)].set(token, mode="drop")
        done = ~asked & ((token == self.texts.end) | (place == self.answer_room - 1))
        if self.reward_model:
            judged = load_reward(self.reward_model, self)(instance.prompt, answer)
            reward = jnp.where(done, judged, 0.0)
        else:
            reward = self.score(instance, answer, done)
        if self.overlong:
            reward += jnp.where(done, self.lateness(place + 1, token == self.texts.end), 0.0)
        return TokenState(instance, answer, t), token, reward, done, jnp.zeros((), bool)

    def mask(self, state: TokenState) -> jax.Array:
        """All tokens, or the prompt's next one."""
        t, tokens = state.t + 1, jnp.arange(len(self.vocabulary))
        return (t >= state.instance.length) | (tokens == state.instance.prompt[t])

    def shown(self, state: TokenState) -> jax.Array:
        """The next token of the prompt, or of a right answer."""
        t, instance = state.t + 1, state.instance
        place = jnp.maximum(t - instance.length, 0)
        return jnp.where(t < instance.length, instance.prompt[t], instance.solution[place])

    def question(self, prompt: Any) -> str:
        """The text of a prompt's tokens."""
        return self.write(prompt)

    def write(self, tokens: Any) -> str:
        """Tokens as text, up to the first end."""
        return self.texts.write(tokens)


def padded(tokens: jax.Array, length: jax.Array) -> jax.Array:
    """The first `length` tokens, zeros behind them."""
    return jnp.where(jnp.arange(tokens.shape[0]) < length, tokens, END)
