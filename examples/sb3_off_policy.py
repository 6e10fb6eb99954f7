"""Replayed data: DQN for discrete actions, TD3 with action noise for continuous ones."""

import os

import gymnasium as gym
import numpy as np

from actrix import DQN, TD3, NormalActionNoise, evaluate_policy

STEPS = int(os.environ.get("EXAMPLE_STEPS", 10_000))

model = DQN("MlpPolicy", "CartPole-v1", verbose=1)
model.learn(total_timesteps=STEPS, log_interval=4)
model.save("dqn_cartpole")
del model

# `load` is a class method that returns a new model. A model file holds no transitions: trained on, it fills its
# memory anew. `actrix resume` goes on with the memory.
env = gym.make("CartPole-v1")
model = DQN.load("dqn_cartpole", env=env)
obs, info = env.reset(seed=0)
for _ in range(100):
    action, _states = model.predict(obs, deterministic=True)
    obs, reward, terminated, truncated, info = env.step(action)
    if terminated or truncated:
        obs, info = env.reset()

# The noise is in units of the action's range: [-1, 1] spans its bounds, as in SB3.
env = gym.make("Pendulum-v1")
n_actions = env.action_space.shape[-1]
action_noise = NormalActionNoise(mean=np.zeros(n_actions), sigma=0.1 * np.ones(n_actions))
model = TD3("MlpPolicy", env, action_noise=action_noise, verbose=1)
model.learn(total_timesteps=STEPS, log_interval=10)
mean_reward, std_reward = evaluate_policy(model, gym.make("Pendulum-v1"), n_eval_episodes=5)
print(f"mean reward {mean_reward:.1f} ± {std_reward:.1f}")
