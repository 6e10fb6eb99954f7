"""A tabular library in NumPy that answers every probe rightly, or with one fault of choice."""

import copy

import gymnasium as gym
import numpy as np
from conformance.adapters.base import Adapter, words
from conformance.probes.common import ACTOR_CRITICS, Q_LEARNERS, V_LEARNERS
from conformance.worlds import make


class Agent:
    """Values by sweeps over what was seen, everything else as plainly as it may be."""

    def __init__(self, name, world, fault, **given):
        self.name, self.world, self.fault, self.given = name, world, fault, given
        self.seen = given.pop("seen", None)
        self.rng = np.random.default_rng({"unseeded": None, "seedless": 0}.get(fault, given["seed"]))
        self.env = make(world, self.seen)
        self.env.reset(seed=int(self.rng.integers(2**31)))
        self.rows, self.steps, self.updates = [], 0, 0
        self.w, self.pi = self.rng.normal(size=4), self.rng.normal(size=4)
        self.target = self.rng.normal(size=4) if fault == "target drawn" else self.w.copy()
        self.n = world.action_space.n if isinstance(world.action_space, gym.spaces.Discrete) else 1
        self.moments = [np.zeros(1), np.ones(1)]
        self.hits = np.full((len(world.next), self.n), 0.0)

    # ------------------------------------------------------------------ acting and learning

    def learn(self, steps):
        for _ in range(steps if self.seen is not None else min(steps, 700)):
            state = self.index(self.env.state)
            action = self.act()
            _, r, terminated, truncated, _ = self.env.step(action)
            after = self.env.state
            if terminated or truncated:
                self.env.reset()
                after = self.env.state if self.fault == "successor of the reset" else after
            self.steps += 1
            cut = self.fault == "chunk ends" and self.steps % self.given["n_steps"] == 0
            column = self.world.column(action) % self.n
            self.rows.append((state, column, r, self.index(after), terminated, truncated, cut, action))
            self.update()
        if self.rows:
            seen = self.world.rows[[row[0] for row in self.rows]]
            self.moments = [seen.mean(0), seen.var(0) * (1 if self.fault != "statistics" else 2)]

    def index(self, state):
        rows = self.world.rows
        return int(np.flatnonzero((rows == rows[state]).all(1))[0])

    def act(self):
        space = self.world.action_space
        if isinstance(space, gym.spaces.Box):
            return self.act_in(space)
        if not isinstance(space, gym.spaces.Discrete):
            return space.sample()
        legal = (
            np.ones(self.n) if self.world.mask is None else np.asarray(self.world.mask[self.env.state], float)
        )
        if self.fault == "mask ignored":
            legal = np.ones(self.n)
        epsilon = self.given.get("exploration_final_eps", 1.0) / (2 if self.fault == "half epsilon" else 1)
        random = self.rng.random() < epsilon
        a = self.rng.choice(self.n, p=legal / legal.sum()) if random else 0
        return a + (0 if self.fault == "start ignored" else int(space.start))

    def act_in(self, space):
        middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
        if self.name == "td3" and self.steps >= self.given["learning_starts"]:
            scale = 1 if self.fault == "noise in units" else half
            out = middle + self.given.get("noise", 0.1) * scale * self.rng.normal(size=space.shape)
        elif self.name in ACTOR_CRITICS:
            out = middle + half * self.rng.uniform(-1, 1, space.shape) * (
                0.5 if self.fault == "half the box" else 1
            )
        else:
            out = self.rng.normal(size=space.shape)
        return out if self.fault == "unbounded" else np.clip(out, space.low, space.high)

    def update(self):
        if self.steps <= self.given.get("learning_starts", 0):
            return
        self.updates += 1
        if "recurrent" not in self.name:
            self.w = self.w + 0.1 * self.rng.normal(size=4)
        if self.updates % self.given.get("policy_delay", 1) == 0 or self.fault == "no delay":
            self.pi = self.pi + 0.1 * self.rng.normal(size=4)
        if self.name in ACTOR_CRITICS:
            tau = self.given["tau"] if self.fault != "tau of old" else 1 - self.given["tau"]
            self.target = self.target + tau * (self.w - self.target)
        elif self.steps % self.given.get("target_update_interval", 1) == 0 or self.fault == "no interval":
            self.target = self.w.copy()

    # ------------------------------------------------------------------ values

    def windows(self):
        """(state, action, Σγ^k r, discount of what follows, state that follows) of each n-step window."""
        n, gamma = (
            self.given.get("n_step", 1),
            self.given["gamma"] * (0.8 if self.fault == "other gamma" else 1),
        )
        out = []
        for t in range(len(self.rows) - n + 1):
            total, factor = 0.0, 1.0
            for _, _, r, after, terminated, truncated, cut, _ in self.rows[t : t + n]:  # noqa: B007
                total, factor = total + factor * r, factor * gamma
                ends = terminated and self.fault not in ("termination goes on", "windows leak")
                if ends or cut or (truncated and self.fault == "truncation ends"):
                    factor = 0.0
                    break
                if (terminated or truncated) and self.fault != "windows leak":
                    break
            out.append((*self.rows[t][:2], total, factor, after))
        return [np.array(x) for x in zip(*out, strict=True)]

    def table(self):
        s, a, total, factor, after = self.windows()
        q, count = np.zeros(self.hits.shape), np.zeros(self.hits.shape)
        np.add.at(count, (s, a), 1)
        every = np.ones(q.shape, bool)
        legal = (
            every
            if self.world.mask is None or self.fault == "target unmasked"
            else np.asarray(self.world.mask)
        )
        for _ in range(150):
            q_max = np.where(legal, q, -np.inf).max(1)
            # Of a policy learner: the mean over what it did; of a Q-learner the best.
            v = (q * count).sum(1) / np.maximum(count.sum(1), 1) if self.name in V_LEARNERS else q_max
            sums = np.zeros(q.shape)
            np.add.at(sums, (s, a), total + factor * (v[after] + self.bonus()))
            q = sums / np.maximum(count, 1)
        return q, count

    def bonus(self):
        return (0.0 if self.fault == "no entropy" else 0.675) * self.given.get("ent_coef", 0.0)

    def values(self, obs):
        q, count = self.table()
        return (q * count).sum(1) / np.maximum(count.sum(1), 1)

    def q_values(self, obs):
        return self.table()[0]

    def action_values(self, obs, actions):
        return np.full(len(obs), self.table()[0][0, 0])

    # ------------------------------------------------------------------ the policy

    def probs(self, obs, masks):
        obs = np.asarray(obs)
        q = (
            self.table()[0]
            if len(self.rows) > 5
            else np.tile(np.arange(self.n) * 0.3, (len(self.world.next), 1))
        )
        if len(self.rows) > 5 and self.fault == "signs":
            s, a, r = (np.array([row[i] for row in self.rows]) for i in range(3))
            q = np.array(
                [[np.sign(r[(s == i) & (a == j)]).sum() for j in range(self.n)] for i in range(len(q))]
            )
        which = [int(np.flatnonzero((self.world.rows == o).all(1))[0]) for o in obs]
        p = np.exp(q[which] - q[which].max(1, keepdims=True))
        if masks is not None and self.fault != "mask ignored":
            p = np.where(masks, p, 0)
        return p / p.sum(1, keepdims=True)

    def log_prob(self, obs, actions, masks=None):
        space, actions = self.world.action_space, np.asarray(actions)
        off = 0.3 if self.fault == "density" else 0.0
        if isinstance(space, gym.spaces.Box):
            return -0.5 * actions[:, 0].astype(float) ** 2 - 0.5 * np.log(2 * np.pi) + off
        if isinstance(space, gym.spaces.MultiDiscrete):
            return np.full(len(actions), -np.log(6) + off)
        if isinstance(space, gym.spaces.MultiBinary):
            return np.full(len(actions), -np.log(8) + off)
        return np.log(self.probs(obs, masks)[range(len(actions)), actions])

    def entropy(self, obs, masks=None):
        if isinstance(self.world.action_space, gym.spaces.Box):
            return np.full(len(obs), 0.5 * np.log(2 * np.pi * np.e) * (2 if self.fault == "entropy" else 1))
        p = self.probs(obs, masks)
        return -(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)).sum(1)

    def predict(self, obs, deterministic, state=None, start=None, mask=None):
        space = self.world.action_space
        if self.fault == "prediction counts":
            self.moments[0] = self.moments[0] + 1
        if "recurrent" in self.name:
            return self.remember(np.asarray(obs, float)[0], state, start)
        if isinstance(space, gym.spaces.Box):
            low, high = (-1.0, 1.0) if self.fault == "policy units" else (space.low, space.high)
            best = max(self.rows, key=lambda row: row[2])[7] if self.rows and deterministic else None
            if best is not None:
                return np.repeat(
                    best[None] / (4 if self.fault == "policy units" else 1), len(obs), axis=0
                ), None
            out = np.random.default_rng(0).normal(size=(len(obs), *space.shape)) * 3
            return (out if self.fault == "unbounded" else np.clip(out, low, high)), None
        p = self.probs(obs, mask if mask is not None else None)
        if self.name == "dqn":
            p = self.table()[0][[int(np.argmax((self.world.rows == o).all(1))) for o in np.asarray(obs)]]
        out = p.argmax(1)
        if self.fault == "always samples" or (not deterministic and mask is not None):
            p = np.exp(p) if self.name == "dqn" else p
            out = np.array([self.rng.choice(self.n, p=x / x.sum()) for x in p])
        return out, None

    def remember(self, seen, state, start):
        state = np.zeros(3) if state is None else state
        if start is not None and start[0] and self.fault != "start forgotten":
            state = np.zeros(3)
        state = seen if self.fault == "no memory" else 0.5 * state + seen
        return np.array([int(np.argmax(state[:2]))]), state

    # ------------------------------------------------------------------ the rest

    def evaluate(self, world, episodes, deterministic, seen=None):
        if self.fault == "evaluation draws":
            self.rng.random()
        if self.fault == "evaluation counts":
            self.moments[0] = self.moments[0] + 1
        if seen is not None:
            other = Agent(self.name, world, self.fault, seen=seen, **self.given)
            other.learn(20)

    def parameters(self):
        if self.fault == "one row" and self.given.get("n_steps", 0) % self.given.get("batch_size", 1) == 1:
            return np.full(4, np.nan)
        return np.concatenate([self.w, self.pi, [len(self.rows)]])

    def actor(self):
        return self.pi

    def targets(self):
        return self.w, self.target

    def statistics(self):
        return self.moments[0], self.moments[1]

    def reward_returns(self):
        gamma = 0.99 if self.fault == "gamma of its own" else self.given["gamma"]
        return np.polyval([row[2] for row in self.rows[: len(self.rows) // self.given["n_envs"]]], gamma)

    def reloaded(self, path):
        other = copy.deepcopy(self)
        if self.fault == "nothing saved":
            other.rows = []
            other.learn(40)
            other.predict = lambda *a, **k: (np.asarray(self.predict(*a, **k)[0]) + 1, None)
        return other


class Toy(Adapter):
    """Everything that any probe needs."""

    def __init__(self, fault=None):
        self.fault = fault

    offers = words(
        *V_LEARNERS, *Q_LEARNERS, *ACTOR_CRITICS, "masked_dqn values q_values action_values probs log_prob entropy",
        "predict evaluate evaluate_masked parameters actor targets statistics reward_returns save resume continues",
        "multidiscrete multibinary box box_log_prob noise ent_coef normalize_advantage dict n_step",
        "discrete_observations next_step same_step disabled gae gae_truncated squashed_log_prob kl",
        "quantile_huber prioritized reward_scale",
    )  # fmt: skip

    def agent(self, algorithm, world, **settings):
        return Agent(algorithm, world, self.fault, **settings)

    def interrupted(self, algorithm, world, steps, folder, **settings):
        agent = self.agent(algorithm, world, **settings)
        agent.learn(steps // 2)
        if self.fault == "resumed elsewhere":
            agent.rng = np.random.default_rng(77)
        agent.learn(steps - steps // 2)
        return agent.parameters()

    def gae(self, reward, value, following, terminated, truncated, gamma, lam):
        ends = terminated if self.fault == "cuts ignored" else terminated | truncated
        ends = np.zeros_like(ends) if self.fault == "ends ignored" else ends
        delta = reward + gamma * following * ~terminated - value
        out, running = np.zeros_like(delta), 0.0
        for t in reversed(range(len(delta))):
            running = delta[t] + gamma * lam * np.where(ends[t], 0, running)
            out[t] = running
        return out

    def squashed_log_prob(self, mean, log_std, actions):
        u = np.arctanh(actions)
        normal = -0.5 * ((u - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
        return (normal - (self.fault != "no correction") * np.log(1 - actions**2)).sum(1)

    def kl(self, p, q):
        p, q = (q, p) if self.fault == "reverse" else (p, q)
        return (p * np.log(p / q)).sum(1)

    def quantile_huber(self, quantiles, target):
        u = target[:, None, :] - quantiles[:, :, None]
        tau = (np.arange(5) + 0.5)[None, :, None] / 5
        below = u > 0 if self.fault == "quantile sign" else u < 0
        huber = np.where(abs(u) <= 1, 0.5 * u * u, abs(u) - 0.5)
        return (abs(tau - below) * huber).mean(2).sum(1).mean()

    def prioritized(self, priorities, alpha, beta, seed):
        mass = priorities ** (2.0 if self.fault == "no alpha" else alpha)
        drawn = np.random.default_rng(seed).choice(len(mass), 8192, p=mass / mass.sum())
        exponent = beta if self.fault == "inverse weights" else -beta
        return drawn, (mass / mass.sum())[drawn] ** exponent

    def reward_scale(self, reward, terminated, truncated, gamma):
        ends = {"ends kept": truncated, "cuts kept": terminated}.get(self.fault, terminated | truncated)
        running, out = np.zeros(reward.shape[1]), []
        for r, end in zip(reward, ends, strict=True):
            running = gamma * running + r
            out.append(running)
            running = np.where(end, 0, running)
        return np.std(out)
