"""Rewrite the generated tables of the documentation from the code: `python docs/gen_tables.py`.

A generated block stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; tests/test_docs.py fails where
one is stale. `--check` changes nothing and exits with 1 if a block would change.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from pathlib import Path
from typing import Any

from actrix import zoo
from actrix.actors.group import PSI
from actrix.algorithms.answers import ACTORS, CRITICS
from actrix.algorithms.learn import Composition
from actrix.algorithms.online_traces import OnlineTraces
from actrix.algorithms.presets import PRESETS, Preset
from actrix.algorithms.settings import parts_of, settings_of
from actrix.algorithms.sound import NO_PARTNERS, Cell, in_general, joint, table
from actrix.algorithms.tabular import DEEP, TRACED, Tabular
from actrix.core.fit import Natural

DOCS = Path(__file__).resolve().parent

MEANING = {
    "n_steps": "rows per environment and chunk (`None`: the environment's time limit)",
    "batch_size": "rows per minibatch (`None`: the whole chunk)",
    "n_epochs": "passes over a chunk",
    "replay_ratio": "updates from the memory after each fresh chunk",
    "buffer_size": "transitions kept, over all environments",
    "learning_starts": "environment steps before the first update from the memory",
    "lag": "how many updates old the acting policy is",
    "gamma": "discount $\\gamma$",
    "gae_lambda": "$\\lambda$ of GAE",
    "n": "n of the n-step target",
    "lam": "$\\lambda$ of the target",
    "rho_max": "$\\rho_\\text{max}$, the bound of the ratio in the critic's target and the actor's step",
    "c_max": "$c_\\text{max}$, the bound of the trace",
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
    "truncation": "$c$, the bound of the ratio",
    "trust_region": "$\\delta$",
    "average_decay": "decay of the average policy's parameters, per chunk",
    "eta": "$\\eta$, weight of the Q-learning loss",
    "beta": "β, inverse temperature of the weights",
    "max_weight": "bound of the weights",
    "clip_range_high": "$\\varepsilon'$, the bound above (`None`: $\\varepsilon$)",
    "ratio": "`token` or `sequence`: one for each action, or one for each episode",
    "aggregate": "`token`, `sequence` or `constant`: what is averaged",
    "group_size": "G (`None`: the environment's groups, else all of a chunk)",
    "dynamic": "leave groups out whose returns are all the same",
    "ref_kl_coef": "τ (or β) of the KL to the reference policy (0: off)",
    "ref_kl_in": "`reward` or `loss`",
    "ref_kl_by": "`k1`, `k2`, `k3` or `exact`; `auto`: k1 in the reward, exact in the loss",
    "whole_episodes": "a chunk holds one whole episode of every environment",
    "optimizer": "`adam`, `rmsprop`, `sgd` or `radam`",
    "optimizer_eps": "ε of the optimiser",
    "weight_decay": "λ of AdamW: weights are drawn to 0 beside each step (0: off)",
}
"""What a setting of the policy-gradient algorithms means, in the order of the tables."""

NATURAL_MEANING = MEANING | {
    "batch_size": "rows per minibatch of the critic (`None`: the whole chunk)",
    "n_critic_updates": "passes over a chunk that fit the critic",
    "learning_rate": "step size of the critic; a number, `lin_<number>` or a function of the remaining progress",
    "max_grad_norm": "bound of the norm of the critic's gradient (`None`: off)",
    "normalize_advantage": "ψ to mean 0 and standard deviation 1, over the chunk",
    "target_kl": "$\\delta$, of the mean KL",
    "max_step": "largest $\\eta$; a number, `lin_<number>` or a function",
    "cg_max_steps": "steps of conjugate gradients at most",
    "cg_damping": "$\\lambda$ of $F + \\lambda I$",
    "line_search_shrinking_factor": "$\\beta$",
    "line_search_max_iter": "trials of the line search",
    "damping": "$\\lambda$, shared between a layer's two factors",
    "stats_decay": "decay of the factors' running averages, per chunk",
    "sub_sampling_factor": "the policy's step takes every k-th row",
    "optimizer": "of the critic: `adam`, `rmsprop`, `sgd` or `radam`",
}
"""The same for the natural-gradient algorithms."""

REPLAY_MEANING = {
    "backup": "`max`, `double`, `expected-sarsa`, `sarsa`, `soft` or `munchausen`",
    "dueling": "$Q = V + A - \\overline A$",
    "noisy": "noisy layers explore instead of ε",
    "representation": "`number`, `c51`, `qr` or `iqn`",
    "n_atoms": "atoms of the support",
    "v_min": "$z_0$, lower end of the support",
    "v_max": "$z_{M-1}$, its upper end",
    "n_critics": "critics",
    "joined": "how the target joins them: `numbers` (their minimum), `quantiles` or `c51`",
    "n_quantiles": "quantiles (IQN: samples of τ in the loss)",
    "n_policy_quantiles": "levels τ that acting averages over",
    "quantile_dim": "cosines that embed τ",
    "top_quantiles_to_drop_per_net": "largest atoms left out of the target, per critic",
    "subset": "how many of the target copies are joined, drawn for every update (`None`: all)",
    "batch_norm_momentum": "momentum of the running statistics",
    "renorm_warmup_steps": "updates of plain batch normalisation first",
    "entropy_tau": "τ, in units of return",
    "munchausen_alpha": "α, weight of the bonus",
    "log_bound": "$l_0$, its lower bound",
    "actor_q": "what the actor ascends: `min`, `mean` or `first` of the critics",
    "exploration": "`epsilon-greedy`, `boltzmann` or `none`",
    "exploration_fraction": "share of training over which ε falls",
    "exploration_initial_eps": "ε at the start",
    "exploration_final_eps": "ε from then on",
    "temperature": "τ; a number, `lin_<number>` or a function of the remaining progress",
    "noise_type": "`normal`, `ornstein-uhlenbeck` or `none`",
    "noise_std": "σ of the action noise, where [−1, 1] spans the action's bounds",
    "target_policy_noise": "standard deviation of the target action's noise",
    "target_noise_clip": "its bound",
    "ent_coef": "α; `auto` (or `auto_0.1` to start there) adapts it",
    "target_entropy": "$\\bar{\\mathcal H}$; `auto`: −dim(A) for Box, ½ log\u202f\\|A\\| for Discrete actions",
    "bc_alpha": "α of the cloning term",
    "cql_alpha": "weight of the conservative term",
    "cql_actions": "actions drawn from each of its three proposals",
    "discrete": "Discrete actions, with exact sums over them",
    "use_sde_at_warmup": "act by state-dependent exploration in the random phase, too",
    "expectile": "τ of the expectile",
    "beta": "β, inverse temperature of the weights",
    "max_weight": "bound of the weights",
    "buffer_size": "transitions kept, over all environments",
    "learning_starts": "environment steps with random actions before the first update",
    "batch_size": "transitions per update",
    "train_freq": "steps of each environment between updates",
    "gradient_steps": "updates then (−1: as many as transitions were added)",
    "n_steps": "n of the n-step target, uncorrected",
    "prioritized": "draw by priority",
    "priority_alpha": "exponent of the priorities",
    "priority_beta": "exponent of the importance weights",
    "gamma": "discount $\\gamma$",
    "lam": "$\\lambda$ of the λ-return",
    "n_epochs": "passes over a chunk",
    "recompute_advantages": "targets anew before every pass",
    "learning_rate": "step size; a number, `lin_<number>` or a function of the remaining progress",
    "target_network": "read the target off a copy that follows, not off the network itself",
    "huber": "Huber loss (`False`: half the square)",
    "tau": "Polyak coefficient of the targets (1: copy)",
    "target_update_interval": "environment steps between target updates",
    "policy_delay": "critic updates per actor update",
    "delay_targets": "targets follow with the actor only",
    "normalize_obs": "standardise observations",
    "norm_obs_keys": "keys of a Dict observation that are standardised (`None`: all)",
    "clip_obs": "bound of standardised observations",
    "max_grad_norm": "bound of the gradient's norm (`None`: off)",
    "optimizer": "`adam`, `rmsprop`, `sgd` or `radam`",
    "optimizer_eps": "ε of the optimiser",
    "weight_decay": "λ of AdamW: weights are drawn to 0 beside each step (0: off)",
}
"""The same for the algorithms that learn Q, or replay transitions."""
TABLE_MEANING = {
    "train_freq": "steps that the acting policy stays fixed for (1: the textbook's loop)",
    "n_steps": "n of the n-step return",
    "lam": "$\\lambda$ of the traces",
    "trace": "`accumulating`, `replacing` or `dutch`",
    "visits": "`first` or `every` visit of an episode to a cell",
    "importance": "`none`, `ordinary`, `weighted` or `per-decision`",
    "predict": "evaluate a given policy instead of improving one",
    "exploration": "`epsilon-greedy` or `boltzmann`",
    "exploration_fraction": "share of training over which ε falls",
    "exploration_initial_eps": "ε at the start",
    "exploration_final_eps": "ε from then on",
    "gamma": "discount $\\gamma$",
    "learning_rate": "α; a number, `lin_<number>` or a function; `None`: the mean of all targets",
    "mixing": "α of the mixture (`None`: the largest with the guarantee)",
    "tolerance": "no step unless the estimated gain exceeds this",
    "initial_value": "of every cell",
    "episode_length": "rows of the longest episode (`None`: the environment's time limit)",
}
"""What a setting of the tabular methods means."""
TRACES_MEANING = {
    "gamma": "discount $\\gamma$",
    "lam": "$\\lambda$ of the critic's traces",
    "actor_lam": "λ of the actor's (`None`: the same)",
    "learning_rate": "$\\alpha_w$; a number, `lin_<number>` or a function of the remaining progress",
    "actor_learning_rate": "$\\alpha_\\theta$ (`None`: the same; 0: the policy stays)",
    "step": "`plain` or `bounded`",
    "kappa": "κ of the critic's bounded step",
    "actor_kappa": "κ of the actor's",
    "ent_coef": "weight $c$ of the entropy",
    "gamma_weight": "multiply the score by $\\gamma^t$, as the theorem has it",
    "sparsity": "share of incoming weights that start at 0 (0: orthogonal)",
    "normalize_obs": "standardise observations",
    "norm_obs_keys": "keys of a Dict observation that are standardised (`None`: all)",
    "normalize_reward": "divide rewards by the deviation of the discounted return",
    "train_freq": "steps that the acting policy stays fixed for",
}
FAMILIES = {
    "tabular": (
        "q-learning",
        "double-q",
        "sarsa",
        "expected-sarsa",
        "sarsa-lambda",
        "q-lambda",
        "tree-backup",
        "mc",
    ),
    "tabular-prediction": ("td", "td-lambda"),
    "online-traces": ("td-lambda-ac", "stream-ac"),
}
"""Pages that describe several algorithms: one class, and a field that differs."""
PQN_MEANING = {"n_steps": "rows per environment and chunk", "batch_size": "rows per minibatch"}


def presets(pages: str = "") -> str:
    """The named algorithms by their three answers; `pages` leads to the folder of their pages."""
    rows = ["| command | class | 1 critic | 2 actor | 3 data | paper |", "|---|---|---|---|---|---|"]
    for p in PRESETS.values():
        name = f"[`{p.name}`]({pages}{page(p.name)}.md)"
        words = " | ".join(f"`{x}`" if isinstance(p.algorithm, Composition) else x for x in p.answers)
        rows.append(f"| {name} | `{p.class_name}` | {words} | {p.paper} |")
    return "\n".join(rows)


def page(name: str) -> str:
    """The page of docs/algorithms that describes an algorithm."""
    return next((family for family, names in FAMILIES.items() if name in names), name)


def compositions() -> str:
    """On-policy data, critics of the policy that acts × actors with a ψ: one table per actor, then the reasons."""
    cells = [c for c in _cells() if _in_grid(c)]
    reasons = list(dict.fromkeys(c.reason for c in cells if c.reason))
    critics = list(dict.fromkeys(c.critic for c in cells))
    found = {(c.critic, c.actor, c.psi): c.reason for c in cells}
    names = [psi.name for psi in PSI]
    out = [f"{sum(c.reason is None for c in cells)} of {len(cells)} are sound.", ""]
    for actor in dict.fromkeys(c.actor for c in cells):
        out += [f"**Actor `{actor}`**", ""]
        out += [f"| critic | {' | '.join(f'`{psi}`' for psi in names)} |", "|---|" + ":-:|" * len(names)]
        for critic in critics:
            whys = [found[critic, actor, psi] for psi in names]
            marks = ["●" if why is None else f"({reasons.index(why) + 1})" for why in whys]
            out.append(f"| `{critic}` | {' | '.join(marks)} |")
        out.append("")
    out.append("● sound; a number is the reason for the refusal:")
    out += ["", *(f"{i}. {_sentence(reason)}" for i, reason in enumerate(reasons, 1))]
    return "\n".join(out)


def other_compositions() -> str:
    """All else: only the sound cells, critics that share a row together; then the reasons of the refusals."""
    every = _cells()
    cells = [c for c in every if not _in_grid(c)]
    data = list(dict.fromkeys(c.data for c in cells))
    sound: dict[tuple[str, str], dict[str, list[str]]] = {}
    for c in cells:
        if c.reason is None:
            kinds = sound.setdefault((c.actor, c.critic), {}).setdefault(c.psi, [])
            kinds.append(c.data)
    rows: dict[tuple, list[str]] = {}
    for (actor, critic), psis in sound.items():
        for kinds in dict.fromkeys(tuple(k) for k in psis.values()):
            names = tuple(psi for psi, k in psis.items() if tuple(k) == kinds)
            rows.setdefault((actor, names, kinds), []).append(critic)
    total = sum(c.reason is None for c in cells)
    out = [
        f"{total} of {len(cells)} are sound:",
        "",
        f"| actor | critic | ψ | {' | '.join(f'`{d}`' for d in data)} |",
    ]
    out.append("|---|---|---|" + ":-:|" * len(data))
    ticked = lambda names: ", ".join(f"`{name}`" for name in names if name)
    order = list(ACTORS)
    for (actor, psis, kinds), critics in sorted(rows.items(), key=lambda row: order.index(row[0][0])):
        marks = " | ".join("●" if d in kinds else "" for d in data)
        out.append(f"| `{actor}` | {ticked(critics)} | {ticked(psis)} | {marks} |")
    known = {c.reason for c in every if _in_grid(c)}
    reasons = dict.fromkeys(c.reason for c in cells if c.reason and c.reason not in known)
    out += [
        "",
        "The others are refused for one of the reasons above, because an actor does not take what a critic gives",
    ]
    out += ["(the table of actors says what it takes), or because", ""]
    return "\n".join([*out, *(f"- {reason}." for reason in reasons if not NO_PARTNERS.search(reason))])


def _in_grid(cell: Cell) -> bool:
    """Is it of the first table: fresh chunks, a critic of the policy that acts, an actor that needs no other data?"""
    critic, actor = CRITICS[cell.critic]().facts, ACTORS[cell.actor]().facts
    return (
        cell.data == "on-policy"
        and critic.gives in ("V", "Q of a policy", "none")
        and not critic.corrected
        and cell.psi != ""
        and not (actor.corrects or actor.learns_q or actor.weighs_rewards)
    )


@functools.cache
def _cells() -> list[Cell]:
    """Every cell."""
    return in_general(table())


def _sentence(text: str) -> str:
    return (text[0].upper() + text[1:] if text[0].isascii() else text) + "."


def psi_forms() -> str:
    """The forms of ψ."""
    return "\n".join(["| ψ | is |", "|---|---|", *(f"| `{psi.name}` | {psi.says} |" for psi in PSI)])


def settings(preset: Preset) -> dict[str, tuple[Any, str]]:
    """Setting → (default, meaning): the flat settings of a preset that have an effect on it."""
    algorithm = preset.algorithm
    if isinstance(algorithm, Composition):
        values, meaning = _values(algorithm), _meaning(algorithm)
        hidden = _without_effect(algorithm)
    else:
        values = settings_of(algorithm)
        meaning = TRACES_MEANING if isinstance(algorithm, OnlineTraces) else TABLE_MEANING
        hidden = _without_effect_in_tables(algorithm)
    return {
        name: (values[name], text) for name, text in meaning.items() if name in values and name not in hidden
    }


def _values(algorithm: Composition) -> dict[str, Any]:
    """Setting → value, of the composition and of all its parts."""
    out = {f.name: getattr(algorithm, f.name) for f in dataclasses.fields(algorithm)}
    explorers = {"epsilon-greedy": "epsilon-greedy", "boltzmann": "boltzmann", "greedy": "none"}
    if algorithm.actor.name in explorers:
        out["exploration"] = explorers[algorithm.actor.name]
    for part in reversed(parts_of(algorithm).values()):  # of a name that several have, the first one's
        for f in dataclasses.fields(part):
            held = getattr(part, f.name)
            if "parts" in f.metadata and held is not None:
                out |= {one.name: getattr(held, one.name) for one in dataclasses.fields(held)}
                held = held.name
            out[f.name] = held
    return out


def _meaning(algorithm: Composition) -> dict[str, str]:
    """What its settings mean, in the order of the table."""
    if isinstance(algorithm.fit, Natural):
        return NATURAL_MEANING
    if joint(algorithm.critic, algorithm.actor):
        return MEANING
    meaning = REPLAY_MEANING
    if not algorithm.data.facts.transitions:
        meaning = PQN_MEANING | {k: text for k, text in meaning.items() if k not in PQN_MEANING}
    if getattr(algorithm.critic, "joined", None) is not None and algorithm.critic.joined.name == "quantiles":
        meaning = meaning | {"n_quantiles": "quantiles per critic"}
    if getattr(algorithm.critic, "representation", None) is not None:
        name = algorithm.critic.representation.name
        meaning = meaning | ({"n_quantiles": "quantiles"} if name == "qr" else {})
    return meaning


CLONED = ("gamma", "n_steps", "prioritized", "policy_delay")


def _without_effect(algorithm: Composition) -> set[str]:
    """Settings that change nothing while the others are as they are, or that must be as they are."""
    critic, actor, data, values = algorithm.critic, algorithm.actor, algorithm.data, _values(algorithm)
    facts = actor.facts
    hidden = set() if algorithm.normalize_obs else {"clip_obs", "norm_obs_keys"}
    hidden |= set() if algorithm.network.use_sde else {"use_sde_at_warmup"}
    if data.facts.transitions:
        hidden |= {"lam"}
        hidden |= set() if data.prioritized else {"priority_alpha", "priority_beta"}
        if data.facts.fixed:  # one update per step, and all of the data set is kept
            hidden |= {"buffer_size", "learning_starts", "train_freq", "gradient_steps", "noise_type"}
    elif not values["n_critic_updates"]:
        hidden |= {"n_critic_updates", "critic_learning_rate"}
    if critic.name == "none":
        hidden |= {"vf_coef", "clip_range_vf", *(CLONED if facts.clones else ())}
    if not facts.ratio:
        hidden |= {"target_kl", "clip_range_vf"}
    if values.get("vf_coef") == 0:
        hidden |= {"clip_range_vf"}
    if not values.get("target_network", True):
        hidden |= {"tau", "target_update_interval"}
    if values.get("n_critics") == 1:
        hidden |= {"actor_q", "subset"}
    if values.get("discrete") is False and critic.name != "conservative":
        hidden |= {"discrete"}
    if values.get("policy_delay") == 1:
        hidden |= {"delay_targets"}
    if facts.fisher:
        hidden |= {"n_epochs"}
    if "group_size" not in values:
        # Of prompts and answers: elsewhere they are as they were before there were any.
        hidden |= set() if values.get("ref_kl_coef") else {"ref_kl_coef", "ref_kl_in", "ref_kl_by"}
        hidden |= {"aggregate", "ratio", "clip_range_high"}
        hidden |= set() if values.get("whole_episodes") else {"whole_episodes"}
    else:
        hidden |= {"whole_episodes"} | (set() if values["ref_kl_coef"] else {"ref_kl_in", "ref_kl_by"})
    hidden |= {"bc_alpha"} if values.get("bc_alpha") is None else {"noise_type", "noise_std"}
    if values.get("noise_type") == "none":
        hidden |= {"noise_std"} | ({"noise_type"} if values.get("discrete") else set())
    if not values.get("target_policy_noise"):
        hidden |= {"target_noise_clip"}
    return hidden


def _without_effect_in_tables(algorithm: Any) -> set[str]:
    """The same for what is no composition."""
    hidden = set() if algorithm.normalize_obs else {"clip_obs", "norm_obs_keys"}
    if isinstance(algorithm, Tabular):
        hidden |= (
            {"train_freq"}
            if algorithm.whole_episodes
            else {"visits", "importance", "episode_length", "predict"}
        )
        hidden |= set() if algorithm.method in DEEP and not algorithm.lam else {"n_steps"}
        hidden |= set() if algorithm.method in TRACED else {"lam", "trace"}
        hidden |= {"exploration"} if algorithm.predicts else set()
    return hidden


def defaults(preset: Preset) -> str:
    """The settings of one algorithm."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    if not preset.offline:
        rows.append(
            f"| `n_envs` | {preset.n_envs} | parallel environments, from the command line (Python: 1) |"
        )
    rows += [f"| `{k}` | {_value(v)} | {text} |" for k, (v, text) in settings(preset).items()]
    return "\n".join(rows)


def family_defaults(names: tuple[str, ...]) -> str:
    """The settings of several algorithms in one table: the commonest default, and who has another or none."""
    every = {name: settings(PRESETS[name]) for name in names}
    order = list(dict.fromkeys(k for found in every.values() for k in found))
    order.sort(key=lambda k: list(TABLE_MEANING | TRACES_MEANING).index(k))
    rows = ["| setting | default | of the others | meaning |", "|---|---|---|---|"]
    counts = {name: PRESETS[name].n_envs for name in names}
    assert len(set(counts.values())) == 1
    count = next(iter(counts.values()))
    rows.append(f"| `n_envs` | {count} | | parallel environments, from the command line (Python: 1) |")
    for key in order:
        values = {name: _value(found[key][0]) for name, found in every.items() if key in found}
        common = max(values.values(), key=list(values.values()).count)
        other = [f"`{n}`: {v}" for n, v in values.items() if v != common]
        has = [n for n in names if n in values]
        if len(has) < len(names):
            other.append("only " + ", ".join(f"`{n}`" for n in has))
        text = next(found[key][1] for found in every.values() if key in found)
        rows.append(f"| `{key}` | {common} | {'; '.join(other)} | {text} |")
    return "\n".join(rows)


def zoo_tables() -> str:
    """The tuned settings of every algorithm."""
    out, without = [], []
    for preset in PRESETS.values():
        if not zoo.load(preset.name):
            without.append(preset)
            continue
        out += [f"## {preset.class_name} (`{preset.name}`)", ""]
        out += ["| environment | steps | `n_envs` | settings |", "|---|--:|--:|---|"]
        for env_id, entry in zoo.load(preset.name).items():
            entry = dict(entry)
            steps, n_envs = entry.pop("n_timesteps", 1_000_000), entry.pop("n_envs", preset.n_envs)
            shown = ", ".join(f"`{k}={_plain(v)}`" for k, v in entry.items()) or "the algorithm's defaults"
            name = "any other" if env_id == "default" else f"`{env_id}`"
            out.append(f"| {name} | {steps:,} | {n_envs} | {shown} |")
        out.append("")
    if without:
        names = ", ".join(f"`{p.name}`" for p in without)
        out += ["## Without entries", "", f"These take their own defaults everywhere: {names}."]
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
        ("zh/algorithms/index.md", "presets"): presets("../../algorithms/"),
        ("algorithms/composition.md", "compositions"): compositions(),
        ("algorithms/composition.md", "other-compositions"): other_compositions(),
        ("algorithms/composition.md", "psi"): psi_forms(),
        ("zoo.md", "zoo"): zoo_tables(),
    }
    out |= {
        (f"algorithms/{family}.md", "defaults"): family_defaults(names) for family, names in FAMILIES.items()
    }
    alone = [p for p in PRESETS.values() if page(p.name) == p.name]
    return out | {(f"algorithms/{p.name}.md", "defaults"): defaults(p) for p in alone}


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
