"""Runners of the same algorithm and environment share their programs; of others, or of what may change, none."""

import dataclasses

import pytest

from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.envs.jax_envs import HostJax, jax_env
from actrix.loops.compiled import CompiledRunner
from actrix.loops.runner import PROGRAMS, hashed, shared
from actrix.loops.stepping import host_runner


@dataclasses.dataclass(frozen=True)
class Value:
    x: object = 1


@dataclasses.dataclass
class Changing:
    x: object = 1


def test_values_are_told_apart_by_their_types_too():
    assert hashed((Value(1), "a", None, int)) == hashed((Value(1), "a", None, int))
    assert len({hashed(Value(x)) for x in (1, 1.0, True, (1,), "1", Value())}) == 6


@pytest.mark.parametrize(
    "x", [Changing(), [1], {}, Value(Changing()), (object(),)], ids=lambda x: type(x).__name__
)
def test_what_may_change_is_no_value(x):
    with pytest.raises(TypeError):
        hashed(x)


def test_the_last_programs_are_kept():
    made = []
    find = shared(lambda x: made.append(x) or object())
    first = find(0)
    assert find(0) is first
    assert find(0.0) is not first
    assert find(Changing()) is not find(Changing())
    for x in range(1, PROGRAMS + 1):
        find(x)
    assert find(0) is not first
    assert made.count(0) == 3  # 0, 0.0 and 0 again


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_runners_of_the_same_share_their_programs(name):
    """Nothing is compiled for this."""

    def compiled(n_envs=2, **settings):
        algorithm = configure(PRESETS[name].algorithm, settings)
        return CompiledRunner(algorithm, jax_env("CartPole-v1"), n_envs, [0])._compile()

    def host(n_envs=2, **settings):
        algorithm = configure(PRESETS[name].algorithm, settings)
        runner = host_runner(algorithm, HostJax(jax_env("CartPole-v1"), n_envs), 0)
        if name == "dqn":
            runner._compile()
        return runner._learn if name == "ppo" else runner._round

    for program in (compiled, host):
        assert program() is program()
        assert program() is not program(gamma=0.5)
        assert program() is not program(n_envs=3)
