"""An mp4 of the trained agent; it needs no display."""

import os

import gymnasium as gym

from actrix import PPO
from actrix.show.record import headless, record_video

STEPS = int(os.environ.get("EXAMPLE_STEPS", 50_000))

model = PPO("MlpPolicy", "CartPole-v1", n_envs=8, n_steps=64)
model.learn(total_timesteps=STEPS)


def predict(obs, state, episode_start):
    return model.predict(obs, state, episode_start, deterministic=True)


with headless():
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    recording = record_video(predict, env, "videos/cartpole.mp4", episodes=1, seed=0)
    env.close()
print(recording.path, recording.returns)
