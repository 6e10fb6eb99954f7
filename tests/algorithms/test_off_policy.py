"""What replay-based learning does to parameters, targets, memory and behaviour, against formulas written anew."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from helpers import NETWORK, continuous, gives, preset
from scipy.stats import norm

from actrix.algorithms.learn import ONE_STEP, Update
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.core.answers import Kept, State
from actrix.core.contract import count
from actrix.core.optim import flatten, polyak
from actrix.core.rows import Rows
from actrix.core.types import Chunk, Spec
from actrix.critics.represent import TruncatedQuantiles, huber
from actrix.data import replay
from actrix.data.ring import SMALLEST_PRIORITY, Ends, weights
from actrix.envs.classic import ClassicEnv
from actrix.envs.probes import ContinuousTarget
from actrix.loops.compiled import collect, reset
from actrix.nets.torso import noise_size, perturb
from actrix.nets.view import apply

GAMMA, N, ACTIONS = 0.9, 4, 3
OBS = spaces.Box(-1.0, 1.0, (2,), np.float32)
DISCRETE, MASKED = Spec(OBS, spaces.Discrete(ACTIONS)), Spec(OBS, spaces.Discrete(ACTIONS), mask_size=ACTIONS)
BOX = Spec(OBS, spaces.Box(-1.0, 1.0, (2,), np.float32))
PLAIN = {
    "policy_kwargs": NETWORK, "gamma": GAMMA, "learning_rate": 1.0, "optimizer": "sgd", "max_grad_norm": None,
    "batch_size": 8, "buffer_size": 400, "learning_starts": 0, "gradient_steps": 1, "train_freq": 2,
}  # fmt: skip
KEY = jax.random.key(0)


def algorithm(name, **settings):
    """A preset whose step of descent is its gradient."""
    return configure(PRESETS[name].algorithm, PLAIN | settings)


def spec_of(alg):
    return BOX if continuous(alg) else DISCRETE


def fitted_part(alg):
    """What the parameters of the critic are called."""
    return "net" if gives(alg) == "Q(s, ·)" else "critic"


def targets_of(alg, kept):
    """Target copies by the name of what they are copies of."""
    copies = {fitted_part(alg): kept.critic, "actor": kept.actor}
    return {name: x for name, x in copies.items() if not isinstance(x, tuple)}


def with_targets(alg, kept, targets):
    return Kept(targets[fitted_part(alg)], targets.get("actor", kept.actor))


def start(alg, spec=None, targets_apart=True):
    """A learner whose targets are not its networks."""
    learner = alg.init(jax.random.key(1), spec or spec_of(alg), N)
    if not targets_apart:
        return learner
    shift = lambda name, x: x + 0.3 * jax.random.normal(jax.random.key(len(name)), x.shape)
    kept = learner.training.kept
    targets = {name: shift(name, x) for name, x in targets_of(alg, kept).items()}
    kept = with_targets(alg, kept, targets)
    return dataclasses.replace(learner, training=dataclasses.replace(learner.training, kept=kept))


def updating(alg, learner):
    return Update(alg, learner, count(learner.training, ONE_STEP))


def parts(alg, learner):
    """(state, build) as `update` takes them; targets are built by the names of what they are copies of."""
    update, training = updating(alg, learner), learner.training
    params = update.params | training.own
    state = State(params, training.opt, training.kept, training.gradient_steps, jnp.asarray(False))
    return state, update.build


def random_batch(alg, rows=8, seed=0, spec=None, **fields):
    rng, spec = np.random.default_rng(seed), spec or spec_of(alg)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    action = rng.uniform(-1, 1, (rows, 2)) if spec is BOX else rng.integers(0, ACTIONS, rows)
    batch = Rows(
        obs=normal(rows, 2), action=jnp.asarray(action, jnp.float32 if spec is BOX else jnp.int32),
        reward=normal(rows), discount=GAMMA * jnp.asarray(rng.random(rows) < 0.7, jnp.float32),
        next_obs=normal(rows, 2), weight=jnp.ones(rows), next_action=jnp.asarray(rng.integers(0, ACTIONS, rows)),
        next_action_known=jnp.asarray(rng.random(rows) < 0.5), cut=jnp.ones(rows, bool), on_policy=False,
        replayed=True,
    )  # fmt: skip
    return dataclasses.replace(batch, **fields)


def random_chunk(alg, rows=None, seed=0, spec=None, **fields):
    spec, rows = spec or spec_of(alg), rows or alg.data.train_freq
    rng = np.random.default_rng(seed)
    flags = rng.random((3, rows, N)) < [[[0.2]], [[0.2]], [[0.0]]]
    action = (
        rng.uniform(-1, 1, (rows, N, 2)).astype("f") if spec is BOX else rng.integers(0, ACTIONS, (rows, N))
    )
    obs = rng.normal(size=(2, rows, N, 2)).astype(np.float32)
    mask = np.ones((rows, N, ACTIONS), bool) if spec.mask_size else None
    chunk = Chunk(
        obs=obs[0], action=np.asarray(action, np.float32 if spec is BOX else np.int32),
        reward=rng.normal(size=(rows, N)).astype(np.float32), next_obs=obs[1], terminated=flags[0],
        truncated=flags[1] & ~flags[0], mask=mask, next_mask=mask, first=flags[2],
    )  # fmt: skip
    return dataclasses.replace(chunk, **fields)


@functools.cache
def compiled_update(alg):
    update, progress = updating(alg, start(alg)), jnp.zeros(())

    def step(state, batch, key):
        item, _ = update.estimate(state, batch, progress, key)
        return update.update(state, item, progress, key)

    return jax.jit(step)


def target_of(alg, learner, batch, key=KEY):
    """What the critic is fitted to."""
    update, state = updating(alg, learner), parts(alg, learner)[0]
    return jax.jit(lambda batch: update.estimate(state, batch, jnp.zeros(()), key)[0][1])(batch)


@functools.cache
def compiled_learn(alg):
    return jax.jit(alg.learn)


def update(alg, learner, batch, key=KEY):
    """(state, priorities, metrics) after one update."""
    return compiled_update(alg)(parts(alg, learner)[0], batch, key)


def close(got, want, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-4, "atol": 1e-5} | tolerance), got, want
    )


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ------------------------------------------------------------------ targets

FAMILIES = {
    "dqn": algorithm("dqn"),
    "double dueling": algorithm("dqn", double=True, dueling=True),
    "sarsa": algorithm("dqn", target="sarsa"),
    "expected-sarsa": algorithm("dqn", target="expected-sarsa"),
    "soft-q": algorithm("soft-q"),
    "c51": algorithm("c51", n_atoms=11, v_min=-3.0, v_max=3.0),
    "qr-dqn": algorithm("qr-dqn", n_quantiles=4),
    "iqn": algorithm("iqn", n_quantiles=4, n_policy_quantiles=4, quantile_dim=4),
    "rainbow": algorithm("rainbow", n_atoms=11, v_min=-3.0, v_max=3.0, train_freq=2),
    "ddpg": algorithm("ddpg", tau=0.1),
    "td3": algorithm("td3", tau=0.1, policy_delay=1),
    "sac": algorithm("sac", tau=0.1),
    "discrete-sac": algorithm("discrete-sac", tau=0.1),
    "tqc": algorithm("tqc", tau=0.1, n_quantiles=4, top_quantiles_to_drop_per_net=1),
    "cql": algorithm("cql", tau=0.1, cql_actions=2),
    "iql": algorithm("iql", tau=0.1),
}


OTHER_TARGETS = ("sarsa", "expected-sarsa", "soft-q", "ddpg")
"""The same updates with other targets, which are compared with their formulas below: `slow`."""
families = pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.slow) if x in OTHER_TARGETS else x for x in FAMILIES]
)


@families
def test_targets_are_untouched_by_gradients(name):
    """No loss has a gradient with respect to the targets, and an update moves them by (1−τ)θ⁻ + τθ or not at all.

    (IQL's critic is fitted to the V that the same update has just fitted to the targets: its loss does depend on them.)
    """
    alg = FAMILIES[name]
    learner, batch = start(alg), random_batch(alg)
    step, state = compiled_update(alg), parts(alg, learner)[0]
    name_of_loss = "loss" if gives(alg) == "Q(s, ·)" else "critic_loss"

    def loss(targets):
        now = dataclasses.replace(state, kept=with_targets(alg, state.kept, targets))
        after, _, metrics = step(now, batch, KEY)
        return metrics[f"train/{name_of_loss}"], after

    targets = targets_of(alg, state.kept)
    gradient, after = jax.jit(jax.grad(loss, has_aux=True))(targets)
    moved = targets_of(alg, after.kept)
    for target in targets:
        assert name == "iql" or (gradient[target] == 0).all()
        if gives(alg) == "Q(s, ·)":
            same(moved[target], targets[target])
        else:
            want = polyak(targets[target], after.params[target], alg.critic.tau)
            close(moved[target], want, rtol=1e-6, atol=1e-7)
            assert np.abs(moved[target] - targets[target]).max() > 1e-4
    assert any((after.params[n] != state.params[n]).any() for n in targets)


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_target_update_interval_counts_environment_steps(tau):
    """Chunks of 2 × 4 steps, interval 20: the target moves at steps 24, 40, 64, …, to what was learned by then."""
    alg = algorithm("dqn", target_update_interval=20, tau=tau, learning_rate=0.1)
    learner, moved = start(alg), []
    for i in range(10):
        before, target = flatten(learner.acting.net)[0], learner.training.kept.critic
        learner, _ = compiled_learn(alg)(learner, random_chunk(alg, seed=i), jax.random.key(i))
        if (learner.training.kept.critic != target).any():
            moved.append(8 * (i + 1))
            close(learner.training.kept.critic, polyak(target, before, tau), rtol=1e-6)
    assert moved == [24, 40, 64, 80]


def test_td3_delays_the_actor_and_all_targets():
    alg = algorithm("td3", tau=0.1, policy_delay=3, learning_rate=0.1)
    learner, moved = start(alg), []
    for i in range(6):
        old = parts(alg, learner)[0]
        learner, metrics = compiled_learn(alg)(learner, random_chunk(alg, seed=i), jax.random.key(i))
        new = parts(alg, learner)[0]
        before, after = targets_of(alg, old.kept), targets_of(alg, new.kept)
        assert (old.params["critic"] != new.params["critic"]).any()
        changed = [(a[n] != b[n]).any() for n, a, b in (
            ("actor", old.params, new.params), ("actor", before, after), ("critic", before, after))]  # fmt: skip
        assert len(set(map(bool, changed))) == 1
        moved.append(bool(changed[0]))
        assert np.isnan(metrics["train/actor_loss"]) == (not changed[0])
    assert moved == [False, False, True] * 2


# ------------------------------------------------------------------ the losses


def taken(q, action):
    return jnp.take_along_axis(q, action[:, None], 1)[:, 0]


@pytest.mark.parametrize("kind", ["q-learning", "double", "expected-sarsa", "sarsa", "soft"])
def test_q_learning_descends_the_weighted_huber_loss(kind):
    """Σ w·huber(Q(s,a) − r − γ′V(s′)) / number, V from the target network; illegal actions enter no V."""
    given = {} if kind == "soft" else {"target": kind, "exploration_initial_eps": 0.3}
    alg = algorithm("soft-q" if kind == "soft" else "dqn", **given)
    learner = start(alg, MASKED)
    mask = np.random.default_rng(5).random((8, ACTIONS)) < 0.5
    mask[np.arange(8), np.arange(8) % ACTIONS] = True
    batch = random_batch(alg, spec=MASKED, weight=jnp.linspace(0.0, 2.0, 8), next_mask=jnp.asarray(mask),
                         next_action=jnp.arange(8) % ACTIONS, next_action_known=jnp.ones(8, bool))  # fmt: skip
    state, build = parts(alg, learner)
    online = np.asarray(apply(build(state.params), batch.next_obs))
    target = np.asarray(apply(build(targets_of(alg, state.kept)), batch.next_obs))
    best = np.where(mask, online, -np.inf).argmax(1)
    rows = np.arange(8)
    behaviour = mask * 0.3 / mask.sum(1, keepdims=True)
    behaviour[rows, best] += 0.7
    value = {
        "q-learning": np.where(mask, target, -np.inf).max(1),
        "double": target[rows, best],
        "expected-sarsa": (behaviour * target).sum(1),
        "sarsa": target[rows, rows % ACTIONS],
        "soft": 0.1 * np.log((mask * np.exp(target / 0.1)).sum(1) / mask.sum(1)),
    }[kind]
    y = batch.reward + batch.discount * value

    def loss(theta):
        e = np.asarray(batch.weight) * huber(taken(apply(build({"net": theta}), batch.obs), batch.action) - y)
        return e.sum() / 7  # one weight is 0: no transition was drawn

    after, priority, metrics = update(alg, learner, batch)
    want, gradient = jax.value_and_grad(loss)(state.params["net"])
    close(metrics["train/loss"], want)
    close(state.params["net"] - after.params["net"], gradient)
    close(priority, np.abs(taken(apply(build(state.params), batch.obs), batch.action) - y))
    unmasked = dataclasses.replace(batch, next_mask=jnp.ones((8, ACTIONS), bool))
    if kind != "sarsa":
        assert abs(update(alg, learner, unmasked)[2]["train/loss"] - want) > 1e-3


@pytest.mark.parametrize(
    ("kind", "target"),
    [("c51", "q-learning"), ("qr", "double"), ("iqn", "double"),
     *(pytest.param(*x, marks=pytest.mark.slow)
       for x in (("c51", "double"), ("qr", "q-learning"), ("iqn", "q-learning")))],
)  # fmt: skip
def test_distributional_targets_choose_among_legal_actions(kind, target):
    """With the best action forbidden, the target is that of the other one."""
    sizes = {
        "c51": {"n_atoms": 11, "v_min": -3.0, "v_max": 3.0},
        "qr": {"n_quantiles": 4},
        "iqn": {"n_quantiles": 4, "n_policy_quantiles": 4, "quantile_dim": 4},
    }
    alg = algorithm("dqn", distributional=kind, target=target, **sizes[kind])
    learner = start(alg, MASKED)
    state, build = parts(alg, learner)
    nets = build(state.params), build(targets_of(alg, state.kept))
    chooser = nets[0] if target == "double" else nets[1]
    batch = random_batch(alg, spec=MASKED)
    order = np.argsort(-np.asarray(alg.critic.q_values(chooser, batch.next_obs)), axis=1)
    forbid = jnp.asarray(np.arange(ACTIONS)[None] != order[:, :1])
    only = lambda column: jnp.asarray(np.arange(ACTIONS)[None] == order[:, column : column + 1])
    of = lambda mask: target_of(alg, learner, dataclasses.replace(batch, next_mask=mask))
    close(of(forbid), of(only(1)))
    close(of(jnp.ones((8, ACTIONS), bool)), of(only(0)))
    assert np.abs(of(only(0)) - of(only(1))).max() > 1e-3


def pathwise_critic_loss(alg, build, state, batch, y):
    def loss(theta):
        q = apply(build(state.params | {"critic": theta}).critics, batch.obs, batch.action, None)[..., 0]
        return jnp.mean(batch.weight * 0.5 * jnp.sum((q - y[:, None]) ** 2, axis=1))

    return jax.grad(loss)(state.params["critic"])


@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_deterministic_actor_critics_by_their_formulas(name):
    """y = r + γ′ min_i Q⁻_i(s′, f⁻(s′)); the actor ascends Q_1(s, f(s)) of the critics just updated."""
    alg = algorithm(name, target_policy_noise=0.0, policy_delay=1)
    learner, batch = start(alg), random_batch(alg, weight=jnp.linspace(0.5, 2.0, 8))
    state, build = parts(alg, learner)
    target = build(targets_of(alg, state.kept))
    q = apply(target.critics, batch.next_obs, apply(target.actor, batch.next_obs), None)[..., 0]
    y = batch.reward + batch.discount * q.min(1)
    after, priority, _ = update(alg, learner, batch)
    close(state.params["critic"] - after.params["critic"], pathwise_critic_loss(alg, build, state, batch, y))
    before = apply(build(state.params).critics, batch.obs, batch.action, None)[..., 0]
    close(priority, np.abs(before - y[:, None]).mean(1))

    def actor_loss(theta):
        net = build({"actor": theta, "critic": after.params["critic"]})
        return -jnp.mean(apply(net.critics, batch.obs, apply(net.actor, batch.obs), None)[:, 0, 0])

    close(state.params["actor"] - after.params["actor"], jax.grad(actor_loss)(state.params["actor"]))


def test_sac_by_its_formulas():
    """y = r + γ′(min Q⁻(s′,a′) − α log π(a′|s′)); E[α log π − min Q]; log α · (H − H̄)."""
    alg = algorithm("sac", ent_coef="auto_0.3", learning_rate=0.1)
    learner, batch = start(alg), random_batch(alg)
    state, build = parts(alg, learner)
    keys = jax.random.split(KEY, 5)
    noise = lambda key: jax.random.normal(key, (8, 2))
    net, target = build(state.params), build(state.params | targets_of(alg, state.kept))
    action, log_prob = apply(net.actor, batch.next_obs).sample_with_log_prob(
        noise(jax.random.split(keys[0])[0])
    )
    q = apply(target.critics, batch.next_obs, action, None)[..., 0].min(1)
    y = batch.reward + batch.discount * (q - 0.3 * log_prob)
    after, _, metrics = update(alg, learner, batch)
    step = lambda name: (state.params[name] - after.params[name]) / 0.1
    close(step("critic"), pathwise_critic_loss(alg, build, state, batch, y))
    xi = noise(jax.random.split(keys[2])[1])

    def actor_loss(theta):
        net = build({"actor": theta, "critic": after.params["critic"]})
        action, log_prob = apply(net.actor, batch.obs).sample_with_log_prob(xi)
        q = apply(net.critics, batch.obs, action, None)[..., 0].min(1)
        return jnp.mean(0.3 * log_prob - q), jnp.mean(-log_prob)

    gradient, entropy = jax.grad(actor_loss, has_aux=True)(state.params["actor"])
    close(step("actor"), gradient)
    close(metrics["train/entropy"], entropy)
    close(step("log_alpha"), [entropy + 2.0])  # the target is −dim(A) = −2


def test_discrete_sac_by_its_formulas():
    """V(s′) = Σ_a π(Q − α log π) with min Q⁻; Σ_a π(α log π − Q), legal actions only."""
    alg = algorithm("discrete-sac", ent_coef=0.3)
    learner = start(alg, MASKED)
    mask = np.random.default_rng(6).random((2, 8, ACTIONS)) < 0.5
    mask[:, np.arange(8), np.arange(8) % ACTIONS] = True
    batch = random_batch(alg, spec=MASKED, mask=jnp.asarray(mask[0]), next_mask=jnp.asarray(mask[1]),
                         action=jnp.asarray(np.arange(8) % ACTIONS))  # fmt: skip
    state, build = parts(alg, learner)

    def policy(actor, obs, legal):
        out = apply(actor, obs, None).logits
        return jax.nn.softmax(jnp.where(legal, out, -jnp.inf)), out

    target = build(state.params | targets_of(alg, state.kept))
    pi, _ = policy(target.actor, batch.next_obs, mask[1])
    q = apply(target.critics, batch.next_obs, None, None).min(1)
    value = jnp.sum(pi * q - 0.3 * jax.scipy.special.xlogy(pi, pi), 1)
    y = batch.reward + batch.discount * value

    def critic_loss(theta):
        q = apply(build(state.params | {"critic": theta}).critics, batch.obs, None, None)
        q = q[jnp.arange(8), :, batch.action]
        return jnp.mean(0.5 * jnp.sum((q - y[:, None]) ** 2, 1))

    def actor_loss(theta):
        net = build({"actor": theta, "critic": after.params["critic"]})
        log_pi = jax.nn.log_softmax(jnp.where(mask[0], apply(net.actor, batch.obs, None).logits, -1e9))
        q = apply(net.critics, batch.obs, None, None).min(1)
        return jnp.mean(jnp.sum(jnp.exp(log_pi) * jnp.where(mask[0], 0.3 * log_pi - q, 0), 1))

    after, _, _ = update(alg, learner, batch)
    close(state.params["critic"] - after.params["critic"], jax.grad(critic_loss)(state.params["critic"]))
    close(state.params["actor"] - after.params["actor"], jax.grad(actor_loss)(state.params["actor"]))


def linear(alg, learner, actor=0.0, critics=((0.0, 1.0),)):
    """The learner with a constant actor f(s) = tanh(actor), and Q_i(s, a) = c + w·a_0 for each (c, w) of `critics`."""

    def layer(old, bias, weight=0.0, row=0):
        bias = jnp.broadcast_to(jnp.asarray(bias, jnp.float32), old.bias.shape)
        new = (jnp.zeros_like(old.weight).at[row].set(weight), bias)
        return eqx.tree_at(lambda x: (x.weight, x.bias), old, new)

    net = learner.acting.net
    members = tuple(
        (body, layer(out, c, w, 0 if net.critics.discrete else 2))
        for (body, out), (c, w) in zip(net.critics.members, critics, strict=True)
    )
    new = (layer(net.actor.out, actor), members)
    net = eqx.tree_at(lambda n: (n.actor.out, n.critics.members), net, new)
    return alg.with_acting(learner, dataclasses.replace(learner.acting, net=net))


FLAT = {"policy_kwargs": {"net_arch": []}}


@pytest.mark.parametrize("actor", [0.0, 3.0])
def test_smoothing_noise_is_clipped(actor):
    """Q(s′, a) = a: the target shows clip(f(s′) + clip(σξ, −c, c), −1, 1)."""
    alg = algorithm("td3", target_policy_noise=5.0, target_noise_clip=0.4, **FLAT)
    learner = linear(alg, start(alg), actor, ((0.0, 1.0), (9.0, 0.0)))
    batch = random_batch(alg, rows=200, reward=jnp.zeros(200), discount=jnp.ones(200))
    y, f = np.ravel(target_of(alg, learner, batch)), np.tanh(actor)
    low, high = f - 0.4, min(f + 0.4, 1.0)
    assert (low - 1e-5 <= y).all()
    assert (y <= high + 1e-5).all()
    assert np.isclose(y, low, atol=1e-5).sum() > 50
    assert np.isclose(y, high, atol=1e-5).sum() > 50


@pytest.mark.parametrize("name", ["td3", "sac", "discrete-sac", "cql", "droq"])
def test_twin_critics_are_joined_by_their_minimum(name):
    alg = algorithm(name, n_critics=2, **FLAT, **({} if name == "td3" else {"ent_coef": 0.0}))
    learner = linear(alg, start(alg), 0.0, ((1.0, 0.0), (-2.0, 0.0)))
    batch = random_batch(alg, reward=jnp.zeros(8), discount=jnp.ones(8))
    np.testing.assert_allclose(np.ravel(target_of(alg, learner, batch)), -2.0, atol=1e-5)


def test_implicit_q_learning_takes_the_smaller_target():
    alg = algorithm("iql")
    learner, batch = start(alg), random_batch(algorithm("iql"))
    state, build = parts(alg, learner)
    target = build(state.params | targets_of(alg, state.kept))
    q = apply(target.critics, batch.obs, None, None)[jnp.arange(8), :, batch.action]
    np.testing.assert_allclose(target_of(alg, learner, batch).q, q.min(1), rtol=1e-6)


def test_tqc_drops_the_largest_atoms_of_all_critics_together():
    alg = algorithm("tqc", n_quantiles=3, top_quantiles_to_drop_per_net=1, ent_coef=0.0, **FLAT)
    learner = linear(alg, start(alg), 0.0, (([5.0, 1.0, 3.0], 0.0), ([2.0, 9.0, 8.0], 0.0)))
    batch = random_batch(alg, reward=jnp.full(8, 10.0), discount=jnp.full(8, 0.5))
    np.testing.assert_allclose(
        target_of(alg, learner, batch)[:, 0], np.tile(10 + 0.5 * np.array([5.0, 1, 3, 2]), (8, 1))
    )


def test_cql_lowers_q_outside_the_data():
    """Fitted to the same 64 rows with actions in [0.2, 0.4]: far from them Q falls below Q there."""
    data = {
        "action": jnp.linspace(0.2, 0.4, 128).reshape(64, 2),
        "discount": jnp.zeros(64),
        "reward": jnp.ones(64),
    }
    gaps = []
    for weight in (0.0, 5.0):
        alg = algorithm("cql", cql_alpha=weight, cql_actions=4, optimizer="adam", learning_rate=0.01)
        batch, learner = random_batch(alg, rows=64, **data), start(alg)
        state, build = parts(alg, learner)

        def step(state, key, one=compiled_update(alg), batch=batch):
            return one(state, batch, key)[0], None

        state, _ = jax.jit(lambda s, step=step: jax.lax.scan(step, s, jax.random.split(KEY, 200)))(state)
        q = lambda a, net=build(state.params), b=batch: apply(net.critics, b.obs, a, None).mean()
        gaps.append(q(batch.action) - 0.5 * (q(0 * batch.action - 0.8) + q(0 * batch.action + 0.95)))
    assert abs(gaps[0]) < 0.5
    assert gaps[1] > gaps[0] + 1.0


@pytest.mark.parametrize(("target_entropy", "sign"), [(-50.0, -1), (50.0, 1)])
def test_the_temperature_follows_the_entropy(target_entropy, sign):
    alg = algorithm("sac", target_entropy=target_entropy, learning_rate=0.01)
    learner = start(alg)
    after, _, _ = update(alg, learner, random_batch(alg))
    assert np.sign(after.params["log_alpha"] - parts(alg, learner)[0].params["log_alpha"]) == sign


# ------------------------------------------------------------------ the n-step batch


@pytest.mark.parametrize("seed", range(20))
def test_n_step_batch_is_a_double_loop(seed):
    rng = np.random.default_rng(seed)
    n, size = 1 + seed % 4, 16
    terminated, truncated, hole = rng.random((3, n, size)) < 0.25
    valid = np.ones((n, size), bool)
    for b in range(size):  # rows that were not written yet come last
        first = np.flatnonzero(hole[:, b])
        valid[first[0] if len(first) else n :, b] = False
    reward = np.where(valid, rng.normal(size=(n, size)), np.nan).astype(np.float32)
    none = jnp.zeros(size, jnp.int32)
    ends = Ends(none, none, None, jnp.asarray(reward), jnp.asarray(terminated), jnp.asarray(truncated),
                jnp.asarray(valid), none, None, none, none > 0)  # fmt: skip
    batch = replay.jump(ends, jnp.ones(size), GAMMA)
    for b in range(size):
        total, discount = 0.0, 0.0
        for k in range(n):
            if not valid[k, b]:
                break
            total += GAMMA**k * reward[k, b]
            discount = 0.0 if terminated[k, b] else GAMMA ** (k + 1)
            if terminated[k, b] or truncated[k, b]:
                break
        assert batch.reward[b] == pytest.approx(total, abs=1e-5)
        assert batch.discount[b] == pytest.approx(discount, abs=1e-6)


# ------------------------------------------------------------------ when and how often


@pytest.mark.parametrize(
    ("train_freq", "gradient_steps", "updates"),
    [pytest.param(2, -1, 8, marks=pytest.mark.slow), (3, -1, 12), (3, 1, 1), (1, 5, 5)],
)
def test_train_freq_and_gradient_steps(train_freq, gradient_steps, updates):
    alg = algorithm("dqn", train_freq=train_freq, gradient_steps=gradient_steps, learning_rate=0.01)
    assert alg.rows(DISCRETE) == train_freq
    learner, chunk = start(alg), random_chunk(alg)
    assert chunk.reward.shape == (train_freq, N)
    for i in (1, 2):
        learner, metrics = compiled_learn(alg)(learner, chunk, KEY)
        assert learner.training.gradient_steps == metrics["train/n_updates"] == i * updates
        assert learner.training.steps == i * train_freq * N
        assert learner.training.update == i


@pytest.mark.parametrize(
    ("starts", "envs", "pieces", "rows"), [(0, 4, 0, 0), (100, 4, 1, 25), (101, 4, 1, 26), (5000, 2, 3, 834)]
)
def test_the_random_phase_is_long_enough_and_in_pieces(starts, envs, pieces, rows):
    alg = algorithm("dqn", learning_starts=starts)
    assert alg.warm_up(alg.rows(DISCRETE), envs) == (pieces, rows)
    assert pieces * rows * envs >= starts


def test_epsilon_falls_to_its_end_and_stays():
    alg = algorithm("dqn", exploration_fraction=0.25, exploration_initial_eps=0.9, exploration_final_eps=0.1)
    learner = start(alg)
    training = dataclasses.replace(learner.training, total_steps=jnp.asarray(8.0 * 40))
    learner, seen = dataclasses.replace(learner, training=training), []
    assert learner.acting.explore.epsilon == pytest.approx(0.9)
    for i in range(12):
        learner, metrics = compiled_learn(alg)(learner, random_chunk(alg), jax.random.key(i))
        assert metrics["rollout/exploration_rate"] == learner.acting.explore.epsilon
        seen.append(float(learner.acting.explore.epsilon))
    np.testing.assert_allclose(seen, [max(0.9 - 0.08 * i, 0.1) for i in range(1, 13)], rtol=1e-5)
    explored = configure(alg, {"actor": "boltzmann:lin_1.0_0.2"})
    np.testing.assert_allclose(
        [explored.actor.numbers(jnp.asarray(p)).temperature for p in (0.0, 0.5, 1.0)],
        [1, 0.6, 0.2],
        rtol=1e-6,
    )


def test_prioritised_weights_enter_the_loss_and_errors_become_priorities():
    alg = algorithm(
        "dqn", prioritized=True, priority_alpha=0.7, priority_beta=0.5, target_update_interval=10**6
    )
    learner = start(alg)
    for i in range(3):
        learner, _ = compiled_learn(alg)(learner, random_chunk(alg, seed=i), jax.random.key(i))
    chunk, key = random_chunk(alg, seed=9), jax.random.key(9)
    memory = learner.memory.append(chunk)
    draw = memory.ring.draw(memory.rows, jax.random.split(key)[0], 8)
    w = np.asarray(weights(draw, memory.rows, 0.5))
    assert len(set(w.tolist())) > 2
    batch = replay.jump(memory.ring.ends(memory.rows, draw, 1), w, GAMMA)
    state, build = parts(alg, learner)
    y = batch.reward + batch.discount * apply(build(targets_of(alg, state.kept)), batch.next_obs).max(1)
    error = np.asarray(taken(apply(build(state.params), batch.obs), batch.action) - y)
    after, metrics = compiled_learn(alg)(learner, chunk, key)
    close(metrics["train/loss"], np.mean(w * np.asarray(huber(error))))
    mass = after.memory.rows.levels[0][draw.index * N + draw.env]
    by_place = {}
    for place, e in zip(np.asarray(draw.index * N + draw.env), error, strict=True):
        by_place.setdefault(int(place), []).append((abs(float(e)) + SMALLEST_PRIORITY) ** 0.7)
    for place, m in zip(np.asarray(draw.index * N + draw.env), mass, strict=True):
        assert min(abs(float(m) - x) for x in by_place[int(place)]) < 1e-4


# ------------------------------------------------------------------ what is not finite

WITH_MEMORY = ("dqn", "rainbow", "sac", "td3", "iql", "acer", "pgql", "off-pac")


@pytest.mark.parametrize(
    "name",
    ["rainbow", "acer",  # of those without a memory test_gradients.py asks it
     *(pytest.param(x, marks=pytest.mark.slow)
       for x in ("dqn", "sac", "td3", "iql", "pgql", "off-pac", "pqn", "v-trace"))],
)  # fmt: skip
def test_a_non_finite_reward_is_named_and_reaches_nothing(name):
    alg = preset(name)
    spec = spec_of(alg)
    learner = alg.init(KEY, spec, N)
    rows = alg.rows(spec)
    chunk = random_chunk(alg, rows, spec=spec)
    if name in ("acer", "pgql", "off-pac", "v-trace"):
        noise = alg.noise(learner.acting, KEY, rows, N)
        act = jax.vmap(lambda o, xi: alg.act(learner.acting, None, o, None, xi)[:3])
        action, log_prob, dist = jax.jit(act)(chunk.obs, noise)
        chunk = dataclasses.replace(chunk, action=action, log_prob=log_prob, dist=dist)
    reward = np.array(chunk.reward)
    reward[1, 2] = np.inf
    learn = compiled_learn(configure(alg, {"batch_size": 16}) if name == "pqn" else alg)
    learner, metrics = learn(learner, chunk, KEY)
    assert metrics["nonfinite"] == 0
    assert metrics["bad_row"] == -1
    after, metrics = learn(learner, dataclasses.replace(chunk, reward=reward), KEY)
    assert metrics["nonfinite"] == 1
    assert metrics["bad_row"] == 1 * N + 2
    floats = [x for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert all(np.isfinite(x).all() for x in floats)
    assert (after.memory is not None) == (name in WITH_MEMORY)


@families
def test_a_non_finite_gradient_keeps_the_old_training(name):
    """A target that is NaN: the critic, its optimiser and its targets stay as they were."""
    alg = FAMILIES[name]
    learner = start(alg)
    batch = random_batch(alg)
    after, _, _ = update(alg, learner, dataclasses.replace(batch, reward=batch.reward.at[3].set(jnp.nan)))
    assert after.bad
    state = parts(alg, learner)[0]
    part = fitted_part(alg)
    same(after.params[part], state.params[part])
    same(after.opt[part], state.opt[part])
    same(after.kept, state.kept)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))
    assert not update(alg, learner, batch)[0].bad


# ------------------------------------------------------------------ behaviour


def test_correlated_noise_starts_anew_with_each_episode():
    """a − f(s) is an Ornstein–Uhlenbeck process that begins at 0 where an episode does."""
    env = ClassicEnv("Pendulum-v1", max_episode_steps=5)
    alg = algorithm("ddpg", noise_type="ornstein-uhlenbeck", noise_std=0.2, train_freq=12)
    acting = alg.initial_acting(KEY, env.spec)
    carry = reset(alg, acting, env, N, KEY, jnp.uint32(0))
    after, chunk, _ = jax.jit(lambda c: collect(alg, acting, env, c, KEY, KEY, 12))(carry)
    xi = np.asarray(alg.noise(acting, KEY, 12, N).action)
    first = np.asarray(chunk.first)
    np.testing.assert_array_equal(first[:, 0], np.arange(12) % 5 == 0)
    x, rows = np.zeros((N, 1)), []
    for t in range(12):
        x = np.where(first[t][:, None], 0.0, x)
        x = x - 0.15 * x * 0.01 + 0.2 * np.sqrt(0.01) * xi[t]
        rows.append(x)
    noise = np.asarray(chunk.action) - np.asarray(apply(acting.net.actor, chunk.obs, axes=2))
    np.testing.assert_allclose(noise, np.stack(rows), atol=1e-5)
    np.testing.assert_allclose(after.carry, x, atol=1e-6)


def test_normal_noise_is_clipped_to_the_bounds_and_absent_in_evaluation():
    alg = algorithm("td3", noise_std=3.0, train_freq=1)
    acting, obs = alg.initial_acting(KEY, BOX), jnp.ones((500, 2))
    noise = jax.tree.map(lambda x: x[0], alg.noise(acting, KEY, 1, 500))
    action = alg.act(acting, None, obs, None, noise)[0]
    f = apply(acting.net.actor, obs)
    np.testing.assert_allclose(action, np.clip(f + 3.0 * noise.action, -1, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(alg.policy(acting, None, obs, None, None)[0], f)
    random = alg.act(alg.warm_acting(acting), None, obs, None, noise)[0]
    np.testing.assert_array_equal(random, noise.uniform)
    assert abs(random.mean()) < 0.1
    assert random.std() == pytest.approx(np.sqrt(1 / 3), abs=0.03)


def test_noise_is_added_to_the_action_that_a_soft_actor_samples():
    plain, noisy = (algorithm("sac", **kw) for kw in ({}, dict(noise_type="normal", noise_std=0.3)))
    acting, obs = plain.initial_acting(KEY, BOX), jnp.ones((500, 2))
    noise = jax.tree.map(lambda x: x[0], plain.noise(acting, KEY, 1, 500))
    sampled, action = (alg.act(acting, None, obs, None, noise)[0] for alg in (plain, noisy))
    xi = norm.ppf((np.asarray(noise.uniform, float) + 1) / 2)
    np.testing.assert_allclose(action, np.clip(sampled + 0.3 * xi, -1, 1), atol=1e-4)
    assert abs(np.corrcoef(np.ravel(sampled), xi.ravel())[0, 1]) < 0.1  # the two are drawn apart
    np.testing.assert_array_equal(*(alg.policy(acting, None, obs, None, None)[0] for alg in (plain, noisy)))
    random = noisy.act(noisy.warm_acting(acting), None, obs, None, noise)[0]
    np.testing.assert_array_equal(random, noise.uniform)


def test_noisy_layers_explore_and_evaluation_is_without_noise():
    alg = configure(
        PRESETS["rainbow"].algorithm, {"policy_kwargs": NETWORK, "n_atoms": 5, "v_min": -1.0, "v_max": 1.0}
    )
    acting, obs = alg.initial_acting(KEY, DISCRETE), jnp.asarray([[0.3, -0.2]] * 5)
    noise = alg.noise(acting, KEY, 200, 5)
    assert noise.net.shape == (200, noise_size(acting.net))
    chosen = np.asarray(jax.jit(jax.vmap(lambda xi: alg.act(acting, None, obs, None, xi)[0]))(noise))
    assert len(set(chosen[:, 0].tolist())) > 1
    assert (chosen == chosen[:, :1]).all()  # one noise serves all environments of a step
    greedy = alg.critic.q_values(acting.net, obs).argmax(1)
    np.testing.assert_array_equal(alg.policy(acting, None, obs, None, None)[0], greedy)
    q = lambda i: alg.critic.q_values(perturb(acting.net, noise.net[i]), obs)
    np.testing.assert_array_equal(chosen[:20, 0], [int(q(i)[0].argmax()) for i in range(20)])


def test_illegal_actions_are_never_taken():
    """Whatever the exploration: ε = 1, Boltzmann, noisy, soft, random phase."""
    legal = np.arange(300) % ACTIONS
    mask = jnp.asarray(np.arange(ACTIONS)[None] != legal[:, None])
    obs = jnp.asarray(np.random.default_rng(0).normal(size=(300, 2)), jnp.float32)
    for name in ("dqn", "soft-q", "rainbow", "discrete-sac", "iqn", "iql", "bc", "pqn"):
        alg = preset(name)
        acting = alg.initial_acting(KEY, MASKED)
        noise = jax.tree.map(lambda x: x[0], alg.noise(acting, KEY, 1, 300))
        for who in (acting, alg.warm_acting(acting)):
            action = np.asarray(alg.act(who, None, obs, mask, noise)[0])
            assert (action != legal).all(), name
            assert set(action) == set(range(ACTIONS)), name
        assert (np.asarray(alg.policy(acting, None, obs, mask, None)[0]) != legal).all(), name


def test_ensembles_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="leaves none"):
        TruncatedQuantiles(n_quantiles=2, top_quantiles_to_drop_per_net=2)


@pytest.mark.parametrize("name", ["td3", pytest.param("droq", marks=pytest.mark.slow)])
def test_the_updates_of_a_delayed_actor_are_reported(name):
    """They are in some updates of a round only, and the mean is over those."""
    alg = algorithm(name, gradient_steps=4, policy_delay=2, learning_rate=1e-3)
    env = ContinuousTarget()
    learner, key = start(alg, env.spec), jax.random.key(3)
    carry = reset(alg, learner.acting, env, N, key, jnp.uint32(0))
    _, chunk, _ = collect(alg, learner.acting, env, carry, key, key, 2)
    _, metrics = alg.learn(learner, chunk, KEY)
    assert np.isfinite(metrics["train/actor_loss"])
    assert name == "td3" or np.isfinite(metrics["train/ent_coef"])


def test_the_target_entropy_of_discrete_actions_counts_the_legal_ones():
    """Half the largest entropy there is: ½ log 3 would be out of reach where one action is legal."""
    alg = algorithm("discrete-sac")
    head = start(alg).acting.net.actor.head
    masks = jnp.asarray(
        [[True, True, True], [True, False, True], [False, True, False], [False, False, False]]
    )
    np.testing.assert_allclose(
        alg.actor._target_entropy(head, masks), 0.5 * np.log([3, 2, 1, 3]), rtol=1e-6, atol=1e-7
    )
    assert alg.actor._target_entropy(head, None) == pytest.approx(0.5 * np.log(3))
