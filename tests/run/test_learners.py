"""Learners: several devices, or processes that hold them, come to what one comes to, up to rounding."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnasium as gym
import jax
import numpy as np
import pytest
from tests.run.test_grouping import STEPS, digest, model
from tests.run.test_offline import make_dataset

from actrix import PPO, SAC, SARSA
from actrix.files import manifest
from actrix.loops.grouping import Grouping

ROOT = Path(__file__).resolve().parents[2]
ROUNDING = 1e-5
"""Of the largest entry of an array after a few updates: some eighty times float32's 1.2e-7, of which each sum over a
batch in another order costs a few, and each update carries them on."""

HEAD = """
import dataclasses, json, sys
import jax, numpy as np
import actrix
from actrix.core.fit import Joint
from actrix.loops.compiled import CompiledRunner
from actrix.loops.learners import Learners, mesh_of, placed
from actrix.loops.stepping import host_runner
from actrix.envs.make import make_vec_env
from tests.run.test_learners import apart

SMALL = {"n_envs": 4, "seed": 3, "policy_kwargs": {"net_arch": [16]}}

def runners(kind, env="CartPole-v1", backend="gymnasium", **more):
    one = kind("MlpPolicy", env, backend=backend, **SMALL | more)
    if backend == "jax":
        return [CompiledRunner(one.algorithm, one._env, one.n_envs, [3], None, n) for n in (1, 2)]
    envs = [make_vec_env(env, one.n_envs, backend=backend) for _ in range(2)]
    return [host_runner(one.algorithm, env, 3, None, 0, Learners(n)) for n, env in zip((1, 2), envs)]

def after(updates, *args, **kwargs):
    both = runners(*args, **kwargs)
    found = []
    for runner in both:
        runner.set_training(total_steps=1e4)
        runner.warm()
        for _ in range(updates):
            (report,) = runner.advance([1])
        found.append((runner.learners[0], report.metrics))
    assert len(jax.tree.leaves(both[1].learners[0])[0].devices()) == 2 or both[1].backend == "jax"
    assert found[0][1].keys() == found[1][1].keys()
    return [apart(*(learner for learner, _ in found)), apart(*(metrics for _, metrics in found))]
"""


def apart(one, other):
    """The largest difference of two trees of arrays, as a share of each array's largest entry (at least of 1)."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        if a.size:
            worst = max(worst, float(np.max(np.abs(a - b)) / max(1.0, np.max(np.abs(a)))))
    return worst


def two_devices(script, *arguments):
    """What a process with two devices on the CPU prints, as JSON."""
    flags = "--xla_force_host_platform_device_count=2"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(script), *arguments], text=True, capture_output=True, timeout=550,
        env=os.environ | {"PYTHONPATH": path, "XLA_FLAGS": flags},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_devices_share_the_work_and_come_to_the_same():
    """PPO with statistics, shuffled minibatches, normalised advantages and target_kl in the compiled loop; in the host
    loop the gradient, read off one step of plain descent of size 1."""
    found = two_devices("""
        ppo = dict(n_steps=16, batch_size=16, n_epochs=2, normalize=True, target_kl=0.02)
        out = {"compiled": after(3, actrix.PPO, backend="jax", **ppo)}
        plain = dict(n_steps=16, batch_size=64, n_epochs=1, optimizer="sgd", learning_rate=1.0, max_grad_norm=None)
        before, *steps = [], [], []
        for runner, moved in zip(runners(actrix.PPO, **plain), steps):
            start = [np.asarray(x, np.float64) for x in jax.tree.leaves(runner.learners[0].acting.net)]
            runner.advance([1])
            end = [np.asarray(x, np.float64) for x in jax.tree.leaves(runner.learners[0].acting.net)]
            moved += [b - a for a, b in zip(start, end)]
        flat = [np.concatenate([x.ravel() for x in moved]) for moved in steps]
        out["gradient"] = float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0]))
        out["norm"] = float(np.linalg.norm(flat[0]))

        one = runners(actrix.PPO, n_steps=64, batch_size=256, n_epochs=1, policy_kwargs={"net_arch": [64, 64]})[0]
        chunk, _ = one.collect(64, one.iteration_key, one.learner.acting)
        given, work = (one.learner, chunk, one.iteration_key), []
        for count in (1, 2):
            arguments = given if count == 1 else (placed(given[0], 2), placed(chunk, 2, 1, 4), placed(given[2], 2))
            with jax.set_mesh(mesh_of(count)):
                lowered = jax.jit(one.algorithm.learn).lower(*arguments)
                work.append(lowered.compile().cost_analysis()["flops"])
        out["work"] = work[1] / work[0]
        print(json.dumps(out))
    """)
    assert max(found["compiled"]) < ROUNDING, found
    assert found["norm"] > 1e-3
    assert found["gradient"] < ROUNDING, found
    assert found["work"] < 0.6, "each device computes its half of the rows"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whatever_learns_from_batches_can_be_shared():
    """Natural gradients, recurrent policies, trajectories, replay with and without priorities, odd batches."""
    found = two_devices("""
        lstm = {"net_arch": [8], "cell": "lstm"}
        from actrix import A2C, ACER, DQN, PPO, SAC, TRPO
        ppo = dict(n_steps=16, batch_size=16, n_epochs=2, normalize=True, target_kl=0.02)
        print(json.dumps({
            "ppo": after(3, PPO, **ppo),
            "a2c": after(4, A2C, backend="jax"),
            "trpo": after(2, TRPO, n_steps=32),
            "recurrent": after(2, PPO, n_steps=16, batch_size=32, n_epochs=2, policy_kwargs=lstm),
            "acer": after(4, ACER, n_steps=16, learning_starts=64),
            "odd": after(2, PPO, n_steps=36, batch_size=9, n_epochs=2),
            "dqn": after(15, DQN, backend="jax", learning_starts=64, train_freq=4, batch_size=32, prioritized=True),
            "sac": after(8, SAC, env="Pendulum-v1", backend="jax", learning_starts=64, train_freq=4, batch_size=32),
        }))
    """)
    assert {name: worst for name, (worst, _) in found.items() if not worst < ROUNDING} == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_goes_on_with_another_number_and_says_so(tmp_path):
    found = two_devices("""
        from pathlib import Path
        from actrix import train_seeds
        from actrix.runs.start import resume
        for loop in ("jax", "gymnasium"):
            settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "policy_kwargs": {"net_arch": [8]}}
            for name, learners in (("one", 1), ("two", 2)):
                folder = Path(sys.argv[1]) / f"{loop}-{name}"
                train_seeds("ppo", "CartPole-v1", [1], 400, folder, n_envs=4, backend=loop, settings=settings,
                            learners=learners)
                resume(folder, steps=800, learners=3 - learners, quiet=True)
        print("null")
    """, str(tmp_path))  # fmt: skip
    assert found is None
    from safetensors.numpy import load_file

    for loop in ("jax", "gymnasium"):
        models = [load_file(tmp_path / f"{loop}-{name}" / "model.safetensors") for name in ("one", "two")]
        assert apart(*models) < ROUNDING
        for name, numbers in (("one", [1, 2]), ("two", [2, 1])):
            said = manifest.sessions(tmp_path / f"{loop}-{name}")
            assert [one["learners"] for one in said] == numbers


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        (PPO, {"learners": 0}, "learners=0 must be a whole number of at least 1"),
        (PPO, {"learners": 3}, "4 environments cannot be shared equally by learners=3: take n_envs=6"),
        (PPO, {"learners": 4096, "n_envs": 4096}, r"more than the \d+ devices .*XLA_FLAGS=.*=4096 for .*learner_proc"),
        (PPO, {"learners": 4, "learner_processes": 3}, "cannot be shared equally by learner_processes=3"),
        (PPO, {"learners": 2, "learner_processes": 2, "backend": "jax"}, "collects in the learner's own program"),
        (SAC, {"learners": 2, "env": "Pendulum-v1"}, r"in groups \(envs_per_group, actors\), or compiled ones"),
        (SARSA, {"learners": 2, "env": "FrozenLake-v1"}, "learns from each step as it comes: take one"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_one_sentence(kind, more, message):
    with pytest.raises(ValueError, match=message):
        kind("MlpPolicy", **{"env": "CartPole-v1", "n_envs": 4, "backend": "gymnasium"} | more)


def test_a_data_set_has_one_learner():
    from actrix import DQN

    data = make_dataset(gym.spaces.Discrete(3))
    with pytest.raises(ValueError, match="learners are of environments: a data set has none"):
        DQN("MlpPolicy", dataset=data, learners=2)


def test_learners_are_no_part_of_what_is_compared():
    assert not Grouping(learners=2)
    assert Grouping(learners=2).lag == 0


# ---------------------------------------------------------------------------- processes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_come_to_one_and_their_deaths_change_nothing(monkeypatch):
    """One is killed, and one stands still."""
    pytest.importorskip("ray")
    from actrix.remote import team

    monkeypatch.setattr(team, "UPDATE", 60.0)
    monkeypatch.setattr(team, "PATIENCE", 2)
    whole, trained = model().learn(STEPS), []
    for kills in (False, True):
        one = model(learners=2, learner_processes=2)
        pids = []

        def kill(locals_, _, one=one, pids=pids):
            team, at = one.runner._team, one.num_timesteps
            if at in (16 * 4 * 2, 16 * 4 * 3) and at not in pids:
                pids.append(at)
                os.kill(team.pids[len(pids) % 2], signal.SIGKILL if len(pids) == 1 else signal.SIGSTOP)

        if kills:
            with pytest.warns(RuntimeWarning, match="a learner's process died or does not answer: all"):
                one.learn(STEPS, callback=kill)
            assert one.runner._team.restarts == len(pids) == 2
        else:
            one.learn(STEPS)
        one.runner.close()
        trained.append(one)
    assert digest(trained[0]) == digest(trained[1])
    assert apart(whole.runner.learners[0], trained[0].runner.learners[0]) < ROUNDING
