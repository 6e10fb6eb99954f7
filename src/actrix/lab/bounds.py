"""The return along a step from π to π′, what the surrogate promises, and what the lower bounds guarantee.

η(π_α), L_π(π_α) and both bounds at the mixtures π_α = (1−α)π + απ′, exactly, in two rooms that the policy cannot tell
apart: the promise L counts the second room as rarely as π visits it.
Kakade & Langford, "Approximately Optimal Approximate Reinforcement Learning" (2002); Schulman et al., "Trust Region
Policy Optimization" (2015).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from actrix.actors.natural import conservative_step
from actrix.envs.finite import FiniteMDP
from actrix.envs.tables import cliff
from actrix.lab import exact as oracle
from actrix.lab.report import Report, Table, label, legend, panels
from actrix.show.plot import GREY, PALETTE

GAMMA = 0.6
"""Small, because the bounds' penalty grows as 1/(1−γ)²."""
NEAR = 0.12
"""The largest α of the close-up."""


def two_rooms(gamma: float = GAMMA) -> FiniteMDP:
    """Room 0: action 0 stays, action 1 pays 1 and leads to room 1. Room 1: both lead back, action 1 costs 3."""
    P = np.zeros((2, 2, 2))
    P[0, 0, 0] = P[0, 1, 1] = P[1, :, 0] = 1
    return FiniteMDP(
        P, np.array([[0.0, 1.0], [0.0, -3.0]]), gamma, 0, shows=[0, 0], names=("room 0", "room 1")
    )


def study(seed: int = 0, *, points: int = 201) -> Report:
    """η, L and the bounds in two rooms, and a wrong bound on the cliff walk. Exact: `seed` changes nothing."""
    del seed
    mdp, old, towards = two_rooms(), np.array([[0.95, 0.05]] * 2), np.array([[0.0, 1.0]] * 2)
    numbers: dict[str, Any] = {
        "whole": _along(mdp, old, towards, np.linspace(0, 1, points)),
        "near": _along(mdp, old, towards, np.linspace(0, NEAR, points)),
        "wrong": _wrong_epsilon(points),
    }
    gain = np.sum(towards * oracle.advantage(mdp, old), axis=1)
    mean = float(oracle.visitation(mdp, old) @ gain)
    numbers["step"] = float(conservative_step(jnp.asarray(mean), jnp.abs(gain).max(), mdp.gamma))
    shown = (0.0, numbers["step"], 0.1, 0.3, 1.0)
    found = _along(mdp, old, towards, np.array(shown))
    columns = ("α", "return η", "surrogate L", "CPI bound", "max-KL bound", "with Pinsker")
    rows = [(a, *(float(found[name][k]) for name in LINES)) for k, a in enumerate(shown)]
    title = f"two rooms, γ = {GAMMA}: by α from action 1 now and then to always"
    return Report([Table(title, columns, rows)], _draw(numbers), numbers)


LINES = {
    "eta": ("return η", GREY, "-"),
    "surrogate": ("surrogate L", PALETTE[1], (0, (5, 1.5))),
    "cpi": ("CPI bound", PALETTE[0], "-"),
    "kl": ("TRPO bound (max KL)", PALETTE[2], "-"),
    "pinsker": ("TRPO bound, Pinsker's constant", PALETTE[2], (0, (1, 1))),
}


def _along(mdp: FiniteMDP, old: Any, towards: Any, alphas: np.ndarray) -> dict[str, np.ndarray]:
    new = [oracle.mixture(old, towards, a) for a in alphas]
    return {
        "alpha": alphas,
        "eta": np.array([oracle.performance(mdp, p) for p in new]),
        "surrogate": np.array([oracle.surrogate(mdp, old, p) for p in new]),
        "cpi": np.array([oracle.cpi_bound(mdp, old, towards, a) for a in alphas]),
        "kl": np.array([oracle.kl_bound(mdp, old, p) for p in new]),
        "pinsker": np.array([oracle.kl_bound(mdp, old, p, pinsker=True) for p in new]),
    }


def _wrong_epsilon(points: int) -> dict[str, np.ndarray]:
    """The 3×4 cliff walk, from uniform to 'always up': the max-KL bound with the ε of the CPI bound is none."""
    mdp = cliff(3, 4, gamma=0.9)
    old, alphas = oracle.uniform_policy(mdp), np.linspace(0, 0.02, points)
    found = _along(mdp, old, np.eye(4)[[0] * mdp.n_states], alphas)
    wrong = []
    for alpha, surrogate in zip(alphas, found["surrogate"], strict=True):
        new = oracle.mixture(old, np.eye(4)[[0] * mdp.n_states], alpha)
        epsilon = np.abs(np.sum(new * oracle.advantage(mdp, old), axis=1)).max()
        penalty = 4 * epsilon * mdp.gamma / (1 - mdp.gamma) ** 2 * oracle.kl(old, new)[~mdp.terminal].max()
        wrong.append(surrogate - penalty)
    return {**found, "wrong": np.array(wrong)}


def _draw(numbers: dict[str, Any]) -> Any:
    figure, axes = panels(1, 3, "How far may a step go before its promise breaks?", (12.0, 4.6))
    whole, near, wrong = axes[0]
    _lines(whole, numbers["whole"], tuple(LINES))
    _lines(near, numbers["near"], tuple(LINES))
    start = float(numbers["near"]["eta"][0])
    reach = np.ptp(numbers["whole"]["surrogate"])
    whole.set_ylim(start - reach, start + 1.6 * reach)
    near_reach = np.ptp(numbers["near"]["surrogate"])
    near.set_ylim(start - 0.9 * near_reach, start + 1.05 * near_reach)
    for a in (whole, near):
        a.axhline(start, color=GREY, linewidth=0.9, linestyle=":")
    whole.text(0.99, start + 0.02 * reach, "return before the step", ha="right", color=GREY, fontsize=8.5)
    whole.axvspan(0, NEAR, color=GREY, alpha=0.12, linewidth=0)
    step = numbers["step"]
    best = float(np.interp(step, numbers["near"]["alpha"], numbers["near"]["cpi"]))
    near.plot([step], [best], "o", color=PALETTE[0], markersize=6)
    near.annotate(
        f"α = {step:.3f}: the largest\nguaranteed improvement", (step, best),
        (0.03 * NEAR, start + 0.6 * near_reach), fontsize=8.5, color=PALETTE[0],
        arrowprops=dict(arrowstyle="->", color=PALETTE[0]),
    )  # fmt: skip
    _draw_wrong(wrong, numbers["wrong"])
    label(whole, "the whole step, two rooms", "step size α from π to π′", "expected return η")
    label(near, "close-up of the grey part", "step size α from π to π′")
    label(wrong, "cliff walk: max-KL bound, two choices of ε", "step size α (%)", "bound − return")
    legend(whole, loc="upper left", fontsize=8)
    legend(wrong, loc="lower left", fontsize=8)
    return figure


def _draw_wrong(wrong: Any, found: dict[str, np.ndarray]) -> None:
    """The two bounds less the return: above 0 there is no lower bound."""
    percent = 100 * found["alpha"]
    wrong.plot(
        percent, found["kl"] - found["eta"], color=PALETTE[2], linewidth=1.8, label="ε = max over s, a of |A|"
    )
    wrong.plot(percent, found["wrong"] - found["eta"], color=PALETTE[3], linewidth=2, linestyle=(0, (5, 1.5)),
               label="the CPI bound's ε: max over s of |E A|")  # fmt: skip
    height = float(np.max(found["wrong"] - found["eta"]))
    wrong.set_ylim(-2.5 * height, 1.8 * height)
    wrong.set_xlim(0, percent[-1])
    wrong.axhspan(0, 1.8 * height, color=PALETTE[3], alpha=0.1, linewidth=0)
    wrong.axhline(0, color=GREY, linewidth=0.9)
    wrong.text(0.5, 0.95, "no lower bound: above the return", transform=wrong.transAxes, ha="center", va="top",
               fontsize=8.5, color=PALETTE[3])  # fmt: skip


def _lines(axes: Any, found: dict[str, np.ndarray], names: tuple[str, ...]) -> None:
    for name in names:
        text, colour, dash = LINES[name]
        width = 2.6 if name == "eta" else 1.8
        axes.plot(found["alpha"], found[name], color=colour, linestyle=dash, linewidth=width, label=text)
    axes.set_xlim(found["alpha"][0], found["alpha"][-1])
