"""Token environments against plain Python: questions, forced prompts, verifiers, groups."""

import functools
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.envs.base import step_keys
from actrix.envs.jax_envs import jax_env, vector_reset, vector_step
from actrix.envs.tokens.env import END
from actrix.envs.tokens.tasks import Addition, Copy, Countdown, Reverse, Sort

KWARGS = {"Copy-v0": {"length": 4}, "Reverse-v0": {"length": 4}, "Sort-v0": {"length": 5, "letters": 3},
          "Addition-v0": {"digits": 2}, "Countdown-v0": {"numbers": 3}}  # fmt: skip


def value_of(text):
    """An expression of one-digit numbers, * before + and −, by a recursive reading of its own."""
    at = max(text.rfind("+"), text.rfind("-"))
    if at >= 0:
        left, right = value_of(text[:at]), value_of(text[at + 1 :])
        return left + right if text[at] == "+" else left - right
    left, times, right = text.rpartition("*")
    return value_of(left) * int(right) if times else int(right)


def is_right(env_id, prompt, answer, ended):
    """Whether a text answers a prompt, by the task's definition; `ended`: with END inside the room."""
    if not ended:
        return False
    if env_id == "Countdown-v0":
        numbers, target = prompt[:-1].split(">")
        digits, operators = answer[::2], answer[1::2]
        formed = set(digits) <= set("0123456789") and set(operators) <= set("+-*") and len(answer) % 2 == 1
        return formed and sorted(digits) == sorted(numbers.split(",")) and value_of(answer) == int(target)
    if env_id == "Addition-v0":
        left, right = prompt[:-1].split("+")
        return answer == str(int(left) + int(right)).zfill(len(left) + 1)
    letters = prompt[:-1]
    wanted = {"Copy-v0": letters, "Reverse-v0": letters[::-1], "Sort-v0": "".join(sorted(letters))}
    return answer == wanted[env_id]


@functools.cache
def compiled(env):
    return jax.jit(env.reset), jax.jit(env.step), jax.jit(env.mask)


def play(env, key, choose):
    """(prompt, answer, ended, reward, steps) of an episode; `choose(state)` gives the answer's tokens."""
    reset, step, mask_of = compiled(env)
    state, obs = reset(key)
    prompt, answer, forced = [int(obs)], [], True
    for n in itertools.count(1):
        mask = np.asarray(mask_of(state))
        forced = mask.sum() == 1
        assert forced or mask.all()
        action = int(mask.argmax()) if forced else choose(state)
        state, obs, reward, terminated, truncated = step(key, state, jnp.int32(action))
        assert int(obs) == action
        assert not truncated
        (prompt if forced else answer).append(action)
        if terminated:
            return env.write(prompt), env.write(answer), answer[-1] == END, float(reward), n
        assert reward == 0


@pytest.mark.parametrize("env_id", KWARGS)
@pytest.mark.parametrize("held_out", [False, True])
def test_verifiers_agree_with_python(env_id, held_out):
    env = jax_env(env_id, **KWARGS[env_id], held_out=held_out)
    rng, outcomes = random.Random(0), set()
    shown = jax.jit(env.shown)
    for i in range(18):
        noise = i % 3 * 0.15  # none: the solution shown is right
        slips = lambda noise=noise: rng.random() < noise
        choose = lambda state, slips=slips: (
            rng.randrange(len(env.vocabulary)) if slips() else int(shown(state))
        )
        prompt, answer, ended, reward, steps = play(env, jax.random.key(i), choose)
        assert reward == is_right(env_id, prompt, answer, ended), (prompt, answer)
        assert steps <= env.spec.max_episode_steps
        assert noise or reward == 1
        outcomes.add(reward)
    assert outcomes == {0.0, 1.0}


def test_countdown_takes_every_right_answer():
    env = Countdown(3)
    right = jax.jit(env.right)
    tokens = {c: i for i, c in enumerate(env.vocabulary)}
    for i in range(4):
        instance = env.draw(jax.random.key(i))
        prompt = env.write(instance.prompt)
        numbers = prompt.split(">")[0].split(",")
        for order in itertools.permutations(numbers):
            for operators in itertools.product("+-*", repeat=2):
                text = order[0] + operators[0] + order[1] + operators[1] + order[2]
                answer = jnp.array([*(tokens[c] for c in text), END], jnp.int32)
                assert bool(right(instance, answer)) == is_right("Countdown-v0", prompt, text, True), text
        wrong = [f"{numbers[0]}+{numbers[1]}", f"{numbers[0]}++{numbers[1]}", "".join(numbers) + "++"]
        for text in wrong:
            answer = jnp.array(([tokens[c] for c in text] + [END] * 6)[:6], jnp.int32)
            assert not right(instance, answer)


def test_held_out_questions_are_longer_than_those_of_training():
    for env, longer in ((Copy(3), Copy(3, held_out=True)), (Sort(2), Sort(2, held_out=True))):
        lengths = [
            np.unique(jax.vmap(lambda k, e=e: e.draw(k).length)(jax.random.split(jax.random.key(0), 200)))
            for e in (env, longer)
        ]
        assert lengths[0].tolist() == [*range(2, env.length + 2)]
        assert lengths[1].tolist() == [env.length + 2, env.length + 3]
    assert Addition(2, held_out=True).spec.max_episode_steps > Addition(2).spec.max_episode_steps


def test_a_group_answers_one_prompt():
    env, n, key = Reverse(3, group=4), 8, jax.random.key(0)
    state, _, mask = vector_reset(env, step_keys(key, 0, n))
    prompts = np.asarray(state.instance.prompt).reshape(2, 4, -1)
    assert (prompts == prompts[:, :1]).all()
    assert (prompts[0, 0] != prompts[1, 0]).any()

    @jax.jit
    def after(state, mask, number):
        action = jnp.argmax(mask + jax.random.uniform(jax.random.fold_in(key, number), mask.shape), axis=-1)
        return vector_step(env, state, action, step_keys(key, number, n))

    for number in range(1, 60):  # random answers end at different times: new prompts come one by one
        state, step = after(state, mask, number)
        mask, done = step.mask, np.asarray(step.terminated)
        fresh = np.asarray(state.instance.prompt)[done & (np.arange(n) < 4)]
        assert (fresh == fresh[:1]).all()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Copy(0), "length=0 must be a whole number of at least 1"),
        (lambda: Copy(letters=27), "letters=27: there are 26"),
        (lambda: Copy(group=0), "group=0 must be"),
        (lambda: Addition(9), "digits=9: sums are exact up to 8"),
        (lambda: Countdown(1), "numbers=1 must be"),
        (lambda: Countdown(8, held_out=True), "at most 8"),
        (lambda: Copy(held_out="yes"), "held_out='yes' must be True or False"),
    ],
)
def test_bad_sizes_are_one_sentence(make, text):
    with pytest.raises(ValueError, match=text.replace("(", r"\(")):
        make()
