"""What an actor's process holds: the environments of some groups, and the acting half of an algorithm."""

from __future__ import annotations

import functools
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from actrix.envs.guard import EnvError, words
from actrix.files import manifest
from actrix.loops.groups import LocalCrew, Piece, Start


def told(method: Callable) -> Callable:
    """A method that returns what it raises: exceptions themselves may not be picklable, and Ray wraps them."""

    @functools.wraps(method)
    def call(*args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            origin = error.__cause__ if isinstance(error, EnvError) and error.__cause__ else error
            text = "".join(traceback.format_exception(origin))[-8000:]
            return Wrong(type(error).__name__, words(error), type(origin).__name__, text)

    return call


class Wrong:
    """What an actor's method raised: its class and message, and the origin's class and traceback."""

    def __init__(self, kind: str, sentence: str, origin: str, text: str):
        self.kind, self.sentence, self.origin, self.text = kind, sentence, origin, text


class Collected:
    """What came of a chunk: its groups' pieces, where their environments are now, and their open episodes."""

    def __init__(self, pieces: list[Piece], states: list[dict[str, Any] | None], open_episodes: int):
        self.pieces, self.states, self.open_episodes = pieces, states, open_episodes


class Member:
    """An actor; the learner's `RayCrew` calls it. What is pickled comes as bytes, so that errors can be told."""

    def __init__(self) -> None:
        jax.config.update("jax_platforms", "cpu")  # an accelerator is the learner's
        self._crew: LocalCrew | None = None

    @told
    def hello(self) -> dict[str, Any]:
        """Who it is: the versions and the machine that it runs on."""
        import ray

        node = ray.util.get_node_ip_address()
        return {
            "versions": manifest.package_versions(),
            "machine": manifest.machine(),
            "node": node,
            "pid": os.getpid(),
        }

    @told
    def build(self, make: bytes, groups: int, first: int) -> bytes:
        """Make so many groups of environments, the first of that number; what the learner must know of one, pickled."""
        from ray import cloudpickle  # goals' rewards are closures over the environment

        function = pickle.loads(make)
        envs = [function() for _ in range(groups)]
        self._crew = crew = LocalCrew(envs, first, first * envs[0].num_envs)
        return bytes(cloudpickle.dumps((crew.spec, crew.sizes, crew.backend, crew.env_id, crew.unsupported)))

    @told
    def prepare(self, algorithm: bytes, starts: Sequence[Start]) -> None:
        """Be ready to collect."""
        self._whole.prepare(pickle.loads(algorithm), starts)

    @told
    def collect(
        self, rows: int, keys: Sequence[np.ndarray], leaves: Sequence[np.ndarray], wanted: str
    ) -> Collected:
        """A chunk of each group; `wanted`: "restart" for new episodes first."""
        crew = self._whole
        if wanted == "restart":
            crew.restart()
        pieces = crew.collect(rows, keys, jax.tree.unflatten(crew.tree, list(leaves)))
        return Collected(pieces, crew.states(), crew.open_episodes)

    @told
    def set_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from there."""
        self._whole.set_states(states)

    @told
    def begin_anew(self, starts: Sequence[Start]) -> None:
        """Start new episodes from these."""
        self._whole.begin_anew(starts)

    @told
    def progress(self) -> tuple[str, int]:
        """(whose turn it is, at which step of the chunk)."""
        return self._whole.progress()

    @told
    def close(self) -> None:
        """Close the environments."""
        self._whole.close()

    @property
    def _whole(self) -> LocalCrew:
        assert self._crew is not None
        return self._crew
