"""The complete state of one Gymnasium environment, taken and restored bit for bit, as plain data.

Each wrapper and the base environment is one level. What a level holds is known from a table of exact classes, or
asked of the level itself, if it offers `get_state()` and `set_state(state)`: then it saves its own state, neither
that of the levels below nor `np_random`, and set_state must fit an environment that was never reset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from actrix.core.plain import copy_plain
from actrix.envs.guard import EnvError
from actrix.envs.state.known import known
from actrix.envs.state.levels import check_keys, id_of, levels_of, path_of, shown


def get_state(env: gym.Env) -> dict[str, Any]:
    """All that the future of `env` depends on, as plain data (see `actrix.core.plain.copy_plain`).

    `{"levels": [{"class", "state"}, ...] from the outermost wrapper to the base environment, "id", "rng", "seed"}`.
    The spaces' own random streams (`action_space.sample()`), windows and recorded frames are left out.

    Raises EnvError where `unsupported` says so, and where a level's own get_state raises or returns no plain data.
    """
    if (reason := unsupported(env)) is not None:
        raise EnvError(f"the environment's state cannot be saved: {reason}.")
    levels = levels_of(env)
    base = levels[-1]
    generator, seed = base._np_random, base._np_random_seed
    # Before the levels are asked, so that one that draws random numbers meanwhile does not shift them.
    rng = None if generator is None else copy_plain(dict(generator.bit_generator.state))
    parts = [{"class": path_of(level), "state": known(level).read(level)} for level in levels]
    return {"levels": parts, "id": id_of(base), "rng": rng, "seed": None if seed is None else int(seed)}


def set_state(env: gym.Env, state: dict[str, Any]) -> None:
    """Restore what `get_state` took; `env` is made alike and need not have been reset.

    Raises EnvError, one sentence that names the part that does not fit: another class, id or chain of wrappers, a
    missing, additional or ill-formed field. `env` is then unchanged, unless a level's own set_state raised.
    """
    if (reason := unsupported(env)) is not None:
        raise EnvError(f"the environment's state cannot be restored: {reason}.")
    levels = levels_of(env)
    base = levels[-1]
    check_keys("the environment", state, {"levels", "id", "rng", "seed"})
    if type(state["levels"]) is not list:
        raise EnvError("the environment's state has no list of levels.")
    for part in state["levels"]:
        check_keys("a level of the environment", part, {"class", "state"})
        if type(part["class"]) is not str:
            raise EnvError(f"the class of a level of the environment is {shown(part['class'])}.")
    saved, own = [part["class"] for part in state["levels"]], [path_of(level) for level in levels]
    if saved != own:
        raise EnvError(f"the state was taken of {_chain(saved)}; this environment is {_chain(own)}.")
    if type(state["id"]) not in (str, type(None)) or state["id"] != id_of(base):
        raise EnvError(f"the state was taken of {shown(state['id'])}; this environment is {id_of(base)!r}.")
    restore_rng = _rng(base, state["rng"], state["seed"])
    writes = [
        known(level).write(level, part["state"]) for level, part in zip(levels, state["levels"], strict=True)
    ]
    for write in reversed(writes):  # the base first: a wrapper may look at what it wraps
        write()
    restore_rng()  # last: a level's own set_state may draw or reset


def unsupported(env: gym.Env) -> str | None:
    """Why the state of `env` cannot be saved, as a clause; None if it can."""
    for level in reversed(levels_of(env)):
        name = type(level).__name__
        if (keeper := known(level)) is not None:
            if (reason := keeper.unsupported(level)) is not None:
                return reason
            continue
        if isinstance(level, gym.Wrapper):
            return f"the wrapper {name} has no get_state() and set_state(state), and actrix does not know its state"
        module = type(level).__module__
        for prefix, where in _OUT_OF_REACH.items():
            if module.startswith(prefix):
                return f"{id_of(level) or name} keeps its state in {where}"
        return f"{name} has no get_state() and set_state(state)"
    generator = levels_of(env)[-1]._np_random
    bits = getattr(generator, "bit_generator", generator)
    if generator is not None and (type(generator) is not np.random.Generator or not _is_known(bits)):
        return f"its np_random is of {type(bits).__name__}, which actrix does not know"
    return None


_OUT_OF_REACH = {"gymnasium.envs.box2d": "Box2D", "ale_py": "the emulator"}
_BIT_GENERATORS: dict[str, Any] = {
    name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
}


def _is_known(bits: Any) -> bool:
    return type(bits) in _BIT_GENERATORS.values()


def _chain(paths: list[str]) -> str:
    names = [path.rpartition(".")[2] for path in paths]
    return "<".join(names) + ">" * (len(names) - 1)


def _rng(base: Any, rng: Any, seed: Any) -> Callable[[], None]:
    if seed is not None and type(seed) is not int:
        raise EnvError(f"the seed of np_random is {shown(seed)}; it must be an integer or None.")
    fresh = None if rng is None else _generator(rng, seed)

    def write() -> None:
        now = base._np_random
        if fresh is None or now is None or type(now.bit_generator) is not type(fresh.bit_generator):
            base._np_random = fresh
        else:  # in place: others may hold the generator
            now.bit_generator.state = fresh.bit_generator.state
        base._np_random_seed = seed

    return write


def _generator(rng: Any, seed: int | None) -> np.random.Generator:
    try:
        # From the seed, so that np_random.spawn starts as it did.
        sequence = np.random.SeedSequence(0 if seed is None or seed < 0 else seed)
        bits = _BIT_GENERATORS[rng["bit_generator"]](sequence)
        bits.state = rng
        if not _equal(dict(bits.state), rng):
            raise ValueError
    except Exception:
        raise EnvError("the state of np_random is not that of a numpy bit generator.") from None
    return np.random.Generator(bits)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    return bool(np.array_equal(a, b))
