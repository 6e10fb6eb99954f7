"""Which critic × actor × data compositions are sound, and why the others are not: the answers' facts compared."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import warnings
from collections.abc import Sequence

from actrix.algorithms.answers import ACTORS, CRITICS, DATA
from actrix.core import words
from actrix.core.answers import Actor, Critic, Data
from actrix.core.fit import Fit
from actrix.core.types import Spec
from actrix.nets.networks import NetworkConfig

GIVES = {
    "V": "a V(s)",
    "Q of a policy": "a Q(s, ·) of a policy on one network with it",
    "Q(s, ·)": "a Q(s, ·) of its own",
    "Q(s, a)": "an ensemble Q(s, a)",
    "Q(s, a) of the data": "a critic of the data's own actions",
    "none": "none",
}


def unsound(critic: Critic, actor: Actor, data: Data) -> str | None:
    """The reason why this composition is refused, or None where it is sound."""
    actor = actor.settle(critic)
    for rule in (_partners, _psi, _rows, _behaviour, _passes):
        reason = rule(critic, actor, data)
        if reason:
            return reason
    return None


def _partners(critic: Critic, actor: Actor, data: Data) -> str | None:
    c, a = critic.facts, actor.facts
    if c.gives not in a.takes:
        takes = " or ".join(GIVES[gives] for gives in a.takes)
        if c.gives == "none":
            return f"{actor.name} needs a critic, {takes}, and there is none"
        return f"{actor.name} takes {takes}, and the critic is {GIVES[c.gives]}"
    if c.explores and a.explores_by_value:
        return "noisy layers explore by themselves: take actor greedy or epsilon-greedy"
    if c.samples_policy and not a.density:
        return (
            f"critic {critic.name} weighs samples of the policy by their density: take actor soft or weighted"
        )
    return None


def _psi(critic: Critic, actor: Actor, data: Data) -> str | None:
    psi, c, a = actor.psi, critic.facts, actor.facts
    if data.facts.shown and (psi is None or not psi.shown or a.corrects or a.fisher):
        return "what is shown was not chosen by a policy: take actor score and ψ=one, its likelihood"
    if psi is None:
        return None
    if psi.shown and not data.facts.shown:
        return f"ψ={psi.name} copies every action alike, which makes no policy better than itself: take data shown"
    if c.gives == "none" and not psi.episodes:
        return f"ψ={psi.name} is a critic's estimate, and there is no critic"
    if c.gives != "none" and psi.episodes:
        return f"ψ={psi.name} is the return alone, so the critic would be fitted and never used; take critic none"
    if c.gives not in psi.reads:
        return f"ψ={psi.name} needs Q(s,a), and the critic is {GIVES[c.gives]}"
    if a.searches and not psi.centred:
        return "a line search on the sampled surrogate takes ψ's mean for a gain of any action, so ψ must be centred"
    if a.ratio and not psi.centred:
        return f"ratio surrogates read the sign of ψ as better or worse than average, and {psi.name} is not centred"
    if a.from_start:
        if psi.whole_return:
            return "γ^t never multiplies R(τ), which already counts from the start of the episode"
        if not (c.whole_episodes or data.facts.whole_episodes):
            return "γ^t counts from an episode's start, and chunks begin anywhere: take critic mc or none"
    if a.charges and (spoiled := psi.spoiled()):
        return f"ψ={psi.name} {spoiled}: take ref_kl_in=loss"
    if a.weighs_rewards and not (psi.whole_return and not psi.centred):
        return f"{actor.name} weighs the rewards themselves: take critic none and ψ=return"
    return None


def _rows(critic: Critic, actor: Actor, data: Data) -> str | None:
    """Do the rows come as the answers need them?"""
    c, a, d = critic.facts, actor.facts, data.facts
    if d.by_error and c.gives == "none":
        return "prioritized=True needs a critic, whose errors are the priorities, and there is none"
    if d.fixed and a.warms_up:
        return "use_sde_at_warmup is of a random phase, and a data set needs none"
    if d.transitions:
        if a.clones:
            return None
        if c.needs_order or c.whole_episodes:
            others = "lag or trajectories" if c.corrected else "on-policy"
            return f"{critic.name} runs along consecutive rows, and replayed ones stand alone: take data {others}"
        if not a.singly and not a.any_behaviour:
            return (
                f"{actor.name} needs the probabilities of who acted: take data on-policy, lag or trajectories"
            )
        if c.gives == "V":
            return (
                f"critic {critic.name} shares a network that acts: take data on-policy, lag or trajectories"
            )
        return None
    if c.gives in ("Q(s, a)", "Q(s, a) of the data"):
        return f"critic {critic.name} is fitted to transitions drawn at random: take data replay or fixed"
    if a.clones:
        return "there is no better behaviour to copy than the policy's own: take data replay or fixed"
    if c.gives == "Q(s, ·)" and not d.on_policy:
        return "Q-learning needs no older policy's chunks: take data replay or on-policy"
    if a.per_episode and not (c.whole_episodes or d.whole_episodes):
        return "an average or a ratio of episodes needs whole ones: take critic mc or none, or data on-policy:whole"
    if d.windows and (c.whole_episodes or (actor.psi is not None and actor.psi.episodes)):
        return "whole episodes are not kept in the memory, which holds trajectories of n_steps rows: take data lag"
    return None


def _behaviour(critic: Critic, actor: Actor, data: Data) -> str | None:
    """What another behaviour policy asks for: a critic of π, and its ratio exactly once."""
    c, a, d = critic.facts, actor.facts, data.facts
    if d.shown:
        return None
    if d.on_policy:
        if c.corrected:
            return "on on-policy data every ratio is 1, so the correction is empty: take its uncorrected twin"
        if a.corrects:
            return f"{actor.name} corrects for another behaviour policy: take data lag or trajectories, or actor score"
        return None
    if d.transitions or a.any_behaviour:
        return None
    if a.fisher:
        return "the Fisher matrix and the surrogate are those of the policy that acted: take data on-policy"
    if a.learns_q:
        if not d.windows:
            return f"{actor.name} learns Q from replayed data: take data trajectories"
        if c.corrected:
            return f"{actor.name}'s critic is a V of the policy that acts, fitted to fresh data only"
        return None
    if a.weighs_rewards:
        return None
    one_step_q = c.gives == "Q of a policy" and c.one_step
    if c.gives == "none" or not (c.corrected or one_step_q):
        return "without correction the critic estimates the behaviour policy's values, not the target's"
    return _ratio(critic, actor)


def _ratio(critic: Critic, actor: Actor) -> str | None:
    """Which of critic, ψ and objective holds the ratio of the policy to the one that acted: one of them must."""
    c, a, psi = critic.facts, actor.facts, actor.psi
    advantage = psi is not None and psi.of_critic
    if a.ratio:
        if a.old_or_other and c.ratio_in_advantage and advantage:
            return None
        return (
            "the surrogate's ratio compares with the policy before the chunk's first step, so ψ must hold the ratio of "
            "that one to the policy that acted: take v-trace's advantage, or score, off-pac or acer"
        )
    if psi is not None and psi.one_step and not (c.gives == "V" and c.corrected and not c.whole_episodes):
        return "ψ=td-error is a V critic's one-step error: take td-is or v-trace, or ψ=advantage"
    if a.needs_q and not advantage:
        return f"{actor.name} corrects its truncation with Q(s, ·): take a q- critic and ψ=advantage"
    if a.corrects and c.ratio_in_advantage and advantage:
        return "this critic's advantage holds the ratio already, and off-pac would multiply by it again: take score"
    if not a.corrects and not (c.ratio_in_advantage and advantage):
        return "the score must be weighted by the ratio: take off-pac or acer, or v-trace's advantage, which holds it"
    return None


def _passes(critic: Critic, actor: Actor, data: Data) -> str | None:
    """How often may a chunk be gone through?"""
    epochs, a = data.n_epochs, actor.facts
    if data.critic_passes and critic.facts.gives == "Q(s, ·)":
        return f"{actor.name} has no layers, so that each step is critic {critic.name}'s: n_critic_updates must be 0"
    if data.critic_passes and critic.facts.gives == "none" and not a.fisher:
        return "there is no critic to fit: n_critic_updates must be 0"
    if a.fisher and critic.facts.gives != "none" and not data.critic_passes:
        return f"{actor.name}'s step moves the policy alone: n_critic_updates must be at least 1 to fit the critic"
    if epochs > 1 and a.fisher:
        return "the natural gradient's step takes a chunk once: n_epochs must be 1"
    if epochs <= 1 or a.ratio or a.any_behaviour or data.facts.shown or critic.facts.gives == "Q(s, ·)":
        return None
    if data.facts.on_policy:
        return "the score function is the gradient only at the policy that acted: n_epochs must be 1"
    return (
        None
        if a.corrects and not (a.weighs_rewards or a.learns_q)
        else ("the ratios are those of the first pass over a chunk: n_epochs must be 1")
    )


def needs_newest(critic: Critic, actor: Actor, data: Data) -> str | None:
    """Why chunks of the policy before the last update will not do (a clause), or None where they will.

    They will where a ratio to the policy that acted stands in the loss: in the surrogates of PPO, whose advantages then
    are of a policy one update older, as Cleanba's and Sebulba's are; and with data that are of older policies anyway.
    """
    a, d = actor.facts, data.facts
    if d.transitions:  # of older policies in any case
        return None
    if a.fisher:
        return "the Fisher matrix and the surrogate are those of the policy that acted: take behind=0, or ppo"
    if d.on_policy and not a.ratio:
        return (
            f"{actor.name} weighs nothing by the ratio to the policy that acted: take behind=0, ppo or ppo-kl, or "
            "data lag or trajectories with a correction (v-trace)"
        )
    return None


def needs_order(data: Data) -> str | None:
    """Why chunks of whichever older policies, as they come, will not do (a clause), or None where they will: where the
    loss corrects for the policy that acted, which `unsound` asks of all data of older policies."""
    if data.facts.transitions or data.facts.windows:
        return f"the memory of data {data.name} holds each environment's rows in their order: take behind=1"
    if data.facts.on_policy or data.facts.shown:
        return f"data {data.name} correct for no other policy: take behind=1, or v-trace with lag=0"
    if data.facts.lag:
        return f"lag={data.facts.lag} adds older policies of its own: take lag=0"
    return None


# ---------------------------------------------------------------------------- does it fit an environment?


def joint(critic: Critic, actor: Actor) -> bool:
    """Whether critic and actor are branches of one network."""
    return critic.facts.gives in ("V", "Q of a policy", "none") and not actor.facts.clones


def fits(
    critic: Critic, actor: Actor, data: Data, fit: Fit, network: NetworkConfig, spec: Spec, num_envs: int
) -> None:
    """Raise ValueError, with the numbers, where a composition does not fit the environment, or its settings."""
    sees_prompts(network, spec)
    if not joint(critic, actor):
        plain_network(network)
    network.refuse_unused(*critic.network_settings(network, spec, actor))
    actor.check(spec, network)
    critic.check(spec, network)
    data.check(spec, num_envs, network)
    if actor.psi is not None:
        actor.psi.check(spec, num_envs, network.cell is not None)
        if critic.facts.whole_episodes or data.facts.whole_episodes:
            _whole_groups(actor.psi.shown, spec, num_envs)
    if network.module is not None and data.critic_passes:
        raise ValueError(
            "n_critic_updates fits the critic's own layers, which a module of yours does not name."
        )
    if network.cell is not None and (data.facts.windows or data.facts.transitions):
        raise ValueError(
            "a recurrent policy cannot replay: remembered rows do not hold its memory; take data lag."
        )
    if network.cell is not None and network.module is not None:
        raise ValueError("a recurrent policy has neither psi 'optimal' nor a module of your own.")
    if not data.facts.transitions:
        rows = data.rows(spec)
        length = 1 if network.cell is None else data.training_length(rows)
        fit.check_rows(rows * num_envs // length)
        _fits_chunks(actor, data, rows, num_envs, length)


def _fits_chunks(actor: Actor, data: Data, rows: int, num_envs: int, length: int) -> None:
    """`fits` of the batches of chunks, and the training sequences in them."""
    if actor.facts.one_ratio and length != rows:
        raise ValueError(
            f"ratio='sequence' is of whole episodes, up to {rows} rows, and training sequences have {length}: take "
            f"a recurrent policy and sequence_length={rows}."
        )
    total = rows * num_envs
    if actor.facts.centres and 1 in (data.batch_size, total, total % (data.batch_size or total)):
        raise ValueError(
            f"batch_size={data.batch_size} of n_steps × n_envs = {rows} × {num_envs} rows with "
            "normalize_advantage=True: one advantage less its own mean is 0, and the policy would not move by it. "
            "Take other batches, or normalize_advantage=False."
        )


def _whole_groups(shown: bool, spec: Spec, num_envs: int) -> None:
    """Raise ValueError where answers are counted by prompt and the last prompt has fewer than the others."""
    if spec.prompts is not None and not shown and num_envs % spec.prompts.group:
        raise ValueError(
            f"n_envs={num_envs} is not a multiple of {spec.prompts.group}, the number of answers to a prompt "
            "(env_kwargs group)."
        )


def sees_prompts(network: NetworkConfig, spec: Spec) -> None:
    """Raise ValueError where a transformer's window is shorter than a prompt with its answer: it would be cut; warn of
    a policy that remembers nothing of it."""
    steps = spec.max_episode_steps or 0
    if spec.prompts is not None and network.cell == "transformer" and network.context < steps:
        raise ValueError(
            f"a prompt and its answer have up to {steps} tokens, and the transformer sees {network.context} steps: "
            f"take policy_kwargs context={steps} or more, or shorter prompts (env_kwargs)."
        )
    if spec.prompts is not None and network.cell is None and network.module is None:
        warnings.warn(
            "a policy without memory sees the newest token of a prompt and none before it: take MlpLstmPolicy or "
            "MlpTransformerPolicy.",
            stacklevel=1,
        )


def plain_network(network: NetworkConfig) -> None:
    """Raise ValueError for a recurrent cell or the user's own module, which networks apart do not have."""
    if network.module is not None or network.cell is not None:
        what = "a module of your own" if network.module is not None else f"a recurrent cell ({network.cell})"
        raise ValueError(f"policy_kwargs: {what} is offered by the policy-gradient algorithms only.")


# ---------------------------------------------------------------------------- the table


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of the table."""

    critic: str
    actor: str
    psi: str
    """'' where the actor takes none."""
    data: str
    reason: str | None
    """None = sound."""


def _forms(actor: Actor) -> list[Actor]:
    """The actor with every ψ, where it takes one."""
    kinds = words.part_fields(type(actor)).get("psi", ())
    return [words.with_changes(actor, {"psi": kind()}) for kind in kinds] or [actor]


@functools.cache
def table() -> tuple[Cell, ...]:
    """Every critic × actor × ψ × data (two seconds, once)."""
    # A pass is what every actor allows: how many more, `unsound` says where they are set.
    once = lambda data, own: words.with_those_it_has(data, {"n_epochs": 1, "n_critic_updates": own})
    critics = [cls() for cls in CRITICS.values()]
    actors = [form for cls in ACTORS.values() for form in _forms(cls())]
    cells = []
    for passes in ([once(cls(), own) for own in (0, 1)] for cls in DATA.values()):
        for critic, actor in itertools.product(critics, actors):
            data, psi = passes[actor.facts.fisher], actor.psi.name if actor.psi is not None else ""
            cells.append(Cell(critic.name, actor.name, psi, data.name, unsound(critic, actor, data)))
    return tuple(cells)


NO_PARTNERS = re.compile(r" takes .*, and the critic is | needs a critic, ")
"""A reason of these: the actor does not take what the critic gives."""


def in_general(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, a reason without the names that differ between cells refused for the same."""
    texts: dict[str, set[str]] = {}
    for c in cells:
        texts.setdefault(_general(c), set()).add(c.reason or "")
    several = {text for text, reasons in texts.items() if len(reasons) > 1}
    general = lambda c: c.reason and _general(c) in several
    return [dataclasses.replace(c, reason=_general(c)) if general(c) else c for c in cells]


def _general(cell: Cell) -> str:
    """A reason without the names of its ψ, critic and actor, so that one sentence serves many cells."""
    reason, psi = cell.reason or "", cell.psi
    if psi and not (psi == "q" and "needs Q(s,a)" in reason):
        reason = reason.replace(f"ψ={psi} is", "this ψ is").replace(f"and {psi} is", "and this ψ is")
    reason = re.sub(f"^(critic )?{re.escape(cell.critic)} ", "this critic ", reason)
    return re.sub(f"^{re.escape(cell.actor)} (needs the|corrects for)", r"this actor \1", reason)
