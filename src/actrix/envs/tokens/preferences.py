"""A reward model: fitted to pairs of answers of which one is preferred, and an environment's reward after that."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import textwrap
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from actrix.envs.tokens.texts import Texts

KEYS = ("prompt", "chosen", "rejected")


class Room(Protocol):
    """Of a token environment, what its texts look like."""

    @property
    def texts(self) -> Texts:
        """How texts are tokens."""

    @property
    def prompt_room(self) -> int:
        """Tokens of the longest prompt."""

    @property
    def answer_room(self) -> int:
        """Tokens of the longest answer."""


class Pairs(NamedTuple):
    """Prompts `[N, P]` and two answers `[N, A]` to each, as tokens with the end behind them."""

    prompt: Int[Array, "N P"]
    chosen: Int[Array, "N A"]
    rejected: Int[Array, "N A"]


def read_pairs(path: str | os.PathLike, env: Room) -> Pairs:
    """Pairs of a file of lines `{"prompt": …, "chosen": …, "rejected": …}`, texts that the environment can write.

    ValueError names the first line that is no such pair, holds what the environment cannot write, is too long, or
    prefers an answer to itself. Nothing is cut.
    """
    texts = env.texts

    def tokens(name: str, text: object) -> list[int]:
        room = env.prompt_room if name == "prompt" else env.answer_room
        if not isinstance(text, str):
            raise ValueError(f"{name!r} is {json.dumps(text)[:80]}, not a text")
        try:
            found = texts.read(text, prompt=name == "prompt")
        except ValueError as error:
            raise ValueError(f"{name!r} {error}") from None
        if len(found) > room:
            raise ValueError(f"{name!r} has {len(found)} {texts.unit}, and the environment's room is {room}")
        return found + [texts.end] * (room - len(found))

    rows: list[list[list[int]]] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            pair = json.loads(line)
            if not isinstance(pair, dict) or set(pair) != set(KEYS):
                raise ValueError(f'a line is {{"prompt": …, "chosen": …, "rejected": …}}, not {line[:80]}')
            if pair["chosen"] == pair["rejected"]:
                raise ValueError(f"both answers are {pair['chosen']!r}")
            rows.append([tokens(name, pair[name]) for name in KEYS])
        except ValueError as error:  # json's are ValueErrors, too
            raise ValueError(f"{path}, line {number}: {error}.") from None
    if not rows:
        raise ValueError(f"{path} has no pairs.")
    return Pairs(*(jnp.array(part, jnp.int32) for part in zip(*rows, strict=True)))


def preference_loss(chosen: Float[Array, " N"], rejected: Float[Array, " N"]) -> Float[Array, ""]:
    """−mean log σ(r(chosen) − r(rejected)): Bradley & Terry (1952); Ouyang et al. (2022), eq. 1."""
    return jnp.mean(jax.nn.softplus(rejected - chosen))


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """r(prompt, answer): linear in which token is at which place, and, with a hidden layer, in tanh of such sums.

    On the answers that it was fitted to its mean is 0 and its deviation 1: pairs say nothing of either.
    """

    vocabulary: tuple[str, ...]
    linear: Float[np.ndarray, " F"]
    inner: Float[np.ndarray, "F H"]
    outer: Float[np.ndarray, " H"]
    shift: float = 0.0
    scale: float = 1.0

    def __call__(self, prompt: Int[Array, "*B P"], answer: Int[Array, "*B A"]) -> Float[Array, "*B"]:
        """The rewards of answers; ValueError where prompts or answers have other lengths than it was fitted to."""
        x = features(prompt, answer, len(self.vocabulary))
        if x.shape[-1] != len(self.linear):
            raise ValueError(
                f"a reward model for {len(self.linear) // len(self.vocabulary)} tokens of prompt and answer does not "
                f"fit {prompt.shape[-1]} + {answer.shape[-1]} tokens."
            )
        return (_score((self.linear, self.inner, self.outer), x) - self.shift) / self.scale

    def accuracy(self, pairs: Pairs) -> float:
        """Share of pairs in which the preferred answer has the larger reward."""
        return float(jnp.mean(self(pairs.prompt, pairs.chosen) > self(pairs.prompt, pairs.rejected)))

    def save(self, path: str | os.PathLike) -> Path:
        """Write its numbers to an .npz file and return the file's path."""
        path = Path(path)
        path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
        arrays: dict[str, Any] = {k: np.asarray(v) for k, v in vars(self).items()}
        np.savez(path, **arrays)
        return path


@functools.lru_cache(maxsize=8)
def _loaded(path: str, changed: int) -> RewardModel:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {f.name: file[f.name] for f in dataclasses.fields(RewardModel)}
    except (ValueError, KeyError, zipfile.BadZipFile):
        # NumPy's own words advise to unpickle what it cannot read.
        raise ValueError(
            f"{path} is no reward model: it is not the .npz file that `save` of one writes."
        ) from None
    words, shift, scale = found.pop("vocabulary"), found.pop("shift"), found.pop("scale")
    given = [np.asarray(x) for x in found.values()]
    sizes = len(given[0]), *given[1].shape[1:], *given[2].shape
    whole = given[1].shape == (sizes[0], sizes[-1]) and [x.ndim for x in given] == [1, 2, 1]
    numbers = all(x.dtype == np.float32 and np.isfinite(x).all() for x in given)
    if not (whole and numbers and words.ndim == 1 and len(words) and sizes[0] % len(words) == 0):
        raise ValueError(f"{path} is no reward model: its numbers are not finite or do not fit each other.")
    return RewardModel(tuple(map(str, words)), **found, shift=float(shift), scale=float(scale))


def load_reward(path: str | os.PathLike, env: Room) -> RewardModel:
    """The reward model of a file that `save` wrote: numbers and names only. ValueError where it is none, or of other
    tokens, or of another size, than the environment's."""
    try:
        model = _loaded(os.fspath(path), os.stat(path).st_mtime_ns)
    except FileNotFoundError:
        raise FileNotFoundError(f"reward_model: there is no {path}.") from None
    known, tokens = env.texts.vocabulary, len(model.linear) // len(model.vocabulary)
    if model.vocabulary != known:
        some = lambda words: textwrap.shorten(" ".join(words), 120, placeholder=" …")
        raise ValueError(
            f"{path} knows the tokens {some(model.vocabulary)}, and the environment has {some(known)}: fit a reward "
            "model to this one."
        )
    if tokens != env.prompt_room + env.answer_room:
        raise ValueError(
            f"{path} was fitted to prompts and answers of {tokens} tokens together, and the environment's have "
            f"{env.prompt_room} + {env.answer_room}: fit one to this size (env_kwargs), or take its size."
        )
    return model


def features(prompt: Array, answer: Array, tokens: int) -> Float[Array, "*B F"]:
    """Which token is at which place, `[*B, (P + A) · tokens]`."""
    both = jnp.concatenate([prompt, answer], axis=-1)
    return jax.nn.one_hot(both, tokens, dtype=jnp.float32).reshape(*both.shape[:-1], -1)


def _score(weights: tuple, x: Array) -> Array:
    linear, inner, outer = weights
    return x @ linear + jnp.tanh(x @ inner) @ outer


def fit_reward(env: Room, pairs: Pairs, *, hidden: int = 64, l2: float = 1e-4, seed: int = 0) -> RewardModel:
    """Minimise `preference_loss` + ½ l2 |w|² over all pairs by L-BFGS; `hidden=0` is logistic regression.

    The hidden layer begins at random, the rest at 0.
    """
    from scipy.optimize import minimize

    tokens = len(env.texts.vocabulary)
    good, bad = (features(pairs.prompt, answer, tokens) for answer in (pairs.chosen, pairs.rejected))
    size, rng = good.shape[1], np.random.default_rng(seed)
    inner = rng.normal(size=(size, hidden)) / np.sqrt(env.prompt_room + env.answer_room)
    start = np.concatenate([np.zeros(size), inner.ravel(), rng.normal(size=hidden) / np.sqrt(hidden or 1)])

    def parts(w: Array) -> tuple:
        return w[:size], w[size : size + size * hidden].reshape(size, hidden), w[size + size * hidden :]

    @jax.jit
    @jax.value_and_grad
    def loss(w: Array) -> Array:
        return preference_loss(*(_score(parts(w), x) for x in (good, bad))) + 0.5 * l2 * jnp.sum(w**2)

    def asked(w: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = loss(jnp.asarray(w, jnp.float32))
        return float(value), np.asarray(gradient, np.float64)

    found = minimize(asked, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    weights = parts(jnp.asarray(found.x, jnp.float32))
    scores = np.concatenate([_score(weights, x) for x in (good, bad)])
    shift, scale = float(scores.mean()), float(scores.std()) or 1.0
    linear, first, second = map(np.asarray, weights)
    return RewardModel(tuple(env.texts.vocabulary), linear, first, second, shift, scale)
