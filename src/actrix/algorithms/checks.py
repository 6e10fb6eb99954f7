"""What the algorithms refuse: values out of range at construction, misfits with an environment later."""

from __future__ import annotations

import math
from typing import Any

from gymnasium import spaces

from actrix.actors.answers import PGQL, KroneckerFactored, NaturalActor
from actrix.core.fields import choose, finite, share, switch, whole
from actrix.core.optim import OPTIMIZERS
from actrix.core.schedules import as_schedule, bounds
from actrix.core.spaces import is_image
from actrix.core.types import Spec
from actrix.data.answers import OnPolicy, ReplayBuffer, Trajectories
from actrix.nets.networks import space_leaves

RANGES: dict[str, tuple[float, float]] = {
    "gamma": (0, 1),
    "ent_coef": (-math.inf, math.inf),
    "vf_coef": (0, math.inf),
    "ref_kl_coef": (0, math.inf),
    "clip_obs": (0, math.inf),
    "clip_reward": (0, math.inf),
    "optimizer_eps": (0, math.inf),
}
WHOLE = ("n_steps", "batch_size", "n_epochs", "sequence_length")
POSITIVE_OR_NONE = ("max_grad_norm", "clip_range_vf", "target_kl")
CHOICES = {"optimizer": OPTIMIZERS, "ref_kl_in": ("reward", "loss")}


def settle(algorithm: Any) -> None:
    """Turn the schedules into values that hash, and raise ValueError for any field out of range."""
    for name in ("learning_rate", "critic_learning_rate"):
        value = getattr(algorithm, name)
        if value is not None or name == "learning_rate":
            value = as_schedule(value, name)
            object.__setattr__(algorithm, name, value)
            low, high = bounds(value)
            if not (low >= 0 and high > 0):
                raise ValueError(f"{name}={value} must be positive.")
    for name, (low, high) in RANGES.items():
        value = getattr(algorithm, name)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(f"{name}={value} must be a finite number in [{low}, {high}].")
    for name in WHOLE:
        value = getattr(algorithm, name)
        if value is None and name != "n_epochs":
            continue
        if value is None or isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(f"{name}={value} must be a whole number of at least 1.")
    passes = algorithm.n_critic_updates
    if isinstance(passes, bool) or int(passes) != passes or passes < 0:
        raise ValueError(f"n_critic_updates={passes} must be a whole number of at least 0.")
    for name in POSITIVE_OR_NONE:
        value = getattr(algorithm, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} must be positive, or None for 'off'.")
    switch(algorithm, "normalize_obs", "normalize_reward", "normalize_advantage", "recompute_advantages")
    for name, choices in CHOICES.items():
        if getattr(algorithm, name) not in choices:
            raise ValueError(f"{name}={getattr(algorithm, name)!r}: choose one of {', '.join(choices)}.")


def settle_off_policy(algorithm: Any) -> None:
    """What `settle` does, for the fields that all replay-based algorithms have."""
    _settle_learning_rate(algorithm)
    share(algorithm, "gamma", *(name for name in ("tau",) if hasattr(algorithm, name)))
    _settle_grad_norm(algorithm)
    finite(algorithm, "optimizer_eps", "clip_obs", least=0)
    switch(algorithm, "normalize_obs")
    choose(algorithm, optimizer=OPTIMIZERS)


def _settle_learning_rate(algorithm: Any) -> None:
    value = as_schedule(algorithm.learning_rate, "learning_rate")
    object.__setattr__(algorithm, "learning_rate", value)
    low, high = bounds(value)
    if not (low >= 0 and high > 0):
        raise ValueError(f"learning_rate={value} must be positive.")


def _settle_grad_norm(algorithm: Any) -> None:
    value = algorithm.max_grad_norm
    if value is not None and (isinstance(value, str | bool) or not value > 0):
        raise ValueError(f"max_grad_norm={value!r} must be positive, or None for 'off'.")


def settle_natural(algorithm: Any) -> None:
    """What `settle` does, for the natural-gradient algorithms."""
    if not isinstance(algorithm.actor, NaturalActor):
        raise ValueError(
            f"actor {algorithm.actor.name} takes no natural-gradient step: compose it with ActorCritic."
        )
    _settle_learning_rate(algorithm)
    share(algorithm, "gamma")
    _settle_grad_norm(algorithm)
    whole(algorithm, "n_critic_updates", "sub_sampling_factor")
    for name in ("n_steps", "batch_size", "sequence_length"):
        if getattr(algorithm, name) is not None:
            whole(algorithm, name)
    finite(algorithm, "ent_coef")
    finite(algorithm, "optimizer_eps", "clip_obs", "clip_reward", "ref_kl_coef", least=0)
    switch(algorithm, "normalize_obs", "normalize_reward", "normalize_advantage")
    choose(algorithm, **CHOICES)


def fits_natural(algorithm: Any, spec: Spec, num_envs: int) -> None:
    """Raise ValueError where the natural step does not fit the network or the chunk."""
    network, rows = algorithm.network, algorithm.rows(spec)
    length = 1 if network.cell is None else algorithm.training_length(rows)
    items = rows * num_envs // length
    if algorithm.sub_sampling_factor > items:
        raise ValueError(
            f"sub_sampling_factor={algorithm.sub_sampling_factor} leaves none of a chunk's {items} rows."
        )
    if not isinstance(algorithm.actor, KroneckerFactored):
        return
    images = any(is_image(leaf) for leaf in space_leaves(spec.observation_space))
    if network.cell is not None or network.cnn or network.features_extractor_class is not None or images:
        raise ValueError(
            "acktr factors dense layers only: images, a recurrent cell or an extractor of your own need trpo or npg."
        )


def fits_off_policy(algorithm: Any, spec: Spec, num_envs: int) -> None:
    """Raise ValueError where the replay settings do not fit so many environments."""
    data = algorithm.data
    if data.buffer_size < num_envs:
        raise ValueError(
            f"buffer_size={data.buffer_size} cannot hold one step of n_envs={num_envs} environments."
        )
    plain_network(algorithm.network)


def plain_network(network: Any) -> None:
    """Raise ValueError for a recurrent cell or the user's own module: Q networks and pathwise actors have neither."""
    if network.module is not None or network.cell is not None:
        what = "a module of your own" if network.module is not None else f"a recurrent cell ({network.cell})"
        raise ValueError(f"policy_kwargs: {what} is offered by the policy-gradient algorithms only.")


def budget(algorithm: Any, total_steps: int, num_envs: int) -> None:
    """Raise ValueError where nothing would be learned because the random phase is as long as training."""
    if not isinstance(algorithm.data, ReplayBuffer):
        return
    starts, (pieces, rows) = algorithm.data.learning_starts, algorithm.warm_up(1, num_envs)
    whole_steps = pieces * rows * num_envs
    if whole_steps >= total_steps:
        more = f" ({whole_steps} in whole steps of {num_envs} environments)" if whole_steps > starts else ""
        raise ValueError(
            f"learning_starts={starts}{more} is not smaller than the budget of {total_steps} steps: "
            "nothing would be learned."
        )


def replays(algorithm: Any, spec: Spec, total_steps: int, num_envs: int) -> None:
    """Raise ValueError where training would be over before the memory of trajectories is first learned from.

    Such an algorithm learns from its fresh chunks all the while, so this concerns whole runs and no call of `learn`.
    """
    data = algorithm.data
    if not (isinstance(data, Trajectories) and data.replay_ratio):
        return
    rows = algorithm.rows(spec)
    pieces, warm_rows = algorithm.warm_up(rows, num_envs)
    chunk = rows * num_envs
    left = (
        total_steps - pieces * warm_rows * num_envs
    )  # the warm-up's steps count in the budget, not in training
    before_last = max(0, math.ceil(left / chunk) - 1) * chunk
    if before_last < data.learning_starts:
        raise ValueError(
            f"learning_starts={data.learning_starts} is more than the {before_last} steps before the last of "
            f"{total_steps} steps' chunks: nothing would be learned from the memory. Lower it, or set replay_ratio=0."
        )


def no_reference(reference: Any) -> None:
    """Raise ValueError: only on-policy algorithms stay near a reference policy."""
    if reference is not None:
        raise ValueError("reference: only the on-policy algorithms can stay near a reference policy.")


def episode_rows(episode_length: int | None, spec: Spec) -> int:
    """Rows of a chunk of whole episodes; ValueError where neither the setting nor the environment has a limit."""
    rows = episode_length or spec.max_episode_steps
    if rows is None:
        raise ValueError("this environment has no time limit: give episode_length, the longest to wait for.")
    return rows


def fits(algorithm: Any, spec: Spec, num_envs: int) -> None:
    """Raise ValueError, with the numbers, where the settings do not fit the environment or each other."""
    rows, network = algorithm.rows(spec), algorithm.network
    critic, actor = algorithm.critic, algorithm.actor
    if critic.function == "q" and not isinstance(spec.action_space, spaces.Discrete):
        raise ValueError(f"critic {critic.name} needs a Discrete action space, not {spec.action_space}.")
    if actor.psi == "optimal" and num_envs < 2:
        raise ValueError(
            "psi 'optimal' takes its baseline from a chunk's other episodes: n_envs must be ≥ 2."
        )
    if network.module is not None and algorithm.n_critic_updates:
        raise ValueError(
            "n_critic_updates fits the critic's own layers, which a module of yours does not name."
        )
    if isinstance(actor, PGQL):
        if not isinstance(spec.action_space, spaces.Discrete):
            raise ValueError(f"pgql needs a Discrete action space, not {spec.action_space}: use a2c or ppo.")
        if not algorithm.ent_coef > 0:
            raise ValueError(
                f"ent_coef={algorithm.ent_coef} must be positive: it is the temperature of pgql's Q."
            )
    if network.cell is not None and not isinstance(algorithm.data, OnPolicy):
        raise ValueError("a recurrent policy needs on-policy data: remembered rows do not hold its memory.")
    length = 1
    if network.cell is not None:
        if actor.psi == "optimal" or network.module is not None:
            raise ValueError("a recurrent policy has neither psi 'optimal' nor a module of your own.")
        length = algorithm.training_length(rows)
        if rows % length:
            raise ValueError(f"n_steps={rows} is not a multiple of sequence_length={length}.")
    batch_fits(algorithm.batch_size, rows, num_envs, length)


def batch_fits(batch_size: int | None, rows: int, num_envs: int, length: int = 1) -> None:
    """Raise ValueError, with fitting sizes, unless batches divide a chunk."""
    total = rows * num_envs
    if batch_size is None or (total % batch_size == 0 and batch_size % length == 0):
        return
    fitting = [d for d in range(length, total + 1, length) if total % d == 0]
    nearest = sorted(sorted(fitting, key=lambda d: abs(d - batch_size))[:3])
    sequences = f" into sequences of {length} rows" if length > 1 else ""
    raise ValueError(
        f"batch_size={batch_size} does not divide n_steps × n_envs = {rows} × {num_envs} = {total}{sequences}; "
        f"near it lie {', '.join(map(str, nearest))}."
    )
