"""Basic usage: training, saving, loading, evaluating, acting."""

import os

import gymnasium as gym

from actrix import PPO, evaluate_policy

STEPS = int(os.environ.get("EXAMPLE_STEPS", 200_000))

model = PPO("MlpPolicy", "LunarLander-v3", n_envs=8, n_steps=128, batch_size=64, gamma=0.999, verbose=1)
model.learn(total_timesteps=STEPS, progress_bar=True)
model.save("ppo_lunar")
del model

# `load` is a class method that returns a new model. Give it an environment to go on training.
env = gym.make("LunarLander-v3")
model = PPO.load("ppo_lunar", env=env)

mean_reward, std_reward = evaluate_policy(model, model.get_env(), n_eval_episodes=5)
print(f"mean reward {mean_reward:.1f} ± {std_reward:.1f}")

# Gymnasium's own loop; `predict` takes one observation or a batch.
obs, info = env.reset(seed=0)
for _ in range(200):
    action, _states = model.predict(obs, deterministic=True)
    obs, reward, terminated, truncated, info = env.step(action)
    if terminated or truncated:
        obs, info = env.reset()
