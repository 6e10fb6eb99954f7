"""Environments in processes: the same rows; whatever breaks is named in bounded time and leaves nothing behind."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from toys import Corridor, Fragile

from actrix import DQN
from actrix.envs.build import UnknownEnvError
from actrix.envs.guard import EnvError
from actrix.envs.make import make_vec_env
from actrix.envs.workers.parent import ProcessEnvs
from actrix.envs.workers.process import WorkerTraceback
from actrix.loops.host import HostRunner

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.name == "nt", reason="POSIX signals"),
    # `Fragile` keeps numbers in float64, and a killed worker is no leak of this process.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SEEDS = [10, 11]
"""Faults are told to happen where the seed is 11: environment 1."""


def pool(fault="", method="step", seed=11, length=100, n=2, **options):
    return ProcessEnvs(functools.partial(Fragile, fault, method, seed, length), n, SEEDS[:n], **options)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()


def gone(pids, seconds=20):
    end = time.monotonic() + seconds
    while any(map(alive, pids)):
        assert time.monotonic() < end, "processes are left"
        time.sleep(0.02)
    return True


def shared_memory_since(before, seconds=20):
    """What is left in the end: another process of the suite may hold some meanwhile."""
    end = time.monotonic() + seconds
    while (left := set(os.listdir("/dev/shm")) - before) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def steps(envs, n=5):
    action = np.zeros(envs.num_envs, np.int32)
    return [envs.step(action) for _ in range(n)]


# --------------------------------------------------------------------------- states


def rows_of(envs, n, rng):
    return [envs.step(rng.integers(2, size=envs.num_envs)) for _ in range(n)]


@pytest.mark.parametrize(
    "build", [functools.partial(gym.make, "CartPole-v1", max_episode_steps=15), Corridor]
)
def test_a_saved_state_goes_on_in_other_processes(build):
    whole, other = (ProcessEnvs(build, 3, seeds, workers=2) for seeds in ([1, 2, 3], [7, 8, 9]))
    try:
        whole.reset()
        rows_of(whole, 17, np.random.default_rng(0))
        saved = whole.get_state()
        expected = rows_of(whole, 30, np.random.default_rng(1))
        assert any(row.terminated.any() or row.truncated.any() for row in expected)
        other.set_state(saved | {"restarts": 2})  # never reset
        assert other.restarts == 2, "a replacement's seed follows from it"
        for a, b in zip(expected, rows_of(other, 30, np.random.default_rng(1)), strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)
        assert (other.steps, whole._now) == (47, other._now)
    finally:
        whole.close()
        other.close()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "get_state of Corridor raised RuntimeError: no state today"),
        ("hangs", r"environment 0 at step 0.*get_state took longer than 1 s"),
        ("object", "no plain data"),
        ("dies", r"exit code 3"),
    ],
)
def test_a_state_that_cannot_be_had_ends_in_a_sentence(fault, message):
    good = ProcessEnvs(Corridor, 1, [1])
    good.reset()
    saved = good.get_state()
    good.close()
    envs = ProcessEnvs(functools.partial(Corridor, fault), 1, [1], step_timeout=1)
    envs.reset()
    with pytest.raises(EnvError, match=message):
        envs.set_state(saved) if fault == "dies" else envs.get_state()
    assert envs.get_state() is None, "closed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"envs": []}, "not that of 1 environments"),
        ({"steps": "x"}, "the saved state has steps 'x'"),
        ({"envs": [3]}, "must be a dict"),
        ({"envs": [{"levels": [], "id": None, "rng": None, "seed": None}]}, "Guard<Corridor>"),
    ],
)
def test_another_state_is_refused(change, message):
    envs = ProcessEnvs(Corridor, 1, [1])
    envs.reset()
    with pytest.raises(EnvError, match=message):
        envs.set_state(envs.get_state() | change)
    envs.close()


def test_a_broken_off_question_is_no_answer_to_the_next_one():
    envs = ProcessEnvs(Corridor, 2, [1, 2])
    envs.reset()
    for worker in envs._workers:  # Ctrl-C while the states were waited for
        worker.busy = True
        worker.pipe.send_bytes(b'{"command": "get"}')
    assert envs.get_state() is None
    action = np.zeros(2, np.int64)
    assert not envs.step(action).valid.any()
    assert envs.step(action).valid is None
    assert envs.get_state() is not None
    envs.close()


def test_who_dies_when_asked_for_its_state_is_replaced_within_the_budget():
    envs = ProcessEnvs(Corridor, 2, [1, 2], max_restarts=1)
    envs.reset()
    os.kill(envs._workers[1].process.pid, signal.SIGKILL)
    assert envs.get_state() is None
    assert envs.get_state() is None
    with pytest.warns(RuntimeWarning, match="restart 1 of 1"):
        step = envs.step(np.zeros(2, np.int64))
    np.testing.assert_array_equal(step.valid, [True, False])
    assert envs.get_state()["restarts"] == 1
    os.kill(envs._workers[1].process.pid, signal.SIGKILL)
    with pytest.raises(EnvError, match=r"killed by SIGKILL.*1 of 1 restarts were used"):
        envs.get_state()


def test_sigterm_to_everybody_is_the_parents_business():
    envs = pool()
    envs.reset()
    for worker in envs._workers:
        os.kill(worker.process.pid, signal.SIGTERM)
    assert all(step.valid is None for step in steps(envs))
    pids = [worker.process.pid for worker in envs._workers]
    envs.close()
    assert gone(pids)


UNCLOSED = """
import multiprocessing, sys

def work(fails):
    global envs
    from actrix.envs.make import make_vec_env  # not where the process is started
    envs = make_vec_env("CartPole-v1", 2, seed=0, workers=2)
    envs.reset()
    if fails:
        raise SystemExit(5)

if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=work, args=(len(sys.argv) > 1,))
    child.start()
    child.join(60)
    print("exit code", child.exitcode, flush=True)
    child.kill()
"""


@pytest.mark.parametrize("fails", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_nobody_closed_ends_in_a_process_of_multiprocessings(fails, tmp_path):
    (tmp_path / "script.py").write_text(UNCLOSED)
    command = [sys.executable, str(tmp_path / "script.py"), *["fails"] * fails]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert f"exit code {5 * fails}" in done.stdout, done.stderr[-1000:]


def test_what_has_no_state_says_why():
    envs = pool()
    assert envs.unsupported == "Fragile has no get_state() and set_state(state)"
    envs.reset()
    assert envs.get_state() is None
    envs.close()


# --------------------------------------------------------------------------- the same rows


@pytest.mark.parametrize("workers", [True, 2])
def test_rows_are_those_of_one_process(workers):
    """Bit for bit, over several episodes; several environments share a worker, too."""
    one = make_vec_env("CartPole-v1", 3, seed=4, backend="gymnasium")
    two = make_vec_env("CartPole-v1", 3, seed=4, workers=workers)
    try:
        a, b = one.reset()[0], two.reset()[0]
        assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())
        rng, ends = np.random.default_rng(0), 0
        for _ in range(120):
            action = rng.integers(2, size=3)
            x, y = one.step(action), two.step(action)
            ends += int(np.sum(x.terminated | x.truncated))
            for name in ("obs", "next_obs", "reward", "terminated", "truncated"):
                left, right = getattr(x, name), getattr(y, name)
                assert (left.dtype, left.tobytes()) == (right.dtype, right.tobytes()), name
            assert y.valid is None
        assert ends > 5
        assert two.env_id == "CartPole-v1"
    finally:
        two.close()
        two.close()


class Composite(gym.Env):
    """A Dict observation and masks."""

    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(5)})
    action_space = spaces.Discrete(3)

    def action_masks(self):
        return np.array([True, self.t % 2 == 0, True])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), float(action), self.t == 4, False, {}

    def _obs(self):
        return {"a": self.np_random.uniform(-1, 1, 2).astype(np.float32), "b": self.t % 5}


def test_composite_observations_masks_and_local_classes():
    one = make_vec_env(lambda: Composite(), 2, seed=4)
    two = make_vec_env(lambda: Composite(), 2, seed=4, workers=True)
    try:
        for x, y in zip(one.reset(), two.reset(), strict=True):
            np.testing.assert_equal(x, y)
        for _ in range(9):
            for x, y in zip(one.step(np.array([0, 2])), two.step(np.array([0, 2])), strict=True):
                np.testing.assert_equal(x, y)
    finally:
        two.close()


# --------------------------------------------------------------------------- what breaks is named

WHERE = r"environment 1 at step 3 \(seed 11\): "
CASES = {
    ("raises", "step"): WHERE + "step raised ZeroDivisionError: division by zero",
    ("odd", "step"): WHERE + "step raised Odd: odd one out",
    ("mute", "step"): WHERE + r"step raised Mute: \(it has no message\)",
    ("not", "step"): WHERE + "step raised Not: no exception",
    ("leaves", "step"): WHERE + "step raised SystemExit: 4",
    ("long", "step"): WHERE + "step raised ValueError: long long",
    ("surrogate", "step"): WHERE + "step raised ValueError: half",
    ("exit", "step"): WHERE + "its worker ended with exit code 3",
    ("segfault", "step"): WHERE + "its worker was killed by SIGSEGV",
    ("kill", "step"): WHERE + "its worker was killed by SIGKILL",
    ("closes", "step"): WHERE + "its worker",
    ("endless", "step"): WHERE + "step took longer than 1 s and its worker was killed",
    ("hold", "step"): WHERE + "step took longer than 1 s and its worker was killed",
    ("raises", "reset"): r"environment 1 at step 0 \(seed 11\): reset raised ZeroDivisionError",
    ("endless", "reset"): r"environment 1 at step 0 \(seed 11\): reset took longer than 1 s",
}


@pytest.mark.parametrize(("fault", "method"), CASES)
def test_a_fault_is_named_within_its_time(fault, method):
    """Environment, step, seed, cause and traceback; the peer, in the middle of its step, is ended too."""
    envs = pool(fault, method, step_timeout=1.0 if fault in ("endless", "hold") else 30.0)
    begun = time.monotonic()
    with pytest.raises(EnvError, match=CASES[fault, method]) as caught:
        _reset_and_step(envs)
    assert time.monotonic() - begun < 15
    assert gone([worker.process.pid for worker in envs._workers])
    if fault in ("raises", "odd"):
        assert isinstance(caught.value.__cause__, WorkerTraceback)
        assert "toys.py" in str(caught.value.__cause__)
        assert "in raise_" in str(caught.value.__cause__)
    with pytest.raises(EnvError, match="closed"):
        envs.reset()
    envs.close()


def _reset_and_step(envs):
    envs.reset()
    steps(envs)


def test_faults_of_the_constructor_and_of_close():
    with pytest.raises(
        EnvError, match="environment 0: its constructor raised ZeroDivisionError: division by zero"
    ):
        pool("raises", "constructor", seed=None)
    envs = pool("raises", "close")
    envs.reset()
    with pytest.raises(EnvError, match=r"environment 1 .*close raised ZeroDivisionError"):
        envs.close()
    assert gone([worker.process.pid for worker in envs._workers])
    with pytest.raises(UnknownEnvError, match="CartPol-v1"):
        make_vec_env("CartPol-v1", 2, workers=True)


def test_what_environments_print_and_huge_infos_survive():
    """Infos are not sent."""
    envs = pool("huge info", n=1)
    envs.reset()
    assert steps(envs, 2)[-1].reward == [1.0]
    envs.close()
    envs = pool("prints", n=2)
    envs.reset()
    assert len(steps(envs, 4)) == 4
    envs.close()


# --------------------------------------------------------------------------- restarts


def test_a_restart_drops_the_episode(recwarn):
    """The row is not valid, ends nothing and begins an episode with another seed; it is counted."""
    envs = pool("kill", length=6, max_restarts=2)
    try:
        envs.reset()
        first = [worker.process.pid for worker in envs._workers]
        seen = steps(envs, 3)
        row = seen[-1]
        assert row.valid.tolist() == [True, False]
        assert not (row.terminated | row.truncated).any()
        assert row.reward.tolist() == [1.0, 0.0]
        assert row.obs[1, 1] == 0
        assert row.obs[1, 2] != first[1]
        assert row.obs[0, 1] == 3, "the other goes on"
        assert envs.restarts == 1
        assert gone(first[1:])
        assert "restart 1 of 2" in str(recwarn.pop(RuntimeWarning).message)
        later = steps(envs, 3)
        assert all(step.valid is None for step in later)
        assert later[-1].terminated.tolist() == [True, False]
    finally:
        envs.close()


@pytest.mark.filterwarnings("ignore:environment [01]:RuntimeWarning")
def test_nothing_is_learned_across_a_restart():
    """The row before is cut in a memory like a truncation; the invalid row is not in it."""
    seed = int(np.random.SeedSequence(0).generate_state(2)[1]) % 2**31  # the loop's for environment 1
    envs = pool("kill", seed=seed, max_restarts=1)
    settings = {"learning_starts": 6, "train_freq": 2, "batch_size": 4, "buffer_size": 64, "n_step": 2}
    model = DQN("MlpPolicy", envs, seed=0, policy_kwargs={"net_arch": [4]}, **settings)
    try:
        model.learn(20)
        rows = model.runner.learners[0].memory.rows
        t = np.asarray(rows.obs)[:, 1, 1]
        # Steps 0, 1 of the first episode; the extra row of the cut; the second episode from 0 on.
        assert t[:5].tolist() == [0, 1, 2, 0, 1]
        assert np.asarray(rows.valid)[:5, 1].tolist() == [True, True, False, True, True]
        assert np.asarray(rows.truncated)[:3, 1].tolist() == [False, True, False]
        assert not np.asarray(rows.terminated)[:5, 1].any()
        assert model.run.metrics["rollout/env_restarts"] == 1
        assert isinstance(model.runner, HostRunner)
    finally:
        envs.close()


@pytest.mark.filterwarnings("ignore:environment [01]:RuntimeWarning")
def test_a_permanently_broken_environment_spends_the_budget():
    envs = pool("exit", seed=None, n=1, max_restarts=2)
    envs.reset()
    with pytest.raises(EnvError, match=r"exit code 3.*2 of 2 restarts were used"):
        steps(envs, 20)
    assert envs.steps == 9, "each process breaks at its third step"
    assert gone([worker.process.pid for worker in envs._workers])


# --------------------------------------------------------------------------- nothing is left

SCRIPT = """
import functools, os, sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from toys import Corridor, Fragile
from actrix.envs.workers.parent import ProcessEnvs

if __name__ == "__main__":
    envs = ProcessEnvs(functools.partial(Fragile, sys.argv[2], "step", 11), 2, [10, 11])
    envs.reset()
    print(*(worker.process.pid for worker in envs._workers), flush=True)
    for _ in range(10**9):
        envs.step(np.zeros(2, np.int32))
        time.sleep(0.01)
"""


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="Linux only")
@pytest.mark.parametrize(
    "fault", [*(pytest.param(x, marks=pytest.mark.slow) for x in ("", "endless")), "hold"]
)
def test_a_killed_parent_leaves_nothing(fault, tmp_path):
    """Workers end, also in the middle of a step that never does; no shared memory is left."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    before = set(os.listdir("/dev/shm"))
    command = [sys.executable, str(script), str(Path(__file__).parent), fault]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    pids = list(map(int, child.stdout.readline().split()))
    assert len(pids) == 2
    time.sleep(0.3)
    assert all(map(alive, pids))
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    try:
        assert gone(pids)
    finally:  # a failure must not leave a busy process
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
    assert not shared_memory_since(before)


def test_processes_are_never_forked_from_this_one():
    """JAX runs here, and a forked copy may deadlock."""
    with pytest.raises(ValueError, match="'forkserver' or 'spawn'"):
        pool(start_method="fork")
    envs = pool(n=1)
    assert envs._context.get_start_method() in ("forkserver", "spawn")
    envs.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 3}, "from 1 to n_envs=2, got 3"),
        ({"workers": "all"}, "True, False or a number"),
        ({"workers": True, "step_timeout": 0}, "step_timeout=0 must be a positive"),
        ({"workers": True, "max_restarts": -1}, "max_restarts must be a whole number"),
        ({"max_restarts": 1}, "need workers"),
        ({"workers": True, "backend": "envpool"}, "workers run Gymnasium environments"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        make_vec_env("CartPole-v1", 2, **options)


def test_what_cannot_be_sent_is_refused():
    lock = __import__("threading").Lock()
    with pytest.raises(TypeError, match="cannot be sent to a process"):
        make_vec_env(lambda: Composite() if lock else None, 2, workers=True)
