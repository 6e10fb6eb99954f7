"""Actors on Ray: the bits of one process, whoever collects and whoever is killed meanwhile."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from tests.run.test_grouping import STEPS, Marked, digest, model, replaying
from tests.run.test_resume import tensors

from actrix import DQN, SAC, VTrace, train_seeds
from actrix.cli import main
from actrix.envs.guard import EnvError
from actrix.files import checkpoint, container
from actrix.runs.config import resolve
from actrix.runs.folder import config_json

ray = pytest.importorskip("ray")

from actrix.remote import cluster, crew, process  # noqa: E402

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its environments: actors cannot import it
ROOT = Path(__file__).resolve().parents[2]


def processes():
    """Those of Ray that are children of this one, or theirs."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()
    parents = {int(line.split()[0]): (int(line.split()[1]), line) for line in found[1:]}

    def ours(pid):
        while pid in parents and pid > 1:
            if pid == os.getpid():
                return True
            pid = parents[pid][0]
        return False

    return [line for pid, (_, line) in parents.items() if "ray" in line and pid != os.getpid() and ours(pid)]


@pytest.fixture(scope="module")
def one_ray():
    """One Ray for all tests here, and nothing of it afterwards."""
    before = set(os.listdir("/dev/shm"))
    cluster.join(None, 4)
    yield
    cluster.leave()
    assert not ray.is_initialized()
    end = time.monotonic() + 20
    while (left := processes()) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left
    assert not {name for name in os.listdir("/dev/shm") if name not in before and "plasma" in name}


@pytest.fixture
def closing(one_ray):
    """Models to close."""
    models = []
    yield lambda *args, **kwargs: models.append(model(*args, **kwargs)) or models[-1]
    for one in models:
        one.env.close()


class Killer:
    """A callback that kills the actor of that number after these updates; the next chunk is then being collected."""

    def __init__(self, *updates, number=None):
        self.updates, self.number, self.calls, self.killed = updates, number, 0, 0

    def __call__(self, locals_, _):
        self.calls += 1
        if self.calls in self.updates:
            mates = locals_["model"].env.host._mates
            os.kill(
                mates[self.calls % len(mates) if self.number is None else self.number].pid, signal.SIGKILL
            )
            self.killed += 1
        return True


@pytest.mark.parametrize(
    "both", [((1, (2,)), (0, (1,))), pytest.param(((1, (4,)), (0, (3,))), marks=pytest.mark.slow)]
)
def test_any_number_of_actors_comes_to_the_same_bits(both, closing):
    for behind, numbers in both:
        here = digest(model(envs_per_group=1, behind=behind).learn(STEPS))
        for actors in numbers:
            there = closing(actors=actors, envs_per_group=1, behind=behind).learn(STEPS)
            assert digest(there) == here, f"{actors} actors, behind={behind}"
    assert len(there.run.returns) == there.num_episodes > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sixteen_actors_by_the_command_come_to_the_same_bits(tmp_path):
    """Each command starts a Ray of its own, and ends it."""
    models = []
    for actors in (0, 1, 4, 16):
        out = tmp_path / str(actors)
        command = (
            "train ppo CartPole-v1 --backend gymnasium --envs 16 --envs-per-group 1 --behind 1 --steps 4096"
        )
        command += f" --seed 1 --set n_steps=64 --quiet --out {out} --actors {actors}"
        done = subprocess.run(
            [sys.executable, "-m", "actrix", *command.split()], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        file = out / "model.safetensors"
        models.append(file.read_bytes()[container.read_header(file).start :])
    assert len(models[0]) > 1000
    assert all(other == models[0] for other in models[1:])


@pytest.mark.parametrize(
    ("kind", "env", "numbers"),
    [
        (DQN, "CartPole-v1", ((1, 2),)),
        pytest.param(SAC, "Pendulum-v1", ((0, 1), (1, 2)), marks=pytest.mark.slow),
    ],
)
def test_actors_of_a_replay_memory_come_to_the_same_bits(one_ray, kind, env, numbers):
    for behind, actors in numbers:
        here, there = (
            replaying(kind, env, envs_per_group=1, behind=behind, actors=n).learn(40 + 16 * 8)
            for n in (0, actors)
        )
        there.env.close()
        assert digest(here) == digest(there), f"{actors} actors, behind={behind}"


class Straggler(Marked):
    """The environment of this mark takes no step until there is that file."""

    late, go = None, ""

    def step(self, action):
        while self.mark == self.late and not os.path.exists(self.go):
            time.sleep(0.02)
        return super().step(action)


def waits_for_nobody(**more):
    return VTrace(
        "MlpPolicy", Straggler, **dict(n_envs=2, actors=2, behind="any", lag=0, n_steps=16, seed=3,
                                       backend="gymnasium", policy_kwargs={"net_arch": [8]}) | more
    )  # fmt: skip


def test_nobody_is_waited_for_and_staleness_is_told(one_ray, tmp_path, monkeypatch):
    """One of two actors takes no step: updates are made from chunks of the other. When its first chunk comes, it is as
    old as all the updates made meanwhile."""
    monkeypatch.setattr(crew, "SLOW", 1e9)
    starts = waits_for_nobody(actors=0, behind=0, envs_per_group=1).runner._starts(3)
    Straggler.late, Straggler.go = float(starts[1].seeds[0] % 2**31 % 1000), str(tmp_path / "go")
    trained, seen = waits_for_nobody(), []
    with contextlib.closing(trained.env):

        def look(locals_, _):
            numbers = trained.run.metrics
            seen.append((numbers["time/staleness"], numbers["time/staleness_max"]))
            if len(seen) == 5:
                (tmp_path / "go").touch()
            return seen[-1][1] < 5

        trained.learn(10**6, callback=look, checkpoint_dir=tmp_path / "saved")
    assert seen[:5] == [(0, 0)] + [(0.5, 1)] * 4, (
        "two chunks of the other, one of which is under way meanwhile"
    )
    mean, most = seen[-1]
    assert most == len(seen) - 1
    assert mean in (most / 2, (most + 1) / 2)
    again = waits_for_nobody()
    with contextlib.closing(again.env):
        again.learn(trained.num_timesteps + 320, resume_from=tmp_path / "saved")
    assert again.run.resumes == 0, "in the same episodes"
    assert again.run.iterations == len(seen) + 10


def test_killed_actors_change_nothing(closing):
    killer = Killer(1, 2, 3)
    trained = closing(actors=2, envs_per_group=1)
    with pytest.warns(
        RuntimeWarning, match=r"actor \d \(groups . to ., process \d+ on .*\) died .* is replaced\.$"
    ):
        trained.learn(STEPS, callback=killer)
    assert killer.killed == trained.env.host.restarts == 3
    assert digest(trained) == digest(model(envs_per_group=1, behind=1).learn(STEPS))


class Forgetful(gym.Wrapper):
    """A wrapper that actrix does not know: its state cannot be saved."""


def forgetful():
    return Forgetful(gym.make("CartPole-v1"))


def test_open_episodes_that_are_lost_are_counted_and_named(closing):
    trained = closing(env=forgetful, actors=1, envs_per_group=2)
    with pytest.warns(
        RuntimeWarning,
        match=r"cannot be restored \(the wrapper Forgetful .* so its 4 open episodes are dropped",
    ):
        trained.learn(STEPS, callback=Killer(2))
    assert trained.run.metrics["rollout/env_restarts"] == 1


@pytest.mark.slow
def test_a_checkpoint_of_one_process_goes_on_with_actors(closing, tmp_path):
    model(envs_per_group=2, behind=1).learn(STEPS // 2, checkpoint_dir=tmp_path / "half")
    model(envs_per_group=2, behind=1).learn(STEPS, checkpoint_dir=tmp_path / "whole")
    trained = closing(actors=2, envs_per_group=2).learn(STEPS, resume_from=tmp_path / "half")
    assert checkpoint.newest_step(tmp_path / "half") == trained.num_timesteps
    (found, _), (wanted, _) = tensors(tmp_path / "half"), tensors(tmp_path / "whole")
    learner = lambda arrays: {name: x for name, x in arrays.items() if "total_steps" not in name}
    assert learner(found) == learner(wanted)


class Breaks(Marked):
    def step(self, action):
        if self.number > 2:
            raise OSError("unplugged")
        return super().step(action)


def test_what_an_environment_raises_is_named(closing):
    trained = closing(env=Breaks, actors=1, envs_per_group=1, normalize=False)
    with pytest.raises(
        EnvError, match=r"group 0 \(environment 0 of the run\): environment 0 .*unplugged"
    ) as caught:
        trained.learn(STEPS)
    assert "OSError" in str(caught.value.__cause__)


@pytest.mark.slow
def test_who_dies_again_and_again_ends_training(closing, monkeypatch):
    monkeypatch.setattr(crew, "DEATHS", 0)
    trained = closing(actors=1)
    with pytest.raises(
        EnvError, match="died 1 times over one chunk, at last because its process or its node is gone"
    ):
        trained.learn(STEPS, callback=Killer(1))


def test_an_environment_that_only_the_driver_has(one_ray, monkeypatch):
    module = types.ModuleType("only_here")
    made = type("Only", (Marked,), {"__module__": "only_here"})
    module.Only = made
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(
        ImportError, match=r"an actor cannot make .* No module named 'only_here'; its module must"
    ):
        model(env=made, actors=1)


def test_other_versions_on_a_node(one_ray, monkeypatch):
    ours = crew.manifest.package_versions() | {"jax": "0.0.1"}
    monkeypatch.setattr(crew.manifest, "package_versions", lambda: ours)
    with pytest.raises(
        ValueError, match=r"actor 0 .* runs other versions: jax .* \(here 0\.0\.1\); install the same"
    ):
        model(actors=1)


@pytest.mark.slow
def test_another_kind_of_machine_is_said(one_ray, monkeypatch):
    other = crew.manifest.machine() | {"processor": "abacus"}
    monkeypatch.setattr(crew.manifest, "machine", lambda: other)
    with pytest.warns(RuntimeWarning, match=r"another kind of machine: processor .* \(here abacus\)"):
        model(actors=1).env.close()


def test_no_ray_and_no_cluster(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ray, "is_initialized", lambda: False)
        with pytest.raises(
            ValueError, match=r"no Ray cluster .* at localhost:1: start one with `ray start --head"
        ):
            model(actors=1, address="localhost:1")
        with pytest.raises(ValueError, match="must be HOST:PORT"):
            model(actors=1, address="somewhere")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'not installed: pip install "actrix\[ray\]"'):
        model(actors=1)


def test_a_node_that_cannot_run_a_seeds_process_says_why(tmp_path):
    """Other versions there, or another file system: a sentence, and no process."""
    ours = crew.manifest.package_versions()
    start = lambda output, versions: process.Holder().start(["python"], "/run", str(output), {}, versions)
    said = start(tmp_path / "log", ours | {"jax": "0.0.1"})
    assert re.fullmatch(
        r"the node \S+ runs other versions: jax \S+ \(here 0\.0\.1\); install the same ones on every node\.",
        said,
    )
    said = start(tmp_path / "none" / "log", ours)
    assert said.startswith(
        "a node of the cluster does not see /run: the folder must be on a file system that all"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["train"], ["train", "--actors", "2"], ["tune"]])
def test_without_ray_or_a_cluster_nothing_is_begun(words, tmp_path, monkeypatch, capsys):
    many = ["--seeds", "2", "--envs", "8", *words[1:]]
    command = [words[0], "ppo", "CartPole-v1", *many, "--out", str(tmp_path / "out"), "--quiet", "--address"]
    with monkeypatch.context() as patch:
        patch.setattr(ray, "is_initialized", lambda: False)
        assert main([*command, "localhost:1"]) == 2
        assert re.match(
            r"actrix: no Ray cluster .* at localhost:1: start one with .*\n$", capsys.readouterr().err
        )
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*command, "localhost:1"]) == 2
    said = 'actrix: this runs on Ray, which is not installed: pip install "actrix[ray]"\n'
    assert capsys.readouterr().err == said
    if "--actors" in words:
        assert main(command[:-1]) == 2
        assert capsys.readouterr().err == said
    assert not list(tmp_path.iterdir())


def test_a_run_that_finds_no_cluster_keeps_its_place(tmp_path, monkeypatch, capsys):
    """`resume --address` writes where it goes on only when that is there."""
    config = resolve("ppo", "CartPole-v1", n_envs=2, actors=2, backend="gymnasium", steps=100)
    (tmp_path / "config.json").write_text(json.dumps(config_json(config)))
    before = (tmp_path / "config.json").read_bytes()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert main(["resume", str(tmp_path), "--quiet", "--address", "localhost:1"]) == 2
    assert "no Ray cluster" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_process_is_in_one_cluster_at_a_time(one_ray):
    """The address of the Ray that is there serves, by any of this machine's names; another one's is refused."""
    there = ray.get_runtime_context().gcs_address
    for address in (there, f"localhost:{there.rpartition(':')[2]}", "auto"):
        assert cluster.join(address, 1) is ray
        cluster.leave()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = f"address='localhost:{port}': this process is already connected to another Ray, at {there}"
        with pytest.raises(ValueError, match=said):
            model(actors=1, address=f"localhost:{port}")


class Full:
    """Of Ray, what a process of a run is started by: nobody has room until `begins`."""

    exceptions = types.SimpleNamespace(RayError=ray.exceptions.RayError)
    begins = False

    def remote(self, **options):
        assert options["num_cpus"] == 1
        call = types.SimpleNamespace(remote=lambda *args: object())
        return lambda kind: types.SimpleNamespace(
            remote=lambda: types.SimpleNamespace(start=call, poll=call, send=call)
        )

    def cluster_resources(self):
        return {}

    def wait(self, tasks, timeout, num_returns=1):
        """Who has begun answers; whether one has is asked without waiting."""
        return (tasks, []) if self.begins or timeout else ([], tasks)

    def get(self, task, timeout=0):
        return None

    def kill(self, handle, no_restart):
        pass


def test_a_cluster_without_room_is_named_and_not_waited_for_for_ever(tmp_path, monkeypatch):
    """But for one of the run's own processes that has the room it is."""
    full, now = Full(), [0.0]
    monkeypatch.setattr(process, "join", lambda *_: full)
    monkeypatch.setattr(
        process, "time", types.SimpleNamespace(monotonic=lambda: now[0], sleep=lambda s: None)
    )
    nodes = process.Nodes("head:1")
    first, second = (nodes.start(["python"], tmp_path, tmp_path / "log") for _ in range(2))
    full.begins = True
    assert first.poll() is None
    full.begins = False
    now[0] = process.START_TIMEOUT
    assert first.poll() is second.poll() is None
    now[0] *= 3  # nothing ran meanwhile, nor was asked to
    assert nodes.start(["python"], tmp_path, tmp_path / "log").poll() is None
    nodes.seen()
    now[0] += process.TOLD + 1
    with pytest.warns(
        RuntimeWarning, match="no process of this run could begin at head:1 in 31 s: has the cluster"
    ):
        assert second.poll() is None
    assert second.poll() is None  # is said once
    now[0] += process.START_TIMEOUT
    with pytest.raises(ValueError, match="has the cluster room for it"):
        second.poll()
    assert second.poll() == process.REFUSED


# ---------------------------------------------------------------------------- slow ones


class Sleeps(Marked):
    """A step takes a while, in the environment whose observations begin with it; `stuck`: it never ends."""

    seconds, stuck = 0.02, False

    def step(self, action):
        if self.stuck and self.number > 2:
            time.sleep(1e6)
        time.sleep(self.seconds)
        return super().step(action)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_at_random_moments(closing, monkeypatch):
    """From another thread, so that they hit acting, sending, starting and restoring; faster than one chunk allows."""
    import threading

    monkeypatch.setattr(crew, "DEATHS", 20)
    rng, stop = np.random.default_rng(0), threading.Event()
    trained, killed = closing(env=Sleeps, actors=2, envs_per_group=1, normalize=False), []

    def kill():
        while len(killed) < 20 and not stop.wait(rng.uniform(0.5, 4.0)):
            pid = trained.env.host._mates[rng.integers(2)].pid
            if pid is not None and pid not in killed:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            rounds = 0
            while len(killed) < 20 and rounds < 100:
                trained.learn(16 * 4 * 8, reset_num_timesteps=False)
                rounds += 1
    finally:
        stop.set()
        thread.join()
    assert len(killed) == 20
    here = model(env=Marked, envs_per_group=1, behind=1, normalize=False)
    for _ in range(rounds):
        here.learn(16 * 4 * 8, reset_num_timesteps=False)
    assert digest(trained) == digest(here)


@pytest.mark.slow
def test_a_stuck_actor_is_ended_and_a_slow_one_named(closing, monkeypatch):
    monkeypatch.setattr(crew, "FIRST_STEP", 4.0)
    monkeypatch.setattr(crew, "DEATHS", 1)
    stuck = type("Stuck", (Sleeps,), {"stuck": True, "seconds": 0.0, "__module__": __name__})
    trained = closing(env=stuck, actors=1, normalize=False)
    trained.env.host.step_timeout = 3.0
    with (
        pytest.warns(
            RuntimeWarning, match=r"group 0 \(environments 0 to 3 of the run\), step \d+ of 16 took longer"
        ),
        pytest.raises(EnvError, match=r"died 2 times over one chunk, at last because .* took longer than"),
    ):
        trained.learn(STEPS)
    monkeypatch.undo()
    monkeypatch.setattr(crew, "SLOW", 3.0)

    class Uneven(Marked):
        made = 0

        def step(self, action):
            time.sleep(0.6 if self.mark == self.slow else 0.0)
            return super().step(action)

    mark = model(env=Marked, normalize=False, envs_per_group=1)
    Uneven.slow = float(mark.runner._starts(3)[2].seeds[0] % 2**31 % 1000)
    trained = closing(env=Uneven, actors=4, normalize=False)
    with pytest.warns(
        RuntimeWarning, match=r"actor 2 .* is slow: after . s it is at group 2 .*, step \d+ of 16, and"
    ):
        trained.learn(STEPS)


@pytest.mark.slow
def test_seeds_on_a_cluster_come_to_those_of_one_machine(one_ray, tmp_path):
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "policy_kwargs": {"net_arch": [8]}}
    for name, address in (("there", "auto"), ("here", None)):
        results = train_seeds(
            "ppo", "CartPole-v1", [1, 2], 200, tmp_path / name, n_envs=2, backend="gymnasium", settings=settings,
            address=address,
        )  # fmt: skip
        assert set(results.returns) == {1, 2}
    for seed in (1, 2):
        one, other = (tmp_path / name / f"seed-{seed}" / "model.safetensors" for name in ("there", "here"))
        assert one.read_bytes() == other.read_bytes()


SCRIPT = """
import sys
from tests.run.test_grouping import Marked, model
if __name__ == "__main__":
    trained = model(env=Marked, actors=2, envs_per_group=1, normalize=False)
    print("trains", flush=True)
    trained.learn(16 * 4 * 300, checkpoint_dir=sys.argv[1], checkpoint_seconds=0.0)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_learner_leaves_no_orphans_and_is_resumed_exactly(closing, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "run")], start_new_session=True,
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "trains\n"
    end = time.monotonic() + 120
    while checkpoint.newest_step(tmp_path / "run") < 16 * 4 * 4 and time.monotonic() < end:
        time.sleep(0.05)
    session = os.getsid(child.pid)
    assert child.poll() is None, "it trains still"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    mine = lambda: [
        line for line in subprocess.run(["ps", "-eo", "sess,args"], capture_output=True, text=True).stdout.splitlines()
        if line.split()[0] == str(session)
    ]  # fmt: skip
    end = time.monotonic() + 150  # Ray's agents look for their raylet now and then
    while mine() and time.monotonic() < end:
        time.sleep(0.5)
    assert not mine()
    trained = closing(env=Marked, actors=1, envs_per_group=1, normalize=False)
    trained.learn(16 * 4 * 300, resume_from=tmp_path / "run")
    assert trained.run.resumes == 0, "in the same episodes"
    whole = model(env=Marked, envs_per_group=1, behind=1, normalize=False).learn(16 * 4 * 300)
    assert digest(trained) == digest(whole)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_of_actors_nodes_and_drivers_at_random_moments_change_nothing(tmp_path):
    """In processes of their own, for a Ray of its own: three nodes, twenty kills, each somewhere after the last one."""
    (tmp_path / "script.py").write_text(NODES)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "run")], text=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": path}, timeout=850,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert done.stdout.split()[-1] == "same", done.stdout[-3000:]


NODES = """
import os, random, signal, subprocess, sys, time
from pathlib import Path
os.environ.update(RAY_worker_niceness="0", RAY_health_check_timeout_ms="2000", RAY_health_check_period_ms="500",
                  RAY_health_check_initial_delay_ms="0")
from actrix.files import checkpoint
from actrix.remote.cluster import ray_module
ray = ray_module()
from ray.cluster_utils import Cluster
from tests.run.test_grouping import Marked, digest, model

KILLS, ROWS = ["actor"] * 12 + ["node"] * 5 + ["driver"] * 3, 16 * 4
STEPS = 200 * ROWS
folder = Path(sys.argv[1])

class Slow(Marked):
    def step(self, action):
        time.sleep(5e-3)
        return super().step(action)

def drive(address):
    trained = model(env=Slow, actors=2, envs_per_group=1, normalize=False, address=address)
    resumed = {"resume_from": folder} if checkpoint.newest_step(folder) > 0 else {}
    trained.learn(STEPS, checkpoint_dir=folder, checkpoint_seconds=0.0, **resumed)
    assert trained.run.resumes == 0, "in the same episodes"
    print("digest", digest(trained), flush=True)  # Ray says what died beside it
    trained.env.close()

def started(address):
    return subprocess.Popen([sys.executable, __file__, str(folder), address], stdout=subprocess.PIPE, text=True)

def members():
    lines = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()[1:]
    of = {int(line.split()[0]): (int(line.split()[1]), line) for line in lines}
    ours = lambda pid: of.get(of.get(pid, (0, ""))[0], (0, ""))[0] == os.getpid()  # a raylet's child
    return [pid for pid, (_, line) in of.items() if "ray::Member" in line and ours(pid)]

def main():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    rng = random.Random(0)
    rng.shuffle(KILLS)
    driver = started(cluster.address)
    for i, what in enumerate(KILLS):
        seen = checkpoint.newest_step(folder)
        while checkpoint.newest_step(folder) <= seen:  # it has recovered
            assert driver.poll() is None, ("it ended before", i, what)
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        print(i, what, flush=True)
        if what == "driver":
            driver.kill()
            driver.communicate()
            driver = started(cluster.address)
        elif what == "node":
            gone = rng.randrange(2)
            cluster.remove_node(nodes[gone], allow_graceful=False)
            nodes[gone] = cluster.add_node(num_cpus=1)
        else:
            os.kill(rng.choice(members()), signal.SIGKILL)
    [there] = [line.split()[1] for line in driver.communicate()[0].splitlines() if line.startswith("digest ")]
    cluster.shutdown()
    here = model(env=Marked, envs_per_group=1, behind=1, normalize=False).learn(STEPS)
    print("same" if digest(here) == there else "other")

if __name__ == "__main__":
    main() if len(sys.argv) == 2 else drive(sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", ["actors", "learner_processes", "seeds"])
def test_a_ray_that_dies_is_named_before_it_ends_the_process(who, tmp_path):
    """Nothing can be replaced then; left alone Ray ends the learner with a page of its own."""
    (tmp_path / "script.py").write_text(RAYLET)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), who, str(tmp_path / "run")], text=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": path}, timeout=280,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "Ray itself has died on this machine" in line]
    assert said, done.stderr[-3000:]
    assert "`actrix resume` goes on from the last checkpoint" in said[0]
    assert done.returncode == 1


RAYLET = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
os.environ["RAY_worker_niceness"] = "0"
from actrix.cli import main
from actrix.remote.cluster import ray_module
ray = ray_module()
from ray.cluster_utils import Cluster
who, folder = sys.argv[1:]

def kill():
    while not list(Path(folder).rglob("metrics.csv")):
        time.sleep(0.1)
    time.sleep(2)
    mine = subprocess.run(["ps", "-o", "pid,args", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout
    [pid] = [int(line.split()[0]) for line in mine.splitlines() if "/raylet " in line]
    os.kill(pid, signal.SIGKILL)

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    threading.Thread(target=kill, daemon=True).start()
    what = {"actors": ["--actors", "1"], "seeds": ["--seeds", "2"],
            "learner_processes": ["--learners", "2", "--learner-processes", "2"]}[who]
    sys.exit(main(["train", "ppo", "LunarLander-v3", "--envs", "4", "--steps", "4000000", "--seed", "0", *what,
                   "--set", "n_steps=64", "batch_size=64", "--address", cluster.address, "--out", folder]))
"""


def test_ray_takes_no_signal(one_ray):
    """Its own handler of SIGTERM would end a run before it is saved."""
    assert "ray" not in getattr(signal.getsignal(signal.SIGTERM), "__module__", "")
