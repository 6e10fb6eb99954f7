"""`actrix.core.threefry` draws JAX's own random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.core.threefry import threefry, written_out
from actrix.envs.probes import Probe, ProbeState
from actrix.loops.compiled import CompiledRunner

KEYS = [jax.random.key(seed, impl="threefry2x32") for seed in (0, 7, 2**31 + 5)]

DRAWS = {
    "normal": lambda key: jax.random.normal(key, (3, 5)),
    "uniform": lambda key: jax.random.uniform(key, (7,)),
    "gumbel": lambda key: jax.random.gumbel(key, (2, 3, 2)),
    "randint": lambda key: jax.random.randint(key, (11,), 0, 1000),
    "permutation": lambda key: jax.random.permutation(key, 33),
    "categorical": lambda key: jax.random.categorical(key, jnp.arange(6.0), shape=(40,)),
    "beta": lambda key: jax.random.beta(key, 2.0, 3.0, (4,)),
    "8 bits": lambda key: jax.random.bits(key, (5,), "uint8"),
    "16 bits": lambda key: jax.random.bits(key, (5,), "uint16"),
    "a number": lambda key: jax.random.uniform(key),
    "none": lambda key: jax.random.normal(key, (0, 4)),
    "many": lambda key: jax.random.normal(key, (30, 40)),
    "many keys": lambda key: jax.vmap(jax.random.bits)(jax.random.split(key, 200)),
    "split": lambda key: jax.vmap(jax.random.bits)(jax.random.split(key, 5)),
    "split of a split": lambda key: jax.vmap(jax.random.bits)(jax.random.split(jax.random.split(key)[1], 3)),
    "fold in": lambda key: jax.random.bits(jax.random.fold_in(key, 2**32 - 1), (3,)),
    "fold in many": lambda key: jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (2,)))(
        jnp.arange(4) - 2
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_same_numbers(name):
    for key in KEYS:
        ours, theirs = jax.jit(DRAWS[name])(written_out(key)), jax.jit(DRAWS[name])(key)
        assert ours.dtype == theirs.dtype
        # What is made of the bits may be rounded otherwise in another program.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6 if ours.dtype == np.float32 else 0, atol=1e-7)
    assert name == "none" or not np.array_equal(DRAWS[name](KEYS[0]), DRAWS[name](KEYS[1]))


def test_64_bits():
    with jax.enable_x64(True):
        for key in KEYS:
            draw = lambda key: jax.random.bits(key, (5,), "uint64")
            np.testing.assert_array_equal(draw(written_out(key)), draw(key))


def test_of_integers_and_of_arrays():
    """One function serves both: numbers of the host wrap at 2³² as arrays do."""
    rng = np.random.default_rng(0)
    for words in rng.integers(0, 2**32, (20, 4)).tolist():
        key, counter = words[:2], words[2:]
        arrays = threefry(*(tuple(jnp.uint32(x) for x in pair) for pair in (key, counter)))
        assert threefry(tuple(key), tuple(counter)) == tuple(map(int, arrays))
    # Test vectors of Salmon et al. (2011), known_answer "threefry2x32, 20 rounds".
    assert threefry((0, 0), (0, 0)) == (0x6B200159, 0x99BA4EFE)
    assert threefry((2**32 - 1,) * 2, (2**32 - 1,) * 2) == (0x1CB996FC, 0xBB002BE7)
    assert threefry((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)) == (0xC4923A9C, 0x483DF7A0)


def test_where_the_loop_is_left():
    """The rounds are no operations of their own, but where many keys are made."""
    draws = lambda number: lambda key: jax.random.normal(key, (number,))
    splits = lambda number: lambda key: jax.random.key_data(jax.random.split(key, number))
    loops = {
        (name, number): "while" in jax.jit(of(number)).lower(written_out(KEYS[0])).as_text()
        for name, of in {"draw": draws, "split": splits}.items()
        for number in (4, 4096)
    }
    assert loops == {("draw", 4): False, ("draw", 4096): False, ("split", 4): False, ("split", 4096): True}


class KeepsItsKey(Probe):
    """One step; the episode's key is in its state, and what it shows is drawn from Poisson's distribution."""

    def reset(self, key):
        state = ProbeState((jnp.minimum(jax.random.poisson(key, 1.0), 3) / 3, key), jnp.zeros((), jnp.int32))
        return state, self._observe(state)

    def _observe(self, state):
        return jnp.stack([state.x[0], jax.random.uniform(state.x[1])])

    def _outcome(self, state, action):
        return state.x[0], jnp.ones((), bool)


@pytest.mark.parametrize("n_steps", [4, 80])
def test_environments_get_jaxs_own_keys(n_steps):
    """Few rows' keys are made with the rounds written out, many rows' with JAX's loop."""
    settings = {"n_steps": n_steps, "batch_size": 8, "policy_kwargs": {"net_arch": [4]}}
    runner = CompiledRunner(configure(PRESETS["ppo"].algorithm, settings), KeepsItsKey(), 2, [0])
    runner.set_training(total_steps=1000)
    (report,) = runner.advance(2)
    assert report.steps == len(report.ep_returns) == 4 * n_steps
    assert len(set(report.ep_returns.round(3).tolist())) > 1


def test_keys_that_split_otherwise_stay_as_they_are():
    with jax.threefry_partitionable(False):
        assert written_out(KEYS[0]) is KEYS[0]
