"""What the networks say of some rows, each part computed when it is first asked for, once per trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

import jax
import jax.numpy as jnp

from actrix.core.answers import Metrics, Params
from actrix.core.rows import Rows
from actrix.core.types import Key, PyTree
from actrix.nets.memory import apply as apply_memory
from actrix.nets.memory import follow, starts, unroll
from actrix.nets.torso import noise_size, perturb


class View:
    """Some rows as the networks of `params` see them; called with other parameters: the same rows, seen by these."""

    def __init__(
        self,
        build: Callable[[Params], Any],
        params: Params,
        rows: Rows,
        net: Any = None,
        key: Key | None = None,
    ):
        self.build, self.params, self.rows, self.key = build, params, rows, key
        self.net = build(params) if net is None else net
        self.moved: Params = {}
        """Parameters that seeing the rows has changed, though no gradient moves them (`core.optim.Running`); a loss
        gives them on."""

    def __call__(self, params: Params) -> Self:
        return type(self)(self.build, self.params | params, self.rows)

    def learning(self, key: Key) -> Self:
        """The same while parameters are learned, when parts of a memory may be dropped."""
        return self

    def by(self, net: Any) -> Self:
        """The same rows, seen by another network."""
        return type(self)(self.build, self.params, self.rows, net)

    @cached_property
    def action(self) -> jax.Array:
        """The rows' actions in the distribution's shape."""
        return self.net.head.flatten_action(self.rows.action)

    def report(self) -> Metrics:
        """Metrics of the network itself."""
        return {}


class JointView(View):
    """One network with a policy and a value branch, unrolled over `[T, B]` or applied to `[B]`."""

    def learning(self, key: Key) -> Self:
        return type(self)(self.build, self.params, self.rows, self.net, key) if self.net.drops else self

    @cached_property
    def _here(self) -> tuple:
        r = self.rows
        if r.reward.ndim == 1:
            return apply_memory(self.net, r.obs, None, r.mask)
        return unroll(self.net, r.obs, r.first, r.carry0, r.mask, self.key)

    @cached_property
    def _next(self) -> Any:
        r, net = self.rows, self.net
        if net.recurrent:  # one more step from the memory after each row
            return follow(net, self._here[1], r.next_obs, r.next_mask)
        return unroll(net, r.next_obs, None, None, r.next_mask)[0]

    @property
    def dist(self) -> Any:
        """π(·|s_t)."""
        return self._here[0].dist

    @property
    def next_dist(self) -> Any:
        """π(·|s_{t+1})."""
        return self._next.dist

    @cached_property
    def log_prob(self) -> jax.Array:
        """log π(a_t|s_t) of the rows' actions."""
        return self.dist.log_prob(self.action)

    @property
    def out(self) -> jax.Array:
        """The value branch at s_t: V(s_t), or Q(s_t, ·)."""
        return self._here[0].value

    @property
    def next_out(self) -> jax.Array:
        """The value branch at s_{t+1}."""
        return self._next.value

    def critic_only(self) -> JointView:
        """The same, whose gradient moves the critic's own layers only."""
        return self.by(self.net.critic_only())

    def starts(self, length: int) -> PyTree:
        """Recurrent memory before each training sequence of `length` rows, `[1, items, ...]`."""
        return starts(self.net, self._here[1], length)

    def report(self) -> Metrics:
        log_std = self.net.log_std
        return {} if log_std is None else {"train/std": jnp.mean(jnp.exp(log_std))}


class QView(View):
    """Q(s, ·) of discrete actions, or what describes its distribution; rows `[B]` or `[T, B]`."""

    def at(self, which: str = "obs", taus: jax.Array | None = None) -> jax.Array:
        """The network's output at `obs` or `next_obs`."""
        return apply(self.net, getattr(self.rows, which), taus, axes=self.rows.reward.ndim)

    def drawn(self, key: Key) -> QView:
        """The same with the noise of noisy layers drawn; itself where there are none."""
        size = noise_size(self.net)
        return self.by(perturb(self.net, jax.random.normal(key, (size,)))) if size else self


class ApartView(View):
    """An actor and critics Q(s, a) as networks of their own; rows `[B]`."""

    def policy(self, which: str = "obs") -> Any:
        """What the actor says at `obs` or `next_obs`: an action or a distribution."""
        mask = self.rows.mask if which == "obs" else self.rows.next_mask
        return apply(self.net.actor, getattr(self.rows, which), mask)

    @cached_property
    def dist(self) -> Any:
        """π(·|s)."""
        return self.policy()

    @cached_property
    def log_prob(self) -> jax.Array:
        """log π(a|s) of the rows' actions."""
        return self.dist.log_prob(self.action)

    def q(
        self, action: jax.Array | None, which: str = "obs", *, first: bool = False, key: Key | None = None
    ) -> jax.Array:
        """The critics `[B, E, K]` at an action (None: of all discrete actions); `key` switches dropout on.

        `first`: of the first member alone. XLA would compute the others' gradients even where only it is used.
        """
        critics, obs = self.net.critics, getattr(self.rows, which)
        keys = (
            jax.random.split(key, self.rows.reward.shape[0]) if key is not None and critics.dropout else None
        )
        return apply(critics.first() if first else critics, obs, action, keys)

    def q_taken(self, key: Key | None = None) -> jax.Array:
        """The critics `[B, E, K]` at the rows' own actions."""
        if self.net.head.continuous:
            return self.q(self.action, key=key)
        index = self.action[:, None, None].astype(jnp.int32)
        return jnp.take_along_axis(self.q(None, key=key), index, axis=2)


class RegressionView(ApartView):
    """A policy with a density everywhere, critics Q(s, a) and V(s) as networks of their own; rows `[B]`."""

    def policy(self, which: str = "obs") -> Any:
        mask = self.rows.mask if which == "obs" else self.rows.next_mask
        return self.net.dist(getattr(self.rows, which), mask)

    def value(self, which: str = "obs") -> jax.Array:
        """V(s) or V(s′)."""
        return apply(self.net.value, getattr(self.rows, which))


def apply(net: Any, *arguments: PyTree, axes: int = 1) -> Any:
    """Map a network over `axes` leading axes of all its arguments (None stays None)."""
    call = net
    for _ in range(axes):
        call = jax.vmap(call)
    return call(*arguments)
