"""What the objectives of language models' reinforcement learning estimate, exactly: a decoder with all its answers.

Prompts x = 0 … 3; an answer of at most five tokens out of `.`, `+`, `-`, `0` is right if it ends and has x more `+`
than `-`. For each objective the mean of its gradient estimate, against the gradient of the expected reward, and its
variance; the same for the estimators of the KL to a reference. Sums over all answers and over what groups hold, no
samples.

Shao et al., "DeepSeekMath" (2024); Ahmadian et al., "Back to Basics" (2024); Liu et al., "Understanding R1-Zero-Like
Training" (2025); Yu et al., "DAPO" (2025); Zheng et al., "GSPO" (2025); Chu et al., "GPG" (2025).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from actrix.critics import kl_estimators
from actrix.lab.exact.answers import Answers, Sizes, initial, log_probs
from actrix.lab.exact.groups import Classes
from actrix.lab.report import Report, Table
from actrix.lab.sequence_figure import draw
from actrix.lab.sequence_objectives import (
    OBJECTIVES,
    RATIOS,
    Setting,
    batch_moments,
    ratio_weights,
)

Array = np.ndarray
SIZES = Sizes(vocabulary=4, prompts=4, horizon=5)
GROUP, BATCH = 8, 16
RATES = (0.05, 0.25, 0.5, 0.9)
"""Success rates of the first table."""
LEVELS = (0.2, 0.35, 0.5, 0.7, 0.9)
"""Mean success of the policies."""
GROUPS = (2, 4, 8, 16, 32)
DISTANCES = (0.01, 0.03, 0.1)
"""KL(π_old‖π) of the answers, in nats."""
OF_ONE_PROMPT = (
    "leave-one-out (RLOO)", "group mean (Dr.GRPO)", "std of the sample", "std of the population", "GPG",
    "mean, dynamic sampling", "best of G", "expert iteration",
)  # fmt: skip
"""Objectives whose length depends on the success rate, the group and nothing else."""


def balanced(prompt: int, answer: tuple[int, ...]) -> float:
    """The verifier: 1 if the answer ends and has `prompt` more tokens 1 than tokens 2."""
    return float(answer[-1] == 0 and answer.count(1) - answer.count(2) == prompt)


def study(
    seed: int = 0, *, decoders: int = 3, points: int = 49, levels: tuple[float, ...] = LEVELS
) -> Report:
    """Decoders drawn from `seed` on, each at several success rates on the way that supervised training would take.

    `levels` of mean success have 0.5 among them: tables, ratios and KL are of that policy.
    """
    answers = Answers(SIZES, balanced)
    grid = np.linspace(0.02, 0.98, points)
    by = lambda n, rates: {name: [scale(name, n, p) for p in rates] for name in OF_ONE_PROMPT}
    sizes = [by(n, [0.25]) for n in GROUPS]
    scales = {
        "success": grid, "by success": by(GROUP, grid), "rates": RATES, "at rates": by(GROUP, RATES),
        "groups": GROUPS, "by group": {name: [size[name][0] for size in sizes] for name in OF_ONE_PROMPT},
    }  # fmt: skip
    found: dict[str, list[Any]] = {"objectives": [], "ratios": [], "kl": []}
    for k in range(decoders):
        start = initial(SIZES, seed + k)
        path = list(supervised(answers, start))
        policies = [at_success(answers, path, level) for level in levels]
        middle = policies[levels.index(0.5)]
        half = answers.success(middle).mean()
        further = [middle, *(theta for theta in path if answers.success(theta).mean() > half)]
        found["objectives"].append([on_policy(answers, theta) for theta in policies])
        found["ratios"].append([off_policy(answers, further, kl) for kl in DISTANCES])
        found["kl"].append([kl_estimates(answers, middle, start)])
    numbers = {
        "group": GROUP, "batch": BATCH, "levels": levels, "distances": DISTANCES, "decoders": decoders,
        "scales": scales, **{part: _stack(x) for part, x in found.items()},
    }  # fmt: skip
    return Report(_tables(numbers), draw(numbers), numbers)


def scale(name: str, n: int, success: float, batch: int = 4096) -> float:
    """Length of the expected estimate over that of the true gradient, for one prompt and groups of n.

    The policy is a coin whose scores are (r − p)/(p(1 − p)), so that the true gradient is 1: the length is the same for
    any policy whose answers are right as often, since E[Σ_t ∇log π; right] = ∇p = −E[…; wrong].
    """
    coin, right = np.array([1 - success, success]), np.array([0, 1])
    vectors = (right - success)[:, None] / (success * (1 - success))
    classes = Classes.of(coin, right, np.ones(2, int), vectors)
    setting = Setting(n, batch, success, success, 1.0)
    return float(batch_moments(OBJECTIVES[name], [classes], [setting]).mean[0])


def supervised(answers: Answers, theta: Array, *, until: float = 0.97, rate: float = 0.01) -> Iterator[Array]:
    """The decoder on its way up: Adam on the exact mean over prompts of log E[r|x], at most 1000 steps.

    That is maximum likelihood of right answers, drawn as the policy draws them; unlike the expected reward it gives up
    no prompt, and the success rates of the prompts stay comparable.
    """
    success = lambda th: jnp.sum(jnp.exp(answers.taken(th).sum(axis=1)) * answers.reward, axis=1)
    slope = jax.jit(jax.grad(lambda th: jnp.mean(jnp.log(success(th)))))
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    yield theta
    for step in range(1, 1001):
        if answers.success(theta).mean() > until:
            return
        g = np.asarray(slope(theta))
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        theta = theta + rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.99**step)) + 1e-8)
        yield theta


def first_above(path: Iterable[Array], measure: Any, level: float) -> Array:
    """Where the broken line through `path` first reaches measure(θ) = level, by halving its segment."""
    before = None
    for theta in path:
        if measure(theta) >= level:
            break
        before = theta
    else:
        raise ValueError(f"the path ends before {level:g}.")
    if before is None:
        return theta
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        above = measure(before + middle * (theta - before)) >= level
        low, high = (low, middle) if above else (middle, high)
    return before + high * (theta - before)


def at_success(answers: Answers, path: list[Array], level: float) -> Array:
    """The policy of the path whose mean success is `level`."""
    return first_above(path, lambda theta: answers.success(theta).mean(), level)


def against(mean: Array, square: float, truth: Array) -> dict[str, float]:
    """Of an estimate: cosine to the truth, projection on it over its length, Σ Var over its square."""
    norm = float(np.linalg.norm(truth))
    length = float(np.linalg.norm(mean))
    along = float(mean @ truth) / norm
    variance = max(float(square - mean @ mean), 0.0)
    return {"cosine": along / length if length > 1e-9 * norm else float("nan"), "length": along / norm,
            "variance": variance / norm**2}  # fmt: skip


def settings(answers: Answers, theta: Array, n: int = GROUP) -> list[Setting]:
    """What each prompt's advantage may know of the policy."""
    success = answers.success(theta)
    length = float(np.mean(answers.probability(theta) @ answers.length))
    return [Setting(n, BATCH, float(p), float(success.mean()), length) for p in success]


def classes_of(answers: Answers, theta: Array, scores: Array, weights: Array) -> list[Classes]:
    """The answers that π_θ draws to each prompt, with Σ_t w_t ∇log π(y_t) of each."""
    vectors = np.sum(weights[..., None] * scores, axis=1)
    drawn = zip(answers.probability(theta), answers.reward, vectors, strict=True)
    return [Classes.of(p, r, answers.length, e) for p, r, e in drawn]


def on_policy(answers: Answers, theta: Array) -> dict[str, Any]:
    """Every objective at the policy that drew the answers."""
    truth, scores, known = answers.gradient(theta), answers.scores(theta), settings(answers, theta)
    forms = dict.fromkeys(objective.tokens for objective in OBJECTIVES.values())
    found = {form: classes_of(answers, theta, scores, form(answers, theta)) for form in forms}
    return {
        name: against(*batch_moments(objective, found[objective.tokens], known), truth)
        for name, objective in OBJECTIVES.items()
    }


def off_policy(answers: Answers, path: list[Array], distance: float) -> dict[str, Any]:
    """Every ratio, with RLOO's advantages of answers drawn by the path's first policy, where the path is KL(π_old‖π) =
    `distance` on."""
    old = path[0]
    new = first_above(path, lambda theta: float(jnp.mean(answers.kl(old, theta))), distance)
    truth, scores, known = answers.gradient(new), answers.scores(new), settings(answers, old)
    rloo = OBJECTIVES["leave-one-out (RLOO)"]
    drawn = answers.probability(old)[:, None] * answers.valid
    out = {}
    for name, form in RATIOS.items():
        weights = ratio_weights(form, answers, new, old)
        moments = batch_moments(rloo, classes_of(answers, old, scores, weights), known)
        clipped = float(np.sum(drawn * (weights == 0)) / np.sum(drawn))
        out[name] = {**against(*moments, truth), "clipped": clipped}
    return out


def kl_estimates(answers: Answers, theta: Array, reference: Array) -> dict[str, Any]:
    """Each estimator of KL(π‖π_ref) from one answer: its value and its gradient; see `kl_estimators`."""
    p = answers.probability(theta) / answers.sizes.prompts
    true = float(jnp.mean(answers.kl(theta, reference)))
    truth = np.asarray(jax.grad(lambda th: jnp.mean(answers.kl(th, reference)))(jnp.asarray(theta)))
    values, gradients = _kl_values(answers, theta, reference)
    out = {}
    for name, x in values.items():
        mean = float(np.sum(p * x))
        g = gradients[name].reshape(-1, len(theta))
        square = float(p.ravel() @ np.sum(np.square(g), axis=1))
        spread = float(np.sqrt(np.sum(p * np.square(x - mean))))
        out[name] = {"value": mean / true, "spread": spread / true, **against(p.ravel() @ g, square, truth)}
    return out


def _kl_values(answers: Answers, theta: Array, reference: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """Of every answer [X, N]: the estimators' values, and the gradients that training would follow."""
    new, other, scores = answers.taken(theta), answers.taken(reference), answers.scores(theta)
    both = lambda th: kl_estimators.exact(answers.vocabulary(th), answers.vocabulary(reference))
    steps = np.where(answers.valid, np.asarray(both(theta)), 0)
    along = lambda weights: np.einsum("xtn,xtnp->xnp", weights, scores)
    spread = lambda x: np.broadcast_to(x[:, None], new.shape)
    whole: list[Any] = [x.sum(axis=1) for x in (new, other)]
    values = {"k1 in the reward": np.asarray(kl_estimators.k1(*whole))}
    gradients = {"k1 in the reward": along(spread(values["k1 in the reward"]))}
    for name, form in (("k1", kl_estimators.k1), ("k2", kl_estimators.k2), ("k3", kl_estimators.k3)):
        slope = lambda x, y, form=form: np.asarray(jax.grad(lambda z: jnp.sum(form(z, y)))(jnp.asarray(x)))
        values[f"{name} by token"] = np.asarray(form(new, other).sum(axis=1))
        gradients[f"{name} by token"] = along(slope(new, other))
        values[f"{name} of the answer"] = np.asarray(form(*whole))
        gradients[f"{name} of the answer"] = along(spread(slope(*whole)))
    values["exact by token"] = values["exact, also in the reward"] = steps.sum(axis=1)
    gradients["exact by token"] = _exact_gradients(answers, theta, reference)
    later = steps[:, ::-1].cumsum(axis=1)[:, ::-1] - steps
    gradients["exact, also in the reward"] = gradients["exact by token"] + along(later)
    return values, gradients


def _exact_gradients(answers: Answers, theta: Array, reference: Array) -> Array:
    """∇ Σ_t KL(π(·|x, y_<t)‖π_ref(·|x, y_<t)) along each answer [X, N, P], the answer held fixed."""

    def one(th: Any, x: Any, y: Any, valid: Any) -> Any:
        kl = kl_estimators.exact(*(log_probs(answers.sizes, z, x, y) for z in (th, jnp.asarray(reference))))
        return jnp.sum(jnp.where(valid, kl, 0))

    over = jax.vmap(jax.vmap(jax.grad(one), (None, None, 0, 0)), (None, 0, None, None))
    prompts = jnp.arange(answers.sizes.prompts)
    return np.asarray(jax.jit(over)(jnp.asarray(theta), prompts, answers.token.T, answers.valid.T))


def _stack(x: list[Any]) -> dict[str, Any]:
    """Name → measure → [points, decoders] from decoder → point → name → measure."""
    names, measures = x[0][0], next(iter(x[0][0].values()))
    return {
        name: {m: np.array([[point[name][m] for point in row] for row in x]).T for m in measures}
        for name in names
    }


def _tables(numbers: dict[str, Any]) -> list[Table]:
    scales = numbers["scales"]
    of_prompt = [(name, *map(float, x)) for name, x in scales["at rates"].items()]
    middle, where = numbers["levels"].index(0.5), "mean success 0.5"
    mean = lambda x, k: float(np.mean(x[k]))
    columns = ("cosine", "length", "variance", "variance / length²")
    rows = [
        (
            name,
            *(mean(x[m], middle) for m in columns[:3]),
            float(np.mean(x["variance"][middle] / x["length"][middle] ** 2)),
        )
        for name, x in numbers["objectives"].items()
    ]
    ratios = [
        (name, *(mean(x[m], k) for k in (0, 2) for m in ("cosine", "length", "clipped")))
        for name, x in numbers["ratios"].items()
    ]
    kl = [
        (name, *(mean(x[m], 0) for m in ("value", "spread", "cosine", "length", "variance")))
        for name, x in numbers["kl"].items()
    ]
    near, far = (f"{DISTANCES[k]:g}" for k in (0, 2))
    of = ("cosine", "length", "clipped")
    return [
        Table(f"one prompt, groups of {GROUP}: expected over true gradient, by success rate",
              ("objective", *map(str, RATES)), of_prompt),
        Table(f"four prompts, {BATCH} groups of {GROUP}, {where}", ("objective", *columns), rows),
        Table("answers of an older policy, by KL(old‖new) of an answer",
              ("ratio", *(f"{m}, {kl}" for kl in (near, far) for m in of)), ratios),
        Table(f"KL to the new decoder from one answer, {where}: value / true KL, gradient against its gradient",
              ("estimator", "value", "its std", "cosine", "length", "variance"), kl),
    ]  # fmt: skip
