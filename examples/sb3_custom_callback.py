"""A callback of one's own: it logs a value and shows progress."""

import os

from actrix import PPO, BaseCallback, make_vec_env

STEPS = int(os.environ.get("EXAMPLE_STEPS", 50_000))


class Progress(BaseCallback):
    """Prints a line at every tenth of the budget, and logs the mean reward of each step."""

    def __init__(self, total: int, verbose: int = 0):
        super().__init__(verbose)
        self.total, self.shown = total, 0

    def _on_training_start(self) -> None:
        print(f"training for {self.total} steps")

    def _on_step(self) -> bool:
        # `self.locals` has new_obs, rewards and dones of the step (host environments only).
        self.logger.record("custom/mean_step_reward", float(self.locals["rewards"].mean()))
        tenth = 10 * self.num_timesteps // self.total
        if tenth > self.shown:
            self.shown = tenth
            print(f"{10 * min(tenth, 10)}%")
        return True  # False would stop training


env = make_vec_env("CartPole-v1", n_envs=4)
model = PPO("MlpPolicy", env, n_steps=64, batch_size=64)
model.learn(total_timesteps=STEPS, callback=Progress(STEPS))
