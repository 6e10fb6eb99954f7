"""Evaluation during training, stopping at a threshold, checkpoints."""

import os

import gymnasium as gym

from actrix import (
    PPO,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnRewardThreshold,
    make_vec_env,
)

STEPS = int(os.environ.get("EXAMPLE_STEPS", 100_000))

checkpoints = CheckpointCallback(save_freq=500, save_path="./logs/", name_prefix="rl_model")

# An environment of its own for evaluation, as in SB3. It needs no Monitor.
stop = StopTrainingOnRewardThreshold(reward_threshold=450, verbose=1)
evaluation = EvalCallback(
    gym.make("CartPole-v1"),
    callback_on_new_best=stop,
    best_model_save_path="./logs/best_model",
    log_path="./logs/results",
    eval_freq=500,  # calls of the vector environment: every 4,000 steps here
    n_eval_episodes=5,
)

env = make_vec_env("CartPole-v1", n_envs=8)
model = PPO("MlpPolicy", env, n_steps=64, batch_size=64)
model.learn(total_timesteps=STEPS, callback=CallbackList([checkpoints, evaluation]))
