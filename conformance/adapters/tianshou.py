"""Tianshou: its collectors, buffers and algorithms, in the loop that its trainers run."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from tianshou.algorithm import DQN, PPO, SAC, TD3
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy, ProbabilisticActorPolicy
from tianshou.algorithm.modelfree.sac import SACPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, PrioritizedReplayBuffer, ReplayBuffer, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.exploration import GaussianNoise
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import (
    ContinuousActorDeterministic,
    ContinuousActorProbabilistic,
    ContinuousCritic,
)
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from tianshou.utils.torch_utils import policy_within_training_step

from conformance.adapters.base import Adapter, words
from conformance.probe import Absent, NotAsked
from conformance.worlds import World, make

torch.set_num_threads(1)


class Agent:
    """An algorithm with a collector."""

    def __init__(self, name: str, world: World, given: dict[str, Any]):
        seed, seen = given["seed"], given.pop("seen", None)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - its own random numbers
        torch.manual_seed(seed)
        self.name, self.world, self.given, self.warm = name, world, given, False
        space = world.action_space
        if not isinstance(space, gym.spaces.Discrete | gym.spaces.Box) or world.kind != "box":
            raise NotAsked("is asked with Box observations, Discrete and Box actions only")
        if isinstance(space, gym.spaces.Discrete) and space.start:
            raise Absent("has no Discrete spaces that start elsewhere than at 0")
        n = given.get("n_envs", 1)
        envs = DummyVectorEnv([lambda: make(world, seen)] * n)
        envs.seed(seed)
        space.seed(seed)
        self.algorithm = BUILD[name](world, given)
        size = given.get("buffer_size", 8 * n * given.get("n_steps", 1))
        self.buffer = VectorReplayBuffer(size, n)
        self.collector = Collector(self.algorithm.policy, envs, self.buffer, exploration_noise=True)
        self.collector.reset()

    def learn(self, steps: int) -> None:
        on_policy = self.name == "ppo"
        per = self.given["n_steps"] * self.given["n_envs"] if on_policy else 1
        if not on_policy and not self.warm:
            self.warm = True
            self.collector.collect(n_step=self.given["learning_starts"], random=True)
            steps -= self.given["learning_starts"]
        for _ in range(-(-steps // per)):
            with policy_within_training_step(self.algorithm.policy):
                self.collector.collect(n_step=per)
                if on_policy:
                    self.algorithm.update(self.buffer, self.given["batch_size"], self.given["n_epochs"])
                    self.collector.reset_buffer(keep_statistics=True)
                else:
                    self.algorithm.update(self.buffer, self.given["batch_size"])

    def values(self, obs: Any) -> np.ndarray:
        with torch.no_grad():
            return self.algorithm.critic(obs).numpy().ravel()

    def q_values(self, obs: Any) -> np.ndarray:
        with torch.no_grad():
            return self.algorithm.policy.model(obs)[0].numpy()

    def action_values(self, obs: Any, actions: Any) -> np.ndarray:
        with torch.no_grad():
            both = [c(obs, actions).numpy().ravel() for c in (self.algorithm.critic, self.algorithm.critic2)]
        return np.minimum(*both)

    def _distribution(self, obs: Any, masks: Any) -> Any:
        if masks is not None:
            raise NotAsked("is asked without masks")
        with torch.no_grad():
            return self.algorithm.policy(Batch(obs=np.asarray(obs), info=Batch())).dist

    def probs(self, obs: Any, masks: Any) -> np.ndarray:
        return self._distribution(obs, masks).probs.detach().numpy()

    def log_prob(self, obs: Any, actions: Any, masks: Any = None) -> np.ndarray:
        return self._distribution(obs, masks).log_prob(torch.as_tensor(np.asarray(actions))).detach().numpy()

    def entropy(self, obs: Any, masks: Any = None) -> np.ndarray:
        return self._distribution(obs, masks).entropy().detach().numpy()

    def predict(
        self, obs: Any, deterministic: bool, state: Any = None, start: Any = None, mask: Any = None
    ) -> tuple:
        policy = self.algorithm.policy
        policy.deterministic_eval = deterministic
        with torch.no_grad():
            act = policy(Batch(obs=np.asarray(obs), info=Batch())).act
        act = act.detach().numpy() if isinstance(act, torch.Tensor) else np.asarray(act)
        return policy.map_action(act), None

    def evaluate(self, world: World, episodes: int, deterministic: bool, seen: Any = None) -> None:
        policy = self.algorithm.policy
        envs = DummyVectorEnv([lambda: make(world, seen)])
        envs.seed(5)
        before = getattr(policy, "deterministic_eval", None)
        policy.deterministic_eval = deterministic
        test = Collector(policy, envs, exploration_noise=not deterministic)
        test.reset()
        test.collect(n_episode=episodes)
        if before is not None:
            policy.deterministic_eval = before

    def parameters(self) -> np.ndarray:
        return _flat(self.algorithm)

    def actor(self) -> np.ndarray:
        return _flat(self.algorithm.policy.actor)

    def targets(self) -> tuple:
        a = self.algorithm
        if self.name == "dqn":
            return _flat(a.policy.model), _flat(a.model_old)
        return _flat(a.critic, a.critic2), _flat(a.critic_old, a.critic2_old)

    def reloaded(self, path: str) -> Agent:
        torch.save(self.algorithm.state_dict(), path)
        other = Agent(self.name, self.world, dict(self.given) | {"seed": self.given["seed"] + 1})
        other.algorithm.load_state_dict(torch.load(path, weights_only=False))
        return other


def _flat(*modules: Any) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate(
            [p.numpy().astype(float).ravel() for m in modules for p in m.parameters()]
        ).copy()


def _adam(given: dict) -> AdamOptimizerFactory:
    return AdamOptimizerFactory(lr=given["learning_rate"])


def _ppo(world: World, given: dict) -> Any:
    shape, space = world.rows.shape[1:], world.action_space
    net = lambda: Net(state_shape=shape, hidden_sizes=[16], activation=torch.nn.Tanh)
    if isinstance(space, gym.spaces.Discrete):
        actor: Any = DiscreteActor(preprocess_net=net(), action_shape=int(space.n), softmax_output=False)
        policy: Any = DiscreteActorPolicy(actor=actor, action_space=space)
    else:
        actor = ContinuousActorProbabilistic(preprocess_net=net(), action_shape=space.shape, unbounded=True)
        normal = lambda pair: torch.distributions.Independent(torch.distributions.Normal(*pair), 1)
        policy = ProbabilisticActorPolicy(actor=actor, dist_fn=normal, action_space=space)
    return PPO(
        policy=policy, critic=DiscreteCritic(preprocess_net=net()), optim=_adam(given), gamma=given["gamma"],
        gae_lambda=given["gae_lambda"], ent_coef=0.0, max_grad_norm=0.5,
        advantage_normalization=given.get("normalize_advantage", True),
    )  # fmt: skip


def _dqn(world: World, given: dict) -> Any:
    net = Net(state_shape=world.rows.shape[1:], action_shape=int(world.action_space.n), hidden_sizes=[32])
    policy = DiscreteQLearningPolicy(
        model=net, action_space=world.action_space, eps_training=given["exploration_final_eps"]
    )
    return DQN(
        policy=policy, optim=_adam(given), gamma=given["gamma"], n_step_return_horizon=given.get("n_step", 1),
        target_update_freq=given["target_update_interval"],
    )  # fmt: skip


def _critics(world: World) -> list:
    made = []
    for _ in range(2):
        net = Net(
            state_shape=world.rows.shape[1:],
            action_shape=world.action_space.shape,
            hidden_sizes=[32],
            concat=True,
        )
        made.append(ContinuousCritic(preprocess_net=net))
    return made


def _sac(world: World, given: dict) -> Any:
    net = Net(state_shape=world.rows.shape[1:], hidden_sizes=[32])
    space = world.action_space
    actor = ContinuousActorProbabilistic(
        preprocess_net=net, action_shape=space.shape, unbounded=True, conditioned_sigma=True
    )
    one, two = _critics(world)
    return SAC(
        policy=SACPolicy(actor=actor, action_space=space), policy_optim=_adam(given), critic=one,
        critic_optim=_adam(given), critic2=two, critic2_optim=_adam(given), tau=given["tau"], gamma=given["gamma"],
        alpha=given.get("ent_coef", 0.2),
    )  # fmt: skip


def _td3(world: World, given: dict) -> Any:
    space = world.action_space
    actor = ContinuousActorDeterministic(
        preprocess_net=Net(state_shape=world.rows.shape[1:], hidden_sizes=[32]), action_shape=space.shape
    )
    one, two = _critics(world)
    policy = ContinuousDeterministicPolicy(
        actor=actor, action_space=space, exploration_noise=GaussianNoise(sigma=given.get("noise", 0.1))
    )
    return TD3(
        policy=policy, policy_optim=_adam(given), critic=one, critic_optim=_adam(given), critic2=two,
        critic2_optim=_adam(given), tau=given["tau"], gamma=given["gamma"],
        update_actor_freq=given.get("policy_delay", 2),
    )  # fmt: skip


BUILD = {"ppo": _ppo, "dqn": _dqn, "sac": _sac, "td3": _td3}


class Tianshou(Adapter):
    """Tianshou."""

    offers = words(
        *BUILD,
        "values q_values action_values probs log_prob entropy predict evaluate parameters actor targets save continues",
        "box box_log_prob noise ent_coef normalize_advantage n_step gae gae_truncated prioritized",
    )
    by_design: ClassVar[dict[str, str]] = {
        "advantage_scale_of_the_chunk": "normalised per minibatch (`PPO._update_with_batch`)",
    }

    def agent(self, algorithm: str, world: World, **settings: Any) -> Any:
        if settings.pop("vector", None):
            raise Absent("takes its own vector environments only")
        return Agent(algorithm, world, settings)

    def gae(self, reward, value, following, terminated, truncated, gamma, lam):
        columns = []
        for n in range(reward.shape[1]):
            buffer = ReplayBuffer(len(reward))
            for t in range(len(reward)):
                buffer.add(Batch(obs=0, act=0, rew=reward[t, n], terminated=terminated[t, n], truncated=truncated[t, n],
                                 obs_next=0, info={}))  # fmt: skip
            batch, indices = buffer.sample(0)
            advantage = Algorithm.compute_episodic_return(
                batch, buffer, indices, following[:, n], value[:, n], gamma, lam
            )[1]
            columns.append(advantage)
        return np.stack(columns, axis=1)

    def prioritized(self, priorities, alpha, beta, seed):
        np.random.seed(seed)  # noqa: NPY002 - its own random numbers
        buffer = PrioritizedReplayBuffer(len(priorities), alpha=alpha, beta=beta)
        for i in range(len(priorities)):
            buffer.add(Batch(obs=i, act=0, rew=0.0, terminated=True, truncated=False, obs_next=0, info={}))
        buffer.update_weight(np.arange(len(priorities)), priorities)
        batch, indices = buffer.sample(4096)
        return indices, np.asarray(batch.weight)


ADAPTER = Tianshou
