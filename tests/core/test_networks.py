"""Networks: initialisation, every kind of observation, memory along sequences, a module of one's own."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from gymnasium import spaces

from actrix.core.spaces import normalized_shapes
from actrix.core.types import Spec
from actrix.nets.memory import apply, follow, starts, unroll
from actrix.nets.memory.cells import Here, Stack
from actrix.nets.networks import NetworkConfig
from actrix.nets.torso import Encoder, ImageCNN, Linear

KEY = jax.random.key(0)
BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


def build(observation_space=BOX, action_space=None, q_values=False, **config):
    spec = Spec(observation_space, action_space or spaces.Discrete(2))
    return NetworkConfig(**config).build(spec, KEY, q_values)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 3), (3, 5), (4, 4), (1, 6)])
def test_linear_is_orthogonal_of_its_gain(inputs, outputs):
    w = np.asarray(Linear(inputs, outputs, 2.5, KEY).weight)
    assert w.shape == (inputs, outputs)
    gram = w.T @ w if inputs >= outputs else w @ w.T
    np.testing.assert_allclose(gram, 2.5**2 * np.eye(min(inputs, outputs)), atol=1e-5)
    other = np.asarray(Linear(inputs, outputs, 2.5, jax.random.key(1)).weight)
    assert np.abs(w - other).max() > 1e-3


def test_gains_and_branches():
    net = build(pi=(8, 4), vf=(6,))
    gain = lambda layer: np.linalg.svd(np.asarray(layer.weight))[1].max()
    assert [layer.weight.shape for layer in net.pi.layers] == [(3, 8), (8, 4)]
    assert [layer.weight.shape for layer in net.vf.layers] == [(3, 6)]
    np.testing.assert_allclose(
        [gain(layer) for layer in (*net.pi.layers, *net.vf.layers)], np.sqrt(2), rtol=1e-5
    )
    np.testing.assert_allclose([gain(net.pi_head), gain(net.vf_head)], [0.01, 1.0], rtol=1e-5)
    assert all((layer.bias == 0).all() for layer in (*net.pi.layers, net.pi_head, net.vf_head))
    out, carry = apply(net, jnp.ones((5, 3)))
    assert out.dist.logits.shape == (5, 2)
    assert out.value.shape == (5,)
    assert carry is None
    assert apply(build(q_values=True), jnp.ones((5, 3)))[0].value.shape == (5, 2)
    gaussian = build(action_space=spaces.Box(-1, 1, (2, 2)), log_std_init=-0.5)
    np.testing.assert_array_equal(gaussian.log_std, np.full(4, -0.5))
    with pytest.raises(ValueError, match="tanh, relu"):
        build(activation_fn="softplusplus")


def test_forward_is_the_formula():
    net = build(pi=(4,), vf=(), activation_fn="relu")
    x = np.random.default_rng(0).normal(size=3).astype(np.float32)
    (layer,) = net.pi.layers
    hidden = np.maximum(x @ np.asarray(layer.weight) + np.asarray(layer.bias), 0)
    logits = hidden @ np.asarray(net.pi_head.weight)
    out, _ = net(jnp.asarray(x), None, None)
    np.testing.assert_allclose(out.dist.logits, logits - np.log(np.exp(logits).sum()), rtol=1e-5)
    np.testing.assert_allclose(out.value, (x @ np.asarray(net.vf_head.weight))[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("space", "obs", "features"),
    [
        (spaces.Discrete(3), 2, [0, 0, 1]),
        (spaces.Discrete(3, start=-1), -1, [1, 0, 0]),
        (spaces.Discrete(1, start=7), 7, [1]),
        (spaces.MultiDiscrete([2, 3], start=[1, -1]), [2, 0], [0, 1, 0, 1, 0]),
        (spaces.MultiBinary(3), [1, 0, 1], [1, 0, 1]),
        (spaces.Box(0, 9, (2, 2), np.int32), [[1, 2], [3, 4]], [1, 2, 3, 4]),
        (spaces.Box(0, 9, (), np.float32), 2.5, [2.5]),
        (
            spaces.Dict({"z": spaces.Discrete(2), "a": spaces.Tuple((spaces.MultiBinary(1), BOX))}),
            {"z": 1, "a": ([1], [0.1, 0.2, 0.3])},
            [1, 0.1, 0.2, 0.3, 0, 1],
        ),
    ],
)
def test_observations_become_features(space, obs, features):
    encoder = Encoder(space, KEY)
    leaf = lambda x: isinstance(x, list | int | float)
    tree = jax.tree.map(jnp.asarray, obs, is_leaf=leaf)
    np.testing.assert_allclose(encoder(tree), features, rtol=1e-6)
    assert encoder.size == len(features)


def cnn_by_scipy(net, image):
    x = image.astype(np.float64) / 255
    for kernel, bias, stride in zip(net.kernels, net.biases, net.strides, strict=True):
        k = np.asarray(kernel, np.float64)
        maps = [
            sum(scipy.signal.correlate2d(x[..., c], k[..., c, f], "valid") for c in range(x.shape[-1]))
            for f in range(k.shape[-1])
        ]
        x = np.maximum(np.stack(maps, -1)[::stride, ::stride] + np.asarray(bias), 0)
    return np.maximum(x.reshape(-1) @ np.asarray(net.dense.weight) + np.asarray(net.dense.bias), 0)


@pytest.mark.parametrize("shape", [(10, 10, 4), (36, 40, 3)])
def test_images_in_both_layouts(shape):
    last = spaces.Box(0, 255, shape, np.uint8)
    first = spaces.Box(0, 255, (shape[2], *shape[:2]), np.uint8)
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    net = ImageCNN(last, 8, KEY)
    call = lambda net, x: eqx.filter_jit(net)(jnp.asarray(x))
    out = call(net, image)
    np.testing.assert_allclose(out, cnn_by_scipy(net, image), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(call(ImageCNN(first, 8, KEY), np.moveaxis(image, -1, 0)), out)
    assert Encoder(last, KEY).size == Encoder(first, KEY).size == (512 if shape[0] >= 36 else 128)


def test_an_image_does_not_narrow_the_others():
    small, large = spaces.Box(0, 255, (10, 10, 2), np.uint8), spaces.Box(0, 255, (36, 36, 1), np.uint8)
    assert Encoder(spaces.Dict({"a": small, "b": large}), KEY).size == 128 + 256
    assert normalized_shapes(spaces.Tuple((small, BOX, spaces.Discrete(2)))) == (None, (3,), None)


def test_float_images_need_the_cnn_policy():
    space = spaces.Box(0.0, 1.0, (10, 10, 2), np.float32)
    assert Encoder(space, KEY).size == 200
    assert Encoder(space, KEY, cnn=True).size == 128
    assert build(space, cnn=True).pi.layers == ()  # nothing after a CNN


def test_separate_features_for_the_critic():
    space = spaces.Box(0, 255, (10, 10, 2), np.uint8)
    shared, apart = build(space), build(space, share_features_extractor=False)
    assert shared.vf_encoder is None
    assert apart.vf_encoder.cnns[0].dense.weight.shape == apart.encoder.cnns[0].dense.weight.shape

    def value(net, scale):
        dense = lambda n: n.encoder.cnns[0].dense.weight
        net = eqx.tree_at(dense, net, replace_fn=lambda w: scale * w)
        return eqx.filter_jit(net)(jnp.ones((10, 10, 2), jnp.uint8), None, None)[0].value

    assert value(apart, 1.0) == value(apart, 2.0)
    assert value(shared, 1.0) != value(shared, 2.0)


@pytest.mark.parametrize(
    ("cell", "config"),
    [
        ("lstm", {}),
        ("gru", {"enable_critic_lstm": True}),
        (
            "lstm",
            {
                "n_lstm_layers": 2,
                "dropout": 0.5,
                "enable_critic_lstm": True,
                "share_features_extractor": False,
            },
        ),
        ("gru", {"shared_lstm": False, "share_features_extractor": False}),
    ],
)
def test_unrolling_is_stepping(cell, config):
    """Along a sequence, with the memory zeroed where an episode starts, one step at a time gives the same."""
    net = build(cell=cell, hidden_size=5, pi=(4,), vf=(4,), **config)
    assert net.recurrent
    g = np.random.default_rng(0)
    obs, first = jnp.asarray(g.normal(size=(9, 3, 3)), jnp.float32), g.random((9, 3)) < 0.3
    carry0 = jax.tree.map(lambda c: c + 0.7, net.initial_carry((3,)))
    out, trail = jax.jit(unroll)(net, obs, jnp.asarray(first), carry0, None)
    one = jax.jit(lambda obs, carry: net(obs, carry, None))
    before = jax.tree.map(lambda c: c.reshape(9, 3, 5), starts(net, trail, 1))
    others = follow(net, trail, -obs, None)
    for n in range(3):
        carry = jax.tree.map(lambda c, n=n: c[n], carry0)
        for t in range(9):
            carry = net.initial_carry(()) if first[t, n] else carry
            for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(carry), strict=True):
                np.testing.assert_allclose(a[t, n], b, rtol=1e-5, atol=1e-6)
            step, carry = one(obs[t, n], carry)
            other, _ = one(-obs[t, n], carry)
            for along, alone in ((out, step), (others, other)):
                np.testing.assert_allclose(along.value[t, n], alone.value, rtol=1e-4, atol=1e-6)
                np.testing.assert_allclose(along.dist.logits[t, n], alone.dist.logits, rtol=1e-4, atol=1e-6)


def test_what_the_critic_of_a_recurrent_policy_hears():
    """The policy's cell, its own, or what is at hand alone; by its own encoder nothing of the policy's is trained."""

    def of_value(**config):
        net = build(cell="lstm", hidden_size=5, pi=(4,), vf=(4,), **config)
        obs, first = jnp.ones((4, 1, 3)), jnp.zeros((4, 1), bool)
        out = jax.jit(lambda net: unroll(net, obs, first, net.initial_carry((1,)), None)[0].value)
        value, grads = out(net)[:, 0], jax.grad(lambda net: out(net).sum())(net)
        parts = (grads.cell, getattr(grads.cell, "policy", None), getattr(grads.cell, "critic", None))
        return np.ptp(np.asarray(value)) > 1e-6, *(any(np.any(x) for x in jax.tree.leaves(p)) for p in parts)

    assert of_value() == (True, True, False, False)
    assert of_value(enable_critic_lstm=True) == (True, True, False, True)
    assert of_value(shared_lstm=False) == (False, True, False, True)
    assert of_value(shared_lstm=False, share_features_extractor=False) == (False, True, False, True)
    for wrong in ({"shared_lstm": True, "enable_critic_lstm": True}, {"share_features_extractor": False}):
        with pytest.raises(ValueError, match="hears the policy's cell"):
            build(cell="lstm", **wrong)


def test_what_one_cell_says_to_the_next_is_dropped_while_it_is_learned():
    """The second layer is the identity, so that it says what it hears."""
    first, second = Here(3, 400, KEY), Here(400, 400, KEY)
    second = eqx.tree_at(lambda c: c.layer, second, replace_fn=lambda x: eqx.tree_at(
        lambda n: (n.weight, n.bias), x, (jnp.eye(400), jnp.zeros(400))))  # fmt: skip
    stack, rows, starts = Stack((first, second), 0.25), jnp.ones((6, 3)), jnp.zeros(6, bool)
    whole = stack.along(rows, starts, stack.initial(()))[0]
    dropped = stack.dropping(rows, starts, stack.initial(()), jax.random.key(1))[0]
    ratio = np.asarray(dropped / whole)
    assert np.isclose(ratio, 0).mean() == pytest.approx(0.25, abs=0.04)
    assert (np.isclose(ratio, 0) | np.isclose(ratio, 4 / 3)).all()
    assert np.isclose(ratio, 0).any(axis=1).all()
    assert not (np.isclose(ratio[0], 0) == np.isclose(ratio[1], 0)).all()  # anew for each row
    same = Stack((first, second)).dropping(rows, starts, stack.initial(()), jax.random.key(1))[0]
    np.testing.assert_array_equal(same, whole)


def test_a_cell_of_its_own_for_the_critic():
    """Against PyTorch's equations of an LSTM in NumPy; neither branch's gradient reaches the other's cell."""
    net = build(cell="lstm", hidden_size=5, pi=(4,), vf=(4,), enable_critic_lstm=True)
    obs = np.random.default_rng(0).normal(size=(6, 1, 3))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    said = []
    for cell in (net.cell.policy, net.cell.critic):
        w, u, b = (np.asarray(x, float) for x in (cell.weight_ih, cell.weight_hh, cell.bias))
        h = c = np.zeros(5)
        for x in obs[:, 0]:
            i, f, g, o = np.split(w @ np.asarray(net.encoder(jnp.asarray(x, jnp.float32))) + u @ h + b, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        said.append(jnp.asarray(h, jnp.float32))
    first, carry0 = jnp.zeros((6, 1), bool), net.initial_carry((1,))
    along = jax.jit(lambda net: unroll(net, jnp.asarray(obs, jnp.float32), first, carry0, None)[0])
    out = along(net)
    np.testing.assert_allclose(out.value[-1, 0], net.vf_head(net.vf(said[1]))[0], rtol=1e-4)
    logits = net.pi_head(net.pi(said[0]))
    np.testing.assert_allclose(out.dist.logits[-1, 0], jax.nn.log_softmax(logits), rtol=1e-4, atol=1e-6)

    moved = lambda grads: [
        any(np.any(x) for x in jax.tree.leaves(c)) for c in (grads.cell.policy, grads.cell.critic)
    ]
    assert moved(jax.grad(lambda net: along(net).value.sum())(net)) == [False, True]
    assert moved(jax.grad(lambda net: along(net).dist.logits[..., 0].sum())(net)) == [True, False]
    assert moved(jax.grad(lambda net: along(net.critic_only()).value.sum())(net)) == [False, True]
    policy, critic = net.policy_part(), net.critic_part()
    assert policy.cell.critic is None
    assert jax.tree.all(jax.tree.map(np.array_equal, net.of_parts(policy, critic), net))


def test_unrolling_without_memory_maps_over_both_axes():
    net, obs = build(), jnp.ones((4, 2, 3))
    mask = jnp.asarray(np.tile([True, False], (4, 2, 1)))
    out, after = unroll(net, obs, None, None, mask)
    assert after is None
    assert out.value.shape == (4, 2)
    np.testing.assert_array_equal(np.exp(out.dist.logits), mask)


class Own(eqx.Module):
    layer: Linear
    name: str = "mine"

    def __call__(self, obs):
        out = self.layer(obs)
        return out[:2], out[2:]


def test_a_module_of_ones_own():
    net = build(module=lambda spec, key: Own(Linear(3, 3, 1.0, key)))
    assert not net.recurrent
    assert net.initial_carry((2,)) is None
    out, _ = apply(net, jnp.ones((5, 3)))
    assert out.value.shape == (5,)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(net))
    assert NetworkConfig(module=Own).custom
    assert not NetworkConfig(activation_fn="relu").custom
    assert hash(NetworkConfig(pi=(3,))) == hash(NetworkConfig(pi=(3,)))
