"""Importance-sampling estimates of Q^π(s, a) from episodes of μ: variance and bias over horizon and policy distance.

Ordinary ρ_{1:T−1} G, weighted, per-decision, V-trace and Retrace, each the mean over a batch of episodes that start
with the same action (whose ratio is 1: it is given). The last two bootstrap from a critic, the values of μ.
Precup, Sutton & Singh, "Eligibility Traces for Off-Policy Policy Evaluation" (2000); Espeholt et al., "IMPALA" (2018);
Munos et al., "Safe and Efficient Off-Policy Reinforcement Learning" (2016).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actrix.critics import corrections
from actrix.critics.q_targets import expected_value
from actrix.envs.finite import FiniteMDP
from actrix.envs.tables import random_mdp
from actrix.lab import exact as oracle
from actrix.lab.report import NORMAL_95, Report, Table, label, legend, panels
from actrix.lab.sampling import play
from actrix.show.plot import GREY, PALETTE
from actrix.show.stats import bootstrap_interval

HORIZONS = (2, 4, 8, 16, 32, 64)
DISTANCES = (0.2, 0.4, 0.8, 1.6, 2.4)
"""How far the target's logits are from the behaviour's; the axis shows the KL that follows."""
HORIZON, DISTANCE = 16, 0.8
"""Where the other axis is held."""
NAMES = ("ordinary", "weighted", "per-decision", "V-trace", "Retrace")


def study(seed: int = 0, *, n_batches: int = 400, batch_size: int = 50) -> Report:
    """A Garnet MDP of 6 states, γ = 0.95; 95% bootstrap intervals of the variance over the batches."""
    mdp, start, action = random_mdp(6, 3, 3, seed=3, gamma=0.95), 0, 0
    rng = np.random.default_rng(3)
    base, direction = rng.normal(size=(2, 6, 3)) * 0.5
    behaviour = oracle.softmax_policy(base)
    paths = play(mdp, behaviour, n_batches * batch_size, max(HORIZONS), np.random.default_rng(seed), start=start,
                 action=action)  # fmt: skip

    def at(distance: float, horizon: int) -> dict[str, Any]:
        target = oracle.softmax_policy(base + distance * direction)
        estimates, truth = _estimates(mdp, target, behaviour, paths, horizon, batch_size)
        found = {name: _moments(x, truth) for name, x in estimates.items()}
        kl = float(np.mean(oracle.kl(target, behaviour)))
        exact = _exact_variance(mdp, target, behaviour, horizon, start, action) / batch_size
        return {"horizon": horizon, "kl": kl, "truth": truth, "exact ordinary": exact, **found}

    numbers: dict[str, Any] = {
        "batch_size": batch_size,
        "n_batches": n_batches,
        "horizon": [at(DISTANCE, horizon) for horizon in HORIZONS],
        "distance": [at(distance, HORIZON) for distance in DISTANCES],
    }
    tables = []
    for axis, key, column in (("horizon", "horizon", "T"), ("distance", "kl", "KL(π‖μ)")):
        rows = [
            (f[key], *(f[name]["variance"] for name in NAMES), f["exact ordinary"]) for f in numbers[axis]
        ]
        bias = [(f[key], *(_signed(f[name]) for name in NAMES)) for f in numbers[axis]]
        columns = (column, *NAMES)
        about = f"KL(π‖μ) = {numbers['horizon'][0]['kl']:.2g}" if axis == "horizon" else f"T = {HORIZON}"
        tables += [
            Table(f"variance of the mean of {batch_size} episodes, {about} (* exact)", (*columns, "ordinary*"), rows),
            Table(f"bias ± 95%, {about}", columns, bias),
        ]  # fmt: skip
    return Report(tables, _draw(numbers), numbers)


def _estimates(
    mdp: FiniteMDP,
    target: np.ndarray,
    behaviour: np.ndarray,
    paths: oracle.Trajectories,
    horizon: int,
    batch_size: int,
) -> tuple[dict[str, np.ndarray], float]:
    """Each batch's estimates [batches] of Q_0(s_0, a_0) with `horizon` steps to go, and the truth."""
    cut = paths._replace(
        **{name: getattr(paths, name)[:horizon] for name in paths._fields if name != "probability"}
    )
    last = np.arange(horizon)[:, None] == horizon - 1
    cut = cut._replace(truncated=cut.valid & ~cut.terminated & last)
    critic = oracle.finite_horizon_value(mdp, behaviour, horizon)  # 0 after the last step: a hard stop
    q: Any = oracle.finite_horizon_q(mdp, behaviour, horizon)
    # V(s′) under π, as Retrace wants it, from the same table Q of μ.
    mean_q = np.concatenate([np.asarray(expected_value(q, jnp.broadcast_to(target, q.shape))), critic[-1:]])
    ratio = cut.taken(target / behaviour)
    log_prob = cut.taken(np.log(target))
    columns = lambda x: jnp.asarray(x).reshape(horizon, -1, batch_size).swapaxes(0, 1)
    data = {
        "rho": np.where(np.arange(horizon)[:, None] == 0, 1.0, ratio), "log_prob": log_prob, "q": cut.taken(q),
        "mean_q": cut.values(mean_q)["next_value"], **cut.values(critic), **cut.rows(),
    }  # fmt: skip
    found = _targets({name: columns(x) for name, x in data.items()}, mdp.gamma)
    truth = oracle.finite_horizon_q(mdp, target, horizon)[0, cut.state[0, 0], cut.action[0, 0]]
    return {name: np.asarray(x) for name, x in found.items()}, float(truth)


@jax.jit
def _targets(data: dict[str, Any], gamma: float) -> dict[str, Any]:
    """The mean target of row 0 by batch; `data` holds arrays [batches, T, episodes]."""

    def batch(
        rho: Any, log_prob: Any, q: Any, mean_q: Any, value: Any, next_value: Any, **rows: Any
    ) -> dict[str, Any]:
        rows["gamma"] = gamma
        returns = dict(rho=rho, next_value=next_value, **rows)
        trace = corrections.trace("retrace", rho=rho, log_prob=log_prob, lam=1.0)
        found = {
            "ordinary": corrections.ordinary_is(**returns),
            "weighted": corrections.weighted_is(**returns),
            "per-decision": corrections.per_decision_is(**returns),
            "V-trace": corrections.vtrace(value=value, **returns)[0],
            "Retrace": corrections.off_policy_q(q=q, trace=trace, next_value=mean_q, **rows),
        }
        return {name: jnp.mean(x[0]) for name, x in found.items()}

    return jax.vmap(lambda rows: batch(**rows))(data)


def _exact_variance(
    mdp: FiniteMDP, target: np.ndarray, behaviour: np.ndarray, horizon: int, start: int, action: int
) -> float:
    """Var(ρ_{1:T−1} G_0), by the recursion of E[ρ²], E[ρ² G] and E[ρ² G²] from the last step back."""
    weight = np.divide(target**2, behaviour, out=np.zeros_like(target), where=behaviour > 0)
    zero = np.zeros(mdp.n_states)
    moments = (np.ones(mdp.n_states), zero, zero)
    for t in reversed(range(horizon)):
        zeroth, first, second = (
            np.where(mdp.terminal, end, m) for m, end in zip(moments, (1, 0, 0), strict=True)
        )
        r, gamma = mdp.rewards, mdp.gamma
        pairs = (
            mdp.P @ zeroth,
            np.sum(mdp.P * (r * zeroth + gamma * first), axis=-1),
            np.sum(mdp.P * (r**2 * zeroth + 2 * gamma * r * first + gamma**2 * second), axis=-1),
        )
        if t == 0:
            mean = oracle.finite_horizon_q(mdp, target, horizon)[0, start, action]
            return float(pairs[2][start, action] - mean**2)
        moments = tuple(np.sum(weight * x, axis=1) for x in pairs)  # type: ignore[assignment]
    raise AssertionError("a horizon has at least one step")


def _moments(estimates: np.ndarray, truth: float) -> dict[str, Any]:
    squares = np.square(estimates - estimates.mean()) * len(estimates) / (len(estimates) - 1)
    return {
        "bias": float(estimates.mean() - truth),
        "bias_error": float(NORMAL_95 * estimates.std(ddof=1) / np.sqrt(len(estimates))),
        "variance": float(squares.mean()),
        "variance_interval": [float(x) for x in bootstrap_interval(squares, np.mean, n=500)],
    }


def _signed(f: dict[str, Any]) -> str:
    return f"{f['bias']:+.2f}±{f['bias_error']:.2f}"


def _draw(numbers: dict[str, Any]) -> Any:
    figure, axes = panels(
        2, 2, "Off-policy evaluation: what correcting costs", (11.0, 8.0), sharex="col", sharey="row"
    )
    looks = dict(zip(NAMES, ("o-", "s-", "^-", "D--", "v--"), strict=True))
    for k, (axis, key) in enumerate((("horizon", "horizon"), ("distance", "kl"))):
        found, (variance, bias) = numbers[axis], axes[:, k]
        x = np.array([f[key] for f in found])
        for i, (name, look) in enumerate(looks.items()):
            pick = lambda what, name=name, found=found: np.array([f[name][what] for f in found])
            middle, (low, high) = pick("variance"), pick("variance_interval").T
            shift = x * (1 + 0.02 * (i - 2))  # so that intervals do not cover each other
            style = dict(color=PALETTE[i], markersize=5, capsize=3)
            variance.errorbar(
                shift, middle, yerr=[middle - low, high - middle], fmt=look, label=name, **style
            )
            bias.errorbar(shift, pick("bias"), yerr=pick("bias_error"), fmt=look, label=name, **style)
        variance.plot(x, [f["exact ordinary"] for f in found], color=GREY, linewidth=1.2, linestyle=":",
                      label="ordinary, exact")  # fmt: skip
        bias.axhline(0, color=GREY, linewidth=1)
        variance.set_xscale("log", base=2 if k == 0 else 10)
        variance.set_yscale("log")
    about = f"KL(π‖μ) = {numbers['horizon'][0]['kl']:.2g}", f"horizon {HORIZON}"
    axes[0, 0].xaxis.set_major_formatter("{x:g}")
    size = numbers["batch_size"]
    label(axes[0, 0], f"longer episodes ({about[0]})", "", f"variance of the mean of {size} episodes")
    label(axes[0, 1], f"policies further apart ({about[1]})")
    label(axes[1, 0], "", "horizon T (steps)", "bias: mean estimate − Q(s, a)")
    label(axes[1, 1], "", "KL(π‖μ), mean over states (nats)")
    for a in axes[1]:
        reach = 1.15 * max(abs(f[name]["bias"]) for axis in ("horizon", "distance") for f in numbers[axis]
                        for name in ("V-trace", "Retrace"))  # fmt: skip
        a.set_ylim(-reach, reach)
    legend(axes[0, 0], loc="upper left")
    return figure
