"""Networks of the off-policy methods: noisy, dueling, quantile networks, actors, ensembles, every observation."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from gymnasium import spaces

from actrix.core.distributions import Categorical, TanhGaussian, action_head
from actrix.core.optim import flatten
from actrix.core.types import Spec
from actrix.nets.networks import NetworkConfig
from actrix.nets.q_networks import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    Actor,
    bounded,
    build_actor,
    build_actor_critics,
    build_q_net,
    hidden_widths,
)
from actrix.nets.torso import MLP, Linear, NoisyLinear, noise_size, perturb
from actrix.nets.view import apply

KEY = jax.random.key(0)
OBS = spaces.Box(-1.0, 1.0, (3,), np.float32)
SMALL = NetworkConfig(pi=(8, 4), vf=(8, 4), activation_fn="relu", ortho_init=False)
DISCRETE, BOX = Spec(OBS, spaces.Discrete(5)), Spec(OBS, spaces.Box(-1.0, 1.0, (2, 2), np.float32))
STOCHASTIC, DETERMINISTIC = (functools.partial(build_actor, stochastic=which) for which in (True, False))


def normals(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# Noisy layers


def test_noisy_layer_is_the_formula():
    """W + σ ⊙ f(ξ_in)f(ξ_out)ᵀ and b + σ_b ⊙ f(ξ_out), f(x) = sign(x)√|x|."""
    layer, x, xi = NoisyLinear(3, 2, KEY), normals(3), np.asarray(normals(5, seed=1))
    np.testing.assert_allclose(layer(x), x @ layer.weight + layer.bias, rtol=1e-5)
    f = np.sign(xi) * np.sqrt(np.abs(xi))
    weight = layer.weight + layer.weight_std * np.outer(f[:3], f[3:])
    bias = layer.bias + layer.bias_std * f[3:]
    np.testing.assert_allclose(layer.perturbed(jnp.asarray(xi))(x), x @ weight + bias, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.weight_std, 0.5 / np.sqrt(3), rtol=1e-6)
    np.testing.assert_allclose(layer.bias_std, 0.5 / np.sqrt(2), rtol=1e-6)
    assert np.abs(layer.weight).max() <= 1 / np.sqrt(3)


def noisy_layers(net):
    is_noisy = lambda x: isinstance(x, NoisyLinear)
    return [x for x in jax.tree.leaves(net, is_leaf=is_noisy) if is_noisy(x)]


def test_noise_has_mean_zero_and_each_layer_its_own():
    net = build_q_net(SMALL, DISCRETE, KEY, noisy=True, dueling=True)
    size = noise_size(net)
    assert size == sum(sum(x.weight.shape) for x in noisy_layers(net))
    assert size == (3 + 8) + (8 + 4) * 2 + (4 + 1) + (4 + 5)
    x = normals(3)
    np.testing.assert_array_equal(perturb(net, jnp.zeros(size))(x), net(x))
    many = jax.jit(jax.vmap(lambda xi: perturb(net.advantage_head, xi).weight))(normals(20_000, 4 + 5))
    spread = np.asarray(many - net.advantage_head.weight)
    assert np.abs(spread.mean(0)).max() < 5 * spread.std() / np.sqrt(20_000)
    pairs = zip(noisy_layers(perturb(net, normals(size))), noisy_layers(net), strict=True)
    draws = np.concatenate([np.ravel(a.weight - b.weight)[:3] for a, b in pairs])
    assert len(np.unique(np.round(draws, 6))) == len(draws) == 15
    assert noise_size(build_q_net(SMALL, DISCRETE, KEY)) == 0


def test_the_noise_is_learned():
    """σ has a gradient: −∂/∂σ of the output is the noise itself."""
    layer, x, xi = NoisyLinear(3, 2, KEY), normals(3), normals(5, seed=1)
    theta, unflatten = flatten(layer)
    gradient = unflatten(jax.grad(lambda t: unflatten(t).perturbed(xi)(x).sum())(theta))
    f = np.sign(xi) * np.sqrt(np.abs(xi))
    np.testing.assert_allclose(gradient.weight_std, np.outer(x * f[:3], f[3:]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient.bias_std, f[3:], rtol=1e-5)


# Action values


@pytest.mark.parametrize("atoms", [1, 7])
def test_dueling_advantages_have_mean_zero(atoms):
    net = build_q_net(SMALL, DISCRETE, KEY, dueling=True, atoms=atoms)
    x = normals(3)
    q = net(x)
    assert q.shape == ((5,) if atoms == 1 else (5, atoms))
    features = net.body(net.encoder(x))
    value = net.value_head(net.value(features))
    advantage = net.advantage_head(net.advantage(features)).reshape(5, atoms)
    np.testing.assert_allclose(q.reshape(5, atoms).mean(0), value, rtol=1e-4, atol=1e-5)
    want = value + advantage - advantage.mean(0)
    np.testing.assert_allclose(q.reshape(5, atoms), want, rtol=1e-4, atol=1e-5)
    assert [len(m.layers) for m in (net.body, net.value, net.advantage)] == [1, 1, 1]


def test_implicit_quantile_network():
    """Features ⊙ relu(Linear(cos(π i τ))), then the head: one quantile per τ, and each τ by itself."""
    net = build_q_net(SMALL, DISCRETE, KEY, quantile_dim=6)
    x, taus = normals(3), jnp.asarray([0.1, 0.5, 0.9])
    out = net(x, taus)
    assert out.shape == (5, 3)
    assert apply(net, normals(4, 3), jnp.tile(taus, (4, 1))).shape == (4, 5, 3)
    features = np.asarray(net.body(net.encoder(x)))
    for m, tau in enumerate(taus):
        embedded = np.cos(np.pi * np.arange(6) * float(tau)) @ net.embedding.weight + net.embedding.bias
        mixed = jnp.asarray(features * np.maximum(embedded, 0))
        np.testing.assert_allclose(out[:, m], net.advantage_head(net.advantage(mixed)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net(x, taus[::-1]), out[:, ::-1], rtol=1e-5, atol=1e-6)


# Hidden layers


def test_dropout_is_on_with_a_key_only():
    mlp, x = MLP(3, (1000,), jnp.abs, None, KEY, dropout=0.25), normals(3)
    plain, dropped = np.asarray(mlp(x)), np.asarray(mlp(x, jax.random.key(1)))
    np.testing.assert_array_equal(plain, mlp(x))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], plain[kept] / 0.75, rtol=1e-5)
    assert scipy.stats.binomtest(int(kept.sum()), 1000, 0.75).pvalue > 1e-3
    assert (dropped != np.asarray(mlp(x, jax.random.key(2)))).any()
    np.testing.assert_array_equal(mlp(x, jax.random.key(1)), dropped)


def test_layer_norm_comes_before_the_activation():
    mlp, x = MLP(3, (6,), lambda x: x, None, KEY, layer_norm=True), normals(3)
    raw = np.asarray(mlp.layers[0](x))
    np.testing.assert_allclose(mlp(x), (raw - raw.mean()) / np.sqrt(raw.var() + 1e-5), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.mean(mlp(100 * x) ** 2), 1.0, rtol=1e-3)


def test_initialisation_is_pytorchs_where_it_is_not_orthogonal():
    layer = Linear(16, 500, None, KEY)
    for x in (layer.weight, layer.bias):
        assert scipy.stats.kstest(np.asarray(x).ravel() * 4, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3


# Actors and critics


def test_actors_of_every_kind():
    head = action_head(BOX.action_space)
    deterministic = Actor(OBS, head, SMALL, False, KEY)
    action = apply(deterministic, 100 * normals(6, 3))
    assert action.shape == (6, 4)
    assert (np.abs(action) <= 1).all()
    stochastic = Actor(OBS, head, SMALL, True, KEY)
    dist = apply(stochastic, 1e4 * normals(6, 3))
    assert isinstance(dist, TanhGaussian)
    assert dist.mean.shape == dist.log_std.shape == (6, 4)
    assert (dist.log_std >= LOG_STD_MIN).all()
    assert (dist.log_std <= LOG_STD_MAX).all()
    mask = jnp.asarray(np.arange(5)[None] != np.arange(6)[:, None] % 5)
    legal = apply(Actor(OBS, action_head(DISCRETE.action_space), SMALL, True, KEY), normals(6, 3), mask)
    assert isinstance(legal, Categorical)
    assert (np.exp(legal.logits)[~np.asarray(mask)] == 0).all()
    assert not bounded(spaces.Box(-np.inf, 1.0, (1,)))
    assert bounded(BOX.action_space)
    assert not bounded(DISCRETE.action_space)


@pytest.mark.parametrize("spec", [BOX, DISCRETE], ids=["box", "discrete"])
def test_critics_are_separate_networks(spec):
    nets = build_actor_critics(SMALL, spec, KEY, actor=STOCHASTIC, n_critics=3, atoms=2)
    action = normals(6, 4) if spec is BOX else None
    q = apply(nets.critics, normals(6, 3), action, None)
    assert q.shape == ((6, 3, 2) if spec is BOX else (6, 3, 5))
    assert np.abs(q[:, 0] - q[:, 1]).min() > 0
    theta, unflatten = flatten(nets.critics)
    one = lambda t, i: apply(unflatten(t), normals(6, 3), action, None)[:, i].sum()
    gradients = [jax.grad(one)(theta, i) for i in range(3)]
    assert all((np.asarray(a * b) == 0).all() for a, b in itertools.pairwise(gradients))


def test_dropout_keys_reach_the_critics_and_only_they_are_regularised():
    config = NetworkConfig(pi=(8,), vf=(8,), layer_norm=True, dropout=0.5)
    nets = build_actor_critics(config, BOX, KEY, actor=STOCHASTIC, n_critics=2)
    obs, action = normals(6, 3), normals(6, 4)
    q = lambda key: apply(nets.critics, obs, action, key)
    noisy = q(jax.random.split(KEY, 6))
    assert (noisy != q(None)).any()
    np.testing.assert_array_equal(noisy, q(jax.random.split(KEY, 6)))
    assert len(nets.critics.members[0][0].norms) == 1
    assert nets.actor.body.norms == ()
    assert nets.actor.body.dropout == 0.0
    alone = build_actor_critics(
        NetworkConfig(pi=(8,), layer_norm=True), BOX, KEY, actor=STOCHASTIC, n_critics=1
    )
    assert len(alone.actor.body.norms) == 1


DICT = spaces.Dict({"b": spaces.Box(0, 255, (10, 10, 2), np.uint8), "a": OBS, "c": spaces.Discrete(3)})
IMAGE = spaces.Box(0, 255, (10, 10, 4), np.uint8)


@pytest.mark.parametrize("space", [DICT, IMAGE, spaces.MultiBinary(4)], ids=["dict", "image", "binary"])
def test_every_kind_of_observation(space):
    space.seed(1)
    rows = [space.sample() for _ in range(3)]
    obs = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(i) for i in x]), *rows)
    for dueling in (False, True):
        net = build_q_net(NetworkConfig(vf=(8,)), Spec(space, spaces.Discrete(5)), KEY, dueling=dueling)
        q = apply(net, obs)
        assert q.shape == (3, 5)
        assert np.isfinite(q).all()
        assert np.std(np.asarray(q), axis=0).max() > 1e-6
    config = NetworkConfig(pi=(8,), vf=(8,), activation_fn="relu", ortho_init=False)
    nets = build_actor_critics(config, Spec(space, BOX.action_space), KEY, actor=STOCHASTIC, n_critics=2)
    action, log_prob = apply(nets.actor, obs).sample_with_log_prob(normals(3, 4))
    assert np.isfinite(log_prob).all()
    assert apply(nets.critics, obs, action, None).shape == (3, 2, 1)


def test_default_widths():
    nothing = NetworkConfig()
    vector = build_q_net(nothing, DISCRETE, KEY)
    assert [x.weight.shape for x in vector.body.layers] == [(3, 64), (64, 64)]
    image = build_q_net(nothing, Spec(IMAGE, spaces.Discrete(5)), KEY)
    assert image.body.layers == ()
    assert hidden_widths((7,), image.encoder) == (7,)
    nets = build_actor_critics(nothing, BOX, KEY, actor=DETERMINISTIC, n_critics=1)
    assert [x.weight.shape for x in nets.critics.members[0][0].layers] == [(3 + 4, 256), (256, 256)]


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"cell": "lstm"}, "cell='lstm'"), ({"module": Linear}, "module of your own")],
)
def test_what_only_policy_gradients_offer_is_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        build_q_net(NetworkConfig(**settings), DISCRETE, KEY)


def test_a_feature_extractor_of_ones_own():
    double = lambda space, key, factor: lambda obs: jnp.concatenate([factor * obs, obs])
    config = NetworkConfig(
        vf=(8,), features_extractor_class=double, features_extractor_kwargs=(("factor", 2.0),)
    )
    net = build_q_net(config, DISCRETE, KEY)
    assert net.encoder.size == 6
    assert apply(net, normals(4, 3)).shape == (4, 5)
