"""Temperature: Boltzmann policies, soft values, and soft Q-learning as a regularised policy gradient.

V = τ log Σ_a π̄ exp(Q/τ) = max_π [E_π Q − τ KL(π‖π̄)], π = π̄ exp((Q−V)/τ), and with the law of (s, a) held fixed
∇ E½(Q_θ − Q^π)² = −τ ∇(regularised return) + ∇ E½(V_θ − V^π)².
Schulman, Chen & Abbeel, "Equivalence Between Policy Gradients and Soft Q-Learning" (2017).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actrix.actors.greedy import boltzmann_log_probs
from actrix.critics.q_targets import soft_value
from actrix.envs.tables import grid_world, random_mdp
from actrix.lab import exact as oracle
from actrix.lab.report import Report, Table, label, legend, panels
from actrix.show.plot import GREY, PALETTE

ACTION_VALUES = np.array([1.0, 0.6, 0.0])
GRID = ("S...", ".#.H", "...G")


def study(seed: int = 0, *, points: int = 41) -> Report:
    """One state of three actions; a slippery 3×4 grid world over τ; both gradients on a Garnet MDP. Exact."""
    numbers: dict[str, Any] = {
        "bandit": _bandit(np.geomspace(0.01, 100, 4 * points)),
        "grid": _grid(np.geomspace(1e-3, 1e2, points)),
        "gradient": _gradients(seed),
    }
    shown = (0.01, 0.1, 1.0, 10.0, 100.0)
    bandit, grid = _bandit(np.array(shown)), _grid(np.array(shown))
    numbers_of = (*bandit["policy"].T, bandit["soft"], grid["soft"], grid["plain"])
    rows = [(tau, *(float(x[k]) for x in numbers_of)) for k, tau in enumerate(shown)]
    columns = ("τ", "π(a₁)", "π(a₂)", "π(a₃)", "soft V", "grid: soft η", "grid: η of π")
    found = numbers["gradient"]
    compared = [
        (name, float(np.abs(found[name] - found["soft q"]).max()))
        for name in ("policy gradient + value fit", "policy gradient alone", "score × Q alone + value fit")
    ]
    tables = [
        Table(
            "three actions, Q = (1, 0.6, 0), and a slippery grid world, over the temperature", columns, rows
        ),
        Table("against the gradient of the soft-Q error", ("gradient", "largest difference"), compared),
    ]
    return Report(tables, _draw(numbers), numbers)


def _bandit(taus: np.ndarray) -> dict[str, np.ndarray]:
    q = jnp.asarray(np.tile(ACTION_VALUES, (len(taus), 1)))
    return {
        "tau": taus,
        "policy": np.exp(boltzmann_log_probs(q, jnp.asarray(taus))),
        "soft": np.asarray(soft_value(q, jnp.asarray(taus))),
        "entropy": np.asarray(soft_value(q, jnp.asarray(taus))) + taus * np.log(len(ACTION_VALUES)),
    }


def _grid(taus: np.ndarray) -> dict[str, np.ndarray]:
    mdp = grid_world(GRID, gamma=0.95, slip=0.2, rewards={"G": 1.0, "H": -1.0}, step_reward=-0.02)
    reference = oracle.uniform_policy(mdp)
    best = [oracle.soft_optimal(mdp, reference, float(tau)) for tau in taus]
    return {
        "tau": taus,
        "soft": np.array([mdp.rho0 @ x.value for x in best]),
        "plain": np.array([oracle.performance(mdp, x.policy) for x in best]),
        "greedy": np.array(mdp.rho0 @ oracle.policy_iteration(mdp).value),
        "uniform": np.array(oracle.performance(mdp, reference)),
    }


def _gradients(seed: int, tau: float = 1.0) -> dict[str, np.ndarray]:
    """The gradient of the soft-Q error at a table Q near the optimal one, and what is said to equal it."""
    mdp = random_mdp(6, 3, 3, seed=seed, gamma=0.9)
    rng = np.random.default_rng(seed)
    reference = oracle.softmax_policy(2 * rng.normal(size=(6, 3)))
    q = oracle.soft_optimal(mdp, reference, tau).q + 0.5 * rng.normal(size=(6, 3))
    policy = oracle.soft_policy(q, reference, tau)
    visits = oracle.visitation(mdp, policy)
    target_q = oracle.regularised_q(mdp, policy, reference, tau)
    target_v = oracle.regularised_value(mdp, policy, reference, tau)

    def q_error(q: Any) -> Any:
        return 0.5 * jnp.sum(visits[:, None] * policy * jnp.square(q - target_q))

    def v_error(q: Any) -> Any:
        v = soft_value(q, tau, log_prior=np.log(reference))
        return 0.5 * jnp.sum(visits * jnp.square(v - target_v))

    fit = np.asarray(jax.grad(v_error)(q))
    # The parameter is Q, and the logits of π are log π̄ + Q/τ: τ ∇_Q is the gradient by the logits.
    ascent = oracle.regularised_gradient(mdp, np.log(reference) + q / tau, reference, tau)
    alone = oracle.score_gradient(policy, visits[:, None] * policy * target_q)
    return {
        "soft q": np.asarray(jax.grad(q_error)(q)).ravel(),
        "policy gradient + value fit": (fit - ascent).ravel(),
        "policy gradient alone": -ascent.ravel(),
        "score × Q alone + value fit": (fit - alone).ravel(),
    }


def _draw(numbers: dict[str, Any]) -> Any:
    figure, axes = panels(2, 2, "What a temperature does", (10.0, 7.6))
    (choice, values), (grid, gradient) = axes
    _draw_bandit(choice, values, numbers["bandit"])
    _draw_grid(grid, numbers["grid"])
    _draw_gradient(gradient, numbers["gradient"])
    for a in (choice, values, grid):
        a.set_xscale("log")
    places = {choice: "upper right", values: "upper left", grid: "lower left", gradient: "upper left"}
    for a, place in places.items():
        legend(a, loc=place)
    return figure


def _draw_bandit(choice: Any, values: Any, found: dict[str, Any]) -> None:
    for k, q in enumerate(ACTION_VALUES):
        choice.plot(
            found["tau"], found["policy"][:, k], color=PALETTE[k], linewidth=2, label=f"action of Q = {q:g}"
        )
    choice.axhline(1 / 3, color=GREY, linewidth=0.9, linestyle=":")
    choice.text(
        0.99, 0.28, "uniform", transform=choice.get_yaxis_transform(), ha="right", color=GREY, fontsize=8.5
    )
    choice.text(0.02, 0.93, "greedy", transform=choice.get_yaxis_transform(), color=GREY, fontsize=8.5)
    values.plot(
        found["tau"], found["soft"], color=PALETTE[0], linewidth=2.2, label="soft value, KL to uniform"
    )
    values.plot(found["tau"], found["entropy"], color=PALETTE[1], linewidth=1.8, linestyle=(0, (5, 1.5)),
                label="with the entropy instead: + τ log 3")  # fmt: skip
    for level, text in ((ACTION_VALUES.max(), "max Q"), (ACTION_VALUES.mean(), "mean Q")):
        values.axhline(level, color=GREY, linewidth=0.9, linestyle=":")
        values.text(99, level + 0.015, text, ha="right", color=GREY, fontsize=8.5)
    values.set_ylim(0.4, 2.2)
    label(choice, "Boltzmann policy: from greedy to uniform", "temperature τ", "probability")
    label(values, "soft value of the same state: from max to mean", "temperature τ", "value")


def _draw_grid(grid: Any, found: dict[str, Any]) -> None:
    grid.plot(
        found["tau"],
        found["plain"],
        color=PALETTE[0],
        linewidth=2.2,
        label="return of the soft-optimal policy",
    )
    grid.plot(found["tau"], found["soft"], color=PALETTE[2], linewidth=1.8, linestyle=(0, (5, 1.5)),
              label="its soft return: τ KL subtracted")  # fmt: skip
    for level, text, above in (
        (found["greedy"], "optimal policy", 0.02),
        (found["uniform"], "uniform policy", -0.05),
    ):
        grid.axhline(level, color=GREY, linewidth=0.9, linestyle=":")
        grid.text(90, level + above, text, ha="right", color=GREY, fontsize=8.5)
    grid.set_ylim(found["uniform"] - 0.1, found["greedy"] + 0.1)
    label(grid, "a slippery grid world: what softness costs", "temperature τ", "return from the start")


def _draw_gradient(gradient: Any, found: dict[str, Any]) -> None:
    x = found["soft q"]
    ends = 1.1 * np.array([x.min(), x.max()])
    gradient.plot(ends, ends, color=GREY, linewidth=0.9)
    marks = {"policy gradient + value fit": ("o", PALETTE[0], 7, "policy gradient + value fit: equal"),
             "policy gradient alone": ("^", PALETTE[4], 5, "policy gradient alone"),
             "score × Q alone + value fit": ("x", PALETTE[3], 6, "the KL's gradient forgotten")}  # fmt: skip
    for name, (marker, colour, size, text) in marks.items():
        gradient.plot(x, found[name], marker, color=colour, markersize=size, label=text)
    label(
        gradient,
        "soft Q-learning is a policy gradient",
        "component of ∇ (soft-Q error)",
        "the same component of …",
    )
