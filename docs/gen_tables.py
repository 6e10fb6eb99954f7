"""Rewrite the generated tables of the documentation from the code: `python docs/gen_tables.py`.

A generated block stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; tests/test_docs.py fails where
one is stale. `--check` changes nothing and exits with 1 if a block would change.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from actrix import zoo
from actrix.actors.answers import PSI
from actrix.algorithms.compositions import table
from actrix.algorithms.presets import PRESETS, Preset

DOCS = Path(__file__).resolve().parent

MEANING = {
    "n_steps": "rows per environment and chunk (`None`: the environment's time limit)",
    "batch_size": "rows per minibatch (`None`: the whole chunk)",
    "n_epochs": "passes over a chunk",
    "gamma": "discount $\\gamma$",
    "gae_lambda": "$\\lambda$ of GAE",
    "learning_rate": "step size; a number, `lin_<number>` or a function of the remaining progress",
    "ent_coef": "weight of the entropy bonus",
    "vf_coef": "weight of the value loss",
    "max_grad_norm": "bound of the gradient's norm (`None`: off)",
    "normalize_advantage": "ψ to mean 0 and standard deviation 1, per minibatch",
    "clip_range": "$\\varepsilon$; a number, `lin_<number>` or a function",
    "clip_range_vf": "clipping of value changes (`None`: off)",
    "kl_target": "$d_\\text{targ}$",
    "initial_beta": "$\\beta$ at the start",
    "target_kl": "skip a chunk's remaining steps once the approximate KL exceeds 1.5 × this (`None`: off)",
    "n_critic_updates": "extra passes that fit only the critic",
    "critic_learning_rate": "step size of those (`None`: `learning_rate`)",
    "gamma_weight": "multiply ψ by $\\gamma^t$, as the theorem has it",
    "optimizer": "`adam`, `rmsprop` or `sgd`",
    "optimizer_eps": "ε of the optimiser",
}


def presets() -> str:
    """The named algorithms by their three answers."""
    rows = ["| command | class | 1 critic | 2 actor × ψ | 3 data | paper |", "|---|---|---|---|---|---|"]
    for p in PRESETS.values():
        critic, actor, data = p.answers
        name = f"[`{p.name}`]({p.name}.md)"
        rows.append(f"| {name} | `{p.class_name}` | `{critic}` | {actor} | {data} | {p.paper} |")
    return "\n".join(rows)


def compositions() -> str:
    """Every critic × actor × ψ: one table per actor, with the reasons of the refusals below."""
    cells = [dataclasses.replace(c, reason=_general(c.reason, c.psi)) for c in table()]
    reasons = list(dict.fromkeys(c.reason for c in cells if c.reason))
    critics = list(dict.fromkeys(c.critic for c in cells))
    found = {(c.critic, c.actor, c.psi): c.reason for c in cells}
    out = [f"{sum(c.reason is None for c in cells)} of {len(cells)} are sound.", ""]
    for actor in dict.fromkeys(c.actor for c in cells):
        out += [f"**Actor `{actor}`**", ""]
        out += [f"| critic | {' | '.join(f'`{psi}`' for psi in PSI)} |", "|---|" + ":-:|" * len(PSI)]
        for critic in critics:
            whys = [found[critic, actor, psi] for psi in PSI]
            marks = ["●" if why is None else f"({reasons.index(why) + 1})" for why in whys]
            out.append(f"| `{critic}` | {' | '.join(marks)} |")
        out.append("")
    out.append("● sound; a number is the reason for the refusal:")
    out += ["", *(f"{i}. {_sentence(reason)}" for i, reason in enumerate(reasons, 1))]
    return "\n".join(out)


def _general(reason: str | None, psi: str) -> str | None:
    """A reason without the name of its ψ, so that one footnote serves a row of cells."""
    if reason is None or (psi == "q" and "needs Q(s,a)" in reason):
        return reason
    return reason.replace(f"ψ={psi} is", "this ψ is").replace(f"and {psi} is", "and this ψ is")


def _sentence(text: str) -> str:
    return (text[0].upper() + text[1:] if text[0].isascii() else text) + "."


def psi_forms() -> str:
    """The forms of ψ."""
    return "\n".join(["| ψ | is |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in PSI.items())])


def settings(preset: Preset) -> dict[str, Any]:
    """The flat settings of a preset that have a meaning for it."""
    algorithm = preset.algorithm
    out = {f.name: getattr(algorithm, f.name) for f in dataclasses.fields(algorithm)}
    for part in (algorithm.critic.estimator, algorithm.actor):
        out |= {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    hidden = set()
    if algorithm.critic.function == "none":
        hidden |= {"vf_coef", "clip_range_vf"}
    if not algorithm.n_critic_updates:
        hidden |= {"n_critic_updates", "critic_learning_rate"}
    if algorithm.critic.function == "none" or algorithm.vf_coef == 0 or not algorithm.actor.ratio:
        hidden |= {"clip_range_vf"}
    if not algorithm.actor.ratio:
        hidden |= {"target_kl"}
    return {name: out[name] for name in MEANING if name in out and name not in hidden}


def defaults(preset: Preset) -> str:
    """The settings of one algorithm."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    rows.append(f"| `n_envs` | {preset.n_envs} | parallel environments, from the command line (Python: 1) |")
    rows += [f"| `{k}` | {_value(v)} | {MEANING[k]} |" for k, v in settings(preset).items()]
    return "\n".join(rows)


def zoo_tables() -> str:
    """The tuned settings of every algorithm."""
    out = []
    for preset in PRESETS.values():
        out += [f"## {preset.class_name} (`{preset.name}`)", ""]
        out += ["| environment | steps | `n_envs` | settings |", "|---|--:|--:|---|"]
        for env_id, entry in zoo.load(preset.name).items():
            entry = dict(entry)
            steps, n_envs = entry.pop("n_timesteps", 1_000_000), entry.pop("n_envs", preset.n_envs)
            shown = ", ".join(f"`{k}={_plain(v)}`" for k, v in entry.items()) or "the algorithm's defaults"
            name = "any other" if env_id == "default" else f"`{env_id}`"
            out.append(f"| {name} | {steps:,} | {n_envs} | {shown} |")
        out.append("")
    return "\n".join(out).rstrip()


def _value(value: Any) -> str:
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def blocks() -> dict[tuple[str, str], str]:
    """(file, block) → text."""
    out = {
        ("algorithms/index.md", "presets"): presets(),
        ("algorithms/composition.md", "compositions"): compositions(),
        ("algorithms/composition.md", "psi"): psi_forms(),
        ("zoo.md", "zoo"): zoo_tables(),
    }
    return out | {(f"algorithms/{p.name}.md", "defaults"): defaults(p) for p in PRESETS.values()}


def rewrite(text: str, name: str, block: str) -> str:
    """`text` with the block of that name replaced; ValueError if it has none."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"expected one {begin} … {end}")
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n\n{block}\n\n{end}", text)


def stale(write: bool = False) -> list[str]:
    """The files whose blocks differ from the code; rewrites them if asked to."""
    found = []
    for (file, name), block in blocks().items():
        path = DOCS / file
        old = path.read_text(encoding="utf-8")
        new = rewrite(old, name, block)
        if new != old:
            found.append(f"{file} ({name})")
            if write:
                path.write_text(new, encoding="utf-8")
    return found


if __name__ == "__main__":
    check = "--check" in sys.argv[1:]
    changed = stale(write=not check)
    print("\n".join(changed) or "all tables are up to date")
    sys.exit(1 if check and changed else 0)
