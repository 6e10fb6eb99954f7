"""What a study is: everything that bears on what its trials compute, as `study.json` holds it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actrix import zoo
from actrix.algorithms import presets
from actrix.algorithms.settings import (
    SettingError,
    configure,
    fields_of,
    over,
    own_fields,
    settings_of,
    value_of,
)
from actrix.core import words
from actrix.files import atomic, checkpoint
from actrix.runs.config import RunConfig, RunError
from actrix.tune.derive import derive, nested, read_space
from actrix.tune.space import Space, from_spec

STUDY = "study.json"
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
        settings = self.settings(params)
        n_envs = settings.pop("n_envs", self.base.n_envs)
        changed = settings_of(configure(self.base.build(), settings))
        return dataclasses.replace(self.base, settings=changed, n_envs=n_envs)

    def nearest(self, config: RunConfig) -> dict[str, Any]:
        """The parameters of the space's point nearest to a run, but those it says nothing of."""
        algorithm, out = config.build(), {}
        for one in self.space:
            try:
                value = config.n_envs if one.name == "n_envs" else value_of(algorithm, one.name)
            except KeyError:
                continue
            param = one.nearest(str(value) if callable(value) else value)
            if param is not None:
                out[one.param] = param
        return out

    def written(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What `actrix train --settings` takes for these parameters: the zoo's entry, what is fixed, what was found."""
        entry, _ = zoo.settings(self.base.algorithm, self.base.env_id, self.base.tuned)
        run = {"n_timesteps": self.base.n_timesteps, "n_envs": self.base.n_envs}
        found = self.settings(params)
        network = {**entry.get("policy_kwargs", {}), **(self.fixed.get("policy_kwargs") or {}),
                   **found.get("policy_kwargs", {})}  # fmt: skip
        out = over(self.base.build(), entry | run, self.fixed | found)
        return out | ({"policy_kwargs": network} if network else {})

    def train_words(self) -> list[str]:
        """What follows `actrix train` and names the same algorithm and environment."""
        who = [self.base.algorithm]
        if self.base.algorithm == presets.COMPOSED:
            answers = zip(("--critic", "--actor", "--data"), self.base.build().answers, strict=True)
            who = [word for pair in answers for word in pair]
        line = [*who, self.base.env_id]
        if self.base.dataset:
            line += ["--dataset", *self.base.dataset]
        if self.base.env_kwargs:
            line += [
                "--env-kwargs",
                *(f"{k}={words.write_value(x)}" for k, x in self.base.env_kwargs.items()),
            ]
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
        """Write `study.json`, with whose storage holds its trials; not which, as a URL may hold a password."""
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
    if not space:
        raise SettingError(
            f"{base.algorithm} has no setting to search by itself: name some with --space FILE."
        )
    return Plan(base, default, json.loads(json.dumps(dict(fixed))), space, held_out, evaluations)


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
