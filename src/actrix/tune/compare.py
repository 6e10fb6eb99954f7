"""After the search: the best trials, the zoo's and the default settings on seeds that the search never saw.

Round one trains the best five, and chooses. What it says of the one chosen is the best of five, so round two trains
that one again, beside the zoo's and the default settings, on seeds that chose nothing: its figures are the result.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from actrix.files import atomic, checkpoint
from actrix.runs.config import RunConfig, RunError
from actrix.runs.folder import evaluated_steps, evaluation, load_config, seed_folders
from actrix.runs.start import HERE, resume, start
from actrix.show.stats import Summary, amount, summarize
from actrix.tune.plan import BEST, Plan
from actrix.tune.study import best, counted

ROUNDS = ("choice", "result")
BEST_FILE, RESULT = "best.yaml", "result.json"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Settings that are trained again."""

    name: str
    """'trial-12', 'zoo' or 'default'."""
    config: RunConfig
    trial: Any = None
    """Optuna's frozen trial, of those that were searched."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a study came to."""

    folder: Path
    chosen: Candidate
    choice: dict[str, Summary]
    """Candidate's name → its returns in round one."""
    result: dict[str, Summary]
    """The same of round two: the chosen one's, the zoo's and the default's."""


def standards(plan: Plan) -> list[Candidate]:
    """The zoo's setting, if it has one for this environment, and the default, if that is another."""
    zoo, default = Candidate("zoo", plan.base), Candidate("default", plan.default)
    if not plan.base.tuned:
        return [default]
    same = (zoo.config.settings, zoo.config.n_envs) == (default.config.settings, default.config.n_envs)
    return [zoo] if same else [zoo, default]


def held_out(plan: Plan, round: int) -> tuple[int, ...]:
    """The seeds of a round: none is a tuning seed, and the rounds share none."""
    first = max(plan.base.seeds) + 1 + round * plan.held_out
    return tuple(range(first, first + plan.held_out))


def compare(
    plan: Plan,
    study: Any,
    folder: Path,
    quiet: bool,
    say: Callable[[str], object],
    address: str | None = None,
) -> Outcome | None:
    """Both rounds, each a run folder for each candidate, gone on with where they were interrupted; None: they were now.

    At the address of a Ray cluster a round's seeds are spread over it. Raises RunError where no trial was finished.
    """
    found = [Candidate(f"trial-{t.number}", plan.config(t.params), t) for t in best(study, BEST)]
    if not found:
        raise RunError(f"none of {len(counted(study.trials))} trials was finished: nothing can be compared.")
    choice = _round(plan, [*found, *standards(plan)], folder, 0, quiet, say, address)
    if choice is None:
        return None
    chosen = max(found, key=lambda one: _middle(choice[one.name]))
    result = _round(plan, [chosen, *standards(plan)], folder, 1, quiet, say, address)
    if result is None:
        return None
    outcome = Outcome(folder, chosen, choice, result)
    _write(plan, study, outcome)
    return outcome


def check_rounds(plan: Plan, study: Any, folder: Path) -> None:
    """Raise RunError where a folder of a round holds another run than the study's candidate of that name.

    It is not trained anew: who lost a storage may still want what its trials came to.
    """
    known = {f"trial-{t.number}": t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"}
    plain = {one.name: one.config for one in standards(plan)}
    for round, kind in enumerate(ROUNDS):
        for path in sorted((folder / kind).glob("*/config.json")):
            name = path.parent.name
            told = [f"the storage has no finished {name}"]
            if name in known or name in plain:
                config = plain.get(name) or plan.config(known[name].params)
                told = _other(
                    load_config(path.parent), dataclasses.replace(config, seeds=held_out(plan, round))
                )
            if told:
                raise RunError(
                    f"{path.parent} is of another study than the storage's ({told[0]}): move {folder / ROUNDS[0]} and "
                    f"{folder / ROUNDS[1]} away, or choose another --out."
                )


def _other(held: RunConfig, config: RunConfig) -> list[str]:
    """In what a folder's run differs from a candidate's, wherever either runs."""
    sides = [json.loads(json.dumps(dataclasses.asdict(x) | {"address": None})) for x in (held, config)]
    return [text.replace("the checkpoint has", "there it is") for text in checkpoint.differences(*sides)]


def _round(
    plan: Plan,
    candidates: Sequence[Candidate],
    folder: Path,
    round: int,
    quiet: bool,
    say: Callable[[str], object],
    address: str | None = None,
) -> dict[str, Summary] | None:
    seeds, out = held_out(plan, round), {}
    where = address if len(seeds) > 1 else None
    for one in candidates:
        config = dataclasses.replace(one.config, seeds=seeds, address=where)
        path = folder / ROUNDS[round] / one.name
        if not _done(config, path):
            say(f"{ROUNDS[round]}: training {one.name} on seeds {seeds[0]} to {seeds[-1]}")
            known = (path / "config.json").is_file()
            again = (
                resume(path, env_id=config.env_id, quiet=quiet, address=where or HERE)
                if known
                else start(config, path, quiet=quiet)
            )
            if not again.finished:
                return None
        out[one.name] = summarize({seed: evaluation(at)[1] for at, seed in seed_folders(path, config)})
    return out


def _done(config: RunConfig, path: Path) -> bool:
    return all(evaluated_steps(at) >= config.n_timesteps for at, _ in seed_folders(path, config))


def _middle(summary: Summary) -> float:
    return summary.mean if summary.iqm is None else summary.iqm


def verdict(outcome: Outcome) -> list[str]:
    """How the chosen setting stands to each of the others in round two, a sentence each."""
    ours = outcome.result[outcome.chosen.name]
    others = {name: x for name, x in outcome.result.items() if name != outcome.chosen.name}
    return [
        f"{outcome.chosen.name} {_stands(ours, theirs, f'the {name} setting')}"
        for name, theirs in others.items()
    ]


def _stands(ours: Summary, theirs: Summary, name: str) -> str:
    """Better or worse only where the intervals do not overlap."""
    if ours.low is None or ours.high is None or theirs.low is None or theirs.high is None:
        return f"cannot be told from {name}: too few held-out seeds for an interval"
    if ours.low > theirs.high:
        return f"is better than {name}"
    if ours.high < theirs.low:
        return f"is worse than {name}"
    return f"is not told from {name}: their intervals overlap"


def _write(plan: Plan, study: Any, outcome: Outcome) -> None:
    """`best.yaml` and `result.json`."""
    chosen = outcome.chosen
    line = plan.train_words(chosen.config.n_envs)
    command = shlex.join(["actrix", "train", *line, "--settings", str(outcome.folder / BEST_FILE)])
    head = [
        f"{plan.title}: trial {chosen.trial.number} of {len(counted(study.trials))}, found by actrix tune.",
        f"On {amount(plan.held_out, 'held-out seed')}: {outcome.result[chosen.name]}.",
        *(
            f"The {name} setting there: {summary}."
            for name, summary in outcome.result.items()
            if name != chosen.name
        ),
        command,
    ]
    settings = yaml.safe_dump(plan.written(chosen.trial.params), sort_keys=False, allow_unicode=True)
    atomic.write_text(outcome.folder / BEST_FILE, "".join(f"# {line}\n" for line in head) + settings)
    rounds = dict(zip(ROUNDS, (outcome.choice, outcome.result), strict=True))
    found = {
        name: {
            "seeds": list(held_out(plan, k)),
            "settings": {who: _figures(x) for who, x in summaries.items()},
        }
        for k, (name, summaries) in enumerate(rounds.items())
    }
    atomic.write_json(outcome.folder / RESULT, {
        "study": plan.title, "trials": len(counted(study.trials)), "steps": plan.base.n_timesteps,
        "tuning_seeds": list(plan.base.seeds), "chosen": chosen.name, "verdict": verdict(outcome), **found,
    })  # fmt: skip


def _figures(summary: Summary) -> dict[str, Any]:
    plain = {key: getattr(summary, key) for key in ("mean", "iqm", "low", "high")}
    return {key: None if x is None else round(x, 3) for key, x in plain.items()} | {
        "returns": list(summary.values)
    }
