"""Settings that are numbers are read from the training state: another one needs no other program."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from actrix.algorithms.learn import Composition
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.core.numbers import numbers_of, packed, same_program, unpacked, with_numbers
from actrix.envs.jax_envs import jax_env
from actrix.loops.compiled import CompiledRunner, collect

sys.path.insert(0, str(Path(__file__).parent.parent / "algorithms"))
from helpers import NUM_ENVS, OF_ANSWERS, probes, small

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
    exact = {path: np.float32(x) for path, x in numbers.items()}
    assert numbers_of(unpacked(algorithm, packed(numbers).astype(float))) == exact
    assert same_program(algorithm, with_numbers(algorithm, {path: x + 1 for path, x in numbers.items()}))


def test_what_is_another_program():
    ppo = COMPOSED["ppo"]
    assert same_program(ppo, configure(ppo, {"learning_rate": 0.1}))
    for change in (
        {"n_steps": 64}, {"ref_kl_coef": 0.1}, {"learning_rate": "lin_0.1"}, {"max_grad_norm": None},
        {"policy_kwargs": {"net_arch": [8]}}, {"clip_obs": 5.0}, {"clip_range_vf": 0.2},
    ):  # fmt: skip
        assert not same_program(ppo, configure(ppo, change)), change


# That others' numbers are read from the training state: `test_every_number_reaches_what_is_learned`.
@pytest.mark.parametrize("name", ["ppo", *(pytest.param(x, marks=pytest.mark.slow) for x in ("dqn", "td3"))])
def test_other_numbers_from_the_next_update_on_compile_nothing(name):
    """As if the run had begun with them, bit for bit; and each of them matters."""
    algorithm = small(COMPOSED[name])
    env, updates = probes(algorithm), 8
    one = CompiledRunner(algorithm, env, NUM_ENVS, [0])
    one.warm()

    def learned(runner, numbers):
        runner.state = runner._stack([runner._initial(0, None)])
        runner.set_training(total_steps=1e4, numbers=packed(numbers))
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


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "ppo",
            dict(
                clip_range_vf=0.2,
                target_kl=0.1,
                ref_kl_coef=0.1,
                critic_learning_rate=0.1,
                n_critic_updates=1,
            ),
        ),
        pytest.param("sac", dict(ent_coef=0.1), marks=pytest.mark.slow),  # test_learning.py: 0.05
        *(
            pytest.param(*case, marks=pytest.mark.slow)  # read by what `test_every_number` traces
            for case in (("discrete-sac", dict(target_entropy=0.1)), ("td3-bc", dict(bc_alpha=1.0)))
        ),
        ("dqn", dict(priority_beta="lin_0.4_1.0", prioritized=True, max_grad_norm=None)),
    ],
)
def test_numbers_that_are_off_in_the_presets(name, settings):
    """A few updates of what no preset has."""
    algorithm = configure(small(COMPOSED[name]), settings)
    assert {key for key in settings if isinstance(settings[key], float)} <= {
        path.rpartition(".")[2] for path in numbers_of(algorithm)
    } | {"ref_kl_coef"}
    runner = CompiledRunner(algorithm, probes(algorithm), NUM_ENVS, [0])
    runner.warm()
    runner.advance(2)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(runner.actings))


OFF = {
    "clip_reward": "normalize_reward is off", "data.priority_beta": "prioritized is off",
    "fit.critic_learning_rate": "n_critic_updates is 0", "fit.optimizer_beta1": "optimizer is rmsprop",
    "critic.tau": "there is no target network",
    ("sft", "gamma"): "every answer that is shown has weight 1 and gamma_weight is off",
}  # fmt: skip
"""Numbers that may do nothing, because another setting is as it is."""
FEW = ("vpg", "ppo-kl", "trpo", "acer", "a2c", "rainbow", "pqn", "td3", "crossq")


@pytest.mark.parametrize(
    "name", [x if x in FEW else pytest.param(x, marks=pytest.mark.slow) for x in COMPOSED]
)
def test_every_number_reaches_what_is_learned(name):
    """Else it would be taken and have no effect: it is read elsewhere, and belongs into `structural`."""
    algorithm = small(COMPOSED[name])
    env = jax_env("Copy-v0") if name in OF_ANSWERS else probes(algorithm)
    runner = CompiledRunner(algorithm, env, NUM_ENVS, [0])
    one = jax.tree.map(lambda x: x[0], runner.state)
    acting = one.learner.acting
    fill = lambda s: collect(algorithm, acting, env, s.env, s.env_key, s.iteration_key, runner.rows)[1]
    given = (one.learner, jax.eval_shape(fill, one))
    numbers = {path: jnp.float32(x) for path, x in numbers_of(algorithm).items()}

    def learn(numbers, learner, chunk):
        training = dataclasses.replace(learner.training, numbers=jnp.stack([*numbers.values()]))
        return algorithm.learn(dataclasses.replace(learner, training=training), chunk, jax.random.key(0))

    out = jax.tree_util.tree_flatten_with_path(jax.eval_shape(learn, numbers, *given))[0]
    rest = [".numbers" not in jax.tree_util.keystr(path) for path, _ in out]
    _, used = partial_eval.dce_jaxpr(jax.make_jaxpr(learn)(numbers, *given).jaxpr, rest)
    idle = {path for path, x in zip(sorted(numbers), used, strict=False) if not x}  # as jax flattens a dict
    assert {number for number in idle if (name, number) not in OFF} <= set(OFF)
