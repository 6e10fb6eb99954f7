"""The migration page's list of log tags: each is written by a run of the kind that the page says."""

import re
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box
from worlds import MEMORY, SMALL, Counting

from actrix import A2C, DQN, PPO, SAC, EvalCallback, configure
from actrix.show.metrics import read_metrics

PAGE = Path(__file__).parents[2] / "docs" / "migrating-from-sb3.md"


class Told(Counting):
    """Each episode says whether it succeeded."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info | {"is_success": True}


class Pushed(Told):
    """The same with a continuous action."""

    action_space = Box(-1, 1, (1,), np.float32)


def tags(text):
    return set(re.findall("`([a-z]+/[a-z_]+)`", text))


@pytest.fixture(scope="module")
def page():
    """(on-policy, off-policy, absent) of the list."""
    text = PAGE.read_text("utf-8").split("## Log tags")[1].split("\n## ")[0]
    shared, rest = text.split("off-policy")
    replayed, rest = rest.split("A2C's losses")
    absent, means = rest.split("Absent:")[1].split(".", 1)
    return tags(shared + means), tags(replayed), tags(absent)


def written(folder, model):
    with configure(folder, ["csv"]) as logger:
        model.set_logger(logger)
        env = Pushed() if isinstance(model.action_space, Box) else Told()
        model.learn(64, EvalCallback(env, eval_freq=16, n_eval_episodes=1))
    known = read_metrics(folder)
    return {tag for tag, values in known.items() if np.isfinite(values).any()}


@pytest.mark.slow  # four programs; algorithms' tests and test_cli.py ask for the tags that they need
def test_every_tag_that_the_page_lists_is_written(page, tmp_path):
    on_policy, off_policy, absent = page
    assert len(on_policy) > 15
    ppo = written(tmp_path / "ppo", PPO("MlpPolicy", Pushed(), **SMALL))
    assert on_policy <= ppo
    small = {k: v for k, v in SMALL.items() if k not in ("batch_size", "n_epochs")}
    a2c = written(tmp_path / "a2c", A2C("MlpPolicy", Told(), **small))
    assert {tag for tag in a2c if tag.endswith("loss")} <= ppo
    replayed = [
        written(tmp_path / cls.__name__, cls("MlpPolicy", env, **MEMORY))
        for cls, env in ((DQN, Told()), (SAC, Pushed()))
    ]
    assert off_policy <= set.union(*replayed)
    assert absent
    assert not absent & set.union(ppo, a2c, *replayed)
