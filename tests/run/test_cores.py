"""Chunks collected on one core or on all: the same chunks, and every thread back where it may run."""

import os
import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.envs.make import make_vec_env
from actrix.loops import cores
from actrix.loops.stepping import host_runner

pytestmark = pytest.mark.skipif(
    len(getattr(os, "sched_getaffinity", lambda _: set())(0)) < 2, reason="there is one core"
)


@pytest.mark.parametrize("faster", [True, False])
def test_both_ways_are_tried_and_the_faster_one_is_kept(faster, monkeypatch):
    now, seconds, ways = [0.0], {faster: 1.0, not faster: 2.0}, []
    monkeypatch.setattr(cores, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(cores, "_put", lambda threads, to: ways.append(len(to) == 1))
    one = cores.OneCore()

    def chunk(rows=cores.SHORTEST, threads=(1,)):
        ways.clear()
        with one.during(threads, rows):
            way = bool(ways)
            now[0] += seconds[way]
        return way

    assert [chunk() for _ in range(9)] == [False, False, True, False, *[faster] * 5]
    assert not chunk(rows=cores.SHORTEST - 1)
    assert not chunk(threads=())
    assert not chunk(threads=range(cores.MOST + 1))


def collected(way, monkeypatch, on_step=None):
    """(a chunk, where its threads were allowed to run meanwhile)."""
    pytest.importorskip("envpool")
    env, seen = make_vec_env("CartPole-v1", 4, 0, backend="envpool"), []
    env = getattr(env, "host", env)
    runner = host_runner(configure(PRESETS["ppo"].algorithm, {"n_steps": cores.SHORTEST}), env, 0)
    runner.on_step = on_step
    monkeypatch.setattr(runner._cores, "_one", lambda: way)
    step = env.step
    where = lambda: {frozenset(os.sched_getaffinity(x)) for x in [0, *env.threads]}
    monkeypatch.setattr(env, "step", lambda action: (seen.append(where()), step(action))[1])
    chunk, _ = runner.collect(cores.SHORTEST, runner.iteration_key, runner.learner.acting)
    assert where() == {frozenset(os.sched_getaffinity(0))}
    assert threading.get_native_id() not in env.threads
    env.close()
    return chunk, seen


def test_the_chunk_is_the_same_and_threads_are_let_go(monkeypatch):
    allowed = frozenset(os.sched_getaffinity(0))
    (one, near), (other, free) = (collected(way, monkeypatch) for way in (True, False))
    assert all(len(places) == 1 and len(*places) == 1 for places in near)
    assert all(places == {allowed} for places in free)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert frozenset(os.sched_getaffinity(0)) == allowed


def test_what_callbacks_start_may_run_anywhere(monkeypatch):
    _, seen = collected(True, monkeypatch, on_step=lambda *_: True)
    assert all(places == {frozenset(os.sched_getaffinity(0))} for places in seen)


def test_a_chunk_that_ends_in_an_error_lets_threads_go_too(monkeypatch):
    """And counts for neither way."""
    allowed, one = os.sched_getaffinity(0), cores.OneCore()
    one._took = [1.0] * cores.COMPILING
    during = one.during([threading.get_native_id()], cores.SHORTEST)
    during.__enter__()
    assert len(os.sched_getaffinity(0)) == 1
    assert not during.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert os.sched_getaffinity(0) == allowed
    assert one._took == [1.0] * cores.COMPILING
