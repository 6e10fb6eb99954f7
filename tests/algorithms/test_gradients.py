"""What `learn` does to the parameters, against gradients written from the equations.

With plain SGD, step size 1 and one pass, θ_old − θ_new is the gradient of the loss.
"""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from actrix.algorithms.presets import compose
from actrix.algorithms.settings import configure
from actrix.core.normalize import Moments
from actrix.core.numbers import packed
from actrix.core.types import Chunk, Spec
from actrix.envs.jax_envs import HostJax
from actrix.envs.probes import ActionObs, Masked
from actrix.loops.compiled import CompiledRunner
from actrix.loops.host import HostRunner

T, N, GAMMA = 6, 3, 0.9
SPEC = Spec(spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(3), T)
PLAIN = {
    "n_steps": T, "batch_size": None, "n_epochs": 1, "gamma": GAMMA, "learning_rate": 1.0, "vf_coef": 0.0,
    "max_grad_norm": None, "normalize_advantage": False, "optimizer": "sgd",
    "policy_kwargs": {"net_arch": [4]},
}  # fmt: skip


def algorithm(critic="none", actor="score:reward-to-go", **settings):
    return compose(critic, actor, "on-policy", PLAIN | settings)


def start(alg, seed=0):
    """A learner whose policy is not uniform."""
    learner = alg.init(jax.random.key(seed), SPEC, N)
    net = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), learner.acting.net
    )
    return dataclasses.replace(learner, acting=dataclasses.replace(learner.acting, net=net))


@functools.partial(jax.jit, static_argnums=0)
def acted(alg, acting, obs, noise):
    """(action, its log-probability, the distribution) of each row."""
    return jax.vmap(lambda o, xi: alg.act(acting, None, o, None, xi)[:3])(obs, noise)


def random_chunk(alg, learner, whole, seed=0):
    """A chunk that the learner's policy acted in. `whole`: one episode per column, then padding."""
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.normal(size=(2, T, N, 2)).astype(np.float32)
    if whole:
        length = np.array([6, 3, 4])
        t = np.arange(T)[:, None]
        valid, last = t < length, t == length - 1
        terminated, truncated = last & (np.arange(N) < 2), last & (np.arange(N) == 2)
    else:
        valid, (terminated, truncated) = None, rng.random((2, T, N)) < 0.2
        truncated &= ~terminated
    noise = alg.noise(learner.acting, jax.random.key(seed), T, N)
    action, log_prob, dist = acted(alg, learner.acting, obs, noise)
    return Chunk(
        obs=obs, action=action, reward=rng.normal(size=(T, N)).astype(np.float32), next_obs=next_obs,
        terminated=terminated, truncated=truncated, valid=valid, log_prob=log_prob, dist=dist,
        first=np.zeros((T, N), bool),
    )  # fmt: skip


def learn(alg, learner, chunk, key=0):
    """(learner, metrics) after the chunk, by the numbers of `alg`, whatever the learner began with."""
    training = dataclasses.replace(learner.training, numbers=packed(alg.numbers()))
    learner = dataclasses.replace(learner, training=training)
    return jax.jit(alg.learn)(learner, chunk, jax.random.key(key))


def step_taken(alg, learner, chunk):
    """θ_old − θ_new, leaf by leaf."""
    after, _ = learn(alg, learner, chunk)
    return jax.tree.map(
        lambda old, new: np.asarray(old - new), weights(learner.acting.net), weights(after.acting.net)
    )


def weights(net):
    return {
        name: [
            (layer.weight, layer.bias) for layer in (*getattr(net, name).layers, getattr(net, f"{name}_head"))
        ]
        for name in ("pi", "vf")
    }


def forward(layers, x):
    (w, b), (w2, b2) = layers
    return jnp.tanh(x @ w + b) @ w2 + b2


def log_pi(p, obs, action):
    logits = forward(p, obs)
    return logits[action] - jnp.log(jnp.sum(jnp.exp(logits)))


def each_row(f, *rows):
    return np.array([[np.asarray(f(*(x[t, n] for x in rows))) for n in range(N)] for t in range(T)])


def truths(learner, chunk):
    """Per-row score, values and episode structure, from the network's weights alone."""
    p = weights(learner.acting.net)
    score = jax.jit(jax.vmap(jax.vmap(jax.grad(log_pi), (None, 0, 0)), (None, 0, 0)))(
        p["pi"], chunk.obs, chunk.action
    )
    probs = np.asarray(jax.nn.softmax(forward(p["pi"], chunk.obs)))
    next_probs = np.asarray(jax.nn.softmax(forward(p["pi"], chunk.next_obs)))
    out, next_out = (np.asarray(forward(p["vf"], x)) for x in (chunk.obs, chunk.next_obs))
    valid = np.ones((T, N), bool) if chunk.valid is None else chunk.valid
    return SimpleNamespace(
        p=p, score=score, probs=probs, next_probs=next_probs, out=out, next_out=next_out, valid=valid,
        reward=np.asarray(chunk.reward), term=np.asarray(chunk.terminated),
        cut=np.asarray(chunk.terminated | chunk.truncated) | (np.arange(T) == T - 1)[:, None],
    )  # fmt: skip


def gae_loop(r, v, next_v, term, cut, lam):
    """Â_t = Σ_k (γλ)^k δ_{t+k} to the cut, by the double sum."""
    delta = r + GAMMA * (1 - term) * next_v - v
    out = np.zeros((T, N))
    for t in range(T):
        for n in range(N):
            for k in range(t, T):
                out[t, n] += (GAMMA * lam) ** (k - t) * delta[k, n]
                if cut[k, n]:
                    break
    return out


def returns_loop(w):
    """(G_t, R(τ)) of whole episodes, one per column."""
    to_go = gae_loop(np.where(w.valid, w.reward, 0), 0.0, 0.0, w.term, w.cut, 1.0)
    return to_go, np.broadcast_to(to_go[0], (T, N))


def expected_policy_step(w, psi):
    """−E[∇log π ψ] over valid rows."""
    mean = lambda g: -np.tensordot(np.where(w.valid, psi, 0), np.asarray(g), 2) / w.valid.sum()
    return jax.tree.map(mean, w.score)


def assert_same(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), got, want)


@pytest.mark.parametrize("psi", ["return", "reward-to-go", "moving-average", "optimal", "gamma"])
def test_score_function_with_returns(psi):
    alg = algorithm(actor="score:reward-to-go:gamma" if psi == "gamma" else f"score:{psi}")
    learner = start(alg)
    chunk = random_chunk(alg, learner, whole=True)
    w = truths(learner, chunk)
    to_go, whole = returns_loop(w)
    match psi:
        case "return":
            want = whole
        case "reward-to-go":
            want = to_go
        case "gamma":
            want = GAMMA ** np.arange(T)[:, None] * to_go
        case "moving-average":
            # The first batch has baseline 0; the second the first one's mean return.
            learner, _ = learn(configure(alg, {"learning_rate": 1e-12}), learner, chunk)
            w = truths(learner, chunk)
            want = to_go - to_go[w.valid].mean()
        case "optimal":
            g = [
                np.where(w.valid.reshape(T, N, *[1] * (x.ndim - 2)), x, 0).sum(0)
                for x in jax.tree.leaves(w.score)
            ]
            square = sum((x.reshape(N, -1) ** 2).sum(1) for x in g)
            others = [[m for m in range(N) if m != n] for n in range(N)]
            want = whole - [(square[o] * whole[0, o]).sum() / square[o].sum() for o in others]
    got = step_taken(alg, learner, chunk)
    assert_same(got["pi"], expected_policy_step(w, want))
    assert_same(got["vf"], jax.tree.map(np.zeros_like, got["vf"]))


@pytest.mark.parametrize("psi", ["advantage", "td-error", "td", "mc", "q", "q-advantage"])
def test_score_function_with_a_critic(psi):
    """The policy's step is −E[∇log π ψ], the critic's 2·vf_coef·E[(V − target)∇V]."""
    critic, actor = {
        "advantage": ("gae:0.7", "score:advantage"),
        "td-error": ("gae:0.7", "score:td-error"),
        "td": ("td", "score:advantage"),
        "mc": ("mc", "score:advantage"),
        "q": ("q-td", "score:q"),
        "q-advantage": ("q-td", "score:advantage"),
    }[psi]
    alg = algorithm(critic, actor, vf_coef=0.25)
    learner = start(alg)
    chunk = random_chunk(alg, learner, whole=psi == "mc")
    w = truths(learner, chunk)
    rows, columns = np.indices((T, N))
    if critic == "q-td":
        v, next_v = (w.probs * w.out).sum(-1), (w.next_probs * w.next_out).sum(-1)
        fitted = w.out[rows, columns, chunk.action]
    else:
        v, next_v = w.out[..., 0], w.next_out[..., 0]
        fitted = v
    lam = {"advantage": 0.7, "td-error": 0.7}.get(psi, 0.0)
    target = gae_loop(w.reward, v, next_v, w.term, w.cut, lam) + v
    if psi == "mc":  # the return, with V(s_{t+1}) after the truncated row
        bootstrap = GAMMA * np.asarray(chunk.truncated) * next_v
        target = gae_loop(w.reward + bootstrap, 0.0, 0.0, w.term, w.cut, 1.0)
    delta = w.reward + GAMMA * (1 - w.term) * next_v - v
    want = {"td-error": delta, "q": fitted, "q-advantage": fitted - v}.get(psi, target - v)
    got = step_taken(alg, learner, chunk)
    assert_same(got["pi"], expected_policy_step(w, want))

    def value_loss(p):
        out = forward(p, chunk.obs)
        chosen = out[rows, columns, chunk.action if critic == "q-td" else 0]
        return 0.25 * jnp.sum(jnp.where(w.valid, (chosen - target) ** 2, 0)) / w.valid.sum()

    assert_same(got["vf"], jax.grad(value_loss)(w.p["vf"]))


def test_entropy_bonus():
    alg = algorithm(ent_coef=0.3)
    learner = start(alg)
    chunk = dataclasses.replace(random_chunk(alg, learner, whole=True), reward=np.zeros((T, N), np.float32))

    def entropy(p):
        logp = jax.nn.log_softmax(forward(p, chunk.obs))
        return -jnp.sum(jnp.where(chunk.valid[..., None], jnp.exp(logp) * logp, 0)) / chunk.valid.sum()

    want = jax.tree.map(lambda g: -0.3 * g, jax.grad(entropy)(weights(learner.acting.net)["pi"]))
    assert_same(step_taken(alg, learner, chunk)["pi"], want)


@pytest.mark.parametrize(
    "reference", ["uniform", pytest.param("network", marks=pytest.mark.slow), "with statistics"]
)
@pytest.mark.parametrize("where", ["reward", "loss"])
def test_kl_to_a_reference_policy(where, reference):
    """In the reward: ψ is the return of r − τ log π/π̄. In the loss: −τ∇KL(π ‖ π̄) beside the plain return."""
    tau = 0.4
    alg = algorithm(ref_kl_coef=tau, ref_kl_in=where)
    learner = start(alg)
    other = None if reference == "uniform" else start(alg, seed=5).acting
    if reference == "with statistics":
        other = dataclasses.replace(other, obs_moments=(Moments(jnp.full(2, 0.5), jnp.full(2, 4.0), 9.0),))
    learner = dataclasses.replace(learner, training=dataclasses.replace(learner.training, reference=other))
    chunk = random_chunk(alg, learner, whole=True)
    w = truths(learner, chunk)
    seen = chunk.obs if reference != "with statistics" else (chunk.obs - 0.5) / np.sqrt(4.0 + 1e-8)
    logits = jnp.zeros((T, N, 3)) if other is None else forward(weights(other.net)["pi"], seen)
    log_reference = jax.nn.log_softmax(logits)
    rows, columns = np.indices((T, N))
    if where == "reward":
        w.reward = w.reward - tau * np.asarray(chunk.log_prob - log_reference[rows, columns, chunk.action])
    want = expected_policy_step(w, returns_loop(w)[0])
    if where == "loss":

        def kl(p):
            logp = jax.nn.log_softmax(forward(p, chunk.obs))
            rows = jnp.sum(jnp.exp(logp) * (logp - log_reference), -1)
            return tau * jnp.sum(jnp.where(w.valid, rows, 0)) / w.valid.sum()

        want = jax.tree.map(lambda a, b: a + np.asarray(b), want, jax.grad(kl)(w.p["pi"]))
    assert_same(step_taken(alg, learner, chunk)["pi"], want)


def test_value_clipping_stops_the_gradient_of_values_that_moved():
    """(target − V_old − clip(V − V_old, ±ε))²: nothing is left to gain once V has moved by ε."""
    alg = algorithm("td", "score:advantage", vf_coef=1.0, learning_rate=0.5)
    learner = start(alg)
    chunk = dataclasses.replace(
        random_chunk(alg, learner, whole=False), reward=np.full((T, N), 50.0, np.float32)
    )
    v_of = lambda l: np.asarray(forward(weights(l.acting.net)["vf"], chunk.obs))[..., 0]
    clipped = configure(alg, {"clip_range_vf": 0.05, "n_epochs": 5, "actor": "ppo-clip:0.2"})
    free = configure(clipped, {"clip_range_vf": None})
    # Every target lies far above: without clipping V keeps moving, with it the first pass is the last.
    once, _ = learn(configure(clipped, {"n_epochs": 1}), learner, chunk)
    five, _ = learn(clipped, learner, chunk)
    assert (v_of(once) - v_of(learner) > 0.05).all()
    np.testing.assert_array_equal(v_of(five), v_of(once))
    assert np.abs(v_of(learn(free, learner, chunk)[0]) - v_of(once)).max() > 0.05


# test_modes.py: statistics and parameters of the host loop are those of the compiled one.
@pytest.mark.parametrize("mode", ["compiled", pytest.param("host", marks=pytest.mark.slow)])
def test_ppo_starts_from_ratio_one_with_running_statistics(mode):
    """The statistics that acted are those that learn: KL(old, new) is 0 in a single full-batch pass."""
    alg = compose("gae", "ppo-clip", settings=dict(
        n_steps=8, batch_size=None, n_epochs=1, normalize_obs=True, normalize_reward=True,
        policy_kwargs={"net_arch": [4]}, learning_rate=0.05,
    ))  # fmt: skip
    env = ActionObs()
    runner = CompiledRunner(alg, env, 4, [0]) if mode == "compiled" else HostRunner(alg, HostJax(env, 4), 0)
    runner.warm()
    for _ in range(3):
        before = runner.learners[0].acting.obs_moments[0]
        (report,) = runner.advance(1)
        assert abs(report.metrics["train/approx_kl"]) < 1e-10
        assert report.metrics["train/clip_fraction"] == 0
        assert runner.learners[0].acting.obs_moments[0].count == before.count + 32
        assert before.count > 30
    # The check has teeth: with other statistics than those of acting the ratio is not 1.
    learner = start(algorithm("gae", "ppo-clip", normalize_obs=True))
    alg = algorithm("gae", "ppo-clip", normalize_obs=True)
    chunk = random_chunk(alg, learner, whole=False)
    moved = alg.observe(learner, chunk)
    assert abs(learn(alg, learner, chunk)[1]["train/approx_kl"]) < 1e-10
    assert learn(alg, moved, chunk)[1]["train/approx_kl"] > 1e-5


def test_critic_only_passes_leave_the_policy_alone():
    alg = algorithm("gae", "score:advantage", optimizer="adam", learning_rate=1e-2, critic_learning_rate=1e-2)
    seven = configure(alg, {"n_critic_updates": 7})
    learner = start(seven)
    chunk = random_chunk(alg, learner, whole=False)
    with jax.disable_jit():  # else two programs, which XLA fuses in other ways, to other last digits
        plain, _ = learn(alg, learner, chunk)
        extra, _ = learn(seven, learner, chunk)
    one, other = weights(plain.acting.net), weights(extra.acting.net)
    jax.tree.map(np.testing.assert_array_equal, one["pi"], other["pi"])
    assert np.abs(one["vf"][0][0] - other["vf"][0][0]).max() > 1e-3


VARIANTS = {
    "reinforce": algorithm(normalize_advantage=True),
    "optimal": algorithm(actor="score:optimal"),
    "moving-average": algorithm(actor="score:moving-average"),
    "ppo": algorithm(
        "gae", "ppo-clip", batch_size=6, n_epochs=3, normalize_advantage=True, vf_coef=0.5, ent_coef=0.1,
        normalize_obs=True, normalize_reward=True, target_kl=0.5, clip_range_vf=0.2, ref_kl_coef=0.1,
    ),
    "ppo-kl": algorithm("gae", "ppo-kl", n_epochs=2, vf_coef=0.5, ref_kl_coef=0.1, ref_kl_in="loss"),
    "q": algorithm("q-mc", "score:q", vf_coef=0.5, n_critic_updates=2),
}  # fmt: skip


@functools.cache
def compiled_variant(name):
    return jax.jit(lambda l, c: VARIANTS[name].learn(l, c, jax.random.key(0)))


@pytest.mark.parametrize("name", VARIANTS)
def test_padding_influences_nothing(name):
    """Whatever stands in rows that are not valid: the learner, counters and statistics come out the same."""
    alg = VARIANTS[name]
    learner = start(alg)
    chunk = random_chunk(alg, learner, whole=True)
    rng = np.random.default_rng(1)

    def garble(x):
        hole = ~chunk.valid.reshape(T, N, *[1] * (x.ndim - 2))
        if x.dtype == bool:
            return np.where(hole, rng.random(x.shape) < 0.5, x)
        if np.issubdtype(x.dtype, np.integer):
            return np.where(hole, rng.integers(0, 3, x.shape), x).astype(x.dtype)
        return np.where(hole, 30 * rng.normal(size=x.shape), x).astype(np.float32)

    rows = dataclasses.replace(chunk, valid=None)
    other = dataclasses.replace(jax.tree.map(garble, rows), valid=chunk.valid)
    run = compiled_variant(name)
    one, two = run(learner, chunk)[0], run(learner, other)[0]
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert float(one.training.steps) == chunk.valid.sum()
    assert any(
        (a != b).any() for a, b in zip(*map(jax.tree.leaves, (one.acting, learner.acting)), strict=True)
    )


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["reward", "obs"])
def test_a_non_finite_chunk_changes_no_parameter(name, field, value):
    alg = VARIANTS[name]
    learner = start(alg)
    chunk = random_chunk(alg, learner, whole=True)
    bad = dataclasses.replace(chunk, **{field: np.array(getattr(chunk, field))})
    getattr(bad, field)[0, 0] = value
    run = compiled_variant(name)
    after, metrics = run(learner, bad)
    assert metrics["nonfinite"] == 1
    assert metrics["bad_row"] == 0
    counters = dict(update=0, steps=0, steps_rest=0, gradient_steps=0)
    kept = lambda l: (dataclasses.replace(l.training, **counters), l.acting)
    jax.tree.map(np.testing.assert_array_equal, kept(after), kept(learner))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))
    again, metrics = run(after, chunk)
    assert metrics["nonfinite"] == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(again))


@pytest.mark.parametrize(("target", "factor"), [(1e6, 0.5), (1e-9, 2.0)])
def test_ppo_kl_adapts_beta(target, factor):
    alg = algorithm("gae", f"ppo-kl:{target}:0.7", n_epochs=3, learning_rate=0.1)
    learner = start(alg)
    after, metrics = learn(alg, learner, random_chunk(alg, learner, whole=False))
    beta = lambda l: l.training.kept.actor.own
    assert beta(learner) == pytest.approx(0.7)
    assert beta(after) == pytest.approx(0.7 * factor)
    assert metrics["train/beta"] == beta(after)


def test_target_kl_stops_the_passes():
    """After the first minibatch whose KL exceeds 1.5·target_kl no parameter moves."""
    alg = algorithm("gae", "ppo-clip", learning_rate=1.0, n_epochs=2)
    learner = start(alg)
    chunk = random_chunk(alg, learner, whole=False)
    once, _ = learn(configure(alg, {"n_epochs": 1}), learner, chunk)
    stopped, metrics = learn(configure(alg, {"n_epochs": 4, "target_kl": 1e-6}), learner, chunk)
    assert metrics["train/approx_kl"] > 1e-6
    jax.tree.map(np.testing.assert_array_equal, stopped.acting.net, once.acting.net)


@pytest.mark.slow  # test_model.py trains with masks, too, and test_off_policy.py acts with them
def test_masked_actions_are_never_taken_and_get_no_gradient():
    settings = {"n_steps": 16, "batch_size": None, "n_epochs": 2, "policy_kwargs": {"net_arch": [4]}}
    alg = compose("gae", "ppo-clip", settings=settings)
    runner = CompiledRunner(alg, Masked(), 8, [0])
    (report,) = runner.advance(1)
    assert len(report.ep_returns) == 128
    assert (report.ep_returns >= 0).all()  # an illegal action costs 10
    assert np.isfinite(report.metrics["train/loss"])
