"""rejax, on gymnax environments made from the same tables."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import rejax
from flax import linen, serialization
from gymnax.environments import environment, spaces

from conformance.adapters.base import Adapter, words
from conformance.probe import Absent, NotAsked
from conformance.worlds import World

CLASSES = {"ppo": rejax.PPO, "dqn": rejax.DQN, "pqn": rejax.PQN, "sac": rejax.SAC, "td3": rejax.TD3}


class Table(environment.Environment):
    """A world; an end is one flag, as gymnax has it. What was done may be written down."""

    def __init__(self, world: World, seen: Any):
        super().__init__()
        self.world, self.watched = world, seen
        tables = (world.next, world.reward, world.terminated, world.truncated)
        self.tables = [jnp.asarray(np.asarray(x)) for x in tables]
        self.rows = jnp.asarray(world.rows)

    def __deepcopy__(self, memo):
        """Itself: `create` copies its arguments, and who watches would see nothing of the copy."""
        return self

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=self.world.limit or 10**6)

    def step_env(self, key, state, action, params):
        following, rewards, terminated, truncated = self.tables
        s, steps = state
        discrete = isinstance(self.world.action_space, gym.spaces.Discrete)
        a = action.astype(int).reshape(()) % len(self.world.next[0]) if discrete else 0
        if self.watched is not None:
            jax.debug.callback(lambda x: self.watched.actions.append(np.array(x)), action)
        reward, steps = rewards[s, a].astype(float), steps + 1
        if self.world.target is not None:
            reward = -((jnp.ravel(action)[0] - self.world.target) ** 2)
        done = terminated[s, a] | truncated[s, a] | (steps >= params.max_steps_in_episode)
        s = following[s, a]
        return self.rows[s], (s, steps), reward, done, {}

    def reset_env(self, key, params):
        s = jax.random.choice(key, len(self.world.start), p=jnp.asarray(self.world.start))
        return self.rows[s], (s, jnp.zeros((), int))

    @property
    def num_actions(self):
        return len(self.world.next[0])

    def action_space(self, params=None):
        space = self.world.action_space
        if isinstance(space, gym.spaces.Discrete):
            return spaces.Discrete(int(space.n))
        return spaces.Box(jnp.asarray(space.low), jnp.asarray(space.high), space.shape)

    def observation_space(self, params=None):
        return spaces.Box(-1e3, 1e3, self.rows.shape[1:])


class Agent:
    """An algorithm and its state."""

    def __init__(self, name: str, algorithm: Any, state: Any):
        self.name, self.algorithm, self.state = name, algorithm, state

    def learn(self, steps: int) -> None:
        run = self.algorithm.replace(
            total_timesteps=steps, eval_freq=steps, skip_initial_evaluation=True, eval_callback=lambda *a: ()
        )
        self.state = jax.block_until_ready(jax.jit(lambda ts: run.train(train_state=ts)[0])(self.state))
        jax.effects_barrier()  # what was done is written down behind the program's back

    def _obs(self, obs: Any) -> Any:
        obs = jnp.asarray(obs)
        normalises = self.algorithm.normalize_observations
        return self.algorithm.normalize_obs(self.state.obs_rms_state, obs) if normalises else obs

    def values(self, obs: Any) -> np.ndarray:
        return np.asarray(self.algorithm.critic.apply(self.state.critic_ts.params, self._obs(obs)))

    def q_values(self, obs: Any) -> np.ndarray:
        return np.asarray(self.algorithm.agent.apply(self.state.q_ts.params, self._obs(obs)))

    def action_values(self, obs: Any, actions: Any) -> np.ndarray:
        q = self.algorithm.vmap_critic(self.state.critic_ts.params, self._obs(obs), jnp.asarray(actions))
        return np.asarray(q).min(0)

    def _distribution(self, obs: Any, masks: Any) -> Any:
        if masks is not None:
            raise Absent("has no masks")
        return self.algorithm.actor.apply(self.state.actor_ts.params, self._obs(obs), method="_action_dist")

    def probs(self, obs: Any, masks: Any) -> np.ndarray:
        return np.asarray(self._distribution(obs, masks).probs)

    def log_prob(self, obs: Any, actions: Any, masks: Any = None) -> np.ndarray:
        return np.asarray(self._distribution(obs, masks).log_prob(jnp.asarray(actions)))

    def entropy(self, obs: Any, masks: Any = None) -> np.ndarray:
        return np.asarray(self._distribution(obs, masks).entropy())

    def evaluate(self, world: World, episodes: int, deterministic: bool, seen: Any = None) -> None:
        if deterministic:
            raise Absent("evaluates by sampled actions only")
        env = Table(world, seen)
        act = self.algorithm.make_act(self.state)
        rejax.evaluate.evaluate(act, jax.random.key(5), env, env.default_params, episodes, world.limit)
        jax.effects_barrier()

    def parameters(self) -> np.ndarray:
        names = ("actor_ts", "critic_ts", "q_ts")
        return _flat([getattr(self.state, n).params for n in names if hasattr(self.state, n)])

    def actor(self) -> np.ndarray:
        return _flat(self.state.actor_ts.params)

    def targets(self) -> tuple:
        if self.name == "dqn":
            return _flat(self.state.q_ts.params), _flat(self.state.q_target_params)
        return _flat(self.state.critic_ts.params), _flat(self.state.critic_target_params)

    def statistics(self) -> tuple:
        return np.asarray(self.state.obs_rms_state.mean), np.asarray(self.state.obs_rms_state.var)

    def reward_returns(self) -> np.ndarray:
        return np.asarray(self.state.rew_rms_state.returns)

    def predict(
        self, obs: Any, deterministic: bool, state: Any = None, start: Any = None, mask: Any = None
    ) -> tuple:
        """By `make_act`, which samples (TD3's actor: does not; Q-learners: ε = 0.005)."""
        if deterministic and self.name in ("ppo", "sac", "dqn"):
            raise Absent("`make_act` samples: there is no deterministic prediction")
        act = self.algorithm.make_act(self.state)
        keys = jax.random.split(jax.random.key(7), len(obs))
        return np.asarray(jax.vmap(act)(jnp.asarray(obs), keys)), None

    def reloaded(self, path: str) -> Agent:
        """By flax's bytes: the state is a pytree and rejax adds nothing to keep it."""
        data = serialization.to_bytes(self.parameters_only())
        kept = serialization.from_bytes(self.parameters_only(), data)
        return Agent(self.name, self.algorithm, self.state.replace(**kept))

    def parameters_only(self) -> dict:
        """The networks' states."""
        return {
            n: getattr(self.state, n) for n in ("actor_ts", "critic_ts", "q_ts") if hasattr(self.state, n)
        }


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, float)) for x in jax.tree.leaves(tree)])


ONE_FLAG = (
    "gymnax's `step` returns one flag, `done`, and the observation after the reset, so a time limit cannot be told "
    "from an end (`Environment.step`)"
)


class Rejax(Adapter):
    """rejax."""

    offers = words(
        *CLASSES,
        "values q_values action_values probs log_prob entropy predict parameters evaluate actor targets statistics",
        "reward_returns resume continues box box_log_prob noise normalize_advantage squashed_log_prob",
    )
    by_design: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("truncation_bootstraps_v", "truncation_bootstraps_q", "truncation_bootstraps_actor_critic",
             "true_successor_v", "true_successor_q"), ONE_FLAG,
        ),
        "advantage_scale_of_the_chunk": "normalised per minibatch (`PPO.update_actor`)",
        "reward_scale_has_the_learners_gamma": "a setting of its own, `reward_normalization_discount`",
        "noise_scale": "the paper's a = π(s) + ε, ε ~ N(0, σ), without a scale by the Box (Fujimoto et al., 2018, "
        "algorithm 1; `TD3.collect_transitions`)",
        "warm_up_covers_the_box": "SAC acts by its policy while the buffer fills (`SAC.collect_transitions`); uniform "
        "actions before learning are a convention, not in the paper (Haarnoja et al., 2018, algorithm 1)",
    }  # fmt: skip
    absent: ClassVar[dict[str, str]] = {
        "discrete_start": "gymnax's Discrete spaces start at 0",
        "single_row_minibatch": "no last minibatch is smaller: `num_minibatches` divides a chunk into equal ones",
    }
    not_asked: ClassVar[dict[str, str]] = {
        "policy_delay": "an iteration is `policy_delay` steps with a critic's update each, then one of the actor",
        "optimal_q": "the probe's world has a time limit, which gymnax does not tell from an end",
    }

    def agent(self, algorithm: str, world: World, **settings: Any) -> Any:
        if world.kind != "box" or settings.pop("vector", None):
            raise NotAsked("is asked on gymnax environments with Box observations only")
        if not isinstance(world.action_space, gym.spaces.Discrete | gym.spaces.Box):
            raise Absent("has Discrete and Box actions")
        seen, seed = settings.pop("seen", None), settings.pop("seed")
        given = self.translated(algorithm, settings)
        made = CLASSES[algorithm].create(env=Table(world, seen), **given)
        return Agent(algorithm, made, made.init_state(jax.random.key(seed)))

    def translated(self, algorithm: str, settings: dict) -> dict:
        """The settings by the library's names."""
        g = dict(settings)
        if "n_step" in g:
            raise Absent("has no n-step targets")
        if "ent_coef" in g and algorithm == "sac":
            raise Absent("SAC's temperature is always learned: there is no `ent_coef`")
        out = {k: g[k] for k in ("gamma", "learning_rate", "gae_lambda", "batch_size") if k in g}
        names = dict(
            n_envs="num_envs", n_steps="num_steps", n_epochs="num_epochs", learning_starts="fill_buffer",
            buffer_size="buffer_size", target_update_interval="target_update_freq", noise="exploration_noise",
            policy_delay="policy_delay", exploration_initial_eps="eps_start", exploration_final_eps="eps_end",
            normalize_obs="normalize_observations", normalize_reward="normalize_rewards", q_lambda="td_lambda",
            ent_coef="ent_coef",
        )  # fmt: skip
        out |= {theirs: g[ours] for ours, theirs in names.items() if ours in g}
        if "tau" in g:
            out["polyak"] = 1.0 - g["tau"]
        if algorithm in ("sac", "td3"):
            out.pop("ent_coef", None)
            out.pop("target_update_freq", None)
        if algorithm == "td3":
            out.pop("gae_lambda", None)
        if algorithm == "ppo":
            rows = out["num_envs"] * out["num_steps"]
            out["num_minibatches"] = max(1, rows // out.pop("batch_size"))
        if algorithm == "pqn":
            out |= dict(num_minibatches=1)
        return out

    def interrupted(
        self, algorithm: str, world: World, steps: int, folder: str, **settings: Any
    ) -> np.ndarray:
        """The parameters after two halves, the second from the first's state."""
        agent = self.agent(algorithm, world, **settings)
        agent.learn(steps // 2)
        data = jax.tree.map(np.asarray, jax.tree.leaves(_raw(agent.state)))
        fresh = self.agent(algorithm, world, **settings)
        fresh.state = _back(agent.state, data)
        fresh.learn(steps - steps // 2)
        return fresh.parameters()

    def squashed_log_prob(self, mean, log_std, actions):
        """The density of `SquashedGaussianPolicy`, whose layers give these numbers whatever is seen."""
        policy = rejax.networks.SquashedGaussianPolicy(
            len(mean), (-1.0, 1.0), hidden_layer_sizes=(), activation=linen.relu, log_std_range=(-10, 2)
        )
        obs = jnp.zeros((len(actions), 1))
        params = policy.init(jax.random.key(0), obs, jax.random.key(0))
        params = jax.tree.map(lambda x: x, params)
        for layer, bias in (("action_mean", mean), ("action_log_std", log_std)):
            params["params"][layer]["bias"] = jnp.asarray(bias, jnp.float32)
        return policy.apply(params, obs, jnp.asarray(actions, jnp.float32), method="log_prob")


def _raw(state: Any) -> Any:
    return jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key) else x,
        state,
    )


def _back(like: Any, leaves: list) -> Any:
    old, shape = jax.tree.flatten(like)
    keyed = lambda x: jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key)
    new = [
        jax.random.wrap_key_data(jnp.asarray(y)) if keyed(x) else jnp.asarray(y)
        for x, y in zip(old, leaves, strict=True)
    ]
    return jax.tree.unflatten(shape, new)


ADAPTER = Rejax
