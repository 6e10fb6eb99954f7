"""In the worker: its environments' life, and what it says of what they raise."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
import numpy as np

from actrix.core.plain import from_bytes, to_bytes
from actrix.envs.base import success_of
from actrix.envs.guard import EnvError, Guard, check_apart, words
from actrix.envs.masks import find_masks_of, masks_now, told
from actrix.envs.rows import write_row
from actrix.envs.state import whole
from actrix.envs.workers.memory import Room
from actrix.envs.workers.process import BUILD, CALLS, CLOSE, GET, IDLE, OK, RESET, SET, START, STEP, Setup


def work(pipe: Any, room: Room, number: int, rows: list[int], steps: int) -> None:
    """A worker's life: build the environments of these rows, then do what the pipe says until it ends."""
    _detach()
    hosted = Hosted(room, number, rows, steps)
    try:
        pipe.send_bytes(OK)
        hosted.turn(BUILD, rows[0])
        found = hosted.build(pipe.recv())
        hosted.answer(pipe)
        if found is not None:
            pipe.send_bytes(found)
        while True:
            message = json.loads(pipe.recv_bytes())
            more = b""
            if message["command"] == "step":
                hosted.step()
            elif message["command"] == "reset":
                hosted.reset(message["seeds"])
            elif message["command"] == "get":
                more = hosted.get_state()
            elif message["command"] == "set":
                hosted.set_state(pipe.recv_bytes())
            else:
                hosted.close()
            hosted.answer(pipe, more)
    except BaseException as error:  # whatever it is, it must not end here in silence
        with contextlib.suppress(OSError):
            pipe.send_bytes(hosted.report(error))
    finally:
        while hosted.envs:
            with contextlib.suppress(BaseException):
                hosted.close()


def _detach() -> None:
    """Live as long as the parent, and no signal that is meant for it."""
    # Ctrl-C, or SIGTERM to all processes of a service: the parent decides. A handler, unlike SIG_IGN, is not inherited
    # by the programs that environments start.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    if hasattr(os, "setsid"):
        os.setsid()  # what the environments start is ended with them
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # closed, or not a file
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr] # what a dying one printed is seen
    with contextlib.suppress(AttributeError, ValueError, OSError):
        faulthandler.enable()  # a crash prints where it was
    parent: Any = multiprocessing.parent_process()
    if sys.platform == "linux":
        import fcntl

        # The pipe's end kills, by the default action of SIGIO, even where a step never lets other threads run.
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    with contextlib.suppress(AttributeError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


class Hosted:
    """The environments of one worker."""

    def __init__(self, room: Room, number: int, rows: list[int], steps: int):
        self.room, self.number, self.rows, self.steps = room, number, rows, steps
        self.envs: dict[int, Guard] = {}
        self.env: Guard | None = None  # whose turn it is
        self.doing, self.at, self.masks = START, -1, "none"

    def turn(self, doing: int, at: int = -1) -> None:
        """Write down what is called next, for the case that it does not return."""
        self.doing, self.at, self.env, room = doing, at, self.envs.get(at), self.room
        room.since[self.number] = time.monotonic()
        room.doing[self.number], room.at[self.number] = doing, at

    def answer(self, pipe: Any, more: bytes = b"") -> None:
        """Say that it is done, and `more`."""
        self.turn(IDLE)
        pipe.send_bytes(OK + more)

    def build(self, setup: Setup) -> bytes | None:
        """Make the environments; what the parent does not know yet of the first, pickled, or None."""
        make, registered = setup.build.fn
        if registered is not None:
            gym.registry.setdefault(registered.id, registered)
        self.masks = setup.masks
        for i in self.rows:
            self.turn(BUILD, i)
            env = self.envs[i] = Guard(make(), i)
            env.steps = self.steps
            for name in ("observation_space", "action_space"):
                own_space, expected = getattr(env, name), getattr(setup, name)
                if expected is not None and own_space != expected:
                    raise EnvError(
                        f"environment {i}: its {name} is {own_space}; the first one's is {expected}."
                    )
        check_apart(list(self.envs.values()))
        if setup.observation_space is not None:
            return None
        self.turn(RESET, i)
        limit = env.spec.max_episode_steps if env.spec else None
        masks = find_masks_of(env)
        spaces_ = env.observation_space, env.action_space
        return bytes(ForkingPickler.dumps((*spaces_, masks, limit, whole.unsupported(env))))

    def reset(self, seeds: list[int] | None) -> None:
        for i in self.rows:
            self._reset(i, None if seeds is None else seeds[i])

    def _reset(self, i: int, seed: int | None) -> None:
        self.turn(RESET, i)
        obs, info = self.envs[i].reset(seed=seed)
        write_row(self.room.obs, i, obs)
        if self.masks != "none":
            self.room.mask[i] = self._mask(i, info, False)

    def step(self) -> None:
        room = self.room
        for i, env in self.envs.items():
            self.turn(STEP, i)
            obs, reward, terminated, truncated, info = env.step(room.action[i].copy())
            write_row(room.next_obs, i, obs)
            room.reward[i], room.terminated[i], room.truncated[i] = reward, terminated, truncated
            ended = bool(terminated or truncated)
            room.success[i] = success_of(info) if ended else math.nan
            if self.masks != "none":
                room.next_mask[i] = self._mask(i, info, ended)
            room.stepped[i] = True
            if ended:
                self._reset(i, None)

    def get_state(self) -> bytes:
        """The states of all environments."""
        out = []
        for i, env in self.envs.items():
            self.turn(GET, i)
            out.append(whole.get_state(env))
        return to_bytes(out)

    def set_state(self, data: bytes) -> None:
        """Take them back."""
        for (i, env), saved in zip(self.envs.items(), from_bytes(data), strict=True):
            self.turn(SET, i)
            whole.set_state(env, saved)

    def close(self) -> None:
        for i in list(self.envs):
            self.turn(CLOSE, i)
            self.envs.pop(i).close()

    def _mask(self, i: int, info: dict[str, Any], ended: bool) -> np.ndarray:
        env, size = self.envs[i], self.room.mask.shape[1]
        where = f"environment {i} at step {env.steps}"
        if self.masks == "method":
            mask = np.asarray(masks_now(env))
        elif (found := told(info, size)) is not None:
            mask = np.asarray(found)
        else:
            raise EnvError(f"{where}: info has no 'action_mask'.")
        if mask.shape != (size,):
            raise EnvError(
                f"{where}: the action mask has shape {mask.shape}; the action space {env.action_space} needs ({size},)."
            )
        mask = mask.astype(bool)
        if not mask.any():
            if not ended:
                raise EnvError(f"{where}: the action mask allows no action.")
            mask[:] = True  # no action follows
        return mask

    def report(self, error: BaseException) -> bytes:
        """What happened, as JSON: exceptions themselves may be neither picklable nor small."""
        origin = error.__cause__ if isinstance(error, EnvError) and error.__cause__ else error
        sentence = words(error)
        if not isinstance(error, EnvError):
            where, env = f"environment {self.at}", self.env
            if env is not None:
                where += f" at step {env.steps}" + ("" if env.seed is None else f" (seed {env.seed})")
            sentence = (
                f"{where}: {CALLS.get(self.doing, 'its worker')} raised {type(error).__name__}: {sentence}"
            )
        try:
            text = "".join(traceback.format_exception(origin))
        except BaseException:
            text = "".join(traceback.format_tb(origin.__traceback__)) + type(origin).__name__
        if len(text) > 8000:
            text = f"{text[:6000]}\n[...]\n{text[-2000:]}"
        told = {"sentence": sentence, "kind": type(origin).__name__, "traceback": text}
        return json.dumps(told).encode()  # in ASCII, so that half a letter does no harm
