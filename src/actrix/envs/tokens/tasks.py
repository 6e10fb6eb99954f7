"""The compiled tasks: each draws questions with a right answer to each, and says which answers are right."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable

import jax
import jax.numpy as jnp

from actrix.core.fields import switch, whole
from actrix.envs.tokens.env import END, Instance, TokenEnv, padded
from actrix.envs.tokens.reasoning import reasoning_task

ASK = 1
"""The token that ends a prompt of letters."""
LETTERS = string.ascii_lowercase
DIGITS = tuple(str(d) for d in range(10))


@dataclasses.dataclass(frozen=True)
class Copy(TokenEnv):
    """Write the letters again. A prompt has 1 to `length` of them, held out are `length` + 1 and + 2."""

    length: int = 6
    letters: int = 8
    """Different ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "length")
        whole(self, "letters", least=2)
        if self.letters > len(LETTERS):
            raise ValueError(f"letters={self.letters}: there are {len(LETTERS)}.")

    @property
    def vocabulary(self):
        return (".", ":", *LETTERS[: self.letters])

    @property
    def longest(self) -> int:
        """Letters of the longest prompt."""
        return self.length + 2 if self.held_out else self.length

    @property
    def prompt_room(self):
        return self.longest + 1

    @property
    def answer_room(self):
        return self.longest + 1

    def draw(self, key):
        shortest = self.length + 1 if self.held_out else 1
        drawn = jax.random.randint(jax.random.fold_in(key, 0), (self.longest,), 2, len(self.vocabulary))
        n = jax.random.randint(jax.random.fold_in(key, 1), (), shortest, self.longest + 1)
        letters = padded(drawn, n)
        solution = self.solved(letters, n)
        room = lambda tokens: jnp.append(tokens, END).astype(jnp.int32)
        return Instance(room(letters).at[n].set(ASK), n + 1, room(solution))

    def solved(self, letters: jax.Array, n: jax.Array) -> jax.Array:
        """The answer to n letters `[longest]`, zeros behind them."""
        return letters


class Reverse(Copy):
    """Write the letters backwards."""

    def solved(self, letters, n):
        return padded(letters[(n - 1 - jnp.arange(self.longest)) % self.longest], n)


class Sort(Copy):
    """Write the letters in the order of the alphabet."""

    def solved(self, letters, n):
        behind = len(self.vocabulary)
        ordered = jnp.sort(jnp.where(letters == END, behind, letters))
        return padded(ordered, n)


@dataclasses.dataclass(frozen=True)
class Addition(TokenEnv):
    """The sum of two numbers of `digits` digits, with zeros in front: `07+15=022`; held out has one digit more."""

    digits: int = 2
    backwards: bool = False
    """The sum's units come first, as carries do."""

    symbols = (".", *DIGITS, "+", "=")

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "digits")
        switch(self, "backwards")
        if self.width > 8:
            raise ValueError(
                f"digits={self.digits}: sums are exact up to 8 digits, held-out ones among them."
            )

    @property
    def width(self) -> int:
        """Digits of each number."""
        return self.digits + 1 if self.held_out else self.digits

    @property
    def prompt_room(self):
        return 2 * self.width + 2

    @property
    def answer_room(self):
        return self.width + 2

    def draw(self, key):
        terms = jax.random.randint(key, (2, self.width), 0, 10)
        powers = 10 ** jnp.arange(self.width, -1, -1)
        total = jnp.sum(terms * powers[1:])
        answer = total // powers % 10
        answer = answer[::-1] if self.backwards else answer
        plus, equals = self.symbols.index("+"), self.symbols.index("=")
        parts = (terms[0] + 1, jnp.array([plus]), terms[1] + 1, jnp.array([equals]))
        prompt = jnp.concatenate(parts).astype(jnp.int32)
        solution = jnp.append(answer + 1, END).astype(jnp.int32)
        return Instance(prompt, jnp.asarray(self.prompt_room, jnp.int32), solution)


DRAWS = 16
"""Sequences of operators tried for a target that can be written; all plus if none gives one."""


@dataclasses.dataclass(frozen=True)
class Countdown(TokenEnv):
    """Write the target with every given number once: `3,5,2>13=` has the answer `5*2+3`; held out has a number more.

    Numbers are 1 to 9, targets 0 to 99 and operators + − *, * before the others. Questions are made from an answer, so
    that each has one; any other is as right.
    """

    numbers: int = 3

    symbols = (".", *DIGITS, "+", "-", "*", ",", ">", "=")

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "numbers", least=2)
        if self.terms > 8:
            raise ValueError(f"numbers={self.numbers}: there are at most 8, held-out ones among them.")

    @property
    def terms(self) -> int:
        """Numbers of a question."""
        return self.numbers + 1 if self.held_out else self.numbers

    @property
    def prompt_room(self):
        return 2 * self.terms + 3

    @property
    def answer_room(self):
        return 2 * self.terms

    def draw(self, key):
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        numbers = jax.random.randint(keys[0], (self.terms,), 1, 10)
        plus = self.symbols.index("+")
        operators = jax.random.randint(keys[1], (DRAWS, self.terms - 1), plus, plus + 3)
        operators = jnp.concatenate([operators, jnp.full((1, self.terms - 1), plus)])
        values = jax.vmap(lambda one: value(numbers, one - plus))(operators)
        chosen = jnp.argmax((values >= 0) & (values <= 99))
        target = values[chosen]
        solution = jnp.zeros(self.answer_room, jnp.int32)
        solution = solution.at[::2].set(numbers + 1).at[1:-1:2].set(operators[chosen])
        comma, then, equals = (self.symbols.index(x) for x in (",", ">", "="))
        shuffled = jax.random.permutation(keys[2], numbers)
        prompt = jnp.full(self.prompt_room, comma, jnp.int32).at[: 2 * self.terms : 2].set(shuffled + 1)
        after = jnp.stack([jnp.asarray(then), target // 10 + 1, target % 10 + 1, jnp.asarray(equals)])
        prompt = prompt.at[2 * self.terms - 1 :].set(after)
        return Instance(prompt, jnp.asarray(self.prompt_room, jnp.int32), solution)

    def right(self, instance, answer):
        """Numbers and operators in turn, the given numbers, the target's value, and END."""
        given = instance.prompt[: 2 * self.terms : 2]
        target = jnp.sum((instance.prompt[2 * self.terms : 2 * self.terms + 2] - 1) * jnp.array([10, 1]))
        plus = self.symbols.index("+")
        numbers, operators, end = answer[::2], answer[1:-1:2] - plus, answer[-1]
        formed = jnp.all((operators >= 0) & (operators <= 2)) & (end == END)
        same = jnp.all(jnp.sort(numbers) == jnp.sort(given))
        return formed & same & (value(numbers - 1, operators) == target)


def value(numbers: jax.Array, operators: jax.Array) -> jax.Array:
    """n_0 ∘ n_1 ∘ …, with ∘ 0 = plus, 1 = minus, 2 = times, which comes before the others; an int32."""
    total, product = jnp.zeros((), jnp.int32), numbers[0]
    for number, operator in zip(numbers[1:], operators, strict=True):
        times = operator == 2
        total = jnp.where(times, total, total + product)
        product = jnp.where(times, product * number, jnp.where(operator == 1, -number, number))
    return total + product


TOKEN_ENVS: dict[str, Callable[..., TokenEnv]] = {
    "Copy-v0": Copy, "Reverse-v0": Reverse, "Sort-v0": Sort, "Addition-v0": Addition, "Countdown-v0": Countdown,
    "ReasoningGym-v0": reasoning_task,
}  # fmt: skip
"""By id."""
