"""The critic of implicit Q-learning: V(s) an upper expectile of Q(s, a) over the data's own actions."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Float

from actrix.core.answers import CriticFacts
from actrix.core.fields import share, whole
from actrix.core.fit import Apart
from actrix.core.types import record
from actrix.critics.ensemble import TargetCopy
from actrix.nets.obeyed import ENCODING, HIDDEN
from actrix.nets.regression import build_regressor


def expectile_loss(error: Float[Array, "*B"], expectile: float) -> Float[Array, "*B"]:
    """L_τ(u) = |τ − 1(u < 0)| u², whose minimiser over v of E[L_τ(x − v)] is the τ-expectile of x.

    Newey & Powell (1987); τ = ½ gives half the squared error, and the mean (Kostrikov et al. 2022, eq. 5: u = Q − V).
    """
    return jnp.where(error < 0, 1.0 - expectile, expectile) * error**2


@record
class Targets:
    """What was estimated before the updates."""

    q: jax.Array
    """Q̂(s, a): the minimum of the target copies at the data's action."""


@dataclasses.dataclass(frozen=True)
class Expectile(TargetCopy):
    """V ← E[L_τ(Q̂(s,a) − V(s))], then the policy, then each Q_i ← E[(r + γ′V(s′) − Q_i(s,a))²] (Kostrikov et al. 2022).

    Q̂ is the minimum of the target copies. No target and no loss evaluates an action that is not in the data.
    """

    expectile: float = 0.7
    """τ: ½ is the mean (the data's own policy), τ → 1 the best action in the data."""
    n_critics: int = 2
    tau: float = 0.005
    """Polyak coefficient of the target copies, moved after every update."""

    name: ClassVar[str] = "expectile"
    positional: ClassVar[tuple[str, ...]] = ("expectile", "n_critics")
    fit: ClassVar[Any] = Apart
    turns: ClassVar[tuple[str, ...]] = ("value", "actor", "critic")

    def __post_init__(self) -> None:
        whole(self, "n_critics")
        share(self, "tau")
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile={self.expectile} must lie between 0 and 1.")

    @property
    def facts(self):
        return CriticFacts(gives="Q(s, a) of the data", one_step=True)

    def check(self, spec, config):
        if not isinstance(spec.action_space, spaces.Box | spaces.Discrete):
            raise ValueError(
                f"IQL needs a Box or Discrete action space, not {spec.action_space}: bc takes it."
            )

    def build(self, config, spec, key, actor):
        return build_regressor(config, spec, key, self.n_critics)

    def network_settings(self, config, spec, actor):
        gaussian = ("log_std_init",) if isinstance(spec.action_space, spaces.Box) else ()
        return (*ENCODING, *HIDDEN, "dropout", "share_features_extractor", *gaussian)

    def estimate(self, view, kept, rows, actor, progress, key):
        return Targets(jnp.min(view({"critic": kept.critic}).q_taken()[..., 0], axis=1))

    def loss(self, view, rows, est, key):
        """Of the critics."""
        target = (rows.reward + rows.discount * view.value("next_obs"))[:, None]
        q = view.q_taken(jax.random.split(key, 5)[1])[..., 0]
        priority = jnp.abs(jnp.mean(q - target, axis=1))
        return jnp.sum((target - q) ** 2, axis=1), priority, {"train/q_mean": jnp.mean(q)}

    def loss_of(self, name, view, rows, est, key):
        if name == "critic":
            return self.loss(view, rows, est, key)
        error = est.q - view.value()
        return expectile_loss(error, self.expectile), jnp.abs(error), {}

    def advantage(self, view, rows, est):
        return est.q - view.value()
