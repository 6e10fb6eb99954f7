"""Vector environments as people make them, around one environment whose every number is known."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Known(gym.Env):
    """obs = (number drawn at reset, t), reward = t · (1 + action); ends after 1 to 4 steps, by either flag.

    With masks action (10 · number + t) mod 3 is illegal, and refused.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, masks="none"):
        self.by = masks
        if masks == "method":
            self.action_masks = self.legal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.cut = self.np_random.integers(1, 5), self.np_random.random() < 0.5
        self.x, self.t = self.np_random.random(), 0
        return self._obs(), self._info()

    def step(self, action):
        assert self.by == "none" or self.legal()[action], f"action {action} is illegal at {self._obs()}"
        self.t += 1
        done = self.t >= self.length
        flags = bool(done and not self.cut), bool(done and self.cut)
        return self._obs(), float(self.t * (1 + action)), *flags, self._info()

    def legal(self):
        return legal(self._obs())

    def _obs(self):
        return np.array([self.x, self.t], np.float32)

    def _info(self):
        if self.by == "odd":
            return {"action_masks": [[True], "of something else"]}
        return {KEY[self.by]: self.legal()} if self.by in KEY else {}


KEY = {"info": "action_mask", "infos": "action_masks"}


def legal(obs):
    """The mask of an observation of `Known`."""
    mask = np.ones(3, bool)
    mask[int(10 * obs[0] + obs[1]) % 3] = False
    return mask


def spread(seed, n):
    """Seeds of n copies from what an int-only, a list-taking or a seedless reset got."""
    return [0, 1, 2][:n] if seed is None else [seed + i for i in range(n)] if isinstance(seed, int) else seed


class Own(VectorEnv):
    """A user's own: N `Known`s in any autoreset mode, with seeds, masks, infos and types as asked for."""

    def __init__(self, mode, masks="none", seeds="list", declared=True, lists=False, infos="dict", n=3):
        self.num_envs, self.mode, self.by, self.seeds, self.lists, self.infos = (
            n,
            mode,
            masks,
            seeds,
            lists,
            infos,
        )
        self.metadata = {"autoreset_mode": mode} if declared else {}
        self.single_observation_space, self.single_action_space = Known.observation_space, Known.action_space
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        self.copies, self.ended = (
            [Known("none" if masks == "none" else "info") for _ in range(n)],
            np.zeros(n, bool),
        )
        if seeds == "none":
            self.reset = lambda *, options=None: self._reset(None, options)
        if masks == "method":
            self.action_masks = self._masks

    def reset(self, *, seed=None, options=None):
        if self.seeds == "int" and seed is not None:
            VectorEnv.reset(self, seed=seed)  # refuses a list
        return self._reset(seed, options)

    def _reset(self, seed, options):
        if options:
            rows, seeds = options["reset_mask"], [None] * self.num_envs
        else:
            rows, seeds = np.ones(self.num_envs, bool), spread(seed, self.num_envs)
        for i in np.flatnonzero(rows):
            self.copies[i].reset(seed=seeds[i])
        self.ended[:] = False
        return self._obs(), self._infos()

    def step(self, actions):
        n = self.num_envs
        reward, terminated, truncated, final = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool), [None] * n
        for i, copy in enumerate(self.copies):
            if self.ended[i] and self.mode is AutoresetMode.NEXT_STEP:
                copy.reset()
                continue
            _, reward[i], terminated[i], truncated[i], _ = copy.step(actions[i])
        self.ended = terminated | truncated
        infos = {}
        if self.mode is AutoresetMode.SAME_STEP and self.ended.any():
            final = [copy._obs() if end else None for copy, end in zip(self.copies, self.ended, strict=True)]
            infos["final_obs"] = final
            for i in np.flatnonzero(self.ended):
                self.copies[i].reset()
        values = self._obs(), reward, terminated, truncated, self._infos(infos)
        return (values[0], *(x.tolist() for x in values[1:4]), values[4]) if self.lists else values

    def _obs(self):
        return np.stack([copy._obs() for copy in self.copies])

    def _masks(self):
        return np.stack([copy.legal() for copy in self.copies])

    def _infos(self, infos=None):
        infos = infos or {}
        if self.by in KEY:
            infos[KEY[self.by]] = self._masks()
        if self.infos == "list":
            return [
                {key: value[i] for key, value in infos.items() if value[i] is not None}
                for i in range(self.num_envs)
            ]
        return infos or (None if self.infos == "None" else infos)


class AsAttribute(Own):
    """Its masks are an attribute, always those of now."""

    action_masks = property(Own._masks, lambda self, _: None)


class Copies:
    """A Stable-Baselines3 VecEnv, by its documented signatures (no import of it)."""

    def __init__(self, masks="none", n=3):
        self.num_envs, self.observation_space, self.action_space = (
            n,
            Known.observation_space,
            Known.action_space,
        )
        self.envs, self._seeds = [Known(masks) for _ in range(n)], [0, 1, 2]
        self.reset_infos = [{} for _ in range(n)]

    def seed(self, seed=None):
        self._seeds = [seed + i for i in range(self.num_envs)]
        return self._seeds

    def reset(self):
        pairs = [env.reset(seed=seed) for env, seed in zip(self.envs, self._seeds, strict=True)]
        self._seeds, self.reset_infos = [None] * self.num_envs, [info for _, info in pairs]
        return np.stack([obs for obs, _ in pairs])

    def step_async(self, actions):
        self._actions = actions

    def step_wait(self):
        obs, rewards, dones, infos = [], [], [], []
        for i, (env, action) in enumerate(zip(self.envs, self._actions, strict=True)):
            x, reward, terminated, truncated, info = env.step(action)
            info["TimeLimit.truncated"] = truncated and not terminated
            if terminated or truncated:
                info["terminal_observation"] = x
                x, self.reset_infos[i] = env.reset()
            obs.append(x), rewards.append(reward), dones.append(terminated or truncated), infos.append(info)
        return np.stack(obs), np.array(rewards, np.float32), np.array(dones), infos

    def step(self, actions):
        self.step_async(actions)
        return self.step_wait()

    def env_method(self, name, *args):
        return [env.get_wrapper_attr(name)(*args) for env in self.envs]

    def close(self):
        pass


class Markov(VectorEnv):
    """SuperSuit's vector environment of a parallel environment, by its documented signatures."""

    def __init__(self, masks="none", n=3):
        self.num_envs, self.observation_space, self.action_space = (
            n,
            Known.observation_space,
            Known.action_space,
        )
        self.inner, self.metadata = Copies(masks, n), {"name": "known_v0"}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.inner.seed(seed)
        obs = self.inner.reset()
        self.reset_infos = self.inner.reset_infos
        return obs, self.reset_infos

    def step(self, actions):
        obs, rewards, dones, infos = self.inner.step(actions)
        cut = np.array([info.pop("TimeLimit.truncated") for info in infos])
        return obs, rewards, (dones & ~cut).astype(np.uint8), (dones & cut).astype(np.uint8), infos

    def close(self):
        pass
