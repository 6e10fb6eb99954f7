"""Small environments of several agents in PettingZoo's API, which needs no package."""

import numpy as np
from gymnasium import spaces


class Meeting:
    """Parallel. `a` is cut off after step 6; `b` leaves in step 2, is back after 4 and terminates in 6; `c` comes
    after 3 and is cut off in 5; `d` is never there."""

    max_cycles = 6

    def __init__(self, gain=1.0):
        self.possible_agents = ["a", "b", "c", "d"]
        self.gain, self.rng, self.agents, self.seed = gain, np.random.default_rng(0), [], None

    def observation_space(self, agent):
        return spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(3, start=1)

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng, self.seed = np.random.default_rng(seed), seed
        self.t, self.agents, self.draw = 0, ["a", "b"], self.rng.random()
        return self._obs(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        assert all(1 <= a <= 3 for a in actions.values())
        self.t += 1
        acted = list(self.agents)
        terminated = {agent: agent == "b" and self.t in (2, 6) for agent in acted}
        truncated = {agent: (agent, self.t) in (("c", 5), ("a", 6)) for agent in acted}
        rewards = {agent: self.gain * (int(actions[agent]) + 0.1 * self.t) for agent in acted}
        self.agents = [agent for agent in acted if not (terminated[agent] or truncated[agent])]
        self.agents += {3: ["c"], 4: ["b"]}.get(self.t, [])
        return self._obs(set(acted) | set(self.agents)), rewards, terminated, truncated, {}

    def _obs(self, agents):
        return {agent: np.array(["abcd".index(agent), self.t, self.draw], np.float32) for agent in agents}

    def render(self):
        return np.full((40, 60, 3), 40 * self.t, np.uint8)

    def close(self):
        pass


class Nim:
    """In turns: two players take 1 or 2 of 5 sticks, who takes the last wins 1, the other loses 1; a mask forbids to
    take 2 of 1. Each turn costs its player 0.1."""

    def __init__(self, render_mode=None):
        self.possible_agents, self.metadata = ["first", "second"], {"render_fps": 2}
        self.render_mode, self.agents = render_mode, []

    def observation_space(self, agent):
        return spaces.Dict(
            {"observation": spaces.Box(0, 5, (2,), np.float32), "action_mask": spaces.MultiBinary(2)}
        )

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents, self.sticks, self.agent_selection = list(self.possible_agents), 5, "first"
        self.terminations, self.truncations = (
            dict.fromkeys(self.agents, False),
            dict.fromkeys(self.agents, False),
        )
        self.rewards, self._cumulative_rewards = (
            dict.fromkeys(self.agents, 0.0),
            dict.fromkeys(self.agents, 0.0),
        )
        self.infos = {agent: {} for agent in self.agents}

    def observe(self, agent):
        mask = np.array([True, self.sticks > 1]) & (agent == self.agent_selection)
        return {"observation": np.array([self.sticks, agent == "first"], np.float32), "action_mask": mask}

    def last(self):
        agent = self.agent_selection
        return (
            self.observe(agent), self._cumulative_rewards[agent], self.terminations[agent], self.truncations[agent],
            self.infos[agent],
        )  # fmt: skip

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent]:
            assert action is None
            self.agents.remove(agent)
            for of in (
                self.terminations,
                self.truncations,
                self.rewards,
                self._cumulative_rewards,
                self.infos,
            ):
                del of[agent]
            self.agent_selection = self.agents[0] if self.agents else agent
            return
        assert self.observe(agent)["action_mask"][action]
        other = "second" if agent == "first" else "first"
        self._cumulative_rewards[agent] = 0.0
        self.sticks -= int(action) + 1
        self.rewards = {agent: -0.1, other: 0.0}
        if self.sticks == 0:
            self.rewards = {agent: 0.9, other: -1.0}
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = other
        for who, reward in self.rewards.items():
            self._cumulative_rewards[who] += reward

    def render(self):
        return np.full((40, 60, 3), 40 * self.sticks, np.uint8)

    def close(self):
        pass


class Relay:
    """Parallel, two roles of other spaces. `sender_0` sees a symbol 0, 1 or 2 and says one: 1 where it is right, for 6
    steps. `receiver_0` and `receiver_1` see what was said the step before and pay the squared distance of their number
    from it less 1; they stay for 8 steps, but the second is away in steps 3 and 4. The best returns are 6 and 0."""

    def __init__(self, render_mode=None):
        self.metadata = {"render_fps": 4}
        self.possible_agents = ["sender_0", "receiver_0", "receiver_1"]
        self.agents, self.rng, self.render_mode = [], np.random.default_rng(0), render_mode

    def observation_space(self, agent):
        return spaces.Discrete(3) if agent == "sender_0" else spaces.Box(0, 1, (3,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(3) if agent == "sender_0" else spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        self.rng = self.rng if seed is None else np.random.default_rng(seed)
        self.t, self.agents = 0, list(self.possible_agents)
        self.symbol, self.said = int(self.rng.integers(3)), 1
        return self._obs(self.agents), {}

    def _obs(self, agents):
        heard = np.eye(3, dtype=np.float32)[self.said]
        return {agent: self.symbol if agent == "sender_0" else heard.copy() for agent in agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.t += 1
        earned = {
            agent: float(action == self.symbol)
            if agent == "sender_0"
            else -((float(action[0]) - (self.said - 1)) ** 2)
            for agent, action in actions.items()
        }
        self.said = int(actions.get("sender_0", 1))
        self.symbol = int(self.rng.integers(3))
        leaving = {6: ["sender_0"], 2: ["receiver_1"], 8: ["receiver_0", "receiver_1"]}.get(self.t, [])
        acted = list(self.agents)
        self.agents = [agent for agent in acted if agent not in leaving] + ["receiver_1"] * (self.t == 4)
        gone = {agent: agent in leaving for agent in acted}
        return self._obs({*acted, *self.agents}), earned, gone, dict.fromkeys(acted, False), {}

    def render(self):
        return np.full((40, 60, 3), 30 * self.t, np.uint8)

    def close(self):
        pass
