"""Conservative policy iteration on a table: small steps of the policy towards the greedy one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium import spaces

from actrix.actors import natural
from actrix.algorithms import tables
from actrix.algorithms.reference import refuse
from actrix.algorithms.tables import Tables, Training
from actrix.core.contract import Acting, Algorithm, Learner, count, first_bad_row, scrub
from actrix.core.distributions import ILLEGAL, greedy_action, legal_actions
from actrix.core.fields import share, whole
from actrix.core.spaces import cells
from actrix.core.types import Chunk, Key, PyTree, Spec
from actrix.critics import q_targets, returns, traces
from actrix.data.online import Episodes
from actrix.nets.networks import NetworkConfig


def conservative_step(
    gain: jax.Array, visitation: jax.Array, gamma: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(α, Ā, ε) from `gain` E_{a∼π′}A_π(s,a) and `visitation` ρ_π(s), both `[S]`.

    Ā = Σ_s ρ_π(s) gain(s), ε = max_s |gain(s)|, α = min(1, (1−γ)²Ā/(4εγ)), and 0 where Ā ≤ 0. With exact A_π and ρ_π,
    η((1−α)π + απ′) ≥ L − 2εγα²/(1−γ)² ≥ η(π). Kakade & Langford, "Approximately Optimal Approximate Reinforcement
    Learning" (2002), for the unnormalised ρ_π, which sums to 1/(1−γ).
    """
    mean, largest = jnp.sum(visitation * gain), jnp.max(jnp.abs(gain))
    return natural.conservative_step(mean, largest, gamma), mean, largest


@dataclasses.dataclass(frozen=True)
class ConservativeIteration(Algorithm):
    """A critic Q^π of the mixture π by Monte Carlo, an actor that mixes a share of the greedy policy into π.

    Each chunk holds a whole episode of every environment under π. It moves Q, gives ρ_π(s) = mean of Σ_t γ^t 1{s_t = s}
    over the episodes, and so the step. Kakade & Langford (2002). Deviations: Q^π and ρ_π are estimates from a chunk
    (Q^π from earlier ones, too), so their guarantee is lost; episodes start where the environment starts them.
    """

    data: Episodes = Episodes()
    gamma: float = 0.99
    learning_rate: float = 0.1
    """Of Q^π, towards the return of every visit."""
    mixing: float | None = None
    """α; None = the paper's, the largest step with its guarantee (of the order of (1−γ)²: very small)."""
    tolerance: float = 0.0
    """No step unless Ā, the estimated gain of a full step, exceeds this."""
    episode_length: int | None = None
    """Rows of the longest episode, which is cut there; None = the environment's time limit."""
    network: NetworkConfig = NetworkConfig()
    """There is none: must stay as it is."""

    norm_obs_keys = None
    normalize_obs = normalize_reward = False  # type: ignore[assignment]

    @property
    def whole_episodes(self) -> bool:
        """Chunks hold one whole episode per environment."""
        return True

    @property
    def plays_at_random(self) -> bool:
        """π is a mixture: its most probable actions are another policy."""
        return True

    def __post_init__(self) -> None:
        share(self, "gamma", "learning_rate")
        if self.mixing is not None:
            share(self, "mixing")
        elif self.gamma == 1:
            raise ValueError(
                "gamma=1: the paper's step is of the order of (1−γ)², so none would be made; set mixing."
            )
        if isinstance(self.tolerance, str | bool) or not self.tolerance >= 0:
            raise ValueError(f"tolerance={self.tolerance!r} must be a number of at least 0.")
        if self.episode_length is not None:
            whole(self, "episode_length")
        if self.network != NetworkConfig():
            raise ValueError("policy_kwargs: a table has no network to set up; leave them out.")

    def check(self, spec: Spec, num_envs: int) -> None:
        """Refuse what does not fit the environment; raises ValueError, UnsupportedSpaceError."""
        if not isinstance(spec.action_space, spaces.Discrete):
            raise ValueError(f"a table needs a Discrete action space, not {spec.action_space}.")
        cells(spec.observation_space)
        self.rows(spec)

    @property
    def answers(self) -> tuple[str, str, str]:
        """(critic, actor, data)."""
        return "q-mc every-visit", "conservative mixture", "on-policy"

    def rows(self, spec: Spec) -> int:
        """T, the rows per environment of a chunk."""
        return tables.episode_rows(self.episode_length, spec)

    def warm_up(self, rows: int, num_envs: int) -> tuple[int, int]:
        """Nothing is collected before learning."""
        return 0, 0

    def init(self, key: Key, spec: Spec, num_envs: int, reference: Any = None) -> Learner:
        """A fresh learner; π starts uniform."""
        refuse(reference)
        zero = jnp.zeros(())
        training = Training(
            weight=None,
            update=jnp.zeros((), jnp.int32),
            steps=zero,
            steps_rest=zero,
            total_steps=jnp.ones(()),
        )
        return Learner(self.initial_acting(key, spec), training)

    def initial_acting(self, key: Key, spec: Spec) -> Acting:
        """Q = 0 and the uniform policy: what a model file holds."""
        q = Tables.create(spec, False, 1, 0.0)
        return Acting(q.replace(policy=Tables.create(spec, True, 1, 0.0).policy), None)

    def noise(self, acting: Acting, key: Key, rows: int, num_envs: int) -> jax.Array:
        """All the randomness of a chunk's actions, drawn at once."""
        return acting.net.head.draw(key, (rows, num_envs))

    def act(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: jax.Array):
        """a ~ π(·|s) for N observations: (action, None, None, carry)."""
        logits = self._logits(acting, obs, mask)
        return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32), None, None, carry

    def policy(
        self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: jax.Array | None
    ):
        """a ~ π(·|s), or without noise its most probable action (which is another policy); (action, carry)."""
        logits = self._logits(acting, obs, mask)
        return greedy_action(logits if noise is None else logits + noise, mask), carry

    def _logits(self, acting: Acting, obs: PyTree, mask: jax.Array | None) -> jax.Array:
        logits = jnp.maximum(jnp.log(acting.net.policy[acting.net.cells.index(obs)]), ILLEGAL)
        return jnp.where(legal_actions(logits, mask), logits, 2 * ILLEGAL)

    def with_acting(self, learner: Learner, acting: Acting) -> Learner:
        """The learner with other tables (a warm start)."""
        return dataclasses.replace(learner, acting=acting)

    def adopt(self, learner: Learner, fresh: Learner) -> Learner:
        """The learner in other environments: nothing in it depends on them."""
        return learner

    def observe(self, learner: Learner, chunk: Chunk) -> Learner:
        """There is nothing to learn from a chunk without learning."""
        return learner

    # ------------------------------------------------------------------ learning

    def learn(self, learner: Learner, chunk: Chunk, key: Key) -> tuple[Learner, dict[str, jax.Array]]:
        """Move Q^π by the chunk's returns, then π towards the greedy policy; (learner, metrics)."""
        net, bad_row = learner.acting.net, first_bad_row(chunk)
        rows = tables.as_rows(net, scrub(chunk))
        values, error = self._evaluate(net, rows)
        q = values.reshape(net.cells.size, net.head.size)
        legal = self._legal(net, rows)
        towards = jax.nn.one_hot(greedy_action(q, legal), net.head.size)
        if legal is not None:  # what is legal elsewhere, the chunk does not say
            towards = jnp.where(jnp.any(legal, axis=-1, keepdims=True), towards, net.policy)
        acted = _acted(net.policy, legal)  # type: ignore[arg-type]
        gain = jnp.sum((towards - acted) * q, axis=-1)  # E_{π′}A = Σ(π′ − π)Q
        alpha, mean, largest = conservative_step(gain, self.visitation(net, rows), self.gamma)
        alpha = alpha if self.mixing is None else jnp.where(mean > 0, self.mixing, 0.0)
        alpha = jnp.where(mean > self.tolerance, alpha, 0.0)
        good = (bad_row < 0) & jnp.all(jnp.isfinite(values))
        policy = jnp.where(good, (1 - alpha) * net.policy + alpha * towards, net.policy)
        net = net.replace(values=jnp.where(good, values, net.values), policy=policy)
        training = count(learner.training, chunk)
        metrics = {
            "train/mixing": alpha,
            "train/policy_advantage": mean,
            "train/largest_advantage": largest,
            "train/td_error": jnp.sum(jnp.abs(error)) / jnp.maximum(jnp.sum(rows.valid), 1),
            "train/n_updates": training.update,
            "nonfinite": 1.0 - good,
            "bad_row": bad_row,
        }
        return Learner(Acting(net, None), training), metrics

    def _evaluate(self, net: Tables, rows: tables.Row) -> tuple[jax.Array, jax.Array]:
        """(Q, errors) after every visit has moved it towards its return, the last one first."""
        q = tables.q_of(net.values, net, rows.next_state)
        probs = _acted(net.policy[rows.next_state], rows.next_mask)  # type: ignore[index]
        target = returns.monte_carlo(
            reward=rows.reward, next_value=q_targets.expected_value(q, probs),
            terminated=rows.terminated, truncated=rows.truncated, valid=rows.valid, gamma=self.gamma,
        )  # fmt: skip
        index = rows.state * net.head.size + rows.action

        def step(values: jax.Array, row: tuple) -> tuple[jax.Array, jax.Array]:
            index, target, valid = row
            error = jnp.where(valid, target - values[index], 0)
            return traces.add_mean(values, index, self.learning_rate * error, valid), error

        return jax.lax.scan(step, net.values, (index, target, rows.valid), reverse=True)

    def visitation(self, net: Tables, rows: tables.Row) -> jax.Array:
        """ρ_π(s) `[S]`, estimated by the chunk's episodes, each of which starts at row 0."""
        discount = self.gamma ** jnp.arange(rows.reward.shape[0], dtype=jnp.float32)
        weight = jnp.where(rows.valid, discount[:, None], 0.0)
        return jnp.zeros(net.cells.size).at[rows.state].add(weight) / rows.reward.shape[1]

    def _legal(self, net: Tables, rows: tables.Row) -> jax.Array | None:
        """Actions `[S, A]` that were legal somewhere in the chunk; acting heeds the mask of the moment besides."""
        if rows.mask is None:
            return None
        seen = jnp.zeros((net.cells.size, net.head.size), bool)
        return seen.at[rows.state].max(rows.mask & rows.valid[..., None])


def _acted(policy: jax.Array, mask: jax.Array | None) -> jax.Array:
    """π `[..., A]` as it acts: over the legal actions only, evenly where it had no weight on them."""
    if mask is None:
        return policy
    legal = legal_actions(policy, mask)
    kept = jnp.where(legal, policy, 0)
    mass = jnp.sum(kept, axis=-1, keepdims=True)
    even = legal / jnp.sum(legal, axis=-1, keepdims=True)
    return jnp.where(mass > 0, kept / jnp.where(mass > 0, mass, 1), even)
