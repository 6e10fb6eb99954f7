"""The transformer memory: against a double loop, one step at a time against all rows at once, and what it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from actrix.core.types import Spec
from actrix.nets.memory import apply, follow, starts, unroll, zero_where
from actrix.nets.memory.decoder import Shape, unrolled
from actrix.nets.networks import NetworkConfig

BOX, TOKENS = spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Discrete(5, start=2)
SIZES = dict(n_layers=2, n_heads=4, n_kv_heads=2, d_model=16)
ENVS = 3


def network(seen=BOX, dtype=jnp.float32, **sizes):
    config = NetworkConfig(cell="transformer", **(SIZES | sizes))
    net = config.build(Spec(seen, spaces.Discrete(2)), jax.random.key(0))
    return jax.tree.map(lambda x: x.astype(dtype), net)


def observations(seen, rows, dtype, seed):
    g = np.random.default_rng(seed)
    if seen is TOKENS:
        return jnp.asarray(g.integers(2, 7, (rows, ENVS)))
    return jnp.asarray(g.normal(size=(rows, ENVS, 3)), dtype)


def held(net, carry):
    """What a memory holds, wherever it does: rows in their order, zero where there is none."""
    rows = jax.vmap(lambda one: unrolled(net.cell.shape, one))(carry)
    there = (rows.episode == 0)[..., None, None]
    return there, [jnp.where(there, x, 0) for x in (*rows.keys, *rows.values)]


def differences(net, seen, dtype, rows, share, length):
    """The largest ones between stepping, `unroll`, `follow` and `starts`, from a memory that is half full."""
    earlier, obs, others = (observations(seen, n, dtype, seed) for seed, n in enumerate((4, rows, rows)))
    first = jnp.asarray(np.random.default_rng(9).random((rows, ENVS)) < share)
    step = jax.jit(lambda x, carry: apply(net, x, carry))
    carry = net.initial_carry((ENVS,))
    for x in earlier:
        carry = step(x, carry)[1]

    @jax.jit
    def at_once():
        out, trail = unroll(net, obs, first, carry, None)
        return out, follow(net, trail, others, None), starts(net, trail, length)

    out, others_out, begins = at_once()
    pairs = []
    for t in range(rows):
        carry = zero_where(first[t], carry)
        if t % length == 0:
            part = slice(t // length * ENVS, (t // length + 1) * ENVS)
            pairs.append((held(net, jax.tree.map(lambda c, part=part: c[0, part], begins)), held(net, carry)))
        said, carry = step(obs[t], carry)
        pairs.append((jax.tree.map(lambda x, t=t: x[t], out), said))
        pairs.append((jax.tree.map(lambda x, t=t: x[t], others_out), step(others[t], carry)[0]))
    return max(
        float(jnp.abs(1.0 * a - 1.0 * b).max())
        for one, two in pairs
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    )


@pytest.mark.parametrize(
    ("rows", "context", "length", "seen"),
    [(12, 5, 4, BOX), (12, 64, 12, BOX), (7, 2, 7, TOKENS), (1, 4, 1, BOX), (26, 13, 13, TOKENS)],
)
def test_all_rows_at_once_are_the_steps(rows, context, length, seen):
    """Episodes end anywhere, the window is shorter or longer than the rows, and the memory comes from before."""
    assert differences(network(seen, context=context), seen, jnp.float32, rows, 0.15, length) < 1e-5


def test_all_rows_at_once_are_the_steps_in_float64():
    with jax.enable_x64(True):
        net = network(dtype=jnp.float64, context=17)
        assert differences(net, BOX, jnp.float64, 60, 0.04, 20) < 1e-10


def reference(net, obs, first, context):
    """Features of one environment, row by row and head by head in float64, from the equations alone."""
    cell = jax.tree.map(lambda x: np.asarray(x, np.float64), net.cell)
    s = net.cell.shape
    norm = lambda x, w: w * x / np.sqrt(np.mean(x**2) + 1e-6)
    silu = lambda x: x / (1 + np.exp(-x))

    def turn(x, position):
        z = x[: s.head // 2] + 1j * x[s.head // 2 :]
        z = z * np.exp(1j * position * s.rope_theta ** (-2 * np.arange(s.head // 2) / s.head))
        return np.concatenate([z.real, z.imag])

    hidden = [x @ cell.embed.weight + cell.embed.bias for x in np.asarray(obs, np.float64)]
    episode = np.cumsum(first)
    for layer in cell.layers:
        wide = s.n_heads * s.head
        heads = [norm(x, layer.attention_norm) @ layer.qkv for x in hidden]
        q = [y[:wide].reshape(s.n_heads, s.head) for y in heads]
        k = [y[wide : wide + s.kv_heads * s.head].reshape(-1, s.head) for y in heads]
        v = [y[wide + s.kv_heads * s.head :].reshape(-1, s.head) for y in heads]
        after = []
        for t, x in enumerate(hidden):
            seen = [u for u in range(t + 1) if episode[u] == episode[t] and t - u < context]
            attended = []
            for h in range(s.n_heads):
                shared = h * s.kv_heads // s.n_heads
                score = np.array([turn(q[t][h], t) @ turn(k[u][shared], u) for u in seen]) / np.sqrt(s.head)
                weight = np.exp(score - score.max())
                attended.append(
                    sum(w * v[u][shared] for w, u in zip(weight / weight.sum(), seen, strict=True))
                )
            x = x + np.concatenate(attended) @ layer.out
            gate, up = np.split(norm(x, layer.ff_norm) @ layer.gate_up, 2)
            after.append(x + (silu(gate) * up) @ layer.down)
        hidden = after
    return np.array([norm(x, cell.norm) for x in hidden])


def test_the_decoder_is_its_equations():
    with jax.enable_x64(True):
        net = network(dtype=jnp.float64, context=4)
        obs = np.random.default_rng(1).normal(size=(11, 3))
        first = np.array([1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0], bool)
        said, _ = net.cell.along(jnp.asarray(obs), jnp.asarray(first), net.cell.initial(()))
        np.testing.assert_allclose(said, reference(net, obs, first, 4), atol=1e-12)


def test_the_past_reaches_as_far_as_the_window_and_no_further_than_the_episode():
    """Each layer sees context rows: with two of them the gradient ends 2 · (context − 1) rows back."""
    net, first = network(context=3), jnp.zeros(12, bool).at[2].set(True)
    obs = jnp.asarray(np.random.default_rng(2).normal(size=(12, 3)), jnp.float32)
    said = lambda x, row: net.cell.along(x, first, net.cell.initial(()))[0][row].sum()
    gradient = jax.jit(jax.grad(said))
    seen = lambda row: np.flatnonzero(np.abs(gradient(obs, row)).sum(1) > 0).tolist()
    assert seen(11) == [7, 8, 9, 10, 11]
    assert seen(4) == [2, 3, 4]


def test_tokens_are_rows_of_an_embedding():
    net = network(TOKENS)
    assert net.cell.embed.shape == (5, 16)
    changed = eqx.tree_at(lambda c: c.embed, net.cell, net.cell.embed.at[3].add(1.0))
    say = lambda cell, token: cell(net.encoder(jnp.asarray(token)), cell.initial(()))[0]
    np.testing.assert_array_equal(say(changed, 4), say(net.cell, 4))
    assert np.abs(np.asarray(say(changed, 5) - say(net.cell, 5))).max() > 1e-3


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"d_model": 12}, r"d_model=12 must be a multiple of 2 · n_heads = 8"),
        ({"n_kv_heads": 3}, "n_heads=4 must be a multiple of n_kv_heads=3"),
        ({"context": 1}, "context=1 must be a whole number of at least 2"),
        ({"rope_theta": 0}, "rope_theta=0 must be positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        Shape(**({"n_heads": 4, "d_model": 16} | sizes))
