"""The critic Q(s, ·) of discrete actions, a network of its own: DQN and everything that makes it Rainbow, PQN."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from gymnasium import spaces

from actrix.core.answers import Critic, CriticFacts
from actrix.core.fields import share, switch, whole
from actrix.core.fit import Alone
from actrix.core.optim import copied, polyak
from actrix.critics.backups import BACKUPS, Backup, Max
from actrix.critics.represent import REPRESENTATIONS, Number, Representation
from actrix.critics.value import lambda_return
from actrix.nets.obeyed import ENCODING, HIDDEN, one_body
from actrix.nets.q_networks import build_q_net
from actrix.nets.view import apply


@dataclasses.dataclass(frozen=True)
class Q(Critic):
    """Q(s, ·), fitted to r + γ_t V(s′), V read by a backup off a target copy (DQN), or to the λ-return of itself (PQN).

    G_t = r_t + γ_t[(1 − λ) V(s_{t+1}) + λ G_{t+1}]. For λ > 0 it follows the behaviour policy for a while, uncorrected:
    a bias that shrinks with exploration (Peng's Q(λ)).
    """

    backup: Backup = dataclasses.field(default=Max(), metadata={"parts": BACKUPS})
    representation: Representation = dataclasses.field(default=Number(), metadata={"parts": REPRESENTATIONS})
    dueling: bool = False
    """Q = V + A − mean A from two streams (Wang et al. 2016)."""
    noisy: bool = False
    """Noisy layers explore (Fortunato et al. 2018)."""
    lam: float = 0.0
    """λ; 0 = one row."""
    target_network: bool = True
    """Read V(s′) off a copy that follows; False = off the network itself."""
    tau: float = 1.0
    """Polyak coefficient of the target network; 1 copies."""
    target_update_interval: int = 10_000
    """Environment steps between target updates."""
    huber: bool = True
    """Huber loss, δ = 1; False = ½(Q − G)²."""

    name: ClassVar[str] = "q"
    structural: ClassVar[tuple[str, ...]] = ("lam",)
    needs: ClassVar[dict[str, str]] = dict.fromkeys(("tau", "target_update_interval"), "target_network")
    positional: ClassVar[tuple[str, ...]] = ()
    fit: ClassVar[Any] = Alone

    def __post_init__(self) -> None:
        switch(self, "dueling", "noisy", "target_network", "huber")
        share(self, "lam", "tau")
        whole(self, "target_update_interval")
        if self.representation.distributional and not self.backup.picks:
            raise ValueError(
                f"{self.representation.name} backs up the whole distribution of one action: take the backup max or "
                f"double, not {self.backup.name}."
            )
        if self.representation.distributional and (self.lam or not self.huber):
            raise ValueError(f"lam and huber=False are for numbers, not for {self.representation.name}.")

    @property
    def facts(self):
        return CriticFacts(
            "Q(s, ·)", one_step=not self.lam, explores=self.noisy, needs_order=self.lam > 0,
            distributional=self.representation.distributional, asks_behaviour=self.backup.asks_behaviour,
        )  # fmt: skip

    def check(self, spec, config):
        if not isinstance(spec.action_space, spaces.Discrete):
            raise ValueError(
                f"Q-learning needs a Discrete action space, not {spec.action_space}: "
                "take sac, td3 or ddpg for continuous actions."
            )
        if self.noisy and config.ortho_init:
            raise ValueError(
                "policy_kwargs ortho_init=True: noisy layers have an initialisation of their own."
            )

    def build(self, config, spec, key, actor):
        r = self.representation
        return build_q_net(
            config, spec, key, atoms=r.atoms, dueling=self.dueling, noisy=self.noisy, quantile_dim=r.embedding
        )

    def q_values(self, net, obs):
        batch = jax.tree.leaves(obs)[0].shape[:1]
        return self.representation.q(lambda taus: apply(net, obs, taus), batch)

    # ------------------------------------------------------------------ learning

    def network_settings(self, config, spec, actor):
        widths = one_body(config) if config.pi is not None else HIDDEN
        return (*ENCODING, *widths)

    def init(self, net, params):
        return copied(params["net"]) if self.target_network else ()

    def restart(self, kept, params):
        return self.init(None, params)

    def before(self, kept, params, clock):
        if not self.target_network:
            return kept
        every = self.target_update_interval
        passed = jnp.floor(clock.steps / every) > jnp.floor(clock.steps_before / every)
        return polyak(kept, params["net"], jnp.where(passed, self.tau, 0.0))

    def estimate(self, view, kept, rows, actor, progress, key):
        keys = jax.random.split(key, 5)
        online = view.drawn(keys[0])
        target = (view({"net": kept.critic}) if self.target_network else view).drawn(keys[1])
        q_of = lambda seen, which: self.representation.q(lambda taus: seen.at(which, taus), rows.reward.shape)
        q, q_online = q_of(target, "next_obs"), lambda: q_of(online, "next_obs")
        bonus = self.backup.bonus(lambda: q_of(target, "obs"), rows, progress)
        if bonus is not None:
            rows = dataclasses.replace(rows, reward=rows.reward + bonus)
        if self.representation.distributional:
            best = self.backup.action(q, q_online, rows)
            atoms = target.at("next_obs", self.representation.taus(keys[2], rows.reward.shape))
            chosen = jnp.take_along_axis(atoms, best[..., None, None], axis=-2)[..., 0, :]
            return self.representation.target(chosen, rows)
        value = self.backup.value(q, q_online, rows, actor, progress, keys[2])
        return lambda_return(rows, value, self.lam) if self.lam else rows.reward + rows.discount * value

    def loss(self, view, rows, est, key):
        keys = jax.random.split(key, 5)
        taus = self.representation.taus(keys[4], rows.reward.shape)
        out = view.drawn(keys[3]).at("obs", taus)
        if not self.representation.distributional:
            out = out[..., None]
        index = rows.action[..., None, None].astype(jnp.int32)
        taken = jnp.take_along_axis(out, index, axis=-2)[..., 0, :]
        if not self.representation.distributional:
            taken = taken[..., 0]
        loss, priority, q = self.representation.loss(taken, taus, est)
        return loss if self.huber else 0.5 * (taken - est) ** 2, priority, {"train/q_mean": jnp.mean(q)}
