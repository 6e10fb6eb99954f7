"""The three questions as abstract classes. Final classes fill them in and own their state; nobody asks which.

`view` is what the networks say of some rows (`nets.view`); `view(params)` the same rows seen by other parameters.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from actrix.core.idle import Part
from actrix.core.rows import Rows
from actrix.core.types import Chunk, Key, PyTree, Spec, record

Metrics = dict[str, Any]
Params = dict[str, PyTree]
"""Parameters by the name of what descends with them: "net", or "actor", "critic", …"""
Loss = tuple[jax.Array, jax.Array, Metrics]
"""(loss, priority of each row; metrics). State of the network that a loss makes anew is in its view's `moved`."""


@record
class Kept:
    """What the answers keep between updates: β, a running average, target copies, …"""

    critic: PyTree
    actor: PyTree


@record
class State:
    """What an update changes."""

    params: Params
    opt: dict[str, PyTree]
    """The optimisers' states."""
    kept: Kept
    number: jax.Array
    """Updates made so far."""
    bad: jax.Array
    """An update was not finite: it changed nothing, and nothing has changed since."""

    def keep(self, new: PyTree, old: PyTree) -> PyTree:
        """What there was before, where an update was not finite."""
        return jax.tree.map(lambda n, o: jnp.where(self.bad, o, n), new, old)


@record
class Clock:
    """Where training stands before and after the chunk in hand."""

    before: jax.Array
    """Share of the budget spent, in [0, 1]."""
    after: jax.Array
    steps_before: jax.Array
    steps: jax.Array
    update: jax.Array
    """Chunks learned from, this one included."""


Item = tuple[Rows, PyTree, PyTree]
"""Rows ready for the losses, the critic's estimate of them, what the actor remembers of them."""


@dataclasses.dataclass(frozen=True)
class CriticFacts:
    """What the soundness of a composition depends on."""

    gives: str = "V"
    """'V', 'Q of a policy' (on one network with it), 'Q(s, ·)' (a network of its own), 'Q(s, a)' (an ensemble beside
    an actor), 'none'."""
    corrected: bool = False
    """Estimates the values of the policy learned, whoever acted."""
    ratio_in_advantage: bool = False
    """Its advantage holds the ratio π/μ already."""
    one_step: bool = False
    """Its target reads one reward and the next state only, of any behaviour where it is of Q."""
    whole_episodes: bool = False
    explores: bool = False
    """Its own weights explore."""
    needs_order: bool = False
    """Its target runs along consecutive rows."""
    distributional: bool = False
    """It learns the distribution of the return, by a loss of that distribution's own."""
    samples_policy: bool = False
    """Its loss weighs samples of the policy by their density."""
    asks_behaviour: bool = False
    """Its target reads the behaviour policy as it is now."""

    @property
    def learns(self) -> bool:
        """Whether there is a critic at all: one with a loss and steps of its own."""
        return self.gives != "none"


@dataclasses.dataclass(frozen=True)
class ActorFacts:
    """What the soundness of a composition depends on."""

    takes: tuple[str, ...] = ("V", "Q of a policy", "none")
    """`CriticFacts.gives` of the critics that it can learn from."""
    ratio: bool = False
    """Its surrogate's ratio π/π_old allows several passes over a chunk."""
    corrects: bool = False
    """It weighs every use of a row for another behaviour policy by itself."""
    old_or_other: bool = False
    """Where another policy acted, its ratio may compare with the policy before the first step instead."""
    explores_by_value: bool = False
    """Better actions are tried more often."""
    searches: bool = False
    """A line search reads ψ's mean as a gain of any action."""
    fisher: bool = False
    """It steps by the Fisher matrix of the policy that acted."""
    needs_q: bool = False
    """It needs Q(s, ·) beside ψ."""
    learns_q: bool = False
    """It learns a Q of its own from replayed rows."""
    weighs_rewards: bool = False
    """It weighs the rewards themselves, so that it takes no critic."""
    clones: bool = False
    """It copies the actions it is given."""
    any_behaviour: bool = False
    """It learns from rows of any behaviour policy as they are."""
    singly: bool = False
    """It acts for replayed transitions."""
    density: bool = True
    """Its policy has one."""
    from_start: bool = False
    """It multiplies ψ by γ^t, t counted from an episode's start."""
    per_episode: bool = False
    """Its averages, or its ratios, are of whole episodes."""
    one_ratio: bool = False
    """It has one ratio for a whole episode."""
    centres: bool = False
    """It takes a batch's mean off its advantages."""
    may_stay_near: bool = False
    """It can pay for the KL to a reference policy."""
    stays_near: bool = False
    """It does."""
    charges: bool = False
    """What it learns from is the reward less a KL, which differs where rewards do not."""
    kl_in_reward: bool = False
    """It would pay in the reward alone."""
    warms_up: bool = False
    """It acts by itself in the random phase, too."""
    reports_kl: bool = False
    """Each of its steps reports the KL to the policy before the first."""
    ascends: bool = False
    """It follows a critic's gradient by its own action."""


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What the soundness of a composition depends on."""

    on_policy: bool = True
    """The policy learned is the one that acted."""
    transitions: bool = False
    """Rows stand alone: drawn from a memory one by one."""
    windows: bool = False
    """Remembered windows of n_steps rows are learned from besides."""
    fixed: bool = False
    """Nothing is collected: a data set."""
    whole_episodes: bool = False
    """A chunk holds one whole episode of every environment, whatever the critic needs."""
    shown: bool = False
    """The environment acts, and shows right actions."""
    by_error: bool = False
    """Rows are drawn by how wrong the critic was."""
    lag: int = 0
    """How many updates older than the one learned the policy is that acts."""


class Critic(Part, abc.ABC):
    """Question 1: how is the critic computed?"""

    name: ClassVar[str]
    fit: ClassVar[Any]
    """How parameters follow the losses (`core.fit`), unless the actor brings its own way."""
    turns: ClassVar[tuple[str, ...]] = ("critic", "actor")
    """In which order parameters apart take their steps."""
    has_targets: ClassVar[bool] = False
    """It keeps copies that follow the updates of networks apart."""

    @property
    @abc.abstractmethod
    def facts(self) -> CriticFacts:
        """What the soundness of a composition depends on."""

    @abc.abstractmethod
    def build(self, config: Any, spec: Spec, key: Key, actor: Actor) -> Any:
        """The networks for one environment's spaces."""

    @abc.abstractmethod
    def network_settings(self, config: Any, spec: Spec, actor: Actor) -> tuple[str, ...]:
        """Which of the network's settings have an effect."""

    def check(self, spec: Spec, config: Any) -> None:
        """Refuse what does not fit the environment; raises ValueError."""

    def init(self, net: Any, params: Params) -> PyTree:
        """What it keeps between updates; () for nothing."""
        return ()

    def restart(self, kept: PyTree, params: Params) -> PyTree:
        """What it keeps where other parameters took over (a warm start): copies start again from them."""
        return kept

    def before(self, kept: PyTree, params: Params, clock: Clock) -> PyTree:
        """What it keeps when a chunk has come, before its updates."""
        return kept

    @abc.abstractmethod
    def estimate(
        self, view: Any, kept: Kept, rows: Rows, actor: Actor, progress: jax.Array, key: Key
    ) -> PyTree:
        """The fitted target and what else it knows of each row, leaves `[*rows, ...]`; no gradient flows through."""

    @abc.abstractmethod
    def loss(self, view: Any, rows: Rows, est: PyTree, key: Key) -> Loss:
        """(loss, priority of each row; metrics)."""

    def loss_of(self, name: str, view: Any, rows: Rows, est: PyTree, key: Key) -> Loss:
        """The loss of one of several parameter vectors."""
        return self.loss(view, rows, est, key)

    def advantage(self, view: Any, rows: Rows, est: PyTree) -> jax.Array:
        """A(s_t, a_t) as ψ reads it."""
        raise NotImplementedError

    def q_values(self, net: Any, obs: PyTree) -> jax.Array:
        """Q(s, ·) `[N, A]`, where acting reads it off the critic."""
        raise NotImplementedError

    def follow(self, kept: PyTree, params: Params) -> PyTree:
        """What it keeps after an update: targets follow."""
        return kept

    def report(self, est: PyTree, rows: Rows) -> Metrics:
        """Metrics of a chunk's estimates."""
        return {}


class Actor(Part, abc.ABC):
    """Question 2: how is the actor computed, and how does it behave?"""

    name: ClassVar[str]
    fit: ClassVar[Any] = None
    """Its own way to follow its loss; None = the critic's."""
    own_names: ClassVar[dict[str, str]] = {}
    """What the log calls the parameters of `own`."""
    exploration: ClassVar[str] = ""
    """What the setting `exploration` calls it; "" where that does not choose it."""
    beside_noise: ClassVar[dict[bool, str]] = {}
    """The name of the actor in its place where noisy layers explore (True), or where none do."""
    psi: Any = None
    """ψ, the weight of its score (`actors/psi.py`); None = it has none."""
    has_targets: ClassVar[bool] = False
    """It keeps a copy that follows its updates."""
    behaves_by: ClassVar[tuple[str, ...]] = ()
    """Its fields that only acting reads."""

    @property
    @abc.abstractmethod
    def facts(self) -> ActorFacts:
        """What the soundness of a composition depends on."""

    def build(self, config: Any, spec: Spec, key: Key) -> Any:
        """Its policy as a network of its own."""
        raise NotImplementedError

    def network_settings(self, config: Any, spec: Spec) -> tuple[str, ...]:
        """Which of the network's settings have an effect on that."""
        return ()

    def settings_beside_q(self, config: Any, spec: Spec) -> tuple[str, ...]:
        """Which of them it obeys beside critics Q(s, a), besides those of hidden layers and encoders."""
        return ()

    def check(self, spec: Spec, config: Any) -> None:
        """Refuse what does not fit the environment; raises ValueError."""

    # ------------------------------------------------------------------ acting

    def numbers(self, progress: jax.Array) -> PyTree:
        """What only the behaviour policy needs at this share of training: ε, …; None = nothing."""
        return None

    def number_metrics(self, numbers: PyTree) -> Metrics:
        """What is logged of them."""
        return {}

    def at_random(self, numbers: PyTree) -> PyTree:
        """Those of uniformly random behaviour: the random phase before a memory is learned from."""
        return numbers

    def carry(self, net: Any, num_envs: int) -> PyTree:
        """What behaviour carries from step to step; None = nothing."""
        return None

    def memory(self, net: Any, num_envs: int) -> PyTree:
        """What the target policy carries from step to step; None = nothing."""
        return None

    @abc.abstractmethod
    def noise(self, net: Any, key: Key, shape: tuple[int, int]) -> PyTree:
        """All the randomness of a chunk's actions `[T, N, ...]`, drawn at once."""

    @abc.abstractmethod
    def act(
        self, critic: Critic, net: Any, numbers: PyTree, carry: PyTree, obs: PyTree, mask: Any, noise: PyTree
    ) -> tuple:
        """The behaviour policy for N observations: (action in the distribution's shape, log_prob, dist, carry)."""

    @abc.abstractmethod
    def policy(
        self, critic: Critic, net: Any, numbers: PyTree, carry: PyTree, obs: PyTree, mask: Any, noise: PyTree
    ) -> tuple:
        """The target policy: (action, carry); noise None = without chance."""

    def probabilities(self, q: jax.Array, numbers: PyTree, mask: jax.Array | None) -> jax.Array:
        """μ(·|s) `[N, A]` of a behaviour policy that reads Q(s, ·)."""
        raise NotImplementedError

    # ------------------------------------------------------------------ learning

    def own(self) -> Params:
        """Parameters of its own that are no network, e.g. log α."""
        return {}

    def init(self, net: Any, params: Params) -> PyTree:
        """What it keeps between updates; () for nothing."""
        return ()

    def restart(self, kept: PyTree, params: Params) -> PyTree:
        """What it keeps where other parameters took over (a warm start)."""
        return kept

    def charge(self, view: Any, rows: Rows) -> Rows:
        """The rows with what the policy pays in its reward, before anything is estimated."""
        return rows

    def backup(self, view: Any, kept: Kept, rows: Rows, q: Callable, key: Key) -> jax.Array:
        """V(s′) under the target policy of a critic `q(action | None)` at s′: expectation, soft, at f(s′)."""
        raise NotImplementedError

    def settle(self, critic: Critic) -> Actor:
        """The actor with what it takes by default beside this critic."""
        return self

    def remember(self, critic: Critic, view: Any, kept: Kept, rows: Rows, est: PyTree) -> PyTree:
        """What its loss needs of the policy before its first step: ψ, an average policy's distribution."""
        return ()

    @abc.abstractmethod
    def loss(
        self, critic: Critic, view: Any, kept: PyTree, rows: Rows, memo: PyTree, progress: jax.Array, key: Key
    ) -> tuple[jax.Array, Metrics]:
        """(loss of each row, metrics)."""

    def weighs(self, rows: Rows) -> Rows:
        """The rows with the weights that its own loss gives them, by which that is averaged."""
        return rows

    def critic_share(self, rows: Rows) -> float:
        """Weight of the critic's loss beside its own on these rows; 0 where it fits the critic itself."""
        return 1.0

    def also(self, view: Any, rows: Rows, metrics: Metrics) -> dict[str, jax.Array]:
        """The losses of `own`, by name, each row's; after the actor's step, whose metrics are given."""
        return {}

    def follow(self, kept: PyTree, params: Params) -> PyTree:
        """What it keeps after an update: targets follow."""
        return kept

    def after(self, kept: PyTree, view: Any, rows: Rows, memo: PyTree) -> PyTree:
        """What it keeps after a chunk's updates: β, a running average. `view` is the new networks' of the chunk."""
        return kept

    def report(self, kept: PyTree) -> Metrics:
        """What is logged of that."""
        return {}

    def told(self, view: Any, rows: Rows) -> Metrics:
        """What is logged of a chunk, by the view of the new networks."""
        return {}


class Learning(abc.ABC):
    """What the data answer may do with rows while it feeds a chunk."""

    gamma: Any
    clock: Clock
    fit: Any
    critic: Critic
    actor: Actor

    @abc.abstractmethod
    def see(self, rows: Rows) -> Rows:
        """The rows normalised by the statistics that acted."""

    @abc.abstractmethod
    def estimate(self, state: State, rows: Rows, progress: jax.Array, key: Key) -> tuple[Item, Any]:
        """(rows charged, estimates, memo; the view that they were made with)."""

    @abc.abstractmethod
    def update(
        self, state: State, item: Item, progress: jax.Array, key: Key
    ) -> tuple[State, jax.Array, Metrics]:
        """(state, priority of each row, metrics) after one update of everything."""

    @abc.abstractmethod
    def update_critic(
        self, state: State, item: Item, progress: jax.Array, key: Key
    ) -> tuple[State, jax.Array, Metrics]:
        """The same of the critic alone."""


class Data(Part, abc.ABC):
    """Question 3: which rows feed the updates, how often, and what is remembered?"""

    name: ClassVar[str]

    @property
    @abc.abstractmethod
    def facts(self) -> DataFacts:
        """What the soundness of a composition depends on."""

    critic_passes: int = 0
    """Extra passes that fit only the critic."""
    n_epochs: int = 1
    """Passes over a chunk."""
    batch_size: int | None = None
    """Rows of one update; None = those of a chunk."""
    buffer_size: int | None = None
    """Transitions kept, over all environments; None = none."""
    collects_by: ClassVar[tuple[str, ...]] = ()
    """Its fields that a data set has no use for."""

    def progress(self, clock: Clock) -> jax.Array:
        """The share of training by which schedules are read."""
        return clock.before

    @abc.abstractmethod
    def rows(self, spec: Spec) -> int:
        """T, the rows per environment of a chunk."""

    def training_length(self, rows: int) -> int:
        """Rows of a recurrent policy's training sequences in chunks of `rows`."""
        return rows

    def fitted(self, spec: Spec, num_envs: int, config: Any) -> Data:
        """The same with batches that fit a chunk, where their size was left to it."""
        return self

    def check(self, spec: Spec, num_envs: int, config: Any) -> None:
        """Refuse what does not fit the environment, with the numbers; raises ValueError."""

    def check_budget(self, total_steps: int, num_envs: int) -> None:
        """Raise ValueError where so many steps are spent before anything is learned."""

    def check_run(self, rows: int, warm_up: tuple[int, int], total_steps: int, num_envs: int) -> None:
        """Raise ValueError where a whole run of so many steps would never learn from the memory."""

    @abc.abstractmethod
    def warm_up(self, statistics: bool, whole: bool, rows: int, num_envs: int) -> tuple[int, int]:
        """(chunks, rows of each) that are collected and not learned from; `statistics`: there are some to fill."""

    def warm_numbers(self, actor: Actor, numbers: PyTree) -> PyTree:
        """The behaviour policy's numbers in the warm-up."""
        return numbers

    def init(self, head: Any, spec: Spec, num_envs: int, record: Callable[[], PyTree]) -> PyTree:
        """The memory; None for nothing. `record()` gives the shapes of one row's (log_prob, dist)."""
        return None

    def hold(self, net: Any) -> PyTree:
        """Older policies that act instead of the one learned; None = it acts itself."""
        return None

    def acting(self, net: Any, held: PyTree) -> Any:
        """The network that acts."""
        return net

    def release(self, held: PyTree, net: Any) -> PyTree:
        """Older policies after an update of `net`."""
        return held

    def observe(self, training: Any, memory: PyTree, chunk: Chunk) -> tuple[Any, PyTree]:
        """(training, memory) after a chunk of the warm-up."""
        return training, memory

    def replay(self, learning: Learning, state: State, memory: PyTree, steps: int, key: Key) -> tuple:
        """(state, memory, metrics) after so many updates from a memory of transitions."""
        raise NotImplementedError

    @abc.abstractmethod
    def feed(
        self, learning: Learning, state: State, memory: PyTree, chunk: Chunk, key: Key
    ) -> tuple[State, PyTree, Metrics, tuple[Rows, Item] | None]:
        """Update on whatever rows are due: (state, memory, metrics, the chunk's own rows and what they became).

        None in place of the last where the chunk itself is not learned from.
        """
