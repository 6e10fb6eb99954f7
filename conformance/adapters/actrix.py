"""actrix itself, asked as any other."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import warnings
from typing import Any, ClassVar

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

import actrix
from actrix import critics
from actrix.core import distributions, normalize
from actrix.core.types import Chunk, Transition
from actrix.data.ring import Replay, weights
from conformance.adapters.base import Adapter, words
from conformance.worlds import World, make

warnings.filterwarnings("ignore", category=UserWarning)

NAMES = {
    "ppo": "PPO", "a2c": "A2C", "trpo": "TRPO", "maskable_ppo": "PPO", "recurrent_ppo": "PPO", "dqn": "DQN",
    "masked_dqn": "DQN", "qrdqn": "QRDQN", "pqn": "PQN", "sac": "SAC", "td3": "TD3", "tqc": "TQC",
}  # fmt: skip


class Agent:
    """A model of actrix."""

    def __init__(self, model: Any):
        self.model, self.learned = model, False

    def learn(self, steps: int) -> None:
        self.model.learn(steps, reset_num_timesteps=not self.learned)
        self.learned = True

    def values(self, obs: Any) -> np.ndarray:
        return self.model.policy.predict_values(obs)[:, 0]

    def q_values(self, obs: Any) -> np.ndarray:
        return self.model.policy.q_values(obs)

    def action_values(self, obs: Any, actions: Any) -> np.ndarray:
        """The smaller of the critics; there is no public name for it."""
        composed, net = self.model.algorithm, self.model.acting.net
        q = composed.critic.joined.mean(jax.vmap(net.critics)(jnp.asarray(obs), jnp.asarray(actions)))
        return np.asarray(q).min(1)

    def probs(self, obs: Any, masks: Any) -> np.ndarray:
        return self.model.policy.get_distribution(obs, masks).probs

    def log_prob(self, obs: Any, actions: Any, masks: Any = None) -> np.ndarray:
        return self.model.policy.get_distribution(obs, masks).log_prob(actions)

    def entropy(self, obs: Any, masks: Any = None) -> np.ndarray:
        return self.model.policy.get_distribution(obs, masks).entropy()

    def predict(
        self, obs: Any, deterministic: bool, state: Any = None, start: Any = None, mask: Any = None
    ) -> tuple:
        return self.model.predict(obs, state, start, deterministic, mask)

    def evaluate(self, world: World, episodes: int, deterministic: bool, seen: Any = None) -> None:
        actrix.evaluate_policy(self.model, make(world, seen), episodes, deterministic=deterministic, seed=5)

    def parameters(self) -> np.ndarray:
        return _flat(jax.tree.leaves(self.model.acting.net))

    def _split(self) -> tuple:
        learner = self.model.runner.learners[0]
        return self.model.algorithm.fit.split(learner.acting.net)[0], learner.training.kept

    def actor(self) -> np.ndarray:
        return _flat(self._split()[0]["actor"])

    def targets(self) -> tuple:
        online, kept = self._split()
        return _flat(online["critic" if "critic" in online else "net"]), _flat(kept.critic)

    def statistics(self) -> tuple:
        moments = self.model.acting.obs_moments[0]
        return np.asarray(moments.mean), np.asarray(moments.var)

    def reward_returns(self) -> np.ndarray:
        return np.asarray(self.model.runner.learners[0].training.reward_scale.running)

    def reloaded(self, path: str) -> Agent:
        self.model.save(path)
        return Agent(type(self.model).load(path))


def _flat(tree: Any) -> np.ndarray:
    leaves = [x for x in jax.tree.leaves(tree) if hasattr(x, "dtype")]
    return np.concatenate([np.ravel(np.asarray(x, float)) for x in leaves])


class Actrix(Adapter):
    """actrix."""

    offers = words(
        *NAMES,
        "values q_values action_values probs log_prob entropy predict evaluate evaluate_masked parameters actor",
        "targets statistics reward_returns save resume continues multidiscrete multibinary box box_log_prob noise",
        "ent_coef normalize_advantage dict discrete_observations n_step next_step same_step disabled gae",
        "gae_truncated squashed_log_prob kl quantile_huber prioritized reward_scale",
    )

    refusals: ClassVar[dict[str, str]] = {
        "single_row_minibatch": "one advantage less its own mean is 0",
    }
    by_design: ClassVar[dict[str, str]] = {
        "advantage_scale_of_the_chunk": "normalised per minibatch, as in the authors' code (`docs/algorithms/ppo.md`)",
    }

    def agent(self, algorithm: str, world: World, **settings: Any) -> Any:
        seen, vector = settings.pop("seen", None), settings.pop("vector", None)
        n = settings.pop("n_envs", 1)
        if vector is not None:
            modes = gym.vector.AutoresetMode
            mode = {"NextStep": modes.NEXT_STEP, "SameStep": modes.SAME_STEP, "Disabled": modes.DISABLED}[
                vector
            ]
            env: Any = gym.vector.SyncVectorEnv([lambda: make(world, seen)] * n, autoreset_mode=mode)
        else:
            env = actrix.make_vec_env(lambda: make(world, seen), n)
        policy = "MlpLstmPolicy" if algorithm == "recurrent_ppo" else "MlpPolicy"
        return Agent(getattr(actrix, NAMES[algorithm])(policy, env, **self.translated(algorithm, settings)))

    def translated(self, algorithm: str, settings: dict) -> dict:
        """The settings by the library's names."""
        given = dict(settings)
        for ours, theirs in (("noise", "action_noise"), ("n_step", "n_steps"), ("q_lambda", "lam")):
            if ours in given:
                given[theirs] = given.pop(ours)
        unknown = {
            "trpo": ("ent_coef",), "pqn": ("learning_starts",), "td3": ("ent_coef",),
            "dqn": ("ent_coef",), "recurrent_ppo": (),
        }.get(algorithm, ())  # fmt: skip
        for name in unknown:
            given.pop(name, None)
        width = [16] if algorithm in ("ppo", "a2c", "trpo", "maskable_ppo", "recurrent_ppo") else [32]
        given["policy_kwargs"] = dict(net_arch=width)
        if algorithm == "recurrent_ppo":
            given["policy_kwargs"]["lstm_hidden_size"] = 16
        return given

    def interrupted(
        self, algorithm: str, world: World, steps: int, folder: str, **settings: Any
    ) -> np.ndarray:
        """The parameters of a run that Ctrl-C ended and that another model resumed from its checkpoints."""
        first = self.agent(algorithm, world, **settings).model
        before = signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a shell's background jobs ignore it
        with contextlib.suppress(KeyboardInterrupt):
            first.learn(steps, checkpoint_dir=folder, callback=_Interrupt(3 * steps // 4))
        signal.signal(signal.SIGINT, before)
        assert first.num_timesteps < steps, "the run was not interrupted"
        second = self.agent(algorithm, world, **settings).model
        second.learn(steps, resume_from=folder)
        return Agent(second).parameters()

    # ------------------------------------------------------------------ arrays

    def gae(self, reward, value, following, terminated, truncated, gamma, lam):
        f = lambda x: jnp.asarray(x, jnp.float32)
        return critics.gae(
            reward=f(reward), value=f(value), next_value=f(following), terminated=jnp.asarray(terminated),
            truncated=jnp.asarray(truncated), gamma=gamma, lam=lam,
        )  # fmt: skip

    def squashed_log_prob(self, mean, log_std, actions):
        whole = lambda x: jnp.asarray(np.broadcast_to(x, actions.shape), jnp.float32)
        return distributions.TanhGaussian(whole(mean), whole(log_std)).log_prob(
            jnp.asarray(actions, jnp.float32)
        )

    def kl(self, p, q):
        return distributions.Categorical(jnp.log(p)).kl(distributions.Categorical(jnp.log(q)))

    def quantile_huber(self, quantiles, target):
        f = lambda x: jnp.asarray(x, jnp.float32)
        taus = jnp.broadcast_to(critics.midpoints(quantiles.shape[-1]), quantiles.shape)
        return jnp.mean(critics.quantile_huber_loss(f(quantiles), f(taus), f(target)))

    def prioritized(self, priorities, alpha, beta, seed):
        n = len(priorities)
        ring = Replay(n + 4, alpha=alpha)
        number = jax.ShapeDtypeStruct((), jnp.float32)
        flag, whole = jax.ShapeDtypeStruct((), jnp.bool_), jax.ShapeDtypeStruct((), jnp.int32)
        obs = jax.ShapeDtypeStruct((1,), jnp.float32)
        example = Transition(
            obs=obs, action=whole, reward=number, next_obs=obs, terminated=flag, truncated=flag
        )
        chunk = Chunk(
            obs=jnp.zeros((n, 1, 1)), action=jnp.zeros((n, 1), int), reward=jnp.arange(n, dtype=float)[:, None],
            next_obs=jnp.zeros((n, 1, 1)), terminated=jnp.zeros((n, 1), bool), truncated=jnp.zeros((n, 1), bool),
        )  # fmt: skip
        rows = ring.add(ring.init(example, 1), chunk)
        draw = ring.draw(rows, jax.random.key(seed), 64)
        every = dataclasses.replace(
            draw, index=jnp.arange(n), env=jnp.zeros(n, int), ok=jnp.ones(n, bool), mass=jnp.ones(n)
        )
        rows = ring.priorities(rows, every, jnp.asarray(priorities))
        draw = ring.draw(rows, jax.random.key(seed + 1), 4096)
        return np.asarray(draw.index), np.asarray(weights(draw, rows, beta))

    def reward_scale(self, reward, terminated, truncated, gamma):
        scale = normalize.init_reward_scale(reward.shape[1])
        done = jnp.asarray(terminated | truncated)
        scale = normalize.update_reward_scale(scale, jnp.asarray(reward, jnp.float32), done, None, gamma)
        one = normalize.scale_reward(scale, jnp.ones((1, 1)), 1e9)
        return 1.0 / float(one[0, 0])


class _Interrupt(actrix.BaseCallback):
    """Ctrl-C once, after so many steps: `learn` saves at the end of the segment."""

    def __init__(self, steps: int):
        super().__init__()
        self.left: int | None = steps

    def _on_step(self) -> bool:
        if self.left is not None and self.num_timesteps >= self.left:
            self.left = None
            signal.raise_signal(signal.SIGINT)
        return True


ADAPTER = Actrix
