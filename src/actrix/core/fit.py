"""How parameters follow the losses: one joint descent, the critic alone, apart in turns, or by the Fisher matrix."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from actrix.core.answers import Actor, Critic, Item, Kept, Metrics, Params, State
from actrix.core.fields import choose, finite, positive_or_none, rate, share, switch, whole
from actrix.core.idle import Part
from actrix.core.optim import OPTIMIZERS, RUNNING, apart, at_rest, descend, flatten, make_optimizer, together
from actrix.core.schedules import Schedule, evaluate
from actrix.core.types import Key, PyTree

Look = Callable[..., Any]
"""look(params, rows) → the view of those rows by those parameters."""
Updated = tuple[State, jax.Array, Metrics]


@dataclasses.dataclass(frozen=True)
class Fit(Part, abc.ABC):
    """Steps of descent on one batch."""

    learning_rate: Schedule = 3e-4
    max_grad_norm: float | None = None
    """Bound on the norm of the whole gradient; None = off."""
    optimizer: str = "adam"
    optimizer_eps: float = 1e-8
    optimizer_beta1: float = 0.9
    """Decay of the mean gradient of adam and radam."""
    weight_decay: float = 0.0
    """λ of AdamW (Loshchilov & Hutter 2019): θ ← θ − learning_rate · λθ, beside each step of the network's; not of an
    actor's own numbers (a temperature), nor of a step by the Fisher matrix."""

    structural: ClassVar[tuple[str, ...]] = ("weight_decay",)

    def __post_init__(self) -> None:
        rate(self, "learning_rate")
        choose(self, optimizer=OPTIMIZERS)
        finite(self, "optimizer_eps", "weight_decay", least=0)
        share(self, "optimizer_beta1")
        if self.optimizer_beta1 == 1:
            raise ValueError("optimizer_beta1=1 would never take in a gradient.")
        positive_or_none(self, "max_grad_norm")

    delays: ClassVar[bool] = False
    """The actor takes fewer steps than the critic."""

    # ------------------------------------------------------------------ parameters

    @abc.abstractmethod
    def parts(self, net: Any) -> dict[str, Any]:
        """The parts of the network that descend each with a step of its own, by name."""

    @abc.abstractmethod
    def join(self, net: Any, parts: dict[str, Any]) -> Any:
        """The network with these parts."""

    def split(self, net: Any) -> tuple[Params, Callable[[Params], Any]]:
        """(parameters, the way back). What no gradient moves is there as `RUNNING`, if there is any."""
        running, rest = apart(net)
        pairs = {name: flatten(part) for name, part in self.parts(rest).items()}

        def build(params: Params) -> Any:
            joined = self.join(rest, {name: back(params[name]) for name, (_, back) in pairs.items()})
            return together(params.get(RUNNING, running), joined)

        params = {name: theta for name, (theta, _) in pairs.items()}
        return params | ({RUNNING: running} if jax.tree.leaves(running) else {}), build

    def init(self, actor: Actor, net: Any, params: Params, critic_passes: int) -> dict[str, PyTree]:
        """The optimisers' states."""
        return {name: at_rest(self.descent, theta) for name, theta in params.items() if name != RUNNING}

    @property
    def descent(self) -> optax.GradientTransformation:
        """The optimiser of one parameter vector."""
        return make_optimizer(self.optimizer, self.max_grad_norm, self.optimizer_eps, self.optimizer_beta1)

    def check_rows(self, items: int) -> None:
        """Raise ValueError where so many rows (or sequences) of a chunk do not do."""

    # ------------------------------------------------------------------ updates

    def whole(self, items: int) -> jax.Array | None:
        """Which items the one step takes that needs a whole chunk; None = steps take minibatches."""
        return None

    def remember(self, critic: Critic, actor: Actor, view: Any, kept: Kept, item: tuple) -> PyTree:
        """What the actor's loss needs, from the parameters before the first step."""
        return actor.remember(critic, view, kept, *item)

    @abc.abstractmethod
    def update(
        self, critic: Critic, actor: Actor, look: Look, state: State, item: Item, progress: Any, key: Key
    ) -> Updated:
        """(state, priority of each row, metrics) after one update of everything."""

    def update_critic(
        self, critic: Critic, actor: Actor, look: Look, state: State, item: Item, progress: Any, key: Key
    ) -> Updated:
        """The same of the critic's own layers alone."""
        raise ValueError(
            f"n_critic_updates: {type(self).__name__.lower()} descent has no step of the critic alone."
        )

    def step(
        self,
        state: State,
        name: str,
        loss: Callable,
        progress: Any,
        learning_rate: Schedule | None = None,
        moments: str = "",
        decays: bool = True,
    ) -> tuple[State, jax.Array, PyTree]:
        """One step of one parameter vector on loss(θ) → (value, (moved, aux)), by the optimiser `moments`.

        Returns (state, value, aux). `moved` are other parameters that the loss itself gives anew (a view's `moved`). A
        loss or gradient that is not finite changes nothing, nor does any after it.
        """
        theta, moments = state.params[name], moments or name
        (value, (moved, aux)), gradient = jax.value_and_grad(loss, has_aux=True)(theta)
        size = evaluate(self.learning_rate if learning_rate is None else learning_rate, progress)
        square = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradient))
        # The loss, too, so that all that is told of it is computed before θ is written anew, which else XLA copies.
        good = jnp.isfinite(square) & jnp.isfinite(value) & ~state.bad
        new, opt = descend(self.descent, gradient, state.opt[moments], theta, size)
        if self.weight_decay and decays:
            new = jax.tree.map(
                lambda n, t: n - jnp.asarray(size * self.weight_decay, t.dtype) * t, new, theta
            )
        # A select that XLA fuses into the update's own loop: keeping the old values costs no extra pass. The moments
        # wait for θ, which reads the old ones: where they may be written first, XLA copies all three before each step.
        keep = lambda good, new, old: jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
        theta = keep(good, new, theta)
        written = good & ~jnp.isnan(sum(jnp.sum(x.reshape(-1)[:1]) for x in jax.tree.leaves(theta)))
        opt = keep(written, opt, state.opt[moments])
        moved = {other: keep(good, x, state.params[other]) for other, x in moved.items()}
        params, opts = state.params | moved | {name: theta}, state.opt | {moments: opt}
        return dataclasses.replace(state, params=params, opt=opts, bad=~good), value, aux


@dataclasses.dataclass(frozen=True)
class Whole(Fit):
    """One parameter vector for the whole network."""

    def parts(self, net: Any) -> dict[str, Any]:
        return {"net": net}

    def join(self, net: Any, parts: dict[str, Any]) -> Any:
        return parts["net"]


@dataclasses.dataclass(frozen=True)
class Joint(Whole):
    """Actor's loss + vf_coef · critic's loss, where there is a critic."""

    max_grad_norm: float | None = 0.5
    optimizer_eps: float = 1e-5
    vf_coef: float = 0.5
    critic_learning_rate: Schedule | None = None
    """Step size of the critic's extra passes (`n_critic_updates`); None = learning_rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        finite(self, "vf_coef", least=0)
        if self.critic_learning_rate is not None:
            rate(self, "critic_learning_rate")

    def init(self, actor, net, params, critic_passes):
        again = {"again": at_rest(self.descent, params["net"])} if critic_passes else {}
        return super().init(actor, net, params, critic_passes) | again

    def update(self, critic, actor, look, state, item, progress, key):
        rows, est, memo = item
        share = actor.critic_share(rows) if critic.facts.learns else 0.0

        def loss(theta: PyTree) -> tuple[jax.Array, tuple]:
            view = look(state.params | {"net": theta}, rows).learning(key)
            actor_rows, metrics = actor.loss(critic, view, state.kept.actor, rows, memo, progress, key)
            value = actor.weighs(rows).mean(actor_rows)
            critic_rows, priority, more = critic.loss(view, rows, est, key)
            if share:
                value += self.vf_coef * share * rows.mean(critic_rows)
            return value, (view.moved, (priority, metrics | more))

        state, value, (priority, metrics) = self.step(state, "net", loss, progress)
        return state, priority, metrics | {"train/loss": value}

    def update_critic(self, critic, actor, look, state, item, progress, key):
        rows, est, _ = item

        def loss(theta: PyTree) -> tuple[jax.Array, tuple]:
            view = look(state.params | {"net": theta}, rows).critic_only().learning(key)
            critic_rows, priority, metrics = critic.loss(view, rows, est, key)
            return rows.mean(critic_rows), (view.moved, (priority, metrics))

        state, _, (priority, metrics) = self.step(
            state, "net", loss, progress, self.critic_learning_rate, "again"
        )
        return state, priority, metrics


@dataclasses.dataclass(frozen=True)
class Alone(Whole):
    """The critic's loss: the actor reads its actions off the critic and has nothing of its own to fit."""

    learning_rate: Schedule = 1e-4
    max_grad_norm: float | None = 10.0

    def remember(self, critic, actor, view, kept, item):
        return ()

    def update(self, critic, actor, look, state, item, progress, key):
        rows, est, _ = item

        def loss(theta: PyTree) -> tuple[jax.Array, tuple]:
            view = look(state.params | {"net": theta}, rows)
            critic_rows, priority, metrics = critic.loss(view, rows, est, key)
            return rows.mean(critic_rows), (view.moved, (priority, metrics))

        state, value, (priority, metrics) = self.step(state, "net", loss, progress)
        return state, priority, metrics | {"train/loss": value}


@dataclasses.dataclass(frozen=True)
class Apart(Fit):
    """Networks apart take their steps in the critic's `turns`, the actor every `policy_delay` updates."""

    policy_delay: int = 1
    """Updates of the critic per update of the actor and what it has besides (a temperature)."""
    delay_targets: bool = False
    """Targets follow only when the actor has moved (TD3)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "policy_delay")
        switch(self, "delay_targets")

    @property
    def delays(self) -> bool:  # type: ignore[override]
        return self.policy_delay > 1

    def parts(self, net: Any) -> dict[str, Any]:
        return net.parts()

    def join(self, net: Any, parts: dict[str, Any]) -> Any:
        return net.joined(parts)

    def remember(self, critic, actor, view, kept, item):
        return ()  # at its turn: what moved before it counts

    def update(self, critic, actor, look, state, item, progress, key):
        rows, est, _ = item
        priority = jnp.ones_like(rows.reward)
        metrics: Metrics = {}
        for name in critic.turns:
            if name == "actor":
                state, more = self._delayed(critic, actor, look, state, item, progress, key)
                metrics |= more
                continue

            def loss(
                theta: PyTree, name: str = name, params: Params = state.params
            ) -> tuple[jax.Array, tuple]:
                view = look(params | {name: theta}, rows)
                losses, priority, more = critic.loss_of(name, view, rows, est, key)
                return rows.mean(losses), (view.moved, (priority, more))

            state, value, (priority, more) = self.step(state, name, loss, progress)
            metrics |= more | {f"train/{name}_loss": value}
        if not self.delay_targets:
            state = _follow(critic, actor, state)
        return state, priority, metrics

    def _delayed(self, critic, actor, look, state, item, progress, key) -> tuple[State, Metrics]:
        """The actor's turn, if it is due; metrics are NaN where not."""

        def move(state: State) -> tuple[State, Metrics]:
            state, metrics = self._actor(critic, actor, look, state, item, progress, key)
            return (_follow(critic, actor, state) if self.delay_targets else state), metrics

        if self.policy_delay == 1:
            return move(state)
        empty = jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan), jax.eval_shape(move, state)[1])
        due = (state.number + 1) % self.policy_delay == 0
        return jax.lax.cond(due, move, lambda state: (state, empty), state)

    def _actor(self, critic, actor, look, state, item, progress, key) -> tuple[State, Metrics]:
        """The actor's step, then one of each of its own parameters."""
        rows, est, _ = item
        rows = actor.weighs(rows)
        memo = actor.remember(critic, look(state.params, rows), state.kept, rows, est)
        memo = jax.lax.stop_gradient(memo)

        def loss(theta: PyTree) -> tuple[jax.Array, tuple]:
            view = look(state.params | {"actor": theta}, rows)
            losses, more = actor.loss(critic, view, state.kept.actor, rows, memo, progress, key)
            return rows.mean(losses), (view.moved, more)

        state, value, metrics = self.step(state, "actor", loss, progress)
        metrics |= {"train/actor_loss": value}
        for name in actor.own():

            def own(theta: PyTree, name: str = name, params: Params = state.params, said=metrics) -> tuple:
                view = look(params | {name: theta}, rows)
                return rows.mean(actor.also(view, rows, said)[name]), (view.moved, ())

            state, value, _ = self.step(state, name, own, progress, decays=False)
            metrics |= {f"train/{actor.own_names[name]}_loss": value}
        return state, {name: jnp.mean(x) for name, x in metrics.items() if name.startswith("train/")}


def _follow(critic: Critic, actor: Actor, state: State) -> State:
    """The targets of both answers follow."""
    kept = Kept(critic.follow(state.kept.critic, state.params), actor.follow(state.kept.actor, state.params))
    return dataclasses.replace(state, kept=state.keep(kept, state.kept))


@dataclasses.dataclass(frozen=True)
class Natural(Fit):
    """The policy takes one step by its Fisher matrix per chunk, then the critic's own layers descend.

    The two share no parameter that both move: a common encoder or recurrent cell belongs to the policy (as in
    sb3-contrib), and the critic is fitted on what the policy's step made of it.
    """

    learning_rate: Schedule = 1e-3
    """Step size of the critic."""
    optimizer_eps: float = 1e-5
    sub_sampling_factor: int = 1
    """The policy's step takes every k-th row."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "sub_sampling_factor")

    def check_rows(self, items):
        if self.sub_sampling_factor > items:
            raise ValueError(
                f"sub_sampling_factor={self.sub_sampling_factor} leaves none of a chunk's {items} rows."
            )

    def parts(self, net: Any) -> dict[str, Any]:
        return {"policy": net.policy_part(), "critic": net.critic_part()}

    def join(self, net: Any, parts: dict[str, Any]) -> Any:
        return net.of_parts(parts["policy"], parts["critic"])

    def init(self, actor, net, params, critic_passes):
        return {"policy": actor.step_init(net), "critic": at_rest(self.descent, params["critic"])}

    def whole(self, items: int) -> jax.Array:
        # The phase moves on, else k = n_envs would take one environment only.
        k = self.sub_sampling_factor
        index = jnp.arange(items // k)
        return index if k == 1 else index * k + index % k

    def update(self, critic, actor, look, state, item, progress, key):
        rows, memo = actor.weighs(item[0]), item[2]
        theta = state.params["policy"]
        at = lambda theta: look(state.params | {"policy": theta}, rows).learning(key)
        old = jax.lax.stop_gradient(at(theta).dist)
        # Not the stored probability, whose rounding is another program's.
        rows = dataclasses.replace(rows, log_prob=old.log_prob(at(theta).action))

        def objective(theta: PyTree) -> jax.Array:
            return -rows.mean(actor.loss(critic, at(theta), state.kept.actor, rows, memo, progress, key)[0])

        new, opt, metrics = actor.step(theta, state.opt["policy"], at, objective, rows, progress)
        dist, gained = at(new).dist, objective(new)
        metrics |= {
            "train/policy_objective": gained,
            "train/kl_divergence_loss": rows.mean(old.kl(dist)),
            "train/entropy_loss": -rows.mean(dist.entropy()),
        }
        good = jnp.isfinite(jnp.sum(new) + gained) & ~state.bad
        new, opt = jax.tree.map(lambda n, o: jnp.where(good, n, o), (new, opt), (theta, state.opt["policy"]))
        params, opts = state.params | {"policy": new}, state.opt | {"policy": opt}
        return dataclasses.replace(state, params=params, opt=opts, bad=~good), rows.reward, metrics

    def update_critic(self, critic, actor, look, state, item, progress, key):
        rows, est, _ = item

        def loss(theta: PyTree) -> tuple[jax.Array, tuple]:
            view = look(state.params | {"critic": theta}, rows).learning(key)
            critic_rows, priority, metrics = critic.loss(view, rows, est, key)
            return rows.mean(critic_rows), (view.moved, (priority, metrics))

        state, _, (priority, metrics) = self.step(state, "critic", loss, progress)
        return state, priority, metrics
