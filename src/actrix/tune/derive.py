"""The search space of an algorithm: which settings, from where to where, from their types, bounds and defaults.

A setting's own check (`core/fields.py`) is its bound: an end that is refused moves inwards until it is taken.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from actrix.algorithms.policy_kwargs import POLICY_KEYS
from actrix.algorithms.settings import (
    SettingError,
    configure,
    fields_of,
    own_fields,
    parts_of,
    setting_names,
    value_of,
)
from actrix.algorithms.written import read_yaml
from actrix.core import words
from actrix.core.contract import Algorithm
from actrix.core.schedules import Linear
from actrix.tune.space import Choice, Range, Space, from_spec, is_power, number

REACH: dict[str, float] = {
    "learning_rate": 10, "critic_learning_rate": 10, "actor_learning_rate": 10, "gamma": 10, "lam": 10, "actor_lam": 10,
    "n_steps": 8, "batch_size": 4, "n_epochs": 2, "n_critic_updates": 4, "train_freq": 8, "gradient_steps": 8,
    "target_update_interval": 8, "replay_ratio": 4, "n": 4, "tau": 10, "clip_range": 4, "vf_coef": 4,
    "max_grad_norm": 8, "target_kl": 8, "kl_target": 8, "max_step": 8, "temperature": 10, "exploration_fraction": 8,
    "exploration_final_eps": 8, "noise_std": 4, "target_policy_noise": 4, "beta": 8, "expectile": 4, "cql_alpha": 8,
    "bc_alpha": 8, "entropy_tau": 8, "trust_region": 4, "kappa": 4, "actor_kappa": 4,
}  # fmt: skip
"""How many times smaller and larger than its default a setting may become. What is not here is what the algorithm is
(words, switches, how many critics), or bears on little else than memory and rounding."""
ALIKE = ("critic", "actor", "data", "policy")
"""What makes the algorithm and its network what they are: options of the command."""
ALWAYS: dict[str, tuple[float, float]] = {"ent_coef": (1e-5, 0.1), "gae_lambda": (0.8, 0.995)}
"""Ends of settings that are worth searching although some algorithms have them off."""


def derive(
    algorithm: Algorithm, base: Algorithm, fixed: Collection[str] = (), offline: bool | None = None
) -> Space:
    """The dimensions of `algorithm`'s settings, wide enough to hold `base`'s values; `fixed` ones are left out, and
    those that have no effect in `base` (`offline` as `Algorithm.idle` takes it).

    Whole numbers: powers of two. Of other numbers those in [0, 1] with a default of at least ½ (γ, λ): even in
    log(1 − x). All others: even in log x. A setting that is off by default (0, None, 1 where it cannot be less or more)
    stays off.
    """
    found = []
    for name in (*REACH, *ALWAYS):
        if name in fixed or name not in setting_names(base) or lacking(base, name, offline):
            continue
        values = values_of(name, algorithm, base)
        dimension = _dimension(name, values, base) if values else None
        if dimension is not None:
            found.append(dimension)
    return tuple(found)


def lacking(algorithm: Algorithm, name: str, offline: bool | None = None) -> str:
    """What a setting would need to have an effect beside the others; '' where it has one."""
    idle, own = algorithm.idle(offline), own_fields(algorithm)
    names = {part: words.setting_names(held) for part, held in parts_of(algorithm).items()}
    needs = []
    for field in _fields(algorithm, name):
        owners = [""] if field in own else [part for part, known in names.items() if field in known]
        needs += [idle.get(part, {}).get(field, "") for part in owners]
    return needs[0] if needs and all(needs) else ""


def _fields(algorithm: Algorithm, name: str, value: Any = True) -> set[str]:
    """What a setting sets, whatever it is called; itself where that depends on its value, and where it is the
    algorithm's own: the discount comes before an actor's flag `gamma`."""
    if name in own_fields(algorithm):
        return {name}
    try:
        return fields_of(algorithm, {name: value})
    except SettingError:
        return {name}


def values_of(name: str, *algorithms: Algorithm) -> list[Any]:
    """The setting's value in each of them that has it."""
    found = []
    for algorithm in algorithms:
        try:
            found.append(value_of(algorithm, name))
        except KeyError:
            continue
    return found


def _dimension(name: str, values: list[Any], base: Algorithm) -> Range | None:
    """The range around the first value that is not off, wide enough for the others."""
    numbers = [(number(_spelled(value)), value) for value in values]
    falling = isinstance(values[-1], Linear)
    allowed = lambda x: _allows(base, name, f"lin_{x!r}" if falling else x)
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    share = not whole and allowed(1.0) and not allowed(1.1)
    at_end = lambda x: x <= 1 if whole else x <= 0 or (share and x >= 1)
    usable = [x for x, _ in numbers if x is not None and not at_end(x)]
    if name in ALWAYS and all(x is not None for x, _ in numbers):
        low, high = ALWAYS[name]
        centre = math.sqrt(low * high)
    elif usable:
        centre = usable[0]
        low, high = _around(centre, REACH[name], whole, share)
    else:
        return None
    scale = "power" if whole else "complement" if share and centre >= 0.5 else "log"
    low, high = (_inwards(end, centre, scale, allowed) for end in (low, high))
    usable = [_power(x) for x, _ in numbers if x is not None and x >= 1] if whole else usable
    low, high = min(low, *usable, high), max(high, *usable, low)
    if not low < high:
        return None
    return Range(name, low, high, scale, whole, "linear" if falling else "constant")


def _spelled(value: Any) -> Any:
    return str(value) if isinstance(value, Linear) else value


def _around(centre: float, reach: float, whole: bool, share: bool) -> tuple[float, float]:
    """From `reach` times smaller to `reach` times larger."""
    if whole:
        return _power(centre / reach), _power(centre * reach)
    if share and centre >= 0.5:
        return round(1 - min((1 - centre) * reach, 0.5), 6), round(1 - (1 - centre) / reach, 6)
    low, high = float(f"{centre / reach:.3g}"), float(f"{centre * reach:.3g}")
    return low, min(high, 1.0) if share else high


def _inwards(end: float, centre: float, scale: str, allowed: Any) -> float:
    """The end, or the first point from it towards the centre that is allowed."""
    for _ in range(16):
        if allowed(int(end) if scale == "power" else end):
            return end
        if scale == "power":
            end = end * 2 if end < centre else end / 2
            if not is_power(end):
                break
        elif scale == "complement":
            end = round(1 - math.sqrt((1 - end) * (1 - centre)), 6)
        else:
            end = float(f"{math.sqrt(end * centre):.3g}")
    return _power(centre) if scale == "power" else centre


def _allows(algorithm: Algorithm, name: str, value: Any) -> bool:
    try:
        configure(algorithm, {name: value})
    except SettingError:
        return False
    return True


def _power(x: float) -> int:
    """The power of two nearest to x on a log scale, at least 1."""
    return 2 ** max(round(math.log2(x)), 0)


# ---------------------------------------------------------------------------- a space file


def read_space(
    path: Path, space: Space, base: Algorithm, fixed: Collection[str], offline: bool | None = None
) -> Space:
    """`space` as a YAML file changes it: NAME: {low, high, scale, schedule}, a list of choices, or null: not searched.

    What a mapping leaves out stays as it was. Names are those of settings, `policy_kwargs.NAME` for the network, and
    n_envs. Raises SettingError with the file's name for anything else, for what is searched twice, and for what has no
    effect whatever the others are.
    """
    given = read_yaml(path, str(path)) or {}
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise SettingError(f"{path} must map settings to ranges, e.g. gamma: {{low: 0.9, high: 0.999}}.")
    found: dict[str, Range | Choice] = {one.name: one for one in space}
    for name, spec in given.items():
        with _naming(path, name):
            _refuse(name, spec, base)
            changed = _changed(name, spec, found.get(name), base)
        found.pop(name, None)
        if changed is not None:
            found[name] = changed
    for name in [name for name in given if name in found]:
        with _naming(path, name):
            mine = _sets(base, found[name])
            if mine & set(fixed):
                raise ValueError("it is fixed by --set; leave out one of the two")
            for other in [x for x in found if x != name and _overlap(mine, _sets(base, found[x]))]:
                if other in given:
                    raise ValueError(f"{other} sets it, too: leave one of them out")
                del found[other]  # a derived one, under another name
            _refuse_idle(name, found, base, offline)
    if not found:
        raise SettingError(f"{path} leaves nothing to search.")
    return tuple(found.values())


@contextlib.contextmanager
def _naming(path: Path, name: str) -> Iterator[None]:
    """SettingError with the file's and the setting's name for whatever is wrong with that."""
    try:
        yield
    except (ValueError, TypeError) as error:
        said = str(error).rstrip(".")
        raise SettingError(f"{path}: {name}: {said}{'' if said.endswith('?') else '.'}") from None


def _sets(base: Algorithm, one: Range | Choice) -> set[str]:
    plain = one.name != "n_envs" and "." not in one.name
    return _fields(base, one.name, one.ends()[0]) if plain else {one.name}


def _overlap(some: set[str], others: set[str]) -> bool:
    """Whether both set the same: two names of one setting, or the network and a setting of it."""
    both = some | others
    return bool(some & others) or ("policy_kwargs" in both and any("policy_kwargs." in name for name in both))


def _refuse_idle(
    name: str, found: Mapping[str, Range | Choice], base: Algorithm, offline: bool | None
) -> None:
    """Raise ValueError where the setting has no effect in the run that trials start from, nor beside what else is
    searched."""
    if name == "n_envs" or "." in name or not (need := lacking(base, name, offline)):
        return
    for one in found.values():
        for end in one.ends() if one.name != "n_envs" else ():
            try:
                beside = configure(base, nested({one.name: end}))
            except SettingError:
                continue
            if not lacking(beside, name, offline):
                return
    raise ValueError(f"it has no effect without {need}: leave it out")


def _refuse(name: str, spec: Any, base: Algorithm) -> None:
    """Raise ValueError for a name that cannot be searched."""
    if name == "n_timesteps":
        raise ValueError("the budget is every trial's alike; give --steps")
    if name in ALIKE:
        raise ValueError(f"it is what the study is of, every trial's alike; give --{name}")
    head, _, inner = name.partition(".")
    known = [*setting_names(base), "n_envs"]
    if head == "policy_kwargs" and inner:
        if inner not in POLICY_KEYS:
            own = f"it is a setting: write {inner}" if inner in known else words.nearest(inner, POLICY_KEYS)
            raise ValueError(f"policy_kwargs has no {inner!r}; {own}")
    elif name not in known and not _other_name(name, spec, base):
        inner = f"it is the network's: write policy_kwargs.{name}" if name in POLICY_KEYS else ""
        # Not its switches, which say what others of them are.
        valued = [x for x in known if x in ("n_envs", "normalize") or values_of(x, base)]
        raise ValueError(f"unknown setting; {inner or words.nearest(name, valued)}")


def _other_name(name: str, spec: Any, base: Algorithm) -> bool:
    """Whether it is how `train` spells settings that have another name: `distributional` is a representation."""
    values = spec.get("choices") if isinstance(spec, dict) else spec
    return isinstance(values, list) and any(
        _fields(base, name, _plain(x)) & set(setting_names(base)) for x in values
    )


def _changed(name: str, spec: Any, old: Range | Choice | None, base: Algorithm) -> Range | Choice | None:
    if spec is None:
        return None
    spec = {"choices": spec} if isinstance(spec, list) else spec
    if not isinstance(spec, dict):
        raise ValueError(f"{spec!r} is neither a range, {{low: …, high: …}}, nor a list of choices nor null")
    if unknown := [key for key in spec if key not in ("low", "high", "scale", "schedule", "choices")]:
        raise ValueError(f"unknown {unknown[0]!r}; there are low, high, scale, schedule and choices")
    spec = {key: [*map(_plain, x)] if isinstance(x, list) else _plain(x) for key, x in spec.items()}
    if "choices" not in spec:
        spec = (old.spec() if isinstance(old, Range) else {}) | spec
        if missing := [key for key in ("low", "high") if key not in spec]:
            raise ValueError(f"{' and '.join(missing)} must be given")
        spec["whole"] = all(isinstance(spec[key], int) for key in ("low", "high")) and not any(
            isinstance(value, float | Linear) for value in values_of(name, base)
        )
    one = from_spec(name, spec)
    for value in one.ends():
        if name == "n_envs":
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{value!r} must be a whole number of at least 1")
        else:
            configure(base, nested({name: value}))
    return one


def _plain(x: Any) -> Any:
    """The number that a word stands for: YAML takes 1e-3 for a word."""
    value = words.read_value(x) if isinstance(x, str) else x
    return value if isinstance(value, int | float) else x


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of `policy_kwargs.NAME` in one dict."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        head, dot, rest = name.partition(".")
        if dot:
            out.setdefault(head, {})[rest] = value
        else:
            out[name] = value
    return out


def write_space(space: Space) -> str:
    """The space as a file that `read_space` takes."""
    line = lambda one: yaml.safe_dump(
        {one.name: one.spec()}, default_flow_style=None, width=200, sort_keys=False
    )
    return "".join(line(one) for one in space)
