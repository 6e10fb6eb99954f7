"""Question 2 for learners of Q(s, ·): an actor that is greedy in Q, and how its behaviour policy explores."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from actrix.actors import greedy
from actrix.core.fields import choose, share
from actrix.core.schedules import Schedule, as_schedule, bounds, evaluate
from actrix.core.types import Key, record

KINDS = ("epsilon-greedy", "boltzmann", "none")


@record
class Explore:
    """The behaviour policy's numbers at one time of training."""

    epsilon: jax.Array
    """Probability of a uniformly random legal action."""
    temperature: jax.Array
    """Of Boltzmann exploration, in units of return."""


@record
class Draws:
    """One chunk's randomness `[T, N, ...]`."""

    uniform: jax.Array
    gumbel: jax.Array


@dataclasses.dataclass(frozen=True)
class Greedy:
    """The target policy is argmax_a Q(s, a); the behaviour policy ε-greedy, Boltzmann, or exploring by its weights."""

    exploration: str = "epsilon-greedy"
    """'epsilon-greedy'; 'boltzmann': ∝ exp(Q/τ); 'none': greedy, where noisy layers explore."""
    exploration_fraction: float = 0.1
    """Share of training over which ε falls from its initial to its final value."""
    exploration_initial_eps: float = 1.0
    exploration_final_eps: float = 0.05
    temperature: Schedule = 1.0
    """τ of Boltzmann exploration, and of the soft target."""

    name: ClassVar[str] = "greedy"

    def __post_init__(self) -> None:
        choose(self, exploration=KINDS)
        share(self, "exploration_fraction", "exploration_initial_eps", "exploration_final_eps")
        object.__setattr__(self, "temperature", as_schedule(self.temperature, "temperature"))
        low, high = bounds(self.temperature)
        if not (low >= 0 and high > 0):
            raise ValueError(f"temperature={self.temperature} must be positive.")

    def __str__(self) -> str:
        return "greedy" if self.exploration == "none" else self.exploration

    def numbers(self, progress: jax.Array) -> Explore:
        """ε and τ after this share of training."""
        fraction = jnp.minimum(progress / max(self.exploration_fraction, 1e-9), 1.0)
        start, end = self.exploration_initial_eps, self.exploration_final_eps
        epsilon = start + (end - start) * fraction if self.exploration == "epsilon-greedy" else jnp.zeros(())
        temperature = evaluate(self.temperature, progress)
        return Explore(jnp.asarray(epsilon, jnp.float32), jnp.asarray(temperature, jnp.float32))

    def metrics(self, explore: Explore) -> dict[str, jax.Array]:
        """What is logged of them."""
        if self.exploration == "boltzmann":
            return {"rollout/temperature": explore.temperature}
        return {"rollout/exploration_rate": explore.epsilon} if self.exploration == "epsilon-greedy" else {}

    def draws(self, key: Key, shape: tuple[int, ...], actions: int) -> Draws:
        """The randomness of `prod(shape)` choices."""
        k1, k2 = jax.random.split(key)
        return Draws(jax.random.uniform(k1, shape), jax.random.gumbel(k2, (*shape, actions)))

    def choose(self, q: jax.Array, explore: Explore, draws: Draws, mask: jax.Array | None) -> jax.Array:
        """The behaviour policy's action for `q` `[N, A]`."""
        if self.exploration == "boltzmann":
            chosen = greedy.sample_boltzmann(q, explore.temperature, draws.gumbel, mask)
        else:
            chosen = greedy.greedy_action(q, mask)
        return greedy.explore(chosen, explore.epsilon, draws.uniform, draws.gumbel, mask)

    def probabilities(self, q: jax.Array, explore: Explore, mask: jax.Array | None) -> jax.Array:
        """μ(·|s) of that choice, `[N, A]`."""
        if self.exploration == "boltzmann":
            return jnp.exp(greedy.boltzmann_log_probs(q, explore.temperature, mask))
        return greedy.epsilon_greedy_probs(q, explore.epsilon, mask)


@dataclasses.dataclass(frozen=True, eq=False)
class NormalActionNoise:
    """Gaussian action noise as Stable-Baselines3 writes it; the mean must be 0 and sigma one number for all dimensions.

    `sigma` is in policy coordinates, where [−1, 1] spans the action's bounds, as it is there.
    """

    mean: ArrayLike
    sigma: ArrayLike


@dataclasses.dataclass(frozen=True, eq=False)
class OrnsteinUhlenbeckActionNoise(NormalActionNoise):
    """Correlated action noise as Stable-Baselines3 writes it, with its θ = 0.15 and dt = 0.01."""
