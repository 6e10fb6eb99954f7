"""The fixed data sets of the offline comparison, made by our own agents; built once, then reused.

    python benchmarks/datasets.py pendulum-mixed

`pendulum-mixed`: half from SAC after 3,200 steps of training ('medium', its actions sampled), half from uniformly
random actions, 10,000 transitions each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym

from actrix import SAC
from actrix.core.types import Spec
from actrix.data.datasets.dataset import Episode
from actrix.data.datasets.play import record_episodes
from actrix.data.datasets.write import write_dataset

FOLDER = Path(__file__).parent.parent / "runs" / "datasets"
ENV, MEDIUM_STEPS, HALF = "Pendulum-v1", 3_200, 10_000


def build(name: str) -> Path:
    """The folder of a data set, made where it does not exist yet."""
    if name != "pendulum-mixed":
        raise ValueError(f"no data set named {name!r}: pendulum-mixed.")
    path = FOLDER / name
    if path.exists():
        return path
    model = SAC("MlpPolicy", ENV, seed=0, learning_rate=1e-3, learning_starts=1_000)
    model.learn(MEDIUM_STEPS)
    env = gym.make(ENV)
    env.action_space.seed(0)
    returns: dict[str, list[float]] = {"medium": [], "random": []}

    def medium(obs: Any, state: Any, start: Any) -> Any:
        return model.predict(obs, state, start, deterministic=False)

    def uniform(obs: Any, state: Any, start: Any) -> Any:
        return env.action_space.sample(), None

    def episodes() -> Iterator[Episode]:
        for number, (who, policy) in enumerate({"medium": medium, "random": uniform}.items()):
            for episode in record_episodes(policy, env, steps=HALF, seed=number):
                returns[who].append(float(episode.reward.sum()))
                yield episode

    write_dataset(
        path,
        episodes(),
        Spec(env.observation_space, env.action_space),
        env_id=ENV,
        algorithm_name="sac (medium) and random",
    )
    for who, each in returns.items():
        print(f"{who}: {len(each)} episodes, mean return {sum(each) / len(each):.1f}")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", default="pendulum-mixed", choices=["pendulum-mixed"])
    print(build(parser.parse_args().name))
