"""Single-file scripts in CleanRL's style (PPO, DQN, SAC, TD3), written anew for this suite after the published ones.

They keep what those do: done = terminated or truncated in PPO; in the others `terminations` alone end a target and the
true successor is taken from the infos at a truncation; advantages normalised per minibatch; Gymnasium's vector
environments that reset themselves in the same step, as the Gymnasium they were written for did. They are no code of
CleanRL's and no verdict on it: they say what the style computes. https://github.com/vwxyzjn/cleanrl
"""

from __future__ import annotations

import copy
import random
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical, Normal

from conformance.adapters.base import Adapter, words
from conformance.probe import Absent
from conformance.worlds import World, make

torch.set_num_threads(1)


def _layers(inputs: int, outputs: int, activation: Any, width: int = 32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), activation(), nn.Linear(width, outputs))


def _flat(*modules: nn.Module) -> np.ndarray:
    with torch.no_grad():
        parts = [p.reshape(-1) for m in modules for p in m.state_dict().values()]
    return torch.cat(parts).numpy().astype(float).copy()


class Script:
    """What the scripts share: seeds at the top, one vector environment, hyperparameters as a dict."""

    def __init__(self, world: World, args: dict[str, Any]):
        random.seed(args["seed"])
        np.random.seed(args["seed"])  # noqa: NPY002 - as the scripts do
        torch.manual_seed(args["seed"])
        seen, mode = args.pop("seen", None), args.pop("vector", None)
        if mode not in (None, "SameStep"):
            raise Absent("written for environments that reset in the same step")
        self.args, self.world, self.step = args, world, 0
        clipped = isinstance(world.action_space, gym.spaces.Box)

        def one() -> gym.Env:
            env = make(world, seen)
            return gym.wrappers.ClipAction(env) if clipped and isinstance(self, Ppo) else env

        same = gym.vector.AutoresetMode.SAME_STEP
        self.envs = gym.vector.SyncVectorEnv([one] * args.get("n_envs", 1), autoreset_mode=same)
        self.inputs = int(np.prod(world.observation_space.shape))
        self.obs, _ = self.envs.reset(seed=args["seed"])

    def tensor(self, x: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(x), dtype=torch.float32)

    def successors(self, following: Any, truncated: Any, infos: dict) -> Any:
        """The observations reached: where an episode was cut they stand in the infos."""
        real = following.copy()
        for i in np.flatnonzero(truncated):
            real[i] = infos["final_obs"][i]
        return real


class Ppo(Script):
    """PPO of one file: `next_done` is terminated or truncated, nothing is bootstrapped at either."""

    def __init__(self, world: World, args: dict[str, Any]):
        super().__init__(world, args)
        self.discrete = isinstance(world.action_space, gym.spaces.Discrete)
        outputs = int(world.action_space.n) if self.discrete else int(np.prod(world.action_space.shape))
        self.pi, self.v = _layers(self.inputs, outputs, nn.Tanh), _layers(self.inputs, 1, nn.Tanh)
        self.log_std = nn.Parameter(torch.zeros(1, outputs))
        self.optimizer = torch.optim.Adam([*self.pi.parameters(), *self.v.parameters(), self.log_std],
                                          lr=args["learning_rate"], eps=1e-5)  # fmt: skip
        self.done = np.zeros(self.envs.num_envs, bool)

    def distribution(self, obs: torch.Tensor) -> Any:
        out = self.pi(obs)
        return Categorical(logits=out) if self.discrete else Normal(out, self.log_std.expand_as(out).exp())

    def logs(self, dist: Any, action: torch.Tensor) -> torch.Tensor:
        return dist.log_prob(action) if self.discrete else dist.log_prob(action).sum(-1)

    def learn(self, steps: int) -> None:
        per = self.args["n_steps"] * self.envs.num_envs
        for _ in range(-(-steps // per)):
            self.update(*self.collect())

    def collect(self) -> tuple:
        rows: dict[str, list] = {k: [] for k in ("obs", "action", "log", "reward", "done", "value")}
        for _ in range(self.args["n_steps"]):
            obs = self.tensor(self.obs)
            with torch.no_grad():
                dist = self.distribution(obs)
                action, value = dist.sample(), self.v(obs).squeeze(-1)
                log = self.logs(dist, action)
            rows["done"].append(self.tensor(self.done))
            following, reward, terminated, truncated, _ = self.envs.step(action.numpy())
            for name, x in (("obs", obs), ("action", action), ("log", log), ("value", value)):
                rows[name].append(x)
            rows["reward"].append(self.tensor(reward))
            self.obs, self.done = following, np.logical_or(terminated, truncated)
        batch = {k: torch.stack(v) for k, v in rows.items()}
        with torch.no_grad():
            last = self.v(self.tensor(self.obs)).squeeze(-1)
        advantage = gae(batch["reward"], batch["value"], batch["done"], last, self.tensor(self.done),
                        self.args["gamma"], self.args["gae_lambda"])  # fmt: skip
        return batch, advantage

    def update(self, batch: dict, advantage: torch.Tensor) -> None:
        flat = {k: x.reshape(-1, *x.shape[2:]) for k, x in batch.items()}
        advantage = advantage.reshape(-1)
        returns, order = advantage + flat["value"], np.arange(len(advantage))
        for _ in range(self.args["n_epochs"]):
            np.random.shuffle(order)  # noqa: NPY002
            for start in range(0, len(order), self.args["batch_size"]):
                rows = order[start : start + self.args["batch_size"]]
                dist = self.distribution(flat["obs"][rows])
                ratio = (self.logs(dist, flat["action"][rows]) - flat["log"][rows]).exp()
                a = advantage[rows]
                a = (a - a.mean()) / (a.std() + 1e-8)
                loss = torch.max(-a * ratio, -a * ratio.clamp(0.8, 1.2)).mean()
                loss = (
                    loss + 0.5 * 0.5 * ((self.v(flat["obs"][rows]).squeeze(-1) - returns[rows]) ** 2).mean()
                )
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_([*self.pi.parameters(), *self.v.parameters(), self.log_std], 0.5)
                self.optimizer.step()

    def values(self, obs: Any) -> np.ndarray:
        with torch.no_grad():
            return self.v(self.tensor(obs)).numpy().ravel()

    def probs(self, obs: Any, masks: Any) -> np.ndarray:
        with torch.no_grad():
            return self.distribution(self.tensor(obs)).probs.numpy()

    def log_prob(self, obs: Any, actions: Any, masks: Any = None) -> np.ndarray:
        with torch.no_grad():
            return self.logs(
                self.distribution(self.tensor(obs)), torch.as_tensor(np.asarray(actions))
            ).numpy()

    def entropy(self, obs: Any, masks: Any = None) -> np.ndarray:
        with torch.no_grad():
            return self.distribution(self.tensor(obs)).entropy().numpy().reshape(len(obs), -1).sum(1)

    def predict(
        self, obs: Any, deterministic: bool, state: Any = None, start: Any = None, mask: Any = None
    ) -> tuple:
        raise Absent("PPO's script only samples, and a wrapper clips")

    def parameters(self) -> np.ndarray:
        return np.concatenate([_flat(self.pi, self.v), self.log_std.detach().numpy().ravel()])


def gae(
    reward: Any, value: Any, done: Any, last: Any, last_done: Any, gamma: float, lam: float
) -> torch.Tensor:
    """Advantages; `done[t]` says that row t begins an episode."""
    advantage, running = torch.zeros_like(reward), 0.0
    for t in reversed(range(len(reward))):
        final = t == len(reward) - 1
        goes_on = 1.0 - (last_done if final else done[t + 1])
        delta = reward[t] + gamma * (last if final else value[t + 1]) * goes_on - value[t]
        advantage[t] = running = delta + gamma * lam * goes_on * running
    return advantage


class Replayed(Script):
    """One step, then one update: what DQN, SAC and TD3 share."""

    def __init__(self, world: World, args: dict[str, Any]):
        super().__init__(world, args)
        self.memory: list[tuple] = []
        self.build()

    def learn(self, steps: int) -> None:
        for _ in range(steps):
            action = self.act()
            following, reward, terminated, truncated, infos = self.envs.step(action)
            real = self.successors(following, np.logical_or(terminated, truncated), infos)
            self.memory.append((self.obs[0], action[0], reward[0], real[0], terminated[0]))
            self.obs = following
            if self.step > self.args["learning_starts"]:
                rows = [random.choice(self.memory) for _ in range(self.args["batch_size"])]
                self.train(*(self.tensor(np.stack(x)) for x in zip(*rows, strict=True)))
            self.step += 1

    def at_random(self) -> np.ndarray:
        return np.array([self.envs.single_action_space.sample() for _ in range(self.envs.num_envs)])

    def follow(self, target: nn.Module, online: nn.Module) -> None:
        with torch.no_grad():
            for old, new in zip(target.parameters(), online.parameters(), strict=True):
                old.copy_(self.args["tau"] * new + (1 - self.args["tau"]) * old)

    def descend(self, optimizer: Any, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Dqn(Replayed):
    """DQN of one file."""

    def build(self) -> None:
        if not isinstance(self.world.action_space, gym.spaces.Discrete) or self.world.action_space.start:
            raise Absent("takes Discrete actions that start at 0")
        self.q = _layers(self.inputs, int(self.world.action_space.n), nn.ReLU)
        self.target = copy.deepcopy(self.q)
        self.optimizer = torch.optim.Adam(self.q.parameters(), lr=self.args["learning_rate"])
        self.envs.single_action_space.seed(self.args["seed"])

    def act(self) -> np.ndarray:
        if random.random() < self.args["exploration_final_eps"]:
            return self.at_random()
        with torch.no_grad():
            return self.q(self.tensor(self.obs)).argmax(1).numpy()

    def train(self, obs, action, reward, following, terminated) -> None:
        with torch.no_grad():
            best = self.target(following).max(1).values
            goal = reward + self.args["gamma"] * best * (1 - terminated)
        said = self.q(obs).gather(1, action.long()[:, None]).squeeze(1)
        self.descend(self.optimizer, nn.functional.mse_loss(goal, said))
        if self.step % self.args["target_update_interval"] == 0:
            self.follow(self.target, self.q)

    def q_values(self, obs: Any) -> np.ndarray:
        with torch.no_grad():
            return self.q(self.tensor(obs)).numpy()

    def predict(
        self, obs: Any, deterministic: bool, state: Any = None, start: Any = None, mask: Any = None
    ) -> tuple:
        return self.q_values(obs).argmax(1), None

    def parameters(self) -> np.ndarray:
        return _flat(self.q)

    def targets(self) -> tuple:
        return _flat(self.q), _flat(self.target)


class ActorCritic(Replayed):
    """What SAC and TD3 share: two critics, an actor that puts out tanh scaled to the bounds."""

    outputs = 1

    def build(self) -> None:
        space = self.world.action_space
        k = int(np.prod(space.shape))
        self.scale, self.middle = (
            self.tensor((space.high - space.low) / 2),
            self.tensor((space.high + space.low) / 2),
        )
        self.actor_net = _layers(self.inputs, k * self.outputs, nn.ReLU)
        self.qs = nn.ModuleList([_layers(self.inputs + k, 1, nn.ReLU) for _ in range(2)])
        self.q_targets = copy.deepcopy(self.qs)
        rate = self.args["learning_rate"]
        self.q_optimizer = torch.optim.Adam(self.qs.parameters(), lr=rate)
        self.pi_optimizer = torch.optim.Adam(self.actor_net.parameters(), lr=rate)
        self.envs.single_action_space.seed(self.args["seed"])

    def both(self, qs: nn.ModuleList, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return torch.stack([q(torch.cat([obs, action], 1)).squeeze(1) for q in qs])

    def action_values(self, obs: Any, actions: Any) -> np.ndarray:
        with torch.no_grad():
            return self.both(self.qs, self.tensor(obs), self.tensor(actions)).min(0).values.numpy()

    def actor(self) -> np.ndarray:
        return _flat(self.actor_net)

    def parameters(self) -> np.ndarray:
        return _flat(self.actor_net, self.qs)

    def targets(self) -> tuple:
        return _flat(self.qs), _flat(self.q_targets)


class Sac(ActorCritic):
    """SAC of one file, with a fixed temperature."""

    outputs = 2

    def draw(self, obs: torch.Tensor) -> tuple:
        mean, log_std = self.actor_net(obs).chunk(2, 1)
        log_std = -5 + 0.5 * (2 + 5) * (torch.tanh(log_std) + 1)
        normal = Normal(mean, log_std.exp())
        u = normal.rsample()
        y = torch.tanh(u)
        log = normal.log_prob(u) - torch.log(self.scale * (1 - y.pow(2)) + 1e-6)
        return y * self.scale + self.middle, log.sum(1), torch.tanh(mean) * self.scale + self.middle

    def act(self) -> np.ndarray:
        if self.step < self.args["learning_starts"]:
            return self.at_random()
        with torch.no_grad():
            return self.draw(self.tensor(self.obs))[0].numpy()

    def train(self, obs, action, reward, following, terminated) -> None:
        alpha = self.args.get("ent_coef", 0.2)
        with torch.no_grad():
            after, log, _ = self.draw(following)
            least = self.both(self.q_targets, following, after).min(0).values - alpha * log
            goal = reward + (1 - terminated) * self.args["gamma"] * least
        loss = sum(nn.functional.mse_loss(q, goal) for q in self.both(self.qs, obs, action))
        self.descend(self.q_optimizer, loss)
        drawn, log, _ = self.draw(obs)
        self.descend(self.pi_optimizer, (alpha * log - self.both(self.qs, obs, drawn).min(0).values).mean())
        self.follow(self.q_targets, self.qs)

    def predict(
        self, obs: Any, deterministic: bool, state: Any = None, start: Any = None, mask: Any = None
    ) -> tuple:
        with torch.no_grad():
            drawn = self.draw(self.tensor(obs))
        return drawn[2 if deterministic else 0].numpy(), None


class Td3(ActorCritic):
    """TD3 of one file."""

    def build(self) -> None:
        super().build()
        self.actor_target = copy.deepcopy(self.actor_net)

    def best(self, net: nn.Module, obs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(net(obs)) * self.scale + self.middle

    def bounded(self, action: torch.Tensor) -> torch.Tensor:
        return torch.max(torch.min(action, self.middle + self.scale), self.middle - self.scale)

    def act(self) -> np.ndarray:
        if self.step < self.args["learning_starts"]:
            return self.at_random()
        with torch.no_grad():
            action = self.best(self.actor_net, self.tensor(self.obs))
            action = action + torch.normal(0, self.scale.expand_as(action) * self.args.get("noise", 0.1))
            return self.bounded(action).numpy()

    def train(self, obs, action, reward, following, terminated) -> None:
        with torch.no_grad():
            noise = (torch.randn_like(action) * 0.2).clamp(-0.5, 0.5) * self.scale
            after = self.bounded(self.best(self.actor_target, following) + noise)
            least = self.both(self.q_targets, following, after).min(0).values
            goal = reward + (1 - terminated) * self.args["gamma"] * least
        loss = sum(nn.functional.mse_loss(q, goal) for q in self.both(self.qs, obs, action))
        self.descend(self.q_optimizer, loss)
        if self.step % self.args.get("policy_delay", 2) == 0:
            first = self.qs[0](torch.cat([obs, self.best(self.actor_net, obs)], 1))
            self.descend(self.pi_optimizer, -first.mean())
            self.follow(self.actor_target, self.actor_net)
            self.follow(self.q_targets, self.qs)

    def predict(
        self, obs: Any, deterministic: bool, state: Any = None, start: Any = None, mask: Any = None
    ) -> tuple:
        with torch.no_grad():
            return self.best(self.actor_net, self.tensor(obs)).numpy(), None


SCRIPTS = {"ppo": Ppo, "dqn": Dqn, "sac": Sac, "td3": Td3}
NO_BOOTSTRAP = (
    "`next_done` is terminated or truncated and GAE counts either as an end, as in ppo.py, which follows OpenAI's "
    "baselines"
)


class CleanRlStyle(Adapter):
    """The scripts above."""

    offers = words(
        *SCRIPTS,
        "values q_values action_values probs log_prob entropy predict parameters actor targets continues same_step box",
        "box_log_prob noise ent_coef normalize_advantage gae",
    )
    by_design: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("truncation_bootstraps_v", "true_successor_v", "autoreset_same_step"), NO_BOOTSTRAP),
        "advantage_scale_of_the_chunk": "normalised per minibatch (Huang et al., 'The 37 Implementation Details', 7)",
    }
    absent: ClassVar[dict[str, str]] = {
        "discrete_start": "takes Discrete actions that start at 0",
        "deterministic_is_mode": "PPO's script only samples",
    }

    def agent(self, algorithm: str, world: World, **settings: Any) -> Any:
        if world.kind != "box" or not isinstance(world.action_space, gym.spaces.Discrete | gym.spaces.Box):
            raise Absent("takes Box observations, Discrete and Box actions")
        if "n_step" in settings:
            raise Absent("has one-step targets")
        return SCRIPTS[algorithm](world, settings)

    def gae(self, reward, value, following, terminated, truncated, gamma, lam):
        if truncated.any():
            raise Absent("has one flag, `done`")
        f = lambda x: torch.as_tensor(x)
        done = np.concatenate([np.zeros((1, reward.shape[1])), terminated[:-1]])
        last_done = f(terminated[-1].astype(float))
        return gae(f(reward), f(value), f(done), f(following[-1]), last_done, gamma, lam).numpy()


ADAPTER = CleanRlStyle
