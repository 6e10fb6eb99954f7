"""Normalised observations and rewards: SB3's VecNormalize is a setting here."""

import os

import gymnasium as gym

from actrix import PPO, evaluate_policy

STEPS = int(os.environ.get("EXAMPLE_STEPS", 100_000))

# SB3: vec_env = VecNormalize(vec_env, norm_obs=True, norm_reward=True, clip_obs=10.0)
model = PPO("MlpPolicy", "Pendulum-v1", n_envs=4, n_steps=256, gamma=0.9, normalize=True, clip_obs=10.0)
model.learn(total_timesteps=STEPS)

# The statistics are in the model file: there is no second file to keep beside it.
model.save("ppo_pendulum")
model = PPO.load("ppo_pendulum")

# Evaluation uses them without moving them, and reports the rewards of the environment.
mean_reward, std_reward = evaluate_policy(model, gym.make("Pendulum-v1"), n_eval_episodes=5)
print(f"mean reward {mean_reward:.1f} ± {std_reward:.1f}")
