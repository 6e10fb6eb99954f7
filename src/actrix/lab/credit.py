"""How far one reward reaches: values of a grid world after one rewarded episode, and after more.

All methods see the same episodes and move V(s_t) ← V(s_t) + α (target_t − V(s_t)) over each finished one, in the order
of its steps, with targets from the values before it: Monte Carlo, TD(0), TD(n), TD(λ) (the λ-return, forward view).
Sutton & Barto, Reinforcement Learning (2018), §6.2, §7.1, §12.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actrix.actors.greedy import boltzmann_log_probs
from actrix.critics import returns
from actrix.envs.finite import FiniteMDP
from actrix.envs.tables import grid_world
from actrix.lab import exact as oracle
from actrix.lab.report import NORMAL_95, Report, Table, label, legend, panels, picture
from actrix.lab.sampling import play
from actrix.show.plot import GREY, PALETTE
from actrix.show.stats import amount

GRID = ("S......", ".##.##.", ".......", ".#.##..", "......G")
GAMMA, ALPHA, N, LAMBDA = 0.97, 0.5, 4, 0.8
HORIZON = 150
METHODS: dict[str, Callable[..., Any]] = {
    "MC": returns.monte_carlo,
    "TD(0)": returns.td_target,
    f"TD({N})": lambda **rows: returns.n_step(n=N, **rows),
    f"TD(λ = {LAMBDA})": lambda **rows: returns.lambda_return(lam=LAMBDA, **rows),
}


def study(seed: int = 0, *, n_runs: int = 100, n_episodes: int = 40, animate: bool = True) -> Report:
    """V of each method along one run, and the error against V^π over many; goal +1, everything else 0."""
    mdp = grid_world(GRID, gamma=GAMMA)
    # A policy that mostly knows the way, so that its episodes are short enough to draw.
    policy = np.exp(boltzmann_log_probs(jnp.asarray(oracle.policy_iteration(mdp).q), 0.03))
    truth = oracle.value(mdp, policy)
    paths = play(mdp, policy, n_runs * n_episodes, HORIZON, np.random.default_rng(seed))
    values = {name: _learn(mdp, paths, n_runs, name) for name in METHODS}
    weight = oracle.visitation(mdp, policy)
    weight = weight / weight.sum()
    error = {name: np.sqrt(np.square(v - truth) @ weight) for name, v in values.items()}
    length = int(paths.valid[:, 0].sum())
    numbers: dict[str, Any] = {
        "path": [*paths.state[:length, 0], paths.next_state[length - 1, 0]], "truth": truth,
        "values": {name: v[:, 0] for name, v in values.items()},
        "error": {name: {"mean": e.mean(axis=1), "half": NORMAL_95 * e.std(axis=1, ddof=1) / np.sqrt(n_runs)}
                  for name, e in error.items()},
    }  # fmt: skip
    after = sorted({1, min(10, n_episodes), n_episodes})
    start = mdp.state((0, 0))
    rows = [
        (
            name,
            int(np.sum(v[1, 0] > 0)),
            float(v[1, 0, start]),
            *(float(error[name][k].mean()) for k in after),
        )
        for name, v in values.items()
    ]
    columns = ("method", "states", "V(start)", *(f"error, {k}" for k in after))
    title = (
        f"one reward in a grid world: credited after an episode of {length} steps; error over {n_runs} runs"
    )
    frames = _frames(mdp, numbers, n_episodes) if animate else ()
    return Report([Table(title, columns, rows)], _draw(mdp, numbers, n_episodes), numbers, frames)


def _learn(mdp: FiniteMDP, paths: oracle.Trajectories, n_runs: int, name: str) -> np.ndarray:
    """V [episodes + 1, runs, S] from 0; episode e of run r is column e·runs + r."""
    split = lambda x: jnp.asarray(x).reshape(HORIZON, -1, n_runs).swapaxes(0, 1)
    rows = {key: split(x) for key, x in paths.rows().items()}
    start = jnp.zeros((n_runs, mdp.n_states))
    found = _episodes(start, split(paths.state), split(paths.next_state), rows, jnp.asarray(GAMMA), name)
    return np.concatenate([np.asarray(start)[None], np.asarray(found)])


def _episode(v: Any, state: Any, next_state: Any, rows: dict[str, Any], gamma: Any, name: str) -> Any:
    """V [runs, S] after one episode of each run, arrays [T, runs]."""
    run = jnp.arange(v.shape[0])
    target = METHODS[name](next_value=v[run, next_state], gamma=gamma, **rows)

    def visit(v: Any, row: Any) -> Any:
        s, goal, valid = row
        step = jnp.where(valid, ALPHA * (goal - v[run, s]), 0)
        return v.at[run, s].add(step), None

    return jax.lax.scan(visit, v, (state, target, rows["valid"]))[0]


def _episodes(v: Any, state: Any, next_state: Any, rows: dict[str, Any], gamma: Any, name: str) -> Any:
    def step(v: Any, episode: Any) -> Any:
        states, following, data = episode
        v = _episode(v, states, following, data, gamma, name)
        return v, v

    return jax.lax.scan(step, v, (state, next_state, rows))[1]


_episodes = jax.jit(_episodes, static_argnames="name")


def _draw(mdp: FiniteMDP, numbers: dict[str, Any], n_episodes: int) -> Any:
    figure, axes = panels(
        3, 4, "How one reward spreads over a grid world", (12.5, 8.6), height_ratios=(1, 1, 1.05)
    )
    for k, (name, v) in enumerate(numbers["values"].items()):
        _map(axes[0, k], mdp, v[1], f"{name}, after 1 episode", numbers["path"])
        image = _map(axes[1, k], mdp, v[n_episodes], f"{name}, after {n_episodes}")
    figure.colorbar(
        image,
        ax=axes[:2, :],
        label="V(s), discounted reward to come (numbers: hundredths)",
        shrink=0.8,
        pad=0.01,
    )
    grid = axes[2, 0].get_gridspec()
    for a in axes[2]:
        a.remove()
    error, exact = figure.add_subplot(grid[2, :3]), figure.add_subplot(grid[2, 3])
    for k, (name, e) in enumerate(numbers["error"].items()):
        x, mean, half = np.arange(n_episodes + 1), np.array(e["mean"]), np.array(e["half"])
        error.fill_between(x, mean - half, mean + half, color=PALETTE[k], alpha=0.2, linewidth=0)
        error.plot(x, mean, color=PALETTE[k], linewidth=2, label=name)
    error.set_xlim(0, n_episodes)
    error.set_ylim(0)
    label(
        error,
        "error against the true values, mean of all runs and 95% interval",
        "episodes",
        "RMS error of V",
    )
    legend(error, loc="upper right")
    _map(exact, mdp, numbers["truth"], "the true values")
    return figure


def _map(axes: Any, mdp: FiniteMDP, v: np.ndarray, title: str, path: Any = ()) -> Any:
    """The grid in colour with its numbers in hundredths; walls grey, S and G marked, the episode's path as a line."""
    shown = np.where(mdp.terminal, np.nan, v)
    axes.set_facecolor("#BBBBBB")
    image = axes.imshow(mdp.grid(shown), cmap="YlGnBu", vmin=0, vmax=1)
    for (i, j), x, end in zip(mdp.cells or (), v, mdp.terminal, strict=True):
        text = "G" if end else ("S" if mdp.rho0[mdp.state((i, j))] else "") if x < 0.005 else f"{100 * x:.0f}"
        axes.text(
            j,
            i,
            text,
            ha="center",
            va="center",
            fontsize=8,
            color="white" if x > 0.6 and not end else "black",
        )
        if end:
            axes.add_patch(_square(j, i))
    if len(path):
        i, j = np.array(mdp.cells)[list(path)].T
        axes.plot(j, i, color=PALETTE[1], linewidth=1.3, alpha=0.6, zorder=1.5)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(GREY)
    return image


def _square(j: int, i: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=PALETTE[4], linewidth=0, zorder=0.5)


def _frames(mdp: FiniteMDP, numbers: dict[str, Any], n_episodes: int) -> list[np.ndarray]:
    frames = []
    shown = (1, 2, 3, 5, 7, 10, 14, 20, 30)
    for k in (*(k for k in shown if k < n_episodes), n_episodes):
        title = f"after {amount(k, 'episode')}"
        figure, axes = panels(1, 4, title, (8.0, 1.95))
        figure.set_dpi(90)
        for a, (name, v) in zip(axes[0], numbers["values"].items(), strict=True):
            _map(a, mdp, v[k], name, numbers["path"] if k == 1 else ())
        frames.append(picture(figure))
    return frames
