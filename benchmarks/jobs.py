"""What `returns.py` trains: algorithms on environments, with the figure to reach."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Job:
    """One line of the table: an algorithm on an environment, with the figure to reach."""

    env_id: str
    steps: int
    bar: float | None
    algorithm: str | None = None
    critic: str | None = None
    actor: str | None = None
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Not the seeds that settings were tuned with (0–3)."""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    n_envs: int | None = None
    policy: str | None = None
    episodes: int = 100
    hide_velocities: bool = False
    """CartPole's positions only: solved with memory alone."""
    label: str = ""
    """Tells apart jobs of one algorithm with other settings."""
    zoo: int = 1
    """Which version of the tuned settings."""
    dataset: str = ""
    """Offline: the name of a data set of datasets.py; `steps` counts updates."""

    @property
    def name(self) -> str:
        what = self.algorithm or f"{self.critic}+{self.actor}"
        return f"{what}-{self.env_id}" + ("-positions-lstm" if self.hide_velocities else "") + self.label

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return self.name.replace(":", "_").replace("+", "-").replace("/", "-")


PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "double": (dict(double=True), dict(double=False)),
    "dueling": (dict(dueling=True), dict(dueling=False)),
    "per": (dict(prioritized=True), dict(prioritized=False)),
    "n-step": (dict(n_steps=3), dict(n_steps=1)),
    "c51": (dict(distributional="c51"), dict(distributional=None)),
    "noisy": (dict(noisy=True), dict(noisy=False, exploration_fraction=0.2, exploration_final_eps=0.02)),
}
"""Each part of Rainbow: the settings that switch it on and off."""


def rainbow_parts() -> list[Job]:
    """Each part of Rainbow alone on top of DQN, and Rainbow without it; all else as in Rainbow's CartPole settings."""

    def job(on: set[str], label: str) -> Job:
        settings: dict[str, Any] = {}
        for name, (yes, no) in PARTS.items():
            settings |= yes if name in on else no
        return Job("CartPole-v1", 20_000, None, "rainbow", settings=settings, label="-parts" + label)

    every = set(PARTS)
    jobs = [job(set(), "=none"), job(every, "=all")]
    for name in PARTS:
        jobs += [job({name}, f"+{name}"), job(every - {name}, f"-no-{name}")]
    return jobs


def composition(critic: str, actor: str, **settings: Any) -> Job:
    """A free composition on CartPole-v1."""
    return Job("CartPole-v1", 500_000, 475, critic=critic, actor=actor, settings=settings)


def table() -> list[Job]:
    """The tables of MuJoCo and MinAtar: settings of the zoo, their steps in the name."""
    mujoco = [(name, env) for name in ("ppo", "trpo") for env in ("HalfCheetah", "Hopper", "Walker2d")]
    replayed = [(name, env) for name in ("sac", "td3", "crossq") for env in ("HalfCheetah", "Hopper")]
    bars = {("ppo", "HalfCheetah"): 5700, ("trpo", "Hopper"): 2400}
    games = ("Breakout", "Asterix", "Freeway", "SpaceInvaders")
    minatar = [(name, game) for name in ("ppo", "pqn", "dqn", "rainbow") for game in games]
    return [
        *(Job(f"{game}-MinAtar", 1_000_000, None, name, label="-1M") for name, game in minatar),
        *(
            Job(f"{env}-v5", 1_000_000, bars.get((name, env)), name, episodes=20, label="-1M")
            for name, env in mujoco
        ),
        Job("Ant-v5", 1_000_000, None, "ppo", episodes=20, label="-1M"),
        *(
            Job(f"{env}-v5", 100_000, None, name, seeds=(10, 11, 12), episodes=20, label="-100k")
            for name, env in replayed
        ),
        *(Job("LunarLanderContinuous-v3", 100_000, None, name, label="-100k") for name in ("sac", "td3")),
    ]


JOBS = [
    Job("CartPole-v1", 100_000, 495, "ppo"),
    Job("Acrobot-v1", 1_000_000, -78, "ppo"),
    Job("MountainCar-v0", 1_000_000, -110, "ppo"),
    Job("Pendulum-v1", 100_000, -175, "ppo"),
    Job("LunarLander-v3", 1_000_000, 255, "ppo"),
    Job("CartPole-v1", 500_000, 475, "a2c"),
    Job("CartPole-v1", 500_000, 475, "reinforce"),
    Job("CartPole-v1", 500_000, 475, "vpg"),
    Job("CartPole-v1", 500_000, 475, "qac"),
    Job("CartPole-v1", 500_000, 475, "tdac"),
    Job("CartPole-v1", 500_000, 475, "ppo-kl"),
    Job("CartPole-v1", 100_000, 475, "trpo"),
    Job("Acrobot-v1", 100_000, -86, "trpo"),
    Job("CartPole-v1", 500_000, 475, "npg"),
    Job("CartPole-v1", 500_000, 475, "acktr"),
    Job(
        "CartPole-v1",
        500_000,
        450,
        "ppo",
        hide_velocities=True,
        n_envs=8,
        settings=dict(
            n_steps=128,
            batch_size=128,
            n_epochs=10,
            learning_rate="lin_1e-3",
            gae_lambda=0.8,
            gamma=0.98,
            sequence_length=16,
            policy_kwargs={"cell": "lstm", "hidden_size": 64, "net_arch": [64]},
        ),
    ),
    Job("CartPoleNoVelocity-v0", 500_000, 450, "ppo"),
    Job("CartPoleNoVelocity-v0", 1_000_000, 450, "ppo", label="-1M"),
    Job("CartPoleNoVelocity-v0", 500_000, 450, "ppo", zoo=2, label="-2"),
    composition("td-lambda:0.9", "ppo-clip:0.2"),
    composition("n-step:16", "ppo-clip:0.2"),
    composition("td", "ppo-clip:0.2"),
    composition("mc", "ppo-clip:0.2"),
    composition("gae:0.95", "ppo-kl:0.01"),
    composition("q-td-lambda:0.9", "ppo-clip:0.2"),
    composition("td-lambda:0.9", "score"),
    composition("n-step:5", "score"),
    composition("gae:0.95", "score"),
    composition("mc", "score"),
    composition("none", "score:moving-average"),
    composition("none", "score:optimal"),
    composition("q-n-step:5", "score:advantage"),
    Job("CartPole-v1", 50_000, 475, "dqn"),
    Job("Acrobot-v1", 100_000, -82, "dqn"),
    Job("LunarLander-v3", 100_000, 150, "dqn"),
    Job("MountainCar-v0", 120_000, -105, "dqn"),
    Job("Pendulum-v1", 20_000, -160, "sac"),
    Job("Pendulum-v1", 20_000, -160, "td3"),
    Job("Pendulum-v1", 20_000, -160, "ddpg"),
    Job("CartPole-v1", 50_000, 475, "discrete-sac"),
    Job("CartPole-v1", 50_000, 475, "soft-q"),
    Job("CartPole-v1", 500_000, 475, "pqn"),
    Job("CartPole-v1", 500_000, 475, "off-pac"),
    Job("CartPole-v1", 500_000, 475, "v-trace"),
    Job("CartPole-v1", 500_000, 475, "acer"),
    Job("CartPole-v1", 500_000, 475, "pgql"),
    Job("LunarLanderContinuous-v3", 500_000, 250, "sac", seeds=(10,)),
    Job("LunarLanderContinuous-v3", 300_000, 210, "td3", seeds=(10,)),
    Job("HalfCheetah-v5", 300_000, None, "sac", seeds=(10,), episodes=20),
    *(
        Job("Pendulum-v1", 20_000, None, name, dataset="pendulum-mixed", label="-mixed")
        for name in ("bc", "iql", "cql", "td3-bc")
    ),
    # Without exploration gymnax's Breakout has two games, by the side the ball starts on: compare `train_per_seed`, at
    # the same ε in both.
    Job("Breakout-MinAtar", 500_000, None, "dqn", settings=dict(exploration_final_eps=0.01)),
    Job("Breakout-MinAtar", 500_000, None, "rainbow"),
    *rainbow_parts(),
    Job("Breakout-MinAtar", 2_000_000, 10, "ppo", seeds=(10,)),
    *table(),
]

PEERS = ("ppo-CartPole-v1", "ppo-Acrobot-v1", "ppo-LunarLander-v3", "ppo-Hopper-v5-1M", "sac-Pendulum-v1")
"""The jobs that Stable-Baselines3 is trained for too, by the same settings and protocol."""
