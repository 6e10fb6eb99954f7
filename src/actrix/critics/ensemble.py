"""Ensembles of critics Q(s, a) beside an actor: clipped double Q, truncated quantiles, conservative ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jaxtyping import Array, Float

from actrix.core.answers import Critic, CriticFacts
from actrix.core.distributions import legal_actions
from actrix.core.fields import choose, finite, share, whole
from actrix.core.fit import Apart
from actrix.core.optim import copied, polyak
from actrix.critics.represent import JOINED, Joined, Numbers
from actrix.nets.obeyed import ENCODING, HIDDEN
from actrix.nets.q_networks import build_actor_critics
from actrix.nets.view import apply


def least(q: Float[Array, "B E *A"]) -> Float[Array, "B *A"]:
    """min_i q_i over axis 1, whose gradient goes to the first least one whatever the rounding.

    `jnp.min` passes it to all that equal the minimum, divided by their number: 0/0 where XLA computes q a second time
    for the gradient and rounds it in another way.
    """
    chosen = jax.nn.one_hot(jnp.argmin(q, axis=1), q.shape[1], dtype=bool, axis=1)
    return jnp.sum(jnp.where(chosen, q, 0), axis=1)


@dataclasses.dataclass(frozen=True)
class ActionCritics(Critic):
    """E critics Q_i(s, a) beside an actor; the final classes say what they are fitted to."""

    n_critics: int = 2
    joined: Joined = dataclasses.field(default=Numbers(), metadata={"parts": JOINED})
    actor_q: str = "min"
    """What the actor ascends: 'min', 'mean' or 'first' of the critics."""

    positional: ClassVar[tuple[str, ...]] = ("n_critics",)
    fit: ClassVar[Any] = Apart

    def __post_init__(self) -> None:
        whole(self, "n_critics")
        choose(self, actor_q=("min", "mean", "first"))

    @property
    def facts(self):
        return CriticFacts(gives="Q(s, a)", one_step=True)

    def check(self, spec, config):
        # The critics of discrete actions put out one number for each of them.
        if not isinstance(spec.action_space, spaces.Box | spaces.Discrete):
            raise ValueError(
                f"critic {self.name} needs a Box or Discrete action space, not {spec.action_space}: use ppo."
            )
        if not isinstance(spec.action_space, spaces.Box) and self.joined.distributional:
            raise ValueError(f"{self.joined.name}: the critics of discrete actions are plain numbers.")

    def build(self, config, spec, key, actor):
        return build_actor_critics(
            config, spec, key, actor=actor.build, n_critics=self.n_critics, atoms=self.joined.atoms
        )

    def network_settings(self, config, spec, actor):
        return (*ENCODING, *HIDDEN, "dropout", "share_features_extractor",  # nothing is shared in any case
                *actor.settings_beside_q(config, spec))  # fmt: skip

    def ascended(self, view: Any, action: jax.Array | None, key: jax.Array) -> jax.Array:
        """What the actor ascends: Q(s, a) `[B]` at an action, or Q(s, ·) `[B, A]`."""
        out = view.q(action, first=self.actor_q == "first", key=key)
        q = out if action is None else self.joined.mean(out)
        if self.actor_q == "first":
            return q[:, 0]
        return least(q) if self.actor_q == "min" else jnp.mean(q, axis=1)

    def advantage(self, view, rows, est):
        """min_i Q_i(s, a) − V(s), V(s) = Σ_a π Q, or Q at the policy's likeliest action (AWAC samples one)."""
        least = lambda q: jnp.min(self.joined.mean(q), axis=1)
        taken = least(view.q_taken())
        if view.net.head.continuous:
            return taken - least(view.q(view.dist.mode()))
        return taken - jnp.sum(jnp.exp(view.dist.logits) * jnp.min(view.q(None), axis=1), axis=-1)


class TargetCopy(Critic):
    """Keeps a copy of the critics that follows them by θ⁻ ← (1 − τ) θ⁻ + τ θ."""

    tau: float
    has_targets: ClassVar[bool] = True

    def init(self, net, params):
        return copied(params["critic"])

    def restart(self, kept, params):
        return copied(params["critic"])

    def follow(self, kept, params):
        return polyak(kept, params["critic"], self.tau)


@dataclasses.dataclass(frozen=True)
class Ensemble(TargetCopy, ActionCritics):
    """E critics Q_i(s, a), fitted to r + γ_t(Q⁻(s′, a′) − what the actor pays there), Q⁻ their target copies joined."""

    tau: float = 0.005
    """Polyak coefficient of the target copies."""
    subset: int | None = None
    """Join only so many of the target copies, drawn anew for every update (REDQ, Chen et al. 2021); None = all."""

    name: ClassVar[str] = "ensemble"

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "tau")
        if self.subset is not None:
            whole(self, "subset")
            if self.subset > self.n_critics:
                raise ValueError(f"subset={self.subset} is more than n_critics={self.n_critics}.")

    def estimate(self, view, kept, rows, actor, progress, key):
        key, dropout = jax.random.split(jax.random.split(key, 5)[0])
        target = view({"critic": kept.critic})

        def q(action: jax.Array | None) -> jax.Array:
            out = target.q(action, "next_obs", key=dropout)
            if self.subset is not None:
                drawn = jax.random.choice(
                    jax.random.fold_in(dropout, 1), self.n_critics, (self.subset,), replace=False
                )
                out = jnp.take(out, drawn, axis=1)
            return jnp.min(out, axis=1) if action is None else out

        out, penalty = actor.backup(view, kept, rows, q, key)
        return self.joined.target(out, penalty, rows)

    def loss(self, view, rows, est, key):
        q = view.q_taken(jax.random.split(key, 5)[1])
        losses, priority = self.joined.loss(q, est)
        return losses, priority, {"train/q_mean": jnp.mean(q)}


@dataclasses.dataclass(frozen=True)
class Conservative(Ensemble):
    """CQL(H): besides, α(log Σ_a exp Q_i(s, a) − Q_i(s, a_data)) is minimised (Kumar et al. 2020).

    For continuous actions the integral is estimated by importance sampling from the uniform distribution, π(·|s) and
    π(·|s′), `cql_actions` each (appendix F).
    """

    cql_alpha: float = 5.0
    cql_actions: int = 10

    name: ClassVar[str] = "conservative"
    positional: ClassVar[tuple[str, ...]] = ("cql_alpha", "n_critics")

    @property
    def facts(self):
        return dataclasses.replace(super().facts, samples_policy=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        finite(self, "cql_alpha", least=0)
        whole(self, "cql_actions")
        if self.joined.distributional:
            raise ValueError(
                f"cql_alpha={self.cql_alpha} needs critics that are numbers, not {self.joined.name}."
            )

    def loss(self, view, rows, est, key):
        losses, priority, metrics = super().loss(view, rows, est, key)
        taken = view.q_taken(jax.random.split(key, 5)[1])[..., 0]
        gap = self._log_sum_exp(view, rows, jax.random.split(key, 5)[3]) - taken
        return losses + self.cql_alpha * jnp.sum(gap, axis=1), priority, metrics

    def _log_sum_exp(self, view: Any, rows: Any, key: jax.Array) -> jax.Array:
        """log Σ_a exp Q_i(s, a) `[B, E]`."""
        head = view.net.head
        if not head.continuous:
            q = view.q(None)
            if rows.mask is not None:
                q = jnp.where(legal_actions(q, rows.mask[:, None, :]), q, -jnp.inf)
            return jax.nn.logsumexp(q, axis=-1)
        count, size = self.cql_actions, rows.reward.shape[0]
        actor = jax.lax.stop_gradient(view.net.actor)
        keys = jax.random.split(key, 3)
        uniform = jax.random.uniform(keys[0], (count, size, head.size), minval=-1.0)
        proposals = [(uniform, jnp.full((count, size), -head.size * math.log(2.0)))]
        for obs, k in ((rows.obs, keys[1]), (rows.next_obs, keys[2])):
            policy = apply(actor, obs, None)
            proposals.append(jax.vmap(policy.sample_with_log_prob)(head.draw(k, (count, size))))
        action = jnp.concatenate([a for a, _ in proposals])
        log_density = jnp.concatenate([p for _, p in proposals])
        repeat = lambda x: jnp.broadcast_to(x, (len(action), *x.shape)).reshape(-1, *x.shape[1:])
        obs = jax.tree.map(repeat, rows.obs)
        q = apply(view.net.critics, obs, action.reshape(-1, head.size), None)[..., 0]
        weighed = q.reshape(len(action), size, -1) - log_density[..., None]
        return jax.nn.logsumexp(weighed, axis=0) - math.log(len(action))
