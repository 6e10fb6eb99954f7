"""Normalised observations and rewards: SB3's script with VecNormalize, moved by its imports."""

import os

from actrix import PPO, VecNormalize, evaluate_policy, make_vec_env

STEPS = int(os.environ.get("EXAMPLE_STEPS", 100_000))

env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=4), norm_obs=True, norm_reward=True, clip_obs=10.0)
model = PPO("MlpPolicy", env, n_steps=256, gamma=0.9)
model.learn(total_timesteps=STEPS)

# The statistics are in the model file, too: the second file is for scripts that expect it. It holds arrays, no pickle.
model.save("ppo_pendulum")
env.save("vec_normalize.npz")

env = VecNormalize.load("vec_normalize.npz", make_vec_env("Pendulum-v1"))
env.training = False
env.norm_reward = False
model = PPO.load("ppo_pendulum", env=env)

# Evaluation uses them without moving them, and reports the rewards of the environment.
mean_reward, std_reward = evaluate_policy(model, env, n_eval_episodes=5)
print(f"mean reward {mean_reward:.1f} ± {std_reward:.1f}")

# The same without a wrapper: PPO("MlpPolicy", "Pendulum-v1", normalize=True, clip_obs=10.0)
