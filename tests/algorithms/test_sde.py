"""State-dependent exploration in whole algorithms: both loops, resume, files, and where it is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from helpers import CONTINUOUS

from actrix import DQN, PPO, SAC, TD3, Model
from actrix.actors.pathwise import Explore, Soft
from actrix.algorithms.policy_kwargs import SettingError
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure, settings_of, value_of
from actrix.core.types import Spec
from actrix.envs.jax_envs import HostJax
from actrix.loops.compiled import CompiledRunner
from actrix.loops.runner import run_keys
from actrix.loops.stepping import host_runner
from actrix.nets.networks import NetworkConfig

SPEC = Spec(spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32))
DISCRETE = dataclasses.replace(SPEC, action_space=spaces.Discrete(3))
ON = {"use_sde": True, "sde_sample_freq": 2}


def algorithm(name, **settings):
    return configure(PRESETS[name].algorithm, settings)


def arrays(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_both_loops_train_alike_and_a_resumed_one_goes_on_exactly(name):
    n = 2
    sde = dict(use_sde=True, sde_sample_freq=2, log_std_init=-1.0, net_arch=[4])
    chunk = dict(n_steps=6, batch_size=6, n_epochs=1) if name == "ppo" else dict(
        train_freq=3, batch_size=4, buffer_size=40, learning_starts=6, use_sde_at_warmup=True
    )  # fmt: skip
    alg = algorithm(name, policy_kwargs=sde, **chunk)
    env = CONTINUOUS.parts[0]
    compiled = CompiledRunner(alg, env, n, [3])
    compiled.warm()
    compiled.advance(2)
    before = compiled.snapshots()
    learner = jax.tree.map(np.array, before[0].learner)
    compiled.advance(2)
    whole = arrays(compiled.learners[0].acting.net)
    compiled.set_learners([jax.tree.map(jnp.array, learner)], [2])
    assert compiled.set_loops([before[0].loop])
    compiled.advance(2)
    assert arrays(compiled.learners[0].acting.net) == whole

    host = host_runner(alg, HostJax(env, n, run_keys(3)[1]), 3)
    host.warm()
    for _ in range(4):
        host.advance(1)
    for x, y in zip(
        jax.tree.leaves(host.learners[0].acting.net),
        jax.tree.leaves(compiled.learners[0].acting.net),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4)


def test_a_recurrent_policy_explores_by_its_memory():
    alg = algorithm("ppo", policy_kwargs=dict(cell="gru", hidden_size=4, net_arch=[3]) | ON)
    acting = alg.initial_acting(jax.random.key(0), SPEC)
    noise = jax.tree.map(lambda x: x[0], alg.noise(acting, jax.random.key(1), 5, 2))
    obs = jnp.ones((2, 3))
    one = alg.act(acting, alg.initial_carry(acting, 2), obs, None, noise)
    two = alg.act(acting, one[3], obs, None, noise)
    assert not np.allclose(one[2].log_std, two[2].log_std)
    np.testing.assert_allclose(one[1], one[2].log_prob(one[0]), rtol=1e-5)


def test_sampled_actions_of_a_soft_actor_stay_in_the_random_phase_where_they_shall():
    numbers = Explore(jnp.zeros(()))
    assert Soft(use_sde_at_warmup=True).at_random(numbers) is numbers
    assert Soft().at_random(numbers).random == 1


def test_one_matrix_serves_sample_freq_steps():
    for name in ("ppo", "sac"):
        alg = algorithm(name, **ON)
        noise = alg.noise(alg.initial_acting(jax.random.key(0), SPEC), jax.random.key(1), 5, 2)
        seeds = np.asarray(getattr(noise, "action", noise))
        assert [bool((seeds[t] == seeds[t - 1]).all()) for t in range(1, 5)] == [True, False, True, False]


@pytest.mark.parametrize("cls", [PPO, SAC])
def test_settings_are_kept_by_models_and_words(cls):
    model = cls("MlpPolicy", **ON, policy_kwargs={"log_std_init": -2, "full_std": False})
    assert (model.use_sde, model.sde_sample_freq) == (True, 2)
    kept = settings_of(model.algorithm)
    again = configure(PRESETS[model.preset.name].algorithm, kept)
    assert again == model.algorithm
    assert value_of(again, "sde_sample_freq") == 2
    # Given inside or outside of policy_kwargs, and another setting beside it, they are the same.
    inside = cls("MlpPolicy", policy_kwargs=ON | {"log_std_init": -2, "full_std": False})
    assert inside.algorithm == model.algorithm
    assert configure(model.algorithm, {"gamma": 0.5}).network == model.algorithm.network


def test_a_file_keeps_it(tmp_path):
    model = PPO(
        "MlpPolicy", "Pendulum-v1", n_steps=4, batch_size=4, n_epochs=1, policy_kwargs={"net_arch": [4]}, **ON
    )
    model.learn(4)
    again = Model.load(model.save(tmp_path / "m"))
    obs = np.ones(3, np.float32)
    np.testing.assert_array_equal(
        again.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    assert again.use_sde
    assert again.algorithm == model.algorithm


@pytest.mark.parametrize("name", ["dqn", "td3", "discrete-sac", "bc", "awac", "iql"])
def test_it_is_refused_where_it_has_no_meaning(name):
    alg = algorithm(name, use_sde=True)
    spec = DISCRETE if name in ("dqn", "discrete-sac") else SPEC
    with pytest.raises(ValueError, match="use_sde=True: state-dependent exploration is of a Gaussian policy"):
        alg.check(spec, 1)


@pytest.mark.parametrize(
    ("alg", "spec", "says"),
    [
        (lambda: algorithm("ppo", use_sde=True), DISCRETE, "use_sde=True: .* a Box action space"),
        (lambda: algorithm("acktr", use_sde=True), SPEC, "use_sde needs trpo or npg"),
        (lambda: algorithm("sac", use_sde_at_warmup=True), SPEC, "use_sde_at_warmup=True needs use_sde=True"),
        (lambda: algorithm("cql", use_sde_at_warmup=True, **ON), SPEC, "use_sde_at_warmup is of a random phase"),
        (lambda: algorithm("sac", policy_kwargs=ON | {"squash_output": True}), SPEC, "squash_output=True would have"),
        (lambda: algorithm("ppo", policy_kwargs=ON | {"clip_mean": 1.0}), SPEC, "clip_mean=1.0 would have no effect"),
        (
            lambda: algorithm("ppo", policy_kwargs=ON | {"squash_output": True}),
            dataclasses.replace(SPEC, action_space=spaces.Box(-np.inf, np.inf, (2,), np.float32)),
            "squash_output=True needs finite bounds",
        ),
    ],
)  # fmt: skip
def test_what_it_does_not_go_with(alg, spec, says):
    with pytest.raises(ValueError, match=says):
        alg().check(spec, 8)


@pytest.mark.parametrize("name", ["ppo", "a2c", "trpo", "sac", "tqc", "crossq", "awr"])
def test_it_fits(name):
    alg = algorithm(name, **ON)
    alg.check(SPEC, PRESETS[name].n_envs)
    acting = alg.initial_acting(jax.random.key(0), SPEC)
    noise = jax.tree.map(lambda x: x[0], alg.noise(acting, jax.random.key(1), 1, 2))
    act = jax.eval_shape(lambda: alg.act(acting, alg.initial_carry(acting, 2), jnp.ones((2, 3)), None, noise))
    assert act[0].shape == (2, 2)


@pytest.mark.parametrize("field", ["sde_sample_freq", "full_std", "use_expln", "squash_output", "clip_mean"])
def test_its_own_settings_alone_are_refused(field):
    value = {"sde_sample_freq": 4, "clip_mean": 1.0, "full_std": False}.get(field, True)
    with pytest.raises(ValueError, match=f"{field}=.* is of state-dependent exploration: set use_sde=True"):
        NetworkConfig(**{field: value})
    with pytest.raises(SettingError, match="set use_sde=True"):
        DQN("MlpPolicy", policy_kwargs={field: value})


def test_defaults_of_scripts_are_taken_everywhere():
    for cls in (DQN, TD3):
        model = cls("MlpPolicy", use_sde=False, sde_sample_freq=-1, use_sde_at_warmup=False)
        assert model.algorithm == cls("MlpPolicy").algorithm
