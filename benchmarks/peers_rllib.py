"""RLlib's side of `scale.py --only rllib`, in an environment of its own: one line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault(
    "RAY_worker_niceness", "0"
)  # as on our side: of 15 by default, anybody else's work comes first


def ppo(updates: int, rows: int, seed: int, batch_size: int, n_epochs: int, learning_rate: float, gamma: float,
        gae_lambda: float, ent_coef: float) -> dict[str, Any]:  # fmt: skip
    """PPO on LunarLander, two runners of eight environments each; the first two updates are not counted."""
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    # Else it would join whatever Ray runs on this machine already.
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    network = DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=False)
    config = (
        PPOConfig()
        .environment("LunarLander-v3")
        .env_runners(num_env_runners=2, num_envs_per_env_runner=8, rollout_fragment_length=rows // 16)
        .training(
            train_batch_size_per_learner=rows, minibatch_size=batch_size, num_epochs=n_epochs, lr=learning_rate,
            gamma=gamma, lambda_=gae_lambda, entropy_coeff=ent_coef, clip_param=0.2, vf_clip_param=1e9,
            use_kl_loss=False, vf_loss_coeff=0.5, grad_clip=0.5,
        )
        .rl_module(model_config=network)
        .learners(num_learners=0)
        .debugging(seed=seed)
    )  # fmt: skip
    algorithm = config.build_algo()
    steps = lambda found: found["env_runners"]["num_env_steps_sampled_lifetime"]
    begun, before = 0.0, 0
    for update in range(updates):
        found = algorithm.train()
        if update == 1:
            begun, before = time.perf_counter(), steps(found)
    fps = (steps(found) - before) / (time.perf_counter() - begun)
    mean = found["env_runners"].get("episode_return_mean")
    algorithm.stop()
    ray.shutdown()
    return {"fps": fps, "return": mean, "steps": steps(found), "versions": versions()}


def versions() -> dict[str, str]:
    """Of what ran."""
    import importlib.metadata as metadata

    return {name: metadata.version(name) for name in ("ray", "torch", "gymnasium", "numpy")}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(ppo(**json.loads(sys.argv[1]))))
