"""Flat settings by Stable-Baselines3's names: who owns each, applied to an algorithm and read off it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from actrix.algorithms.answers import ACTORS, parse_actor, parse_critic, parse_data, present_word, said_in
from actrix.algorithms.elsewhere import hint
from actrix.algorithms.learn import Composition
from actrix.algorithms.policy_kwargs import (
    NETWORKS,
    UNSUPPORTED,
    SettingError,
    lifted,
    network_config,
    network_settings,
    once,
)
from actrix.algorithms.sound import unsound
from actrix.algorithms.usual import describe
from actrix.core import words
from actrix.core.answers import Actor, Critic, Data
from actrix.core.contract import Algorithm
from actrix.core.schedules import Linear, Tabulated
from actrix.core.types import Spec
from actrix.critics.backups import BACKUPS
from actrix.critics.represent import REPRESENTATIONS

_BUFFERS = {
    "HerReplayBuffer": "hindsight", **dict.fromkeys(("ReplayBuffer", "DictReplayBuffer", "NStepReplayBuffer"))
}  # fmt: skip
"""Stable-Baselines3's `replay_buffer_class` → the data answer's word; None = the algorithm's own memory."""
_ALIASES = {"rms_prop_eps": "optimizer_eps", "adam_eps": "optimizer_eps", "clip_range_value": "clip_range_vf",
            "per": "prioritized", "n_step": "n_steps"}  # fmt: skip
_ANSWERS: dict[str, Any] = {"critic": parse_critic, "actor": parse_actor, "data": parse_data}
_KINDS = {"critic": Critic, "actor": Actor, "data": Data}


def parts_of(algorithm: Algorithm) -> dict[str, Any]:
    """The dataclasses inside an algorithm whose fields are settings too: its answers, its fit."""
    inner = {f.name: getattr(algorithm, f.name) for f in dataclasses.fields(algorithm)}  # type: ignore[arg-type]
    inside = ("critic", "actor", "data", "fit")
    return {name: part for name, part in inner.items() if name in inside and dataclasses.is_dataclass(part)}


def own_fields(algorithm: Algorithm) -> list[str]:
    """The names of its settings that are in none of these."""
    inner = {"critic", "actor", "data", "fit", "network"}
    return [f.name for f in dataclasses.fields(algorithm) if f.name not in inner]  # type: ignore[arg-type]


def setting_names(algorithm: Algorithm) -> list[str]:
    """All flat names that `configure` accepts for this algorithm."""
    inner = [name for part in parts_of(algorithm).values() for name in words.setting_names(part)]
    own = own_fields(algorithm)
    more = ["policy_kwargs", *(["normalize"] if "normalize_reward" in own else [])]
    more += ["exploration"] if _explores(algorithm) else []
    return list(dict.fromkeys([*own, *inner, *more]))


def value_of(algorithm: Algorithm, name: str) -> Any:
    """The value of a setting, by any of its names; KeyError where the algorithm has none such."""
    name = _ALIASES.get(name, name)
    if name in own_fields(algorithm):
        return getattr(algorithm, name)
    for part in parts_of(algorithm).values():
        inner = words.part_fields(type(part))
        for holder in (part, *(getattr(part, field) for field in inner)):
            if name not in inner and name in getattr(holder, "__dataclass_fields__", ()):
                return getattr(holder, name)
    if name in NETWORKS:
        return getattr(algorithm.network, name)
    raise KeyError(name)


def configure(algorithm: Algorithm, settings: Mapping[str, Any], beside: Mapping[str, str] = {}) -> Any:
    """The algorithm with flat settings applied, e.g. {'n_steps': 256, 'gae_lambda': 0.9, 'clip_range': 'lin_0.2'}.

    A name belongs to the algorithm, else to its answers and its fit; one that several of these have is set in all.
    Raises SettingError for an unknown name (with the nearest ones), a refused value, two settings that contradict each
    other, or an unsound composition. What goes over other settings is another call. `beside`: words of answers that the
    algorithm has already, and that were given with the settings.
    """
    settings = unwrapped(settings)
    values: words.Said = {}
    try:
        for name, x in settings.items():
            words.agree(values, _renamed(algorithm, name, x), f"{name}={words.write_value(x)}", x)
        algorithm, said = _with_answers(algorithm, values)
        said |= {name: said_in(name, word) for name, word in beside.items()}
        spelled: words.Said = {}
        for name, (word, x) in values.items():
            for other, value in _spelled(algorithm, name, x).items():
                words.agree(spelled, other, word, value)
        algorithm = _apply(algorithm, spelled, said)
    except SettingError:
        raise
    except ValueError as error:
        raise SettingError(str(error)) from None
    except TypeError as error:  # it says what could not be compared, not of which setting
        given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        raise SettingError(f"a value of the wrong type among {given}: {error}.") from None
    if isinstance(algorithm, Composition):
        reason = unsound(algorithm.critic, algorithm.actor, algorithm.data)
        if reason:
            raise SettingError(
                f"{describe(algorithm.critic, algorithm.actor, algorithm.data)} is refused: {reason}."
            )
    return algorithm


def check(algorithm: Algorithm, spec: Spec, n_envs: int) -> None:
    """SettingError where the algorithm cannot learn in such environments."""
    try:
        algorithm.check(spec, n_envs)
    except SettingError:
        raise
    except ValueError as error:
        raise SettingError(str(error)) from None


def fields_of(algorithm: Algorithm, settings: Mapping[str, Any]) -> set[str]:
    """The fields that settings set, whatever they are called."""
    found: words.Said = {}
    for name, value in unwrapped(settings).items():
        for other, x in _spelled(algorithm, _renamed(algorithm, name, value), value).items():
            found[other] = name, x
            for part in parts_of(algorithm).values():
                mine: words.Said = {}
                words.say(type(part), mine, name, other, x)
                found |= mine
    return set(found)


def sizes_batches(settings: Mapping[str, Any]) -> bool:
    """Whether the user says how large batches are, by name or in the word of the data."""
    return "batch_size" in settings or "batch_size" in str(settings.get("data"))


def over(algorithm: Algorithm, under: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in one, those that go over others, and of these what they leave."""
    taken = fields_of(algorithm, settings)
    left: dict[str, Any] = {}
    for name, x in under.items():
        if fields_of(algorithm, {name: x}) & taken:
            parts = _spelled(algorithm, _renamed(algorithm, name, x), x)
            left |= {k: v for k, v in parts.items() if not fields_of(algorithm, {k: v}) & taken}
        else:
            left[name] = x
    return left | dict(settings)


def unwrapped(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what Stable-Baselines3 has inside of others beside them: an optimiser, a buffer's arguments."""
    return lifted(_without_buffer(settings))


def _without_buffer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with Stable-Baselines3's `replay_buffer_class` and its arguments as the data answer and its own."""
    kind = settings.get("replay_buffer_class")
    name = str(getattr(kind, "__name__", kind))
    if name not in _BUFFERS and kind is not None:
        return dict(settings)
    given = settings.get("replay_buffer_kwargs") or {}
    if not isinstance(given, Mapping):
        raise SettingError(f"replay_buffer_kwargs={given!r} must be a dict.")
    # SB3's memory of half the size cannot tell time limits from ends, so its scripts say False beside it.
    told = {True, not settings.get("optimize_memory_usage", False)}
    given = {k: x for k, x in given.items() if k != "handle_timeout_termination" or x not in told}
    if given and kind is None:
        return dict(settings)
    rest = {k: x for k, x in settings.items() if k not in ("replay_buffer_class", "replay_buffer_kwargs")}
    once(rest, given, "replay_buffer_kwargs")
    word = _BUFFERS.get(name)
    return ({} if word is None else {"data": word}) | rest | dict(given)


def _renamed(algorithm: Algorithm, name: str, value: Any) -> str:
    if name == "n_step" and not algorithm.replays_transitions:
        raise SettingError(
            f"n_step={value!r} is the target's n on replayed data; set n_steps, the rows of a chunk, instead."
        )
    return _ALIASES.get(name, name)


def _with_answers(algorithm: Algorithm, values: words.Said) -> tuple[Any, dict[str, words.Said]]:
    """The composition with the answers that `values` names, taken out of it; what their words say."""
    said: dict[str, words.Said] = {name: {} for name in parts_of(algorithm)}
    changed = {}
    for name, parse in _ANSWERS.items() if isinstance(algorithm, Composition) else ():
        if name in values:
            given, base = values.pop(name)[1], getattr(algorithm, name)
            given = present_word(given) if name == "data" and isinstance(given, str) else given
            if not isinstance(given, str | _KINDS[name]):
                raise SettingError(f"{name}={given!r}: name one, as {words.write(base)!r}.")
            changed[name] = parse(given, base) if isinstance(given, str) else given
            said[name] = said_in(name, given) if isinstance(given, str) else {}
    changed = _explorer(algorithm, values, changed.get("actor")) | changed
    if not isinstance(algorithm, Composition):
        return dataclasses.replace(algorithm, **changed) if changed else algorithm, said
    critic, actor = changed.get("critic", algorithm.critic), changed.get("actor", algorithm.actor)
    if (actor.fit or critic.fit) is not type(algorithm.fit):
        raise SettingError(
            f"actor {actor.name} learns in another way than {algorithm.actor.name}: name critic and actor alone."
        )
    return dataclasses.replace(algorithm, **changed), said


_EXPLORERS = {cls.exploration: cls.name for cls in ACTORS.values() if cls.exploration}


def _explores(algorithm: Algorithm) -> Any:
    """Its actor, where `exploration` names it; else None."""
    actor = parts_of(algorithm).get("actor")
    return actor if actor is not None and actor.exploration else None


def _explorer(algorithm: Algorithm, values: words.Said, given: Any) -> dict[str, Any]:
    """The actor that `exploration` names, or that noisy layers make: they explore instead of ε. `given`: the one named
    besides."""
    old = _explores(algorithm)
    if old is None:
        return {}
    if "exploration" in values:
        word, kind = values.pop("exploration")
        kind = "none" if kind is None else kind  # `--set exploration=none`
        if not isinstance(kind, str) or kind not in _EXPLORERS:
            raise SettingError(f"exploration={kind!r}: choose one of {', '.join(_EXPLORERS)}.")
        if given is not None:
            words.agree({"actor": (f"actor={given.name}", given.name)}, "actor", word, _EXPLORERS[kind])
        return {} if kind == old.exploration else {"actor": parse_actor(_EXPLORERS[kind], old)}
    instead = old.beside_noise.get(values.get("noisy", ("", None))[1])
    return {"actor": parse_actor(instead)} if instead else {}


def _apply(algorithm: Algorithm, given: words.Said, said: dict[str, words.Said]) -> Any:
    """Each setting where it belongs, beside what words have `said`; fields of one part are replaced together, some are
    only sound with each other."""
    values = {name: x for name, (_, x) in given.items()}
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {name: {} for name in parts_of(algorithm)}
    parts, mine = parts_of(algorithm), own_fields(algorithm)
    # The discount comes before the flag `gamma` of an actor, whose setting is gamma_weight.
    others = {name: x for name, x in values.items() if name not in mine}
    names = {part: _names_after(held, others) for part, held in parts.items()}
    for name, value in values.items():
        owners = [part for part in parts if name in others and name in names[part]]
        if name in mine:
            own[name] = value
        elif name == "policy_kwargs":
            own["network"] = network_config({} if value is None else value, algorithm.network)
        elif not owners:
            before = {x for held in parts.values() for x in words.setting_names(held)}
            after = [x for found in names.values() for x in found]
            known = {*setting_names(algorithm)} - before | {*mine, *after}
            who = " × ".join(algorithm.answers[:2])
            raise SettingError(f"unknown setting {name!r} for {who}: {hint(name, value, known)}")
        for part in owners:
            words.say(type(parts[part]), said[part], given[name][0], name, value)
            inner[part][name] = value
    changed = {name: words.with_changes(parts[name], found) for name, found in inner.items() if found}
    return dataclasses.replace(algorithm, **own, **changed)


def _names_after(held: Any, values: dict[str, Any]) -> list[str]:
    """The settings of an answer once these are made: what is chosen inside it brings its own."""
    made = {name: x for name, x in values.items() if name in words.own_names(type(held))}
    return words.setting_names(words.with_changes(held, made) if made else held)


# ---------------------------------------------------------------------------- other spellings


def _spelled(algorithm: Algorithm, name: str, value: Any) -> dict[str, Any]:
    """A setting under the names that the answers have for it; {} where it is what they do anyhow."""
    names = setting_names(algorithm)
    if name in UNSUPPORTED and name not in names:
        if not value or getattr(value, "__name__", value) in _CHUNKS:
            return {}
        raise SettingError(f"{name}: {UNSUPPORTED[name]}.")
    if name == "optimize_memory_usage" and "buffer_size" in names:
        return {}  # observations are stored once in any case
    if name == "target_update_interval" and name not in names and "tau" in names:
        if value == 1:
            return {}
        raise SettingError(
            f"target_update_interval={value!r}: the targets follow every update; choose tau instead."
        )
    if name in ("double", "noisy", "dueling", "normalize", "use_rms_prop") and not isinstance(value, bool):
        raise SettingError(f"{name}={value!r} must be True or False.")
    if name == "normalize" and "normalize_reward" in names:
        return {"normalize_obs": value, "normalize_reward": value}
    if name == "use_rms_prop" and "vf_coef" in names:
        return {"optimizer": "rmsprop" if value else "adam"}
    if name == "action_noise" and "noise_type" in names:
        return action_noise_settings(value)
    for old, (field, spelled) in _OF_Q.items():
        if name == old and field in names:
            if value not in spelled:
                raise SettingError(f"{name}={value!r}: choose one of {', '.join(map(str, spelled))}.")
            return {field: spelled[value]}
    return {name: value}


_CHUNKS = ("RolloutBuffer", "DictRolloutBuffer", "RecurrentRolloutBuffer", "RecurrentDictRolloutBuffer")
"""What Stable-Baselines3 takes anyhow, where a script says it."""

_OF_Q: dict[str, tuple[str, dict[Any, str]]] = {
    "target": ("backup", {"q-learning": "max"} | {cls.name: cls.name for cls in BACKUPS}),
    "distributional": (
        "representation", {None: "number"} | {cls.name: cls.name for cls in REPRESENTATIONS if cls.distributional},
    ),
}  # fmt: skip


def action_noise_settings(noise: Any) -> dict[str, Any]:
    """`action_noise` as Stable-Baselines3 gives it (None or an object with sigma), or a number, as settings."""
    if noise is None:
        return {"noise_type": "none"}
    if isinstance(noise, int | float) and not isinstance(noise, bool):
        return {"noise_type": "normal", "noise_std": float(noise)}
    # Our own classes have mean and sigma, Stable-Baselines3's objects _mu and _sigma.
    mean = getattr(noise, "mean", getattr(noise, "_mu", None))
    sigma = getattr(noise, "sigma", getattr(noise, "_sigma", None))
    values = None if sigma is None else np.atleast_1d(np.asarray(sigma, float))
    if (
        values is None
        or len(set(values.tolist())) != 1
        or (mean is not None and np.any(np.asarray(mean) != 0))
    ):
        raise SettingError(
            f"action_noise={noise!r}: give a standard deviation, NormalActionNoise or OrnsteinUhlenbeckActionNoise "
            "with mean 0 and one sigma for all dimensions."
        )
    if values[0] == 0:
        return {"noise_type": "none"}
    kind = "ornstein-uhlenbeck" if "Ornstein" in type(noise).__name__ else "normal"
    return {"noise_type": kind, "noise_std": float(values[0])}


_DROPPED = {
    "n_atoms", "v_min", "v_max", "n_quantiles", "n_policy_quantiles", "quantile_dim", "temperature", "n_critics",
    "exploration_fraction", "exploration_initial_eps", "exploration_final_eps", "top_quantiles_to_drop_per_net",
    "cql_alpha", "cql_actions", "bc_alpha", "discrete", "tau", "clip_range_vf", "beta", "max_weight", "expectile",
}  # fmt: skip
"""Settings that files of format 1 hold also where they had no effect."""


def upgraded(algorithm: Algorithm, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as files of format 1 hold them, without those that had no effect; others as they are."""
    settings = dict(settings)
    if (
        isinstance(settings.get("data"), str)
        and settings["data"].startswith("replay:")
        and "=" not in settings["data"]
    ):
        settings["data"] = settings["data"].replace("replay", "trajectories", 1)
    composition = isinstance(algorithm, Composition)
    of_critic = words.setting_names(algorithm.critic) if isinstance(algorithm, Composition) else []
    if settings.get("cql_alpha") and composition and "cql_alpha" not in of_critic:
        settings["critic"] = f"conservative:{settings['cql_alpha']}"
    if settings.get("n_quantiles") and "joined" in of_critic:
        settings["joined"] = "quantiles"
    chosen = (*_ANSWERS, "joined", "target", "distributional", "noisy") if composition else ()
    first = {name: settings[name] for name in (*chosen, "exploration") if name in settings}
    names = setting_names(configure(algorithm, first))
    return {name: x for name, x in settings.items() if name in names or name not in _DROPPED}


# ---------------------------------------------------------------------------- the network


def differing(algorithm: Algorithm, base: Algorithm) -> dict[str, Any]:
    """The settings of an algorithm that are other ones than those of `base`."""
    usual = settings_of(base)
    return {name: x for name, x in settings_of(algorithm).items() if name not in usual or x != usual[name]}


def settings_of(algorithm: Algorithm) -> dict[str, Any]:
    """The flat, JSON-ready settings that `configure` turns back into this algorithm: for a composition its words."""
    out: dict[str, Any] = {name: getattr(algorithm, name) for name in own_fields(algorithm)}
    if isinstance(algorithm, Composition):
        out |= {name: words.write(getattr(algorithm, name), full=True) for name in _ANSWERS}
        out |= {f.name: getattr(algorithm.fit, f.name) for f in dataclasses.fields(algorithm.fit)}
    else:
        for part in parts_of(algorithm).values():
            out |= {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
        if (actor := _explores(algorithm)) is not None:
            out["exploration"] = actor.exploration
    out = {name: str(x) if isinstance(x, Linear | Tabulated) else x for name, x in out.items()}
    return out | {"policy_kwargs": network_settings(algorithm.network)}
