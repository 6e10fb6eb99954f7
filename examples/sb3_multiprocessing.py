"""One process per environment. It pays where a step of the environment takes long."""

import os

import gymnasium as gym

from actrix import PPO, make_vec_env

STEPS = int(os.environ.get("EXAMPLE_STEPS", 25_000))


def main():
    # SB3: make_vec_env(env_id, n_envs=num_cpu, seed=0, vec_env_cls=SubprocVecEnv)
    env = make_vec_env("CartPole-v1", n_envs=4, seed=0, vec_env_cls=gym.vector.AsyncVectorEnv)
    model = PPO("MlpPolicy", env, n_steps=64, verbose=1)
    model.learn(total_timesteps=STEPS)
    env.close()


if __name__ == "__main__":  # the processes import this file again
    main()
