"""Stable-Baselines3, and what sb3-contrib and SBX share with it."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common import distributions
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from conformance.adapters.base import Adapter, words
from conformance.probe import Absent
from conformance.worlds import World, make

torch.set_num_threads(1)
warnings.filterwarnings("ignore", category=UserWarning)


class Sb3Agent:
    """A model of Stable-Baselines3's kind."""

    def __init__(self, algorithm: str, model: Any):
        self.algorithm, self.model, self.learned = algorithm, model, False

    def learn(self, steps: int) -> None:
        self.model.learn(steps, reset_num_timesteps=not self.learned)
        self.learned = True

    def _seen(self, obs: Any) -> Any:
        return self.model.policy.obs_to_tensor(self._normalised(obs))[0]

    def _normalised(self, obs: Any) -> Any:
        env = self.model.get_vec_normalize_env()
        return obs if env is None else env.normalize_obs(obs)

    def values(self, obs: Any) -> np.ndarray:
        with torch.no_grad():
            return self.model.policy.predict_values(self._seen(obs)).numpy().ravel()

    def q_values(self, obs: Any) -> np.ndarray:
        with torch.no_grad():
            return self.model.q_net(self._seen(obs)).numpy()

    def action_values(self, obs: Any, actions: Any) -> np.ndarray:
        """The smaller of the critics; actions in [−1, 1], as they are stored."""
        with torch.no_grad():
            qs = self.model.critic(self._seen(obs), torch.as_tensor(np.asarray(actions)))
        return torch.min(torch.cat(qs, dim=1), dim=1).values.numpy()

    def _distribution(self, obs: Any, masks: Any) -> Any:
        if masks is not None:
            raise Absent("has no masks")
        return self.model.policy.get_distribution(self._seen(obs))

    def probs(self, obs: Any, masks: Any) -> np.ndarray:
        with torch.no_grad():
            return self._distribution(obs, masks).distribution.probs.numpy()

    def log_prob(self, obs: Any, actions: Any, masks: Any = None) -> np.ndarray:
        with torch.no_grad():
            actions = torch.as_tensor(np.asarray(actions))
            if isinstance(self.model.action_space, gym.spaces.MultiBinary):
                actions = actions.float()  # as they come from its own buffer
            return self._distribution(obs, masks).log_prob(actions).numpy()

    def entropy(self, obs: Any, masks: Any = None) -> np.ndarray:
        with torch.no_grad():
            return self._distribution(obs, masks).entropy().numpy()

    def predict(
        self, obs: Any, deterministic: bool, state: Any = None, start: Any = None, mask: Any = None
    ) -> tuple:
        more = {} if mask is None else {"action_masks": mask}
        return self.model.predict(self._normalised(obs), state, start, deterministic, **more)

    def evaluate(self, world: World, episodes: int, deterministic: bool, seen: Any = None) -> None:
        env: Any = DummyVecEnv([lambda: make(world, seen)])
        env.seed(5)
        trained_in = self.model.get_vec_normalize_env()
        if trained_in is not None:
            env = VecNormalize(env, training=False, norm_reward=False)
            env.obs_rms = trained_in.obs_rms
        self._evaluated_by()(self.model, env, episodes, deterministic=deterministic, warn=False)

    def _evaluated_by(self) -> Any:
        return evaluate_policy

    def parameters(self) -> np.ndarray:
        return _flat(self.model.policy)

    def actor(self) -> np.ndarray:
        return _flat(self.model.actor)

    def targets(self) -> tuple:
        if hasattr(self.model, "q_net"):
            return _flat(self.model.q_net), _flat(self.model.q_net_target)
        return _flat(self.model.critic), _flat(self.model.critic_target)

    def statistics(self) -> tuple:
        rms = self.model.get_vec_normalize_env().obs_rms
        return rms.mean, rms.var

    def reward_returns(self) -> np.ndarray:
        return self.model.get_vec_normalize_env().returns

    def reloaded(self, path: str) -> Sb3Agent:
        self.model.save(path)
        return type(self)(self.algorithm, type(self.model).load(path))


def _flat(module: Any) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([p.reshape(-1) for p in module.state_dict().values()]).numpy().astype(float).copy()


class Sb3(Adapter):
    """Stable-Baselines3."""

    offers = words(
        "ppo a2c dqn sac td3 values q_values action_values probs log_prob entropy predict evaluate parameters actor",
        "targets statistics reward_returns save continues multidiscrete multibinary box box_log_prob noise ent_coef",
        "normalize_advantage dict discrete_observations n_step gae squashed_log_prob kl reward_scale",
    )
    by_design: ClassVar[dict[str, str]] = {
        "advantage_scale_of_the_chunk": "normalised per minibatch, as OpenAI's baselines do (`PPO.train`: "
        "'Normalize advantage'; Huang et al., 'The 37 Implementation Details of PPO', 7)",
        "reward_scale_has_the_learners_gamma": "`VecNormalize` wraps the environment and takes a `gamma` of its own, "
        "0.99 unless given (its documentation)",
    }
    absent: ClassVar[dict[str, str]] = {
        "discrete_start": "does not offer Discrete spaces that start elsewhere than at 0, and says so (`check_env`)",
    }
    agents: ClassVar[type[Sb3Agent]] = Sb3Agent

    def model_of(self, algorithm: str) -> tuple[Any, str]:
        """(the class, its policy's name)."""
        return {"ppo": sb3.PPO, "a2c": sb3.A2C, "dqn": sb3.DQN, "sac": sb3.SAC, "td3": sb3.TD3}[
            algorithm
        ], "Mlp"

    def agent(self, algorithm: str, world: World, **settings: Any) -> Any:
        kind, policy = self.model_of(algorithm)
        env = self.environment(world, settings)
        policy = "MultiInputPolicy" if world.kind == "dict" else f"{policy}Policy"
        translated = self.translated(algorithm, world, settings)
        return self.agents(algorithm, kind(policy, env, device="cpu", **translated))

    def environment(self, world: World, settings: dict) -> Any:
        """The vector environment; takes its settings out of `settings`."""
        seen = settings.pop("seen", None)
        if settings.pop("vector", None):
            raise Absent("takes its own vector environments only")
        env: Any = DummyVecEnv([lambda: make(world, seen)] * settings.pop("n_envs", 1))
        observed, rewarded = settings.pop("normalize_obs", False), settings.pop("normalize_reward", False)
        return VecNormalize(env, norm_obs=observed, norm_reward=rewarded) if observed or rewarded else env

    def translated(self, algorithm: str, world: World, settings: dict) -> dict:
        """The settings by the library's names."""
        given = dict(settings)
        if "noise" in given:
            given["action_noise"] = NormalActionNoise(np.zeros(1), np.full(1, given.pop("noise")))
        if "n_step" in given:
            given["n_steps"] = given.pop("n_step")
        if algorithm == "trpo":
            given.pop("ent_coef")
            given |= dict(batch_size=64)
        if algorithm == "a2c":
            given |= dict(use_rms_prop=False)
        if algorithm in ("td3", "dqn", "qrdqn"):
            given.pop("ent_coef", None)
        if algorithm in ("sac", "tqc", "td3"):
            given.pop("target_update_interval", None)
        given["policy_kwargs"] = dict(net_arch=self.net_arch(algorithm), **given.pop("policy_kwargs", {}))
        return given

    def net_arch(self, algorithm: str) -> Any:
        """Layers of the networks."""
        on_policy = algorithm in ("ppo", "a2c", "trpo", "maskable_ppo", "recurrent_ppo")
        return dict(pi=[16], vf=[16]) if on_policy else [32]

    # ------------------------------------------------------------------ arrays

    def gae(self, reward, value, following, terminated, truncated, gamma, lam):
        if truncated.any():
            raise Absent("completes cut rewards while it collects: see truncation_bootstraps_v")
        steps, n = reward.shape
        space = make(_ANY).observation_space
        buffer = RolloutBuffer(steps, space, make(_ANY).action_space, "cpu", lam, gamma, n)
        starts = np.ones(n)
        for t in range(steps):
            row = torch.as_tensor(value[t].astype(np.float32))
            buffer.add(np.zeros((n, 1)), np.zeros((n, 1)), reward[t], starts, row, torch.zeros(n))
            starts = terminated[t].astype(float)
        last = torch.as_tensor(following[-1].astype(np.float32))
        buffer.compute_returns_and_advantage(last, terminated[-1].astype(float))
        return buffer.advantages

    def squashed_log_prob(self, mean, log_std, actions):
        made = distributions.SquashedDiagGaussianDistribution(len(mean))
        tensor = lambda x: torch.as_tensor(np.broadcast_to(x, actions.shape).astype(np.float32))
        made.proba_distribution(tensor(mean), tensor(log_std))
        return made.log_prob(tensor(actions)).numpy()

    def kl(self, p, q):
        made = []
        for probabilities in (p, q):
            one = distributions.CategoricalDistribution(p.shape[1])
            made.append(one.proba_distribution(torch.as_tensor(np.log(probabilities))))
        return distributions.kl_divergence(*made).numpy()

    def reward_scale(self, reward, terminated, truncated, gamma):
        return _vec_normalize(reward, terminated, truncated, gamma)


_ANY = World(((0, 0),), ((0.0, 0.0),), ((False, False),), ((False, False),), (1.0,))


def _vec_normalize(reward, terminated, truncated, gamma):
    """The deviation that `VecNormalize` has after these rows."""

    class Given(DummyVecEnv):
        t = 0

        def step_wait(self) -> tuple:
            t, self.t = self.t, self.t + 1
            obs = np.zeros((self.num_envs, 1), np.float32)
            infos = [{"terminal_observation": obs[0]} for _ in range(self.num_envs)]
            return obs, reward[t].copy(), (terminated | truncated)[t], infos

    env = VecNormalize(Given([lambda: make(_ANY)] * reward.shape[1]), gamma=gamma)
    env.reset()
    for _ in range(len(reward)):
        env.step(np.zeros(reward.shape[1], int))
    return float(np.sqrt(env.ret_rms.var))


ADAPTER = Sb3
