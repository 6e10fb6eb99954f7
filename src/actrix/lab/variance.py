"""Bias and variance of policy gradient estimates over ψ, and over GAE's λ with a right and a wrong critic.

ĝ = (1/n) Σ_episodes Σ_t ∇log π(a_t|s_t) ψ_t, many batches of n episodes, against the exact ∇J of a finite MDP.
Sutton et al., "Policy Gradient Methods for RL with Function Approximation" (1999); Greensmith, Bartlett & Baxter,
"Variance Reduction Techniques" (2004); Schulman et al., "High-Dimensional Continuous Control Using Generalized
Advantage Estimation" (2016).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from actrix.actors import psi as psi_
from actrix.actors.greedy import boltzmann_log_probs
from actrix.actors.score import score_function
from actrix.critics import returns
from actrix.envs.finite import FiniteMDP
from actrix.envs.tables import grid_world
from actrix.lab import exact as oracle
from actrix.lab.report import NORMAL_95, Report, Table, label, legend, panels
from actrix.lab.sampling import play
from actrix.show.plot import GREY, PALETTE
from actrix.show.stats import bootstrap_interval

GRID = ("S...", ".#.H", "...G")
LAMBDAS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
HORIZON = 40
BIASED = (
    "γᵗ·R(τ)", "G without γᵗ", "R(τ) − own batch's mean", "G − b(s, a)", "Q of another policy", "δ with a wrong V",
)  # fmt: skip
"""ψ whose mean is not ∇J; all others are unbiased."""


def study(seed: int = 0, *, n_batches: int = 4000, batch_size: int = 8) -> Report:
    """Sampled episodes of a slippery 3×4 grid world under a half-trained policy; 95% intervals over the batches."""
    mdp = slippery_grid()
    # Half-trained: Boltzmann in the optimal Q. The logits of its table are the parameters.
    theta = np.array(boltzmann_log_probs(jnp.asarray(oracle.policy_iteration(mdp).q), 0.25))
    policy = oracle.softmax_policy(theta)
    paths = play(mdp, policy, n_batches * batch_size, HORIZON, np.random.default_rng(seed))
    exact = oracle.finite_horizon_gradient(mdp, policy, HORIZON).ravel()
    sampled = _Episodes(mdp, theta, paths, batch_size)
    right, wrong = sampled.critic(policy), sampled.critic(oracle.uniform_policy(mdp))
    forms = {
        name: _moments(g, exact)
        for name, g in {**sampled.exact_forms(right), **sampled.mistakes(wrong)}.items()
    }
    sweep = {
        kind: [_moments(sampled.estimate(sampled.gae(values, lam)), exact) for lam in LAMBDAS]
        for kind, values in (("right", right), ("wrong", wrong))
    }
    numbers = {
        "batch_size": batch_size, "n_batches": n_batches, "gradient_norm": float(np.linalg.norm(exact)),
        "forms": forms, "lambdas": LAMBDAS, "gae": sweep,
    }  # fmt: skip
    columns = ("ψ", "bias", "95%", "variance", "95%")
    rows = [(name, *_cells(f)) for name, f in forms.items()]
    about = f"slippery grid world, {n_batches} batches of {batch_size} episodes, relative to ‖∇J‖"
    tables = [Table(about, columns, rows)]
    for kind, found in sweep.items():
        gae = [(lam, *_cells(f)) for lam, f in zip(LAMBDAS, found, strict=True)]
        tables.append(Table(f"GAE with the {kind} V", ("λ", *columns[1:]), gae))
    return Report(tables, _draw(numbers), numbers)


def slippery_grid() -> FiniteMDP:
    """The named MDP: start in the corner, goal +1, hole −1, −0.02 a step; a fifth of the moves slip sideways."""
    return grid_world(GRID, gamma=0.95, slip=0.2, rewards={"G": 1.0, "H": -1.0}, step_reward=-0.02)


class _Episodes:
    """Sampled episodes, what the estimators take of them, and gradient estimates by batch."""

    def __init__(self, mdp: FiniteMDP, theta: np.ndarray, paths: oracle.Trajectories, batch_size: int):
        self.mdp, self.theta, self.paths, self.batch_size = mdp, theta, paths, batch_size
        self.policy = oracle.softmax_policy(theta)
        self.rows: dict[str, Any] = {**paths.rows(), "gamma": mdp.gamma}
        flags = {name: x for name, x in self.rows.items() if name != "reward"}
        self.weight: Any = np.asarray(psi_.discount_weights(**flags))
        self.to_go = np.asarray(returns.monte_carlo(next_value=jnp.zeros_like(self.weight), **self.rows))

    def critic(self, policy: np.ndarray) -> np.ndarray:
        """The values V_t [T+1, S] of a policy with HORIZON − t steps to go."""
        return oracle.finite_horizon_value(self.mdp, policy, len(self.weight))

    def gae(self, v: np.ndarray, lam: float) -> np.ndarray:
        return self.weight * np.asarray(_gae(lam=lam, **self.paths.values(v), **self.rows))

    def scores(self, psi: Any) -> np.ndarray:
        """Σ_t ∇log π(a_t|s_t) ψ_t of each episode, [N, P]."""
        psi = jnp.where(self.paths.valid, psi, 0)
        state, action = (jnp.asarray(x) for x in (self.paths.state, self.paths.action))
        return np.asarray(_score_gradients(jnp.asarray(self.theta), state, action, psi))

    def batches(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, self.batch_size, *x.shape[1:])

    def estimate(self, psi: Any) -> np.ndarray:
        """The gradient estimate of each batch, [batches, P]."""
        return self.batches(self.scores(psi)).mean(axis=1)

    def exact_forms(self, v: np.ndarray) -> dict[str, np.ndarray]:
        """ψ whose mean is the exact gradient, given the right values v."""
        values: dict[str, Any] = self.paths.values(v)
        rows, weight = self.rows, self.weight
        q = np.stack([oracle.backup(self.mdp, following) for following in v[1:]])
        n_step = lambda n: returns.n_step(n=n, next_value=values["next_value"], **rows) - values["value"]
        plain = self.scores(np.ones_like(weight))
        samples = self.scores(weight * self.to_go)
        baseline = np.asarray(
            psi_.optimal_baseline(jnp.asarray(plain), jnp.asarray(samples), leave_one_out=True)
        )
        return {
            "R(τ), whole return": self.estimate(returns.trajectory_return(**rows)),
            "G, reward-to-go": self.estimate(weight * self.to_go),
            "G − moving average": self.estimate(weight * (self.to_go - self._moving_average())),
            "G − optimal constant": self.batches(samples - baseline * plain).mean(axis=1),
            "G − V": self.estimate(weight * (self.to_go - values["value"])),
            "Q": self.estimate(weight * self.paths.taken(q)),
            "A": self.estimate(weight * self.paths.taken(q - v[:-1, :, None])),
            "δ": self.estimate(weight * returns.td_error(**values, **rows)),
            "3 steps − V": self.estimate(weight * n_step(3)),
            "GAE, λ = 0.95": self.estimate(self.gae(v, 0.95)),
        }

    def mistakes(self, wrong: np.ndarray) -> dict[str, np.ndarray]:
        """ψ that look much alike and are biased; `wrong` holds the values of another policy."""
        values: dict[str, Any] = self.paths.values(wrong)
        weight = self.weight
        whole = np.asarray(returns.trajectory_return(**self.rows))
        own = self.batches(whole[0])
        own_mean = np.broadcast_to(own.mean(axis=1, keepdims=True), own.shape).reshape(-1)
        q = np.stack([oracle.backup(self.mdp, following) for following in wrong[1:]])
        psis = (
            weight * whole,
            self.to_go,
            whole - own_mean,
            weight * (self.to_go - self.paths.taken(q)),
            weight * self.paths.taken(q),
            weight * returns.td_error(**values, **self.rows),
        )
        return {name: self.estimate(psi) for name, psi in zip(BIASED, psis, strict=True)}

    def _moving_average(self) -> np.ndarray:
        """The baseline of each episode: the mean return to go of earlier batches."""

        def step(state: Any, batch: Any) -> Any:
            g, valid = batch
            baseline, state = psi_.moving_average_baseline(state, g, valid=valid)
            return state, baseline

        columns = lambda x: jnp.asarray(x).reshape(len(x), -1, self.batch_size).swapaxes(0, 1)
        start = psi_.MovingAverage.zero(jnp.float64)
        _, found = jax.lax.scan(step, start, (columns(self.to_go), columns(self.paths.valid)))
        return np.repeat(np.asarray(found), self.batch_size)


_gae = jax.jit(returns.gae)


@jax.jit
def _score_gradients(theta: Any, state: Any, action: Any, psi: Any) -> Any:
    def objective(theta: Any, s: Any, a: Any, weight: Any) -> Any:
        log_prob = jax.nn.log_softmax(theta, axis=1)[s, a]
        return jnp.sum(score_function(log_prob=log_prob, psi=weight))

    found = jax.vmap(jax.grad(objective), in_axes=(None, 1, 1, 1))(theta, state, action, psi)
    return found.reshape(len(found), -1)


def _moments(estimates: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Bias ‖E ĝ − ∇J‖/‖∇J‖ and variance Σ_i Var(ĝ_i)/‖∇J‖² from K estimates, with 95% intervals.

    ‖mean − ∇J‖² overestimates the squared bias by Σ_i Var(ĝ_i)/K, which is subtracted; its interval is normal, with
    variance 4bᵀΣb/K + 2tr(Σ²)/K². The variance's interval is a bootstrap over the estimates.
    """
    norm, K = np.linalg.norm(exact), len(estimates)
    centred = (estimates - estimates.mean(axis=0)) / norm
    cov = centred.T @ centred / (K - 1)
    b = estimates.mean(axis=0) / norm - exact / norm
    squared, square = b @ b - np.trace(cov) / K, np.sum(cov * cov)
    noise = 4 * max(b @ cov @ b - square / K, 0) / K + 2 * square / K**2
    half = NORMAL_95 * np.sqrt(noise)
    spread = np.sum(np.square(centred), axis=1) * K / (K - 1)
    return {
        "bias": float(np.sqrt(max(squared, 0))),
        "bias_interval": [float(np.sqrt(max(x, 0))) for x in (squared - half, squared + half)],
        "along": float(estimates.mean(axis=0) @ exact / norm**2),
        "variance": float(spread.mean()),
        "variance_interval": [float(x) for x in bootstrap_interval(spread, np.mean, n=500)],
    }


def _cells(f: dict[str, Any]) -> tuple[Any, ...]:
    interval = lambda name: "–".join(f"{x:.2g}" for x in f[name])
    return f["bias"], interval("bias_interval"), f["variance"], interval("variance_interval")


def _draw(numbers: dict[str, Any]) -> Any:
    figure, axes = panels(
        2, 2, "One gradient, many estimates: what ψ costs in bias and variance", (11.5, 8.6),
        height_ratios=(1.5, 1), sharey=False,
    )  # fmt: skip
    mean, variance = axes[0]
    bias, spread = axes[1]
    _draw_forms(mean, variance, numbers["forms"])
    _draw_gae(bias, spread, numbers["gae"])
    label(mean, "bias of the estimate", "‖mean estimate − true gradient‖ / ‖true gradient‖  (95% intervals)")
    label(variance, f"variance of the estimate from {numbers['batch_size']} episodes",
          "variance / ‖true gradient‖²  (95% intervals)")  # fmt: skip
    for axis in (spread.yaxis, variance.xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    label(bias, "GAE: bias", "λ", "bias / ‖true gradient‖")
    label(spread, "GAE: variance", "λ", "variance / ‖true gradient‖²")
    return figure


def _draw_forms(mean: Any, variance: Any, forms: dict[str, Any]) -> None:
    names, y = list(forms), -np.arange(len(forms), dtype=float)
    n_exact = len(forms) - len(BIASED)
    y[n_exact:] -= 0.6
    for k, a in enumerate((mean, variance)):
        for name, height in zip(names, y, strict=True):
            f, colour = forms[name], PALETTE[0] if height > -n_exact else PALETTE[1]
            what = ("bias", "variance")[k]
            low, high = f[f"{what}_interval"]
            errors = [[f[what] - low], [high - f[what]]]
            a.errorbar(f[what], height, xerr=errors, fmt="o", color=colour, capsize=3, markersize=5)
        a.set_yticks(y, names)
        a.axhline(-n_exact + 0.2, color=GREY, linewidth=0.7)
    mean.axvline(0, color=GREY, linewidth=1.2)
    for height, text, colour in (
        (0.7, "unbiased", PALETTE[0]),
        (-n_exact - 0.15, "biased", PALETTE[1]),
    ):
        mean.text(0.99, height, text, transform=mean.get_yaxis_transform(), ha="right", va="center", fontsize=9,
                  color=colour)  # fmt: skip
    variance.set_xscale("log")
    variance.set_yticklabels([])
    mean.set_ylim(y[-1] - 0.7, 1.2)
    variance.set_ylim(*mean.get_ylim())


def _draw_gae(bias: Any, spread: Any, numbers: dict[str, Any]) -> None:
    place = np.arange(len(LAMBDAS))
    for kind, colour, text in (
        ("right", PALETTE[0], "right V"),
        ("wrong", PALETTE[1], "wrong V (of the uniform policy)"),
    ):
        found = numbers[kind]
        pick = lambda name, found=found: np.array([f[name] for f in found])
        for a, what in ((bias, "bias"), (spread, "variance")):
            middle, (low, high) = pick(what), pick(f"{what}_interval").T
            errors = [middle - low, high - middle]
            a.errorbar(place, middle, yerr=errors, fmt="o-", color=colour, capsize=3, label=text)
    for a in (bias, spread):
        a.set_xticks(place, [f"{lam:g}" for lam in LAMBDAS])
        legend(a, loc="best")
    bias.axhline(0, color=GREY, linewidth=1.2)
    spread.set_yscale("log")
