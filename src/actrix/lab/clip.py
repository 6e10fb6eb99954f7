"""PPO's two objectives and their gradients as functions of the ratio, for both signs of the advantage.

PPO-clip min(ρÂ, clip(ρ, 1−ε, 1+ε)Â) and PPO-KL ρÂ − β KL(π_old‖π), for one state with two actions, of which the old
policy takes the one in question with probability p: π(a) = ρp, and KL is a function of ρ.
Schulman et al., "Proximal Policy Optimization Algorithms" (2017), eq. 7 and 8.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actrix.actors import policy_gradient as pg
from actrix.actors.ppo_kl import ppo_kl
from actrix.core.distributions import Categorical
from actrix.lab.report import Report, Table, label, legend, panels
from actrix.show.plot import GREY, PALETTE

EPSILON, BETA, P_OLD = 0.2, 1.0, 0.5
NAMES = {"ratio": "ρÂ alone", "clip": f"PPO-clip, ε = {EPSILON}", "kl": f"PPO-KL, β = {BETA:g}"}


def objective(kind: str, ratio: Any, advantage: Any) -> Any:
    """The objective at ρ = `ratio` of one action; `kind` is a key of `NAMES`."""
    old, new = _policy(jnp.ones_like(ratio)), _policy(ratio)
    rows = dict(log_prob=new.logits[..., 0], old_log_prob=old.logits[..., 0], advantage=advantage)
    if kind == "clip":
        return pg.ppo_clip(clip_range=EPSILON, **rows)
    kl = old.kl(new)
    return ppo_kl(kl=kl, beta=BETA if kind == "kl" else 0.0, **rows)


def _policy(ratio: Any) -> Categorical:
    p = P_OLD * ratio
    return Categorical(jnp.log(jnp.stack([p, 1 - p], axis=-1)))


def study(seed: int = 0, *, points: int = 301) -> Report:
    """The objectives and their derivatives in ρ on a grid of ratios; exact, so `seed` changes nothing."""
    del seed
    ratio = np.linspace(0.4, 1.7, points)
    shown = np.array([0.79, 0.81, 1.0, 1.19, 1.21, 1.7])
    numbers: dict[str, Any] = {"ratio": ratio, "epsilon": EPSILON, "beta": BETA, "p_old": P_OLD}
    rows = []
    for sign in (1.0, -1.0):
        for kind in NAMES:
            at = lambda r, kind=kind, sign=sign: objective(kind, r, jnp.full_like(r, sign))
            slope = jax.grad(lambda r, at=at: jnp.sum(at(r)))
            numbers[f"{kind} {sign:+.0f}"] = {"objective": at(jnp.asarray(ratio)), "gradient": slope(ratio)}
            rows.append((f"{sign:+.0f}", NAMES[kind], *(float(x) + 0.0 for x in slope(jnp.asarray(shown)))))
    numbers = jax.tree.map(np.asarray, numbers)
    title = "gradient of the objective with respect to the ratio ρ, by ρ"
    return Report(
        [Table(title, ("Â", "objective", *(f"{r:g}" for r in shown)), rows)], _draw(numbers), numbers
    )


def _draw(numbers: dict[str, Any]) -> Any:
    figure, axes = panels(2, 2, "What PPO maximises, and where its gradient stops", (9.0, 6.2), sharex=True)
    ratio = numbers["ratio"]
    looks = {"ratio": (GREY, (0, (4, 2)), 1.3), "kl": (PALETTE[1], "-", 1.8), "clip": (PALETTE[0], "-", 2.4)}
    for k, sign in enumerate((1, -1)):
        what = "a good action (Â = +1)" if sign > 0 else "a bad action (Â = −1)"
        top, bottom = axes[:, k]
        for kind, (colour, dash, width) in looks.items():
            found = numbers[f"{kind} {sign:+d}"]
            style = dict(color=colour, linestyle=dash, linewidth=width)
            top.plot(ratio, found["objective"], label=NAMES[kind], **style)
            bottom.plot(ratio, found["gradient"], **style)
        taken = (1 + EPSILON, ratio[-1]) if sign > 0 else (ratio[0], 1 - EPSILON)
        for a in (top, bottom):
            a.axvspan(*taken, color=PALETTE[0], alpha=0.1, linewidth=0)
            a.axvline(1, color=GREY, linewidth=0.8)
            a.set_xlim(ratio[0], ratio[-1])
        bottom.axhline(0, color=GREY, linewidth=0.8)
        middle = sum(taken) / 2
        top.text(middle, 0.04, "gain taken:\nno gradient", transform=top.get_xaxis_transform(), ha="center",
                 color=PALETTE[0], fontsize=8.5)  # fmt: skip
        alive = 0.64 if sign > 0 else 1.45
        bottom.annotate("moved the wrong way:\nstill pushed back", (alive, sign), (alive, 0.42 * sign),
                        ha="center", va="center", fontsize=8.5, color=PALETTE[0],
                        arrowprops=dict(arrowstyle="->", color=PALETTE[0]))  # fmt: skip
        label(top, what, "", "objective" if k == 0 else "")
        label(bottom, "", "ratio ρ = π(a|s) / π_old(a|s)", "gradient d objective / dρ" if k == 0 else "")
    legend(axes[0, 0], loc="upper left")
    return figure
