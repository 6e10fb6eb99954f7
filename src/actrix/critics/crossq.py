"""The critics of CrossQ: batch normalisation and one pass over both ends of a transition instead of target copies."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from gymnasium import spaces

from actrix.core.fields import share, whole
from actrix.core.types import record
from actrix.critics.ensemble import ActionCritics
from actrix.nets.renorm import renormalized


@record
class Ahead:
    """What the actor would do in s′."""

    action: jax.Array
    penalty: jax.Array
    """What it pays there."""


@dataclasses.dataclass(frozen=True)
class CrossQ(ActionCritics):
    """E critics fitted to r + γ_t(Q(s′, a′) − what the actor pays there) without target copies (Bhatt et al. 2024).

    Actor and critics have batch renormalisation in every MLP. Q(s, a) and Q(s′, a′), through which no gradient flows,
    come of ONE pass over the batch of both, so that its statistics are those of both.
    """

    batch_norm_momentum: float = 0.99
    """Of the running statistics, by which the networks act and the actor's loss sees the critics."""
    renorm_warmup_steps: int = 100_000
    """Updates of plain batch normalisation before its running statistics are trusted."""

    name: ClassVar[str] = "crossq"
    structural: ClassVar[tuple[str, ...]] = ("batch_norm_momentum",)

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "batch_norm_momentum")
        whole(self, "renorm_warmup_steps", least=0)

    def check(self, spec, config):
        if not isinstance(spec.action_space, spaces.Box):
            raise ValueError(
                f"critic {self.name} reads actions, in a Box space, not {spec.action_space}: use discrete-sac or dqn."
            )
        if config.layer_norm or config.dropout:
            raise ValueError(f"policy_kwargs: critic {self.name} has neither layer_norm nor dropout.")

    def build(self, config, spec, key, actor):
        net = super().build(config, spec, key, actor)
        return renormalized(net, self.batch_norm_momentum, self.renorm_warmup_steps)

    def estimate(self, view, kept, rows, actor, progress, key):
        return Ahead(*actor.backup(view, kept, rows, lambda action: action, jax.random.split(key, 5)[0]))

    def loss(self, view, rows, est, key):
        q, q_next = view.pair(est.action)
        target = self.joined.target(jax.lax.stop_gradient(q_next), est.penalty, rows)
        losses, priority = self.joined.loss(q, target)
        return losses, priority, {"train/q_mean": jnp.mean(q)}
