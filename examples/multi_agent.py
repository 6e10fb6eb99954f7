"""Several agents that share one policy: a small game in PettingZoo's parallel API, which needs no further package."""

import os

import numpy as np
from gymnasium import spaces

from actrix import PPO, AgentEnvs

STEPS = int(os.environ.get("EXAMPLE_STEPS", 60_000))


class Rendezvous:
    """Three agents on a line of nine cells are to meet: each pays its distance from the middle of all."""

    def __init__(self):
        self.possible_agents, self.agents = ["red", "green", "blue"], []
        self.rng = np.random.default_rng()

    def observation_space(self, agent):
        return spaces.Box(0, 1, (2,), np.float32)  # where am I, where is the middle

    def action_space(self, agent):
        return spaces.Discrete(3)  # left, stay, right

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents, self.steps = list(self.possible_agents), 0
        self.at = dict(zip(self.agents, self.rng.integers(9, size=3), strict=True))
        return self.observations(), {}

    def step(self, actions):
        self.steps += 1
        for agent, action in actions.items():
            self.at[agent] = min(max(self.at[agent] + action - 1, 0), 8)
        middle, over = np.mean(list(self.at.values())), self.steps == 20
        rewards = {agent: -abs(self.at[agent] - middle) / 8 for agent in self.agents}
        nobody, all_of_them = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, over)
        observations = self.observations()
        if over:
            self.agents = []  # who is truncated leaves, as in PettingZoo
        return observations, rewards, nobody, all_of_them, {}

    def observations(self):
        middle = np.mean(list(self.at.values()))
        return {agent: np.array([self.at[agent], middle], np.float32) / 8 for agent in self.agents}

    def close(self):
        pass


games = AgentEnvs([Rendezvous() for _ in range(8)])  # 24 rows: one for each agent of each game
model = PPO("MlpPolicy", games, n_steps=64, learning_rate=1e-3, seed=0)
model.learn(total_timesteps=STEPS // 10)
print(f"the team's return at first: {np.mean([game.team for game in games.games]):.2f}")
model.learn(total_timesteps=STEPS)
print(f"and after {model.num_timesteps} steps of agents: {np.mean([game.team for game in games.games]):.2f}")
