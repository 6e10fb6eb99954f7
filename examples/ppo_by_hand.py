"""PPO on CartPole, written out: collect, estimate, epochs of minibatches, step.

The pieces are the library's own, and so are the random numbers: at the end the parameters are those of `actrix.PPO`
with the same settings and seed, bit for bit.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

import actrix
from actrix.actors.policy_gradient import PPOClip
from actrix.core.answers import Kept
from actrix.core.fit import Joint
from actrix.core.numbers import numbers_of, with_numbers
from actrix.core.rows import flat, rows_of
from actrix.core.types import Chunk
from actrix.critics.value import GAE
from actrix.data.rollout import minibatch_indices
from actrix.envs.jax_envs import HostJax, jax_env
from actrix.loops.runner import iteration_keys, run_keys
from actrix.nets.networks import NetworkConfig

SEED, N_ENVS, N_STEPS, BATCH_SIZE, N_EPOCHS = 0, 8, 128, 64, 10
GAMMA, GAE_LAMBDA, CLIP_RANGE, VF_COEF, LEARNING_RATE, MAX_GRAD_NORM = 0.99, 0.95, 0.2, 0.5, 3e-4, 0.5
ROWS = N_STEPS * N_ENVS  # of a chunk
UPDATES = -(-int(os.environ.get("EXAMPLE_STEPS", 50_000)) // ROWS)

init_key, env_key, iteration_key = run_keys(SEED)  # one seed makes three random streams
env = HostJax(jax_env("CartPole-v1"), N_ENVS, env_key)  # N environments, stepped together from Python

# Two of the three answers. The third, on-policy data, is what is written out below. Beside this critic the actor's ψ,
# its weight of each row, is the advantage.
critic = GAE(GAE_LAMBDA)
actor = PPOClip(CLIP_RANGE).settle(critic)

# Numbers are arguments of what is compiled and no constants in it: another learning rate compiles nothing anew.
NUMBERS = jax.tree.map(jnp.float32, {
    "critic": numbers_of(critic), "actor": numbers_of(actor), "gamma": GAMMA, "vf_coef": VF_COEF,
    "learning_rate": LEARNING_RATE, "max_grad_norm": MAX_GRAD_NORM, "eps": 1e-5, "b1": 0.9,
})  # fmt: skip


def answers(numbers):
    """(critic, actor) with these numbers."""
    return with_numbers(critic, numbers["critic"]), with_numbers(actor, numbers["actor"])


def optimizer(numbers):
    """Adam, after the gradient's norm is bounded."""
    adam = optax.adam(numbers["learning_rate"], numbers["b1"], eps=numbers["eps"])
    return optax.chain(optax.clip_by_global_norm(numbers["max_grad_norm"]), adam)


# One network with a policy and a value branch: `params` is what descends, `build(params)` the network again.
net = NetworkConfig().build(env.spec, init_key)
params, build = Joint().split(net)
opt_state = optimizer(NUMBERS).init(params)
# What the answers keep between updates: targets, a running average. These two keep nothing, but are asked the same way.
kept = Kept(critic.init(net, params), actor.init(net, params))


@jax.jit
def draw(params, key):
    """All the randomness of a chunk's actions, `[T, N, ...]`."""
    return actor.noise(build(params), key, (N_STEPS, N_ENVS))


@jax.jit
def act(params, obs, noise):
    """N actions a, and log π(a|s) of each."""
    action, log_prob, *_ = actor.act(
        critic, build(params), numbers=None, carry=None, obs=obs, mask=None, noise=noise
    )
    return action, log_prob


def collect(params, obs, noise):
    """(a chunk: T steps of N environments, time first; the observations after it)."""
    steps = []
    for t in range(N_STEPS):
        action, log_prob = act(params, obs, noise[t])
        step = env.step(np.asarray(action))
        row = obs, action, step.reward, step.next_obs, step.terminated, step.truncated
        steps.append(Chunk(*row, log_prob=log_prob))
        # Where an episode ended this is the next one's first observation; `next_obs` is the true successor.
        obs = step.obs
    return jax.tree.map(lambda *x: np.stack(x), *steps), obs


@jax.jit
def estimate(params, chunk, numbers):
    """(rows, what the critic estimates of them, what the actor remembers of them), from `[T, N]` to `[T·N]`."""
    critic, actor = answers(numbers)
    # The rows know where an episode terminated, so that their γ is 0, and where one ended at all, so that sums are cut.
    rows = rows_of(chunk, numbers["gamma"])
    view = net.view(build, params, rows)  # what the network says of them
    est = critic.estimate(view, kept, rows, actor, progress=0.0, key=None)
    memo = actor.remember(critic, view, kept, rows, est)  # ψ
    return flat((rows, est, memo))


@jax.jit
def descend(params, opt_state, items, index, numbers):
    """(params, opt_state) after one step of Adam on a minibatch."""
    critic, actor = answers(numbers)
    rows, est, memo = jax.tree.map(lambda x: x[index], items)

    def loss(params):
        view = net.view(build, params, rows)
        actor_loss, _ = actor.loss(critic, view, kept.actor, rows, memo, progress=0.0, key=None)
        critic_loss, _, _ = critic.loss(view, rows, est, key=None)
        return rows.mean(actor_loss) + numbers["vf_coef"] * rows.mean(critic_loss)

    update, opt_state = optimizer(numbers).update(jax.grad(loss)(params), opt_state)
    return optax.apply_updates(params, update), opt_state


obs, _ = env.reset()
running, finished = np.zeros(N_ENVS), []
for iteration in range(UPDATES):
    noise_key, learn_key = iteration_keys(iteration_key, iteration)
    chunk, obs = collect(params, obs, draw(params, noise_key))
    items = estimate(params, chunk, NUMBERS)
    for key in jax.random.split(learn_key, N_EPOCHS):
        for index in minibatch_indices(key, ROWS, BATCH_SIZE):
            params, opt_state = descend(params, opt_state, items, index, NUMBERS)
    for reward, done in zip(chunk.reward, chunk.terminated | chunk.truncated, strict=True):
        running += reward
        finished += running[done].tolist()
        running[done] = 0
    print(f"{(iteration + 1) * ROWS:7,} steps  return {np.mean(finished[-100:]):6.1f}")

# The same by the preset, in the same environments.
model = actrix.PPO(
    "MlpPolicy", actrix.make_vec_env("CartPole-v1", N_ENVS, backend="jax"), seed=SEED, n_steps=N_STEPS,
    batch_size=BATCH_SIZE, n_epochs=N_EPOCHS, gamma=GAMMA, gae_lambda=GAE_LAMBDA, clip_range=CLIP_RANGE,
    vf_coef=VF_COEF, learning_rate=LEARNING_RATE, max_grad_norm=MAX_GRAD_NORM,
).learn(UPDATES * ROWS)  # fmt: skip
ours, theirs = (jax.tree.leaves(x) for x in (build(params), model.acting.net))
same = all(jnp.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
print("actrix.PPO has the same parameters, bit for bit:", same)
