"""What a study is: everything that bears on what its trials compute, as `study.json` holds it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actrix import zoo
from actrix.algorithms import presets
from actrix.algorithms.policy_kwargs import named_policy, network_settings
from actrix.algorithms.settings import (
    SettingError,
    configure,
    differing,
    fields_of,
    over,
    own_fields,
    settings_of,
    value_of,
)
from actrix.core import words
from actrix.core.contract import Algorithm
from actrix.crews import backend_for
from actrix.files import atomic, checkpoint
from actrix.runs import warm
from actrix.runs.config import RunConfig, RunError, resolve
from actrix.tune.derive import derive, nested, read_space
from actrix.tune.space import Choice, Space, from_spec

STUDY = "study.json"
OPTIONS = ("workers", "step_timeout", "max_restarts", "init", "actors", "envs_per_group", "behind", "learners",
           "learner_processes")  # fmt: skip
"""Fields of a run that are options of `actrix train` by the same names."""
BEST = 5
"""So many of a study's trials are trained again on held-out seeds."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study: where its trials start, what they search, and on which seeds they are judged."""

    base: RunConfig
    """Preset, the zoo's entry for this environment, the fixed settings; its seeds are the tuning seeds."""
    default: RunConfig
    """The same without the zoo's entry for this environment."""
    fixed: dict[str, Any]
    """Settings that are the user's and stay, in the user's own words."""
    space: Space
    held_out: int
    """How many seeds each of the two rounds after the search has."""
    evaluations: int
    """Checkpoints at which a trial's seeds are evaluated, the last at the end."""

    @property
    def title(self) -> str:
        """For headings: "ppo on CartPole-v1"."""
        who = self.base.algorithm
        if who == presets.COMPOSED:
            who = " × ".join(self.base.build().answers)
        return f"{who} on {self.base.env_id}"

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Optuna's parameters → flat settings."""
        return nested({one.name: one.read(params[one.param]) for one in self.space})

    def config(self, params: Mapping[str, Any]) -> RunConfig:
        """The run of these parameters; SettingError where they do not go together."""
        return self.changed(self.settings(params))

    def changed(self, settings: dict[str, Any]) -> RunConfig:
        """The same of flat settings."""
        n_envs = settings.pop("n_envs", self.base.n_envs)
        changed = settings_of(configure(self.base.build(), settings))
        return dataclasses.replace(self.base, settings=changed, n_envs=n_envs)

    def nearest(self, config: RunConfig) -> dict[str, Any]:
        """The parameters of the space's point nearest to a run, but those it says nothing of."""
        algorithm = config.build()
        out: dict[str, Any] = {}
        for one in self.space:
            if isinstance(one, Choice) and one.name != "n_envs":
                if same := [x for x in one.choices if _stands(algorithm, one.name, x)]:
                    out[one.param] = one.nearest(same[0])
                continue
            try:
                value = config.n_envs if one.name == "n_envs" else value_of(algorithm, one.name)
            except KeyError:
                continue
            param = one.nearest(str(value) if callable(value) else value)
            if param is not None:
                out[one.param] = param
        return out

    def written(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What `actrix train --settings` takes for these parameters: what still stands of the zoo's entry, what is
        fixed, what was found, and whatever else the command (`train_words`) would have otherwise than the trial."""
        entry, _ = zoo.settings(self.base.algorithm, self.base.env_id, self.base.tuned)
        config, found = self.config(params), self.settings(params)
        algorithm, own = config.build(), self.fixed | found
        said = named_policy(entry.get("policy", "")) | entry.get("policy_kwargs", {})
        network = _standing(algorithm, {f"policy_kwargs.{k}": x for k, x in said.items()}, {})
        network = {**nested(network).get("policy_kwargs", {}), **(self.fixed.get("policy_kwargs") or {}),
                   **found.get("policy_kwargs", {})}  # fmt: skip
        tuned = {name: x for name, x in entry.items() if name not in (*zoo.RUN_KEYS, "policy_kwargs")}
        run = {"n_timesteps": config.n_timesteps, "n_envs": config.n_envs}
        out = run | _standing(algorithm, tuned, own) | own | ({"policy_kwargs": network} if network else {})
        trained = self._trained(out).build()
        left = differing(algorithm, trained)
        if "policy_kwargs" in left:
            left["policy_kwargs"] = network | network_settings(algorithm.network, trained.network)
        return out | left

    def _trained(self, settings: dict[str, Any]) -> RunConfig:
        """The run of `actrix train` with the words of `train_words` and a file of these settings."""
        names = ("env_id", "seeds", "backend", "env_kwargs", "dataset", "tuned", *OPTIONS)
        given = {name: getattr(self.base, name) for name in names}
        network = warm.network_of(self.base.init) if self.base.init else None
        return resolve(**self._who(), **given, network=network, file=settings, tell=False)

    def _who(self) -> dict[str, Any]:
        """The algorithm by its name, or by its answers."""
        if self.base.algorithm != presets.COMPOSED:
            return {"algorithm": self.base.algorithm}
        answers = zip(("critic", "actor", "data"), self.base.build().answers, strict=True)
        return {"algorithm": None, **dict(answers)}

    def train_words(self, n_envs: int) -> list[str]:
        """What follows `actrix train` and names the same algorithm, environment and way to run, of so many
        environments."""
        base, who = self.base, self._who()
        name = who.pop("algorithm")
        line = [name] if name else [word for part, x in who.items() for word in (f"--{part}", x)]
        line += [base.env_id]
        line += ["--zoo", str(base.tuned)] if base.tuned > 1 else []
        line += ["--dataset", *base.dataset] if base.dataset else []
        if base.env_kwargs:
            line += ["--env-kwargs", *(f"{k}={_word(x)}" for k, x in base.env_kwargs.items())]
        if not base.dataset:
            usual = backend_for(
                base.grouping, "auto", base.env_id, base.env_kwargs or None, n_envs, base.workers
            )
            line += ["--backend", base.backend] if base.backend != usual else []
        usual_of = {f.name: f.default for f in dataclasses.fields(base)}
        for option in OPTIONS:
            if (value := getattr(base, option)) != usual_of[option]:
                line += [f"--{option.replace('_', '-')}", *([] if value is True else [str(value)])]
        return line

    def json(self) -> dict[str, Any]:
        """As `study.json` holds it."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain |= {name: dataclasses.asdict(plain[name]) for name in ("base", "default")}
        plain["space"] = {one.name: one.spec() | _whole(one) for one in self.space}
        return json.loads(json.dumps(plain))

    def check_same(self, folder: Path, storage: str) -> None:
        """Raise RunError where the folder holds another study than this one, or one in another storage."""
        old, new = _read(folder), self.json() | {"storage": storage}
        theirs = Plan.load(folder)
        if theirs.title != self.title:
            raise RunError(
                f"{folder} holds a study of {theirs.title}, not of {self.title}: choose another --out."
            )
        changed = checkpoint.differences(old, new)
        if changed:
            told = "; ".join(changed[:3]).replace("the checkpoint", "the study")
            raise RunError(
                f"{folder} holds a study with other options ({told}): repeat those, or choose another --out."
            )

    def save(self, folder: Path, storage: str) -> None:
        """Write `study.json`, with which storage holds its trials, without what may be a password."""
        atomic.write_json(folder / STUDY, self.json() | {"storage": storage})

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read it; RunError where it cannot be."""
        data = _read(folder)
        try:
            space = tuple(from_spec(name, spec) for name, spec in data.pop("space").items())
            del data["storage"]
            base, default = (_run_config(data.pop(name)) for name in ("base", "default"))
            return cls(base, default, space=space, **data)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RunError(f"{folder / STUDY} cannot be read: {error}") from None


def make_plan(
    base: RunConfig, default: RunConfig, fixed: Mapping[str, Any], space_file: Path | None, held_out: int,
    evaluations: int,
) -> Plan:  # fmt: skip
    """The study of a run, in the derived space as the file changes it. Raises SettingError."""
    if not base.env_id:
        raise SettingError("there is no environment to evaluate in: name one beside the data set.")
    for name, value in (("held_out", held_out), ("evaluations", evaluations)):
        if value < 1:
            raise SettingError(f"{name}={value} must be at least 1.")
    default = dataclasses.replace(default, n_timesteps=base.n_timesteps, seeds=base.seeds)
    algorithm = base.build()
    inner = {name: x for name, x in fixed.items() if name not in own_fields(algorithm)}
    taken = fixed.keys() | fields_of(algorithm, inner)
    taken |= {f"policy_kwargs.{name}" for name in fixed.get("policy_kwargs") or {}}
    offline = bool(base.dataset)
    space = derive(default.build(), algorithm, taken, offline)
    if space_file is not None:
        space = read_space(space_file, space, algorithm, taken, offline)
    network = [one.name for one in space if one.name.partition(".")[0] == "policy_kwargs"]
    if base.init and network:
        raise SettingError(f"{network[0]}: every trial has the network of --init; leave out one of the two.")
    if not space:
        raise SettingError(
            f"{base.algorithm} has no setting to search by itself: name some with --space FILE."
        )
    return Plan(base, default, json.loads(json.dumps(dict(fixed))), space, held_out, evaluations)


def _stands(algorithm: Algorithm, name: str, value: Any) -> bool:
    """Whether the algorithm has this value already, however it is spelled."""
    try:
        return settings_of(configure(algorithm, nested({name: value}))) == settings_of(algorithm)
    except (ValueError, TypeError):
        return False


def _standing(algorithm: Algorithm, settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What the algorithm still has of settings that it began with, where they are not set by `own`, too: an answer that
    was replaced took its own with it."""
    kept = {}
    for name, value in settings.items():
        try:
            for k, x in over(algorithm, {name: value}, own).items():
                if k not in own and _stands(algorithm, k, x):
                    kept[k] = x
        except SettingError:
            continue
    return kept


def _word(value: Any) -> str:
    """A value as `words.read_value` reads it."""
    text = words.write_value(value)
    return text if words.read_value(text) == value else repr(value)


def _whole(one: Any) -> dict[str, Any]:
    return {"whole": True} if getattr(one, "whole", False) else {}


def _read(folder: Path) -> dict[str, Any]:
    try:
        data = json.loads((folder / STUDY).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{folder / STUDY} cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise RunError(f"{folder / STUDY} cannot be read: it holds no study.")
    return data


def _run_config(data: dict[str, Any]) -> RunConfig:
    return RunConfig(**data | {"seeds": tuple(data["seeds"]), "dataset": tuple(data["dataset"])})
