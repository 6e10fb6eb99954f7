"""Collecting chunks: environments stepped from Python, with compiled acting, and what goes on from chunk to chunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector.utils import batch_space

from actrix.core.contract import Algorithm
from actrix.core.host import zeros
from actrix.core.types import Chunk, Key, PyTree
from actrix.envs.base import HostEnv, Step, successes
from actrix.envs.guard import check_chunk, conform
from actrix.envs.jax_envs import HostJax
from actrix.loops.cores import OneCore
from actrix.loops.packing import Packing
from actrix.loops.runner import finished_episodes, key_from, leaves, shared, views, with_leaves
from actrix.nets.memory import zero_where

Episodes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Returns and lengths of the episodes that ended, and what was said of the success of those of which it was."""


@shared
def _noises(algorithm: Algorithm, shapes: tuple) -> Callable:
    return jax.jit(algorithm.noise, static_argnums=(2, 3))


# What only `learn` needs of a step is written into `record` on the device, (t, a buffer [T, ...] of each dtype):
# handing it over row by row would cost as much again as the step.
@shared
def _acts(algorithm: Algorithm, packing: Packing, shapes: tuple) -> Callable:
    def act(acting, record, memory, first, obs, mask, noise):
        acting, (t, rows) = packing.unpack(acting), record
        if memory is not None:
            memory = zero_where(first, memory)
        action, log_prob, dist, memory = algorithm.act(acting, memory, obs, mask, row(noise, t))
        packed = {name: _joined(parts) for name, parts in _by_dtype((log_prob, dist)).items()}
        return action, memory, (t + 1, jax.tree.map(lambda r, x: r.at[t].set(x), rows, packed))

    return jax.jit(act, donate_argnums=1)


def _by_dtype(tree: PyTree) -> dict[str, list]:
    """The leaves of each dtype."""
    parts: dict[str, list] = {}
    for x in jax.tree.leaves(tree):
        parts.setdefault(x.dtype.name, []).append(x)
    return parts


def _joined(parts: Sequence[jax.Array]) -> jax.Array:
    """All their numbers in a row."""
    return jnp.concatenate([x.reshape(-1) for x in parts])


class Collector:
    """Environments stepped together, and all that acting in them carries from chunk to chunk.

    It holds nothing of what learns: `collect` is given what acts, and the key of the chunk's noise.
    """

    def __init__(
        self, algorithm: Algorithm, env: HostEnv, seeds: Sequence[int], key: Key, acting: PyTree = None
    ):
        """`seeds`, one for each environment, and `key` (of JAX environments) begin the first episodes; `acting` is any
        that the algorithm acts with, for its shapes."""
        self.algorithm, self.env, self.num_envs, self.spec = algorithm, env, env.num_envs, env.spec
        self.on_step: Callable[[Step, np.ndarray, Any], bool] | None = None
        """Called after every environment step with its action and what it was chosen for; returning False ends the
        chunk's training early."""
        self.stopped = False
        self.at = 0
        """The step of the chunk that is being taken."""
        self._acting = acting
        self._obs: Any = None
        self._env_seeds, self._env_key = seeds, key
        self._total_rows = 0
        self._shapes = (str(env.spec.observation_space), str(env.spec.action_space), self.num_envs)
        self._noise = _noises(algorithm, self._shapes)
        self._act: Callable | None = None
        self._row: PyTree = None
        self._cores = OneCore()

    def state(self) -> dict[str, Any] | None:
        """The environments and all that goes on in them, as plain data; None where it cannot be had, or before the
        first step."""
        envs = getattr(self.env, "get_state", lambda: None)() if self._obs is not None else None
        return None if envs is None else {"envs": envs, **self._open()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; EnvError or ValueError where it does not fit."""
        if "envs" not in state:
            raise ValueError("the state is of environments in groups")
        self.env.set_state(state["envs"])  # type: ignore[attr-defined]
        self._reopen(state)

    @property
    def restorable(self) -> bool:
        """Whether the environments can go on from a state."""
        return not getattr(self.env, "unsupported", None) and hasattr(self.env, "set_state")

    def begin_anew(self, seeds: Sequence[int], key: Key) -> None:
        """Start the environments from other seeds at the next step."""
        self._env_seeds, self._env_key, self._obs = seeds, key, None

    def _latest_acting(self) -> PyTree:
        return self._acting

    def _record(self, acting: PyTree, rows: int) -> PyTree:
        """Empty room for (log_prob, dist) of a chunk."""
        if self._row is None:
            step = lambda a, m, o, k: self.algorithm.act(
                a, m, o, k, row(self.algorithm.noise(a, self._env_key, 1, self.num_envs), 0)
            )
            out = jax.eval_shape(step, acting, self._memory, self._obs, self._mask)
            self._row = (out[1], out[2])
        size = lambda parts: sum(x.size for x in parts)
        return zeros((), np.int32), {
            name: zeros((rows, size(parts)), name) for name, parts in _by_dtype(self._row).items()
        }

    def _recorded(self, record: PyTree) -> PyTree:
        """(log_prob, dist) `[T, N, ...]`."""
        rest = {name: np.asarray(buffer) for name, buffer in record[1].items()}

        def take(x: Any) -> np.ndarray:
            part, rest[x.dtype.name] = np.split(rest[x.dtype.name], [x.size], axis=1)
            return part.reshape(-1, *x.shape)

        return jax.tree.map(take, self._row)

    def _open(self) -> dict[str, Any]:
        """What the loop carries from one chunk to the next besides the environments, as plain data."""
        return {
            "key": views(jax.random.key_data(self._env_key)), "obs": self._obs, "mask": self._mask,
            "first": self._first, "memory": leaves(self._memory), "ep_return": self._ep_return,
            "ep_length": self._ep_length, "rows": self._total_rows,
        }  # fmt: skip

    def _reopen(self, open_: dict[str, Any]) -> None:
        """The inverse of `_open`; ValueError where it is none."""
        n, spec = self.num_envs, self.spec
        conform(batch_space(spec.observation_space, n), open_["obs"], _misfit, "obs")
        mask = None if spec.mask_size is None else (bool, (n, spec.mask_size))
        of = {"mask": mask, "first": (bool, (n,)), "ep_return": (float, (n,)), "ep_length": (np.int64, (n,))}
        for name, wanted in of.items():
            x = open_[name]
            if (None if x is None else (x.dtype, x.shape)) != wanted:
                _misfit(f"{name} does not fit {n} environments.")
        if type(open_["rows"]) is not int or open_["rows"] < 0:
            _misfit(f"rows is {str(open_['rows'])[:80]}.")
        carry = jax.eval_shape(lambda acting: self.algorithm.initial_carry(acting, n), self._latest_acting())
        self._memory = with_leaves(carry, open_["memory"], "memory")
        self._env_key = key_from(open_["key"], "key")
        self._obs, self._mask, self._first = open_["obs"], open_["mask"], open_["first"]
        self._ep_return, self._ep_length = open_["ep_return"], open_["ep_length"]
        self._total_rows = open_["rows"]

    @property
    def open_episodes(self) -> int:
        """Episodes that have begun and not ended."""
        return 0 if self._obs is None else int(np.count_nonzero(self._ep_length))

    def restart(self) -> None:
        """Start new episodes at the next step, from the environments' own random streams."""
        if self._obs is not None:
            self._reset(None, self._latest_acting())

    def _start(self, acting: PyTree) -> None:
        if isinstance(self.env, HostJax):  # the very episodes of the compiled loop
            self.env.key, self.env.number = self._env_key, 0
            self._reset(None, acting)
            return
        self._reset([int(seed) % 2**31 for seed in self._env_seeds], acting)

    def _reset(self, seeds: list[int] | None, acting: PyTree) -> None:
        self._obs, self._mask = self.env.reset(seeds)
        self._first = np.ones(self.num_envs, bool)
        self._memory = self.algorithm.initial_carry(acting, self.num_envs)
        self._ep_return, self._ep_length = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)

    def _ready(self, acting: Callable[[], PyTree]) -> None:
        """Begin, with what acts; anew where somebody else stepped the environments since (`VecEnv`)."""
        played = getattr(self.env, "played", False)
        if played:
            self.env.played = False  # type: ignore[attr-defined]
        if self._obs is None:
            self._start(acting())
        elif played:
            self._reset(None, acting())

    def collect(
        self, rows: int, noise_key: Key, acting: PyTree, whole: bool | None = None
    ) -> tuple[Chunk, Episodes]:
        """A chunk of so many rows, and the episodes that ended in it; of `whole` ones (None: as the algorithm says)."""
        whole, self._acting = self.algorithm.whole_episodes if whole is None else whole, acting
        self._ready(lambda: acting)
        # Not around what may start threads (the environments above, callbacks): these would stay on the one core.
        # Nor around whole episodes, whose time is no measure of a step's.
        threads = getattr(self.env, "threads", ()) if self.on_step is None and not whole else ()
        with self._cores.during(threads, rows):
            return self._collect(rows, noise_key, acting, whole)

    def _collect(self, rows: int, noise_key: Key, acting: PyTree, whole: bool) -> tuple[Chunk, Episodes]:
        if whole:
            self._reset(None, acting)
        if self._act is None:
            self._handed = Packing.of(acting)
            self._act = _acts(self.algorithm, self._handed, self._shapes)
        act, handed = self._act, jax.device_put(self._handed.pack_host(acting))
        noise = self._noise(acting, noise_key, rows, self.num_envs)
        record = self._record(acting, rows)
        carry0, alive = self._memory, np.ones(self.num_envs, bool)
        seen: list[tuple] = []
        steps: list[Step] = []
        told: list[float] = []
        for t in range(rows):
            self.at = t
            action, self._memory, record = act(
                handed, record, self._memory, self._first, self._obs, self._mask, noise
            )
            action = np.asarray(action)
            step = self.env.step(action)
            valid = alive if step.valid is None else alive & step.valid
            seen.append((self._obs, action, self._mask, self._first, valid))
            steps.append(step)
            done = step.terminated | step.truncated
            self._obs, self._mask = step.obs, step.mask
            self._first = done if step.valid is None else done | ~step.valid
            told += successes(self.env, done & valid)
            if self.on_step is not None and not self.on_step(step._replace(valid=valid), action, seen[-1][0]):
                self.stopped = True
                break
            if whole:
                alive = alive & ~done
                if not alive.any():
                    break
        chunk = self._chunk(seen, steps, record, carry0, rows, whole)
        return chunk, (*self._episodes(chunk), np.array(told))

    def _chunk(
        self, seen: list[tuple], steps: list[Step], record: PyTree, carry0: PyTree, rows: int, whole: bool
    ) -> Chunk:
        obs, action, mask, first, valid = map(_stack, zip(*seen, strict=True))
        step = Step(*map(_stack, zip(*steps, strict=True)))
        check_chunk(obs, step.next_obs, step.reward, self._total_rows + 1)
        self._total_rows += len(steps)
        truncated = step.truncated  # a fresh array: it may be written to
        if whole and len(steps) == rows:  # an episode longer than the chunk counts as truncated
            truncated[-1] |= valid[-1] & ~step.terminated[-1]
        holes = whole or step.valid is not None
        chunk = Chunk(
            obs=obs, action=action, reward=step.reward, next_obs=step.next_obs, terminated=step.terminated,
            truncated=truncated, valid=valid if holes else None, mask=mask, next_mask=step.next_mask, first=first,
            prompts=self.spec.prompts,
        )  # fmt: skip
        missing = rows - len(steps)
        if whole and missing:
            if isinstance(self.env, HostJax):
                self.env.number += missing
            pad = lambda x: np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
            chunk = jax.tree.map(pad, chunk)
        log_prob, dist = self._recorded(record)
        return dataclasses.replace(chunk, log_prob=log_prob, dist=dist, carry0=carry0)

    def _episodes(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Returns and lengths of the episodes that ended in the chunk; open ones are carried on."""
        valid = np.ones_like(chunk.terminated) if chunk.valid is None else chunk.valid
        done = (chunk.terminated | chunk.truncated) & valid
        totals = self._ep_return + np.cumsum(np.where(valid, chunk.reward, 0.0), axis=0, dtype=np.float64)
        counts = self._ep_length + np.cumsum(valid, axis=0)
        ep_return, ep_length = np.array(totals), np.array(counts)
        before, length = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        for t, n in np.argwhere(done):
            ep_return[t, n] -= before[n]
            ep_length[t, n] -= length[n]
            before[n], length[n] = totals[t, n], counts[t, n]
        self._ep_return, self._ep_length = totals[-1] - before, counts[-1] - length
        return finished_episodes(np.asarray(done), ep_return, ep_length)


def _misfit(what: str) -> NoReturn:
    raise ValueError(what)


def row(noise: PyTree, t: jax.Array | int) -> PyTree:
    """Step t of a chunk's noise."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, t, keepdims=False), noise)


def valid_rows(chunk: Chunk) -> int:
    """Rows that are samples."""
    return int(chunk.reward.size if chunk.valid is None else np.sum(chunk.valid))


def _stack(rows: Sequence[PyTree]) -> PyTree:
    """T arrays (or pytrees of arrays, or None) `[N, ...]` → `[T, N, ...]`; None rows among arrays count as true."""
    present = next((row for row in rows if row is not None), None)
    if present is None:
        return None
    if any(row is None for row in rows):  # `valid` of an environment that marks only some steps
        rows = [np.ones_like(present) if row is None else row for row in rows]
    leaves, tree = jax.tree.flatten(present)
    columns = [rows] if present is leaves[0] else zip(*map(jax.tree.leaves, rows), strict=True)
    # One concatenation: np.stack first makes a view of each row.
    stacked = [
        np.concatenate([np.asarray(x) for x in column]).reshape(len(rows), *leaf.shape)
        for column, leaf in zip(columns, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, stacked)
