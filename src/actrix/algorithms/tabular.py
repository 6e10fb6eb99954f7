"""Tabular methods of Sutton & Barto: Monte Carlo, TD(0), n-step, TD(λ), SARSA, Q-learning and their relatives.

One frozen dataclass; what follows a step (`method`), how deep the backup is (`n_steps`, `lam`) and how the behaviour
explores (`actor`) are fields. The updates are in `algorithms/updates.py` and `algorithms/episodes.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium import spaces

from actrix.actors import greedy
from actrix.actors.greedy import Draws, EpsilonGreedy, Explore, Greedy
from actrix.algorithms import episodes, tables, updates
from actrix.algorithms.reference import refuse
from actrix.algorithms.tables import Tables, Training
from actrix.core.contract import Acting, Algorithm, Learner, count, first_bad_row, scrub
from actrix.core.fields import choose, finite, share, switch, whole
from actrix.core.schedules import Schedule, as_schedule, bounds, evaluate
from actrix.core.spaces import cells
from actrix.core.types import Chunk, Key, PyTree, Spec
from actrix.critics import traces
from actrix.data.online import Online
from actrix.nets.networks import NetworkConfig

METHODS = ("mc", "td", "sarsa", "expected-sarsa", "q-learning", "double-q", "tree-backup")
DEEP = ("td", "sarsa", "expected-sarsa", "tree-backup")
"""Those with an n-step form that needs no correction, or brings it along."""
TRACED = ("td", "sarsa", "expected-sarsa", "q-learning")
LARGEST_TABLE = 10**8


@dataclasses.dataclass(frozen=True)
class Tabular(Algorithm):
    """A table of values, learned online from each transition (mc: from whole episodes), and an actor that reads it.

    With one environment and `train_freq` = 1 the updates are the textbook's loop, one by one. Several environments
    share the table: in one step each makes its update from the table before it, and changes of one cell are averaged.
    """

    method: str = "q-learning"
    """What follows r_t: 'mc' G_{t+1}; 'td' V(s′) of the policy that is evaluated; 'sarsa' Q(s′,a′); 'expected-sarsa'
    Σ_a μ(a|s′)Q(s′,a); 'q-learning' max_a Q(s′,a); 'double-q' Q₂(s′, argmax_a Q₁(s′,a)) and the other way round, by a
    coin (van Hasselt 2010); 'tree-backup' for one step the maximum, for more the tree of Precup et al. (2000)."""
    actor: Greedy = EpsilonGreedy(exploration_fraction=0.5)
    data: Online = Online()
    predict: bool = False
    """mc: learn V of the policy that `reference` gives (uniform by default) and improve nothing, as td always does."""
    n_steps: int = 1
    """n of the n-step return, of td, sarsa, expected-sarsa and tree-backup."""
    lam: float = 0.0
    """λ of the eligibility traces, of td, sarsa, expected-sarsa and q-learning (Watkins's Q(λ))."""
    trace: str = "accumulating"
    """'accumulating', 'replacing', or 'dutch': true online TD(λ) and SARSA(λ)."""
    visits: str = "first"
    """mc: the 'first' visit of an episode to a cell counts, or 'every' one."""
    importance: str = "none"
    """mc: 'none' learns about the behaviour policy, which with `predict` is the given one and never explores, whatever
    `actor` says; 'ordinary', 'weighted' and 'per-decision' importance sampling learn about the greedy policy (with
    `predict`: the given one) while ε of the behaviour explores."""
    gamma: float = 0.99
    learning_rate: Schedule | None = 0.1
    """α; None = 1/(number of updates of the cell), so that a value is the mean of its targets."""
    initial_value: float = 0.0
    """Of every cell; a large one makes the greedy policy explore (optimism)."""
    episode_length: int | None = None
    """mc: rows of the longest episode, which is cut there; None = the environment's time limit."""
    network: NetworkConfig = NetworkConfig()
    """There is none: must stay as it is."""

    norm_obs_keys = None
    normalize_obs = normalize_reward = False  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.learning_rate is not None:
            rate = as_schedule(self.learning_rate, "learning_rate")
            object.__setattr__(self, "learning_rate", rate)
            low, high = bounds(rate)
            if not (low >= 0 and high > 0):
                raise ValueError(
                    f"learning_rate={rate} must be positive, or None for the mean of all targets."
                )
        choose(
            self,
            method=METHODS,
            trace=traces.KINDS,
            visits=("first", "every"),
            importance=episodes.IMPORTANCE,
        )
        share(self, "gamma", "lam")
        switch(self, "predict")
        whole(self, "n_steps")
        finite(self, "initial_value")
        if self.episode_length is not None:
            whole(self, "episode_length")
        if self.network != NetworkConfig():
            raise ValueError("policy_kwargs: a table has no network to set up; leave them out.")
        if self.predicts and self.importance == "none":
            # Nothing would correct for it: the values would be those of a mixture with uniform actions.
            object.__setattr__(self, "actor", Greedy())
        reason = self._unsound()
        if reason:
            raise ValueError(f"{self.method}: {reason}.")

    def _unsound(self) -> str | None:
        """Why these fields do not go together, or None."""
        if self.n_steps > 1 and self.method not in DEEP:
            return f"n_steps={self.n_steps} is uncorrected here; {', '.join(DEEP)} have n-step forms"
        if self.lam and self.method not in TRACED:
            return f"lam={self.lam} is offered for {', '.join(TRACED)}"
        traced = self.lam > 0 or self.trace == "dutch"
        if traced and (self.n_steps > 1 or self.learning_rate is None):
            return "traces take a learning_rate, and n_steps=1: λ already mixes all n"
        if self.trace == "dutch" and self.method not in ("td", "sarsa"):
            return "dutch traces are true online TD(λ) or SARSA(λ): take method td or sarsa"
        if self.predict and self.method not in ("mc", "td"):
            return "predict=True evaluates a given policy by mc or td"
        if self.importance != "none" and self.method != "mc":
            return "importance sampling is offered for mc; tree-backup and q-learning need none"
        if self.importance == "weighted" and self.learning_rate is not None:
            return "weighted importance sampling divides by the sum of the weights: take learning_rate=None"
        if self.actor.name == Greedy.name and not self.predicts and self.importance != "none":
            return "importance sampling needs a behaviour policy that explores"
        return None

    def check(self, spec: Spec, num_envs: int) -> None:
        """Refuse what does not fit the environment, with the numbers; raises ValueError, UnsupportedSpaceError."""
        if not isinstance(spec.action_space, spaces.Discrete):
            raise ValueError(f"a table needs a Discrete action space, not {spec.action_space}.")
        states = cells(spec.observation_space).size
        entries = states * (1 if self.predicts else int(spec.action_space.n)) * (num_envs if self.lam else 1)
        if entries > LARGEST_TABLE:
            raise ValueError(
                f"{states} observations make a table, or traces, of {entries} numbers: too many."
            )
        self.rows(spec)

    # ------------------------------------------------------------------ what the loops ask

    @property
    def predicts(self) -> bool:
        """V of a given policy is learned; nothing is improved."""
        return self.predict or self.method == "td"

    @property
    def steps_singly(self) -> bool:
        """Whether it learns every few steps."""
        return not self.whole_episodes

    @property
    def cuts_at_stop(self) -> bool:
        """What a stop cut off is lost."""
        return not self.whole_episodes

    plays_at_random = predicts
    """The policy that evaluation plays is random itself: its most probable actions are another policy."""

    @property
    def whole_episodes(self) -> bool:
        """Chunks hold one whole episode per environment."""
        return self.method == "mc"

    @property
    def answers(self) -> tuple[str, str, str]:
        """(critic, actor, data)."""
        words = [self.method] + [f"{self.n_steps}-step"] * (self.n_steps > 1)
        words += [f"λ:{self.lam} {self.trace}"] if self.lam else []
        words += [f"{self.visits}-visit"] if self.method == "mc" else []
        actor = "given policy" if self.predicts else self.actor.name
        off = self.method in ("q-learning", "double-q", "tree-backup")
        data = "off-policy" if off else "on-policy" if self.importance == "none" else f"{self.importance} IS"
        return " ".join(words), actor, data

    def rows(self, spec: Spec) -> int:
        """T, the rows per environment of a chunk."""
        if not self.whole_episodes:
            return self.data.train_freq
        return tables.episode_rows(self.episode_length, spec)

    def warm_up(self, rows: int, num_envs: int) -> tuple[int, int]:
        """Nothing is collected before learning."""
        return 0, 0

    def init(self, key: Key, spec: Spec, num_envs: int, reference: Any = None) -> Learner:
        """A fresh learner; `reference` is the policy to evaluate (None = the uniform one)."""
        acting = self.initial_acting(key, spec)
        if reference is not None:
            acting = self._evaluating(acting, reference, spec)
        zero, table = jnp.zeros(()), acting.net.values
        training = Training(
            weight=jnp.zeros_like(table) if self.learning_rate is None else None,
            update=jnp.zeros((), jnp.int32), steps=zero, steps_rest=zero, total_steps=jnp.ones(()),
        )  # fmt: skip
        return Learner(acting, training, updates.initial_memory(self, acting.net, spec, num_envs))

    def _evaluating(self, acting: Acting, reference: Acting, spec: Spec) -> Acting:
        if not self.predicts:
            refuse(reference)
        if not isinstance(reference.net, Tables):
            raise ValueError("reference: the policy to evaluate must be a tabular one, e.g. q-learning's.")
        if reference.net.policy is None and spec.mask_size is not None:
            raise ValueError(
                "reference: a table of Q does not say which of its best actions are legal, and this environment masks "
                "actions; take a model that holds probabilities, e.g. cpi's."
            )
        policy = reference.net.target_policy()
        if policy.shape != acting.net.policy.shape:
            raise ValueError(
                f"reference has a table of {policy.shape} numbers, not {acting.net.policy.shape}."
            )
        return dataclasses.replace(acting, net=acting.net.replace(policy=policy))

    def initial_acting(self, key: Key, spec: Spec) -> Acting:
        """Fresh tables: what a model file holds."""
        net = Tables.create(spec, self.predicts, 2 if self.method == "double-q" else 1, self.initial_value)
        return Acting(net, None, self.actor.numbers(jnp.zeros(())))

    def noise(self, acting: Acting, key: Key, rows: int, num_envs: int) -> Draws:
        """All the randomness of a chunk's actions, drawn at once."""
        return self.actor.draws(key, (rows, num_envs), acting.net.head.size)

    def act(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: Draws):
        """The behaviour policy for N observations: (action, None, None, carry)."""
        state = acting.net.cells.index(obs)
        return tables.behave(self, acting.net, acting.explore, state, mask, noise), None, None, carry

    def policy(self, acting: Acting, carry: PyTree, obs: PyTree, mask: jax.Array | None, noise: Draws | None):
        """The target policy (action, carry): greedy in Q; with noise the behaviour policy, or the one evaluated."""
        net, state = acting.net, acting.net.cells.index(obs)
        if noise is None:
            preference = net.policy[state] if self.predicts else net.q(state)
            return greedy.greedy_action(preference, mask), carry
        explore = acting.explore
        if self.predicts:
            explore = Explore(jnp.zeros_like(explore.epsilon), explore.temperature)
        return tables.behave(self, net, explore, state, mask, noise), carry

    def with_acting(self, learner: Learner, acting: Acting) -> Learner:
        """The learner with other tables (a warm start)."""
        return dataclasses.replace(learner, acting=acting)

    def adopt(self, learner: Learner, fresh: Learner) -> Learner:
        """The learner in other environments: rows and traces of the old ones are dropped."""
        return dataclasses.replace(learner, memory=fresh.memory)

    def observe(self, learner: Learner, chunk: Chunk) -> Learner:
        """There is nothing to learn from a chunk without learning."""
        return learner

    def learn(self, learner: Learner, chunk: Chunk, key: Key) -> tuple[Learner, dict[str, jax.Array]]:
        """One update of the table per row, in order of time; (learner, metrics)."""
        acting, training = learner.acting, learner.training
        progress = jnp.minimum(training.steps / training.total_steps, 1.0)
        rate = None if self.learning_rate is None else evaluate(self.learning_rate, progress)
        bad_row = first_bad_row(chunk)
        learn = episodes.learn if self.whole_episodes else updates.learn
        values, weight, memory, error = learn(self, learner, scrub(chunk), rate, key)
        good = (bad_row < 0) & jnp.all(jnp.isfinite(error))
        values = jnp.where(good, values, acting.net.values)
        training = dataclasses.replace(count(training, chunk), weight=weight)
        explore = self.actor.numbers(jnp.minimum(training.steps / training.total_steps, 1.0))
        rows = jnp.asarray(chunk.reward.size) if chunk.valid is None else jnp.sum(chunk.valid)
        metrics = {
            "train/td_error": jnp.sum(jnp.abs(error)) / jnp.maximum(rows, 1),
            "train/n_updates": training.update,
            "nonfinite": 1.0 - good,
            "bad_row": bad_row,
        }
        if rate is not None:
            metrics["train/learning_rate"] = jnp.asarray(rate)
        acting = Acting(acting.net.replace(values=values), None, explore)
        return Learner(acting, training, memory), metrics | (
            {} if self.predicts else self.actor.number_metrics(explore)
        )
