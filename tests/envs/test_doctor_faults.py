"""Environments that break in odd places: each is a finding in plain words, and none hangs the doctor."""

import re
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import VectorEnv

from actrix.cli import main
from actrix.doctor import examine as doctor
from actrix.doctor import play

pytestmark = pytest.mark.timeout(120)


class Sound(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.count += 1
        observation = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return (
            observation,
            float(self.count % 3),
            self.count >= 7 and bool(self.np_random.random() < 0.3),
            False,
            {},
        )


class CloseRaises(Sound):
    def close(self):
        raise RuntimeError("no such port")


class NoSpace(gym.Env):
    action_space = gym.spaces.Discrete(2)


class Once(Sound):
    made = 0

    def __init__(self):
        type(self).made += 1
        if self.made > 1:
            raise RuntimeError("the port is in use")


class ResetRaises(Sound):
    observation_space = gym.spaces.Text(5)

    def reset(self, *, seed=None, options=None):
        raise RuntimeError("no scene")


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no str")


class MuteStep(Sound):
    def step(self, action):
        raise Mute


class Exits(Sound):
    def step(self, action):
        raise SystemExit(3)


class Whenever(VectorEnv):
    metadata = {"autoreset_mode": "whenever"}  # noqa: RUF012
    num_envs = 2
    single_observation_space = Sound.observation_space
    single_action_space = Sound.action_space
    observation_space = gym.vector.utils.batch_space(Sound.observation_space, 2)
    action_space = gym.vector.utils.batch_space(Sound.action_space, 2)

    def close(self, **kwargs):
        raise RuntimeError("no such port")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (CloseRaises, "no such port"),
        (NoSpace, "observation_space"),
        (Once, "the port is in use"),
        (ResetRaises, "no scene|supported"),
        (MuteStep, "Mute"),
        (Exits, "SystemExit"),
        (Whenever, "autoreset_mode 'whenever'.*SAME_STEP"),
    ],
)
def test_what_breaks_is_a_finding(make, said):
    found = doctor.examine(make)
    wrong = [f"{f.check}: {f.result} {f.remedy}" for f in found if f.level == "fix"]
    assert any(re.search(said, text) for text in wrong), wrong
    doctor.uses(make, lambda spec: [])  # nor does this raise


def test_the_sound_one_has_nothing_to_fix():
    assert not [f for f in doctor.examine(Sound) if f.level == "fix"]


class Round(Sound):
    """Every third observation is the first one, also the last."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._at(), {}

    def _at(self):
        return np.full(self.observation_space.shape, 0.1 * (self.t % 3), self.observation_space.dtype)

    def step(self, action):
        self.t += 1
        return self._at(), 1.0, self.t == 9, False, {}


def test_an_observation_that_comes_again_is_no_reset():
    assert not [f for f in doctor.examine(Round) if f.check == "resets" and f.level == "fix"]


class Hangs(Sound):
    def step(self, action):
        while time.monotonic() < HANG_UNTIL:  # else the thread would live as long as the tests
            time.sleep(0.01)
        return super().step(action)


HANG_UNTIL = 0.0


def test_a_call_that_does_not_return_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "LIMIT", 1.0)
    monkeypatch.setitem(globals(), "HANG_UNTIL", time.monotonic() + 8)
    begun = time.monotonic()
    (found,) = [f for f in doctor.examine(lambda: gym.wrappers.TimeLimit(Hangs(), 10)) if f.level == "fix"]
    assert time.monotonic() - begun < 6
    assert "not done after 1 seconds: it was in step of Hangs (test_doctor_faults.py" in found.result


def test_slow_environments_take_no_longer_than_said(monkeypatch):
    """All checks share the time, however long a step takes."""
    monkeypatch.setattr(play, "SECONDS", 1.0)
    steps = 0

    class Slow(Sound):
        def step(self, action):
            nonlocal steps
            steps += 1
            time.sleep(0.02)
            return super().step(action)

    begun = time.monotonic()
    doctor.examine(Slow)
    assert steps < 200, "1000 and more, each check with its own count"
    assert time.monotonic() - begun < 15


def test_mistakes_in_what_was_typed(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_module_of_a_user.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["doctor", "broken_module_of_a_user:Env"]) == 2
    said = capsys.readouterr().err
    assert "cannot be imported for Env: SyntaxError" in said
    assert "Traceback" not in said
    assert main(["doctor", "CartPole-v1", "--seed", "-1"]) == 2
    assert "--seed -1 must be at least 0" in capsys.readouterr().err
