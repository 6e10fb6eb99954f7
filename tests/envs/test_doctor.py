"""The doctor: a broken environment of each kind gets its complaint, a clean one none."""

import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from actrix import cli
from actrix.doctor import examine as doctor


class Clean(gym.Env):
    """A walk of at most 20 steps that ends at ±3; `fault` breaks it in one way."""

    observation_space = spaces.Box(-5.0, 5.0, (2,), np.float32)
    action_space = spaces.Discrete(2)
    fault = ""

    def __init__(self, fault=None, **kwargs):
        self.fault = self.fault if fault is None else fault
        self.buffer, self.calls, self.max_steps = np.zeros(2, np.float32), 0, 20

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 1), 0
        return self._obs(), {}

    def step(self, action):
        self.t, self.calls = self.t + 1, self.calls + 1
        noise = np.random.default_rng().normal() if self.fault == "unseeded" else self.np_random.normal()
        self.x = float(np.clip(self.x + 0.3 * noise, -4, 4))
        over, late = abs(self.x) > 3 and self.fault not in ("no end", "timeless"), self.t >= self.max_steps
        reward = {"nan reward": np.nan, "huge": 1e6 * self.x, "zero": 0.0}.get(self.fault, -abs(self.x))
        terminated, truncated = over, late and not over
        if self.fault in ("limit", "timeless"):
            terminated, truncated = over or late, False
        elif self.fault == "both":
            truncated = terminated = over or late
        elif self.fault == "no end":
            terminated = truncated = False
        if self.fault == "resets" and (terminated or truncated):
            self.x = self.start
        obs = self._obs()
        return obs, reward, bool(terminated), bool(truncated), {}

    def _obs(self):
        if self.t == 0:
            self.start = self.x
        late = self.t / 20 if self.fault != "resets" else 0.0
        new = np.array([self.x, late], np.float32)
        if self.fault == "float64":
            return new.astype(np.float64)
        if self.fault == "bounds" and self.calls > 30:
            new[1] = 7
        if self.fault == "nan" and self.calls > 30:
            new[0] = np.nan
        if self.fault == "shape" and self.calls > 30:
            return new[None]
        if self.fault == "reused":
            self.buffer[:] = new
            return self.buffer
        return new


def examined(fault, cls=Clean):
    return doctor.examine(lambda: cls(fault))


def said(findings, level=None):
    return [f"{f.check}: {f.result} {f.remedy}" for f in findings if level in (None, f.level)]


def test_a_clean_environment_has_nothing_to_fix():
    findings = examined("")
    assert not said(findings, "fix")
    checks = {"Gymnasium's checker", "observation space", "action space", "data", "time limit", "reward scale", "seeds",
              "resuming", "resets", "speed"}  # fmt: skip
    assert {f.check for f in findings} == checks
    assert all(f.level == "fine" for f in findings), said(findings, "note")


@pytest.mark.parametrize(
    ("fault", "level", "message"),
    [
        (
            "limit",
            "fix",
            "time limit: .* after exactly 20 steps, all as terminated, and max_steps = 20.*truncated=True",
        ),
        ("no end", "note", r"time limit: no episode ended in \d+ random steps.*max_episode_steps"),
        ("both", "note", "flags: .*terminated and truncated are both true"),
        ("nan reward", "fix", "finite rewards: step 1: the reward is nan"),
        ("nan", "fix", r"finite observations: step \d+: observation holds nan"),
        (
            "bounds",
            "fix",
            r"bounds: .*observation is out of bounds. Expected: -5.0 <= obs\[1\] <= 5.0, actual value: 7.0.*widen",
        ),
        ("shape", "fix", r"data: environment 0 at step \d+.*Expected: \(2,\), actual shape: \(1, 2\)"),
        (
            "float64",
            "note",
            r"dtype: .*observation is converted. Expected: float32, actual dtype: float64.*np.float32",
        ),
        ("float64", "fix", "Gymnasium's checker: AssertionError"),
        ("reused", "note", r"reused arrays: step 1 changed the array .* obs\.copy\(\)"),
        ("reused", "fix", "Gymnasium's checker: .*share an object"),
        ("unseeded", "fix", r"seeds: .*same seed and actions differ at row 1 .*self\.np_random"),
        ("huge", "note", "reward scale: .*normalize_reward=True"),
        ("zero", "note", r"reward scale: every reward of \d+ random steps was 0"),
        ("resets", "fix", "resets: every episode ends with a first observation"),
    ],
)
def test_each_fault_gets_its_complaint(fault, level, message):
    found = said(examined(fault), level)
    assert any(re.search(message, text, re.S) for text in found), found


class Registered(Clean):
    fault = "timeless"


class Text(Clean):
    observation_space = spaces.Text(4)


class Unbounded(Clean):
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


class Inverted(Clean):
    action_space = spaces.Box(0.0, 0.0, (1,), np.float32)


class Equal(Clean):
    """Ten steps of reward 1, whatever is done."""

    def step(self, action):
        self.t += 1
        return self._obs(), 1.0, self.t == 10, False, {}


class Raises(Clean):
    def __init__(self, fault=None):
        raise OSError("no such level")


class Crashes(Clean):
    def step(self, action):
        raise ZeroDivisionError("division by zero")


class Nothing:
    """No environment."""

    def __init__(self, fault=None):
        self.x = 0


@pytest.mark.parametrize(
    ("cls", "level", "message"),
    [
        (Text, "fix", "observation space: .*is Text; supported are Box"),
        (Unbounded, "note", "action bounds: infinite"),
        (Inverted, "fix", "action space: .*low 0.0 >= high 0.0"),
        (Equal, "note", "time limit: .*after exactly 10 steps, all as terminated if that is a time limit"),
        (Equal, "note", "reward scale: .*every episode had the same length and reward"),
        (Raises, "fix", "construction: OSError: no such level"),
        (Crashes, "fix", "data: environment 0 at step 1.*ZeroDivisionError: division by zero"),
        (Nothing, "fix", "construction: it is a Nothing"),
    ],
)
def test_other_environments(cls, level, message):
    found = said(examined("", cls), level)
    assert any(re.search(message, text, re.S) for text in found), found


def test_a_registered_limit_is_compared():
    gym.register("DoctorLimit-v0", Registered, max_episode_steps=20)
    found = said(doctor.examine(lambda: gym.make("DoctorLimit-v0", disable_env_checker=True)), "note")
    assert any("terminated and truncated are both true" in text for text in found), found
    gym.register("DoctorFine-v0", Clean, max_episode_steps=50)
    assert not said(doctor.examine(lambda: gym.make("DoctorFine-v0", disable_env_checker=True)), "fix")


class OwnVector(VectorEnv):
    """Two walks that end after three steps and are reset in the same step, whatever the metadata says."""

    def __init__(self, mode=None, final=True):
        self.num_envs, self.t, self.final = 2, 0, final
        self.single_observation_space, self.single_action_space = (
            spaces.Box(0, 9, (1,), np.float32),
            spaces.Discrete(2),
        )
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, 2)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, 2)
        self.metadata = {} if mode is None else {"autoreset_mode": mode}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        done = np.full(2, self.t == 3)
        final = self._obs()
        self.t %= 3
        infos = {"final_obs": list(final)} if done.any() and self.final else {}
        return self._obs(), np.ones(2, np.float32), done, np.zeros(2, bool), infos

    def _obs(self):
        return np.full((2, 1), self.t, np.float32)


def test_the_autoreset_mode_of_a_vector_environment():
    assert not said(doctor.examine(lambda: OwnVector(AutoresetMode.SAME_STEP)), "fix")
    assert not said(doctor.examine(lambda: SyncVectorEnv([Clean] * 2)), "fix")
    (found,) = said(doctor.examine(lambda: OwnVector(AutoresetMode.SAME_STEP, final=False)), "fix")
    assert "infos has no 'final_obs'" in found
    (found,) = said(doctor.examine(lambda: OwnVector(AutoresetMode.NEXT_STEP)), "fix")
    assert "has a reward or ends again, unlike NEXT_STEP" in found
    assert any("taken as NEXT_STEP" in text for text in said(doctor.examine(OwnVector), "note"))


CODE = "from test_doctor import Clean\nclass Broken(Clean):\n    fault = 'unseeded'\n"


def test_the_command(capsys, tmp_path, monkeypatch):
    """Exit code 0 for a clean one, 1 where something must be fixed, 2 for a name that is none."""
    assert cli.main(["doctor", "CartPole-v1"]) == 0
    out = capsys.readouterr().out
    assert "nothing to fix" in out
    assert "the compiled loop" in out
    assert "ppo" in out
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "walks.py").write_text(CODE)
    assert cli.main(["doctor", "walks:Clean"]) == 0
    assert "gymnasium, the host loop" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["doctor", "walks:Broken"]) == cli.EXIT_FAILED
    assert "to fix: see 'fix' above" in capsys.readouterr().out
    for name in ("CartPol-v1", "no_such_module:Env"):
        assert cli.main(["doctor", name]) == cli.EXIT_USAGE
    assert cli.main(["doctor", "Catch-bsuite"]) == cli.EXIT_USAGE
    err = capsys.readouterr().err
    assert "Catch-bsuite is a JAX environment" in err
    assert "did you mean CartPole-v1" in err
    assert "no_such_module cannot be imported" in err


class Stateful(Clean):
    """`fault` breaks its state."""

    def get_state(self):
        held = {"x": self.x, "t": self.t, "steps": self.max_steps}
        return held | ({"f": object()} if self.fault == "object" else {})

    def set_state(self, saved):
        self.x, self.t, self.max_steps = saved["x"], saved["t"], saved["steps"]
        if self.fault == "forgets":
            self.x = 0.0


@pytest.mark.parametrize(
    ("fault", "level", "says"),
    [
        ("", "fine", "resuming: a resumed run goes on in the same episodes"),
        ("object", "fix", "no plain data"),
        (
            "forgets",
            "fix",
            "resuming: an environment with a saved state goes on otherwise: step 1 after it differs",
        ),
    ],
)
def test_a_state_is_saved_and_put_back(fault, level, says):
    findings = doctor.examine(lambda: Stateful(fault))
    assert any(says in text for text in said(findings, level)), said(findings)
    assert bool(fault) == bool(said(findings, "fix"))


def test_without_a_state_new_episodes_begin():
    (found,) = [text for text in said(examined("")) if text.startswith("resuming")]
    assert "begins new episodes: Clean has no get_state()" in found
