"""Settings that are numbers are read from the training state: another one needs no other program."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from actrix.algorithms.learn import Composition
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.core.numbers import numbers_of, same_program, with_numbers
from actrix.loops.compiled import CompiledRunner

sys.path.insert(0, str(Path(__file__).parent.parent / "algorithms"))
from helpers import NUM_ENVS, probes, small

COMPOSED = {name: p.algorithm for name, p in PRESETS.items() if isinstance(p.algorithm, Composition)}
OTHER = {
    "ppo": dict(learning_rate=1e-4, gamma=0.9, gae_lambda=0.5, clip_range=0.05, ent_coef=0.1, vf_coef=0.1,
                max_grad_norm=0.05),
    "dqn": dict(learning_rate=1e-4, gamma=0.9, tau=0.5, exploration_final_eps=0.5),
    "td3": dict(learning_rate=1e-4, gamma=0.9, tau=0.5, target_policy_noise=0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSED)
def test_numbers_go_out_and_come_back(name):
    algorithm = COMPOSED[name]
    numbers = numbers_of(algorithm)
    assert {"gamma", "fit.learning_rate"} <= {path.removesuffix(".initial") for path in numbers}
    assert with_numbers(algorithm, numbers) == algorithm
    assert same_program(algorithm, with_numbers(algorithm, {path: x + 1 for path, x in numbers.items()}))


def test_what_is_another_program():
    ppo = COMPOSED["ppo"]
    assert same_program(ppo, configure(ppo, {"learning_rate": 0.1}))
    for change in (
        {"n_steps": 64}, {"ref_kl_coef": 0.1}, {"learning_rate": "lin_0.1"}, {"max_grad_norm": None},
        {"policy_kwargs": {"net_arch": [8]}}, {"clip_obs": 5.0}, {"clip_range_vf": 0.2},
    ):  # fmt: skip
        assert not same_program(ppo, configure(ppo, change)), change


@pytest.mark.parametrize("name", OTHER)
def test_other_numbers_from_the_next_update_on_compile_nothing(name):
    """As if the run had begun with them, bit for bit; and each of them matters."""
    algorithm = small(COMPOSED[name])
    env, updates = probes(algorithm), 8
    one = CompiledRunner(algorithm, env, NUM_ENVS, [0])
    one.warm()

    def learned(runner, numbers):
        runner.state = runner._stack([runner._initial(0, None)])
        runner.set_training(total_steps=1e4, numbers=numbers)
        runner.warm()
        runner.advance(updates)
        return [np.asarray(x) for x in jax.tree.leaves(runner.actings)]

    plain = learned(one, numbers_of(algorithm))
    for key, value in OTHER[name].items():
        changed = configure(algorithm, {key: value})
        assert any(
            not np.array_equal(a, b) for a, b in zip(learned(one, numbers_of(changed)), plain, strict=True)
        ), key
    changed = configure(algorithm, OTHER[name])
    found = learned(one, numbers_of(changed))
    assert one._segment._cache_size() == 1
    fresh = CompiledRunner(changed, env, NUM_ENVS, [0])
    for a, b in zip(found, learned(fresh, numbers_of(changed)), strict=True):
        np.testing.assert_array_equal(a, b)
