"""A verifier in Python: what it is asked, and one sentence where it fails."""

import time

import jax
import numpy as np
import pytest

from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.envs.build import token_task
from actrix.envs.guard import EnvError
from actrix.envs.jax_envs import HostJax
from actrix.envs.make import choose_backend, make_jax_env
from actrix.envs.tokens.questions import Questions
from actrix.loops.compiled import CompiledRunner
from actrix.loops.train import NonFiniteError, SeedRun, train

PROMPTS, ANSWERS = ("1+2=", "3+4=", "10+2="), ("3", "7", "12")
SETTINGS = {"policy_kwargs": {"cell": "lstm", "net_arch": [], "hidden_size": 8}}


def asked(prompt, answer):
    left, right = prompt[:-1].split("+")
    return float(answer == str(int(left) + int(right)))


def task(room: int = 3, group: int = 2) -> Questions:
    """What a user's module would have."""
    return Questions(PROMPTS, asked, ANSWERS, room=room, group=group)


def play(env, choose, n=6):
    """(prompt, answer, reward) of one episode of each environment; `choose(host)` gives the actions."""
    host = HostJax(env, n, 3)
    _, mask = host.reset()
    prompts, out = [env.write(p) for p in host.state.instance.prompt], {}
    for _ in range(env.spec.max_episode_steps):
        before = host.state
        action = np.where(mask.sum(1) == 1, mask.argmax(1), choose(host))
        step = host.step(action)
        for i in np.flatnonzero(step.terminated):
            given = np.array(before.answer[i])
            given[int(before.t[i]) + 1 - int(before.instance.length[i])] = action[i]
            out.setdefault(i, (prompts[i], env.write(given), float(step.reward[i])))
        mask = step.mask
    return [out[i] for i in range(n)]


def test_it_is_asked_of_the_text_of_each_answer():
    rng = np.random.default_rng(0)
    env = task()
    guesses = play(env, lambda host: rng.integers(0, len(env.vocabulary), 6))
    shown = play(env, lambda host: np.asarray(jax.vmap(env.shown)(host.state)))
    for prompt, answer, reward in (*guesses, *shown):
        assert reward == asked(prompt, answer), (prompt, answer)
    assert {(prompt, answer) for prompt, answer, _ in shown} <= set(zip(PROMPTS, ANSWERS, strict=True))
    assert {reward for *_, reward in shown} == {1.0}
    assert all(shown[i][0] == shown[i + 1][0] for i in (0, 2, 4))  # a group's prompt
    assert 0.0 in {reward for *_, reward in guesses}


def test_a_function_that_says_so_is_a_token_environment():
    name = f"{__name__}:task"
    assert token_task(name, {"room": 5}).answer_room == 6
    assert choose_backend("auto", name, {"room": 5}) == "jax"
    assert make_jax_env(name, group=4).spec.prompts.group == 4
    assert token_task("CartPole-v1") is None
    with pytest.raises(EnvError, match="task raised TypeError"):
        token_task(name, {"rooms": 5})


def raises(prompt, answer):
    raise KeyError("lost")


def sleeps(prompt, answer):
    time.sleep(0.5)
    return 1.0


@pytest.mark.parametrize(
    ("reward", "text"),
    [
        (raises, r"raised KeyError: 'lost' on prompt '\d+\+\d=' and answer '"),
        (lambda prompt, answer: float("nan"), r"gave nan on prompt '\d+\+\d=' and answer '"),
        (lambda prompt, answer: 1e40, r"gave 1e\+40 on prompt '\d+\+\d=' and answer '"),  # ∞ in 32 bits
        (sleeps, r"took longer than 0.01 s on prompt '\d+\+\d=' and answer '"),
    ],
)
def test_a_verifier_that_fails_stops_training_with_one_sentence(reward, text):
    env = Questions(PROMPTS, reward, room=1, seconds=0.01, group=2)
    if reward is raises:  # once through training, for all
        algorithm = configure(PRESETS["grpo"].algorithm, SETTINGS | {"ref_kl_coef": 0.0})
        with pytest.raises(NonFiniteError, match=text) as error:
            train(CompiledRunner(algorithm, env, 4, [0]), [SeedRun(0)], 100)
        assert "\n" not in str(error.value)
        env = Questions(PROMPTS, reward, room=1, seconds=0.01, group=2)
    with pytest.raises(EnvError, match=text) as error:
        play(env, lambda host: np.zeros(6, int))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Questions((), asked), "give at least one"),
        (lambda: Questions(("", "a"), asked), "none that is empty"),
        (lambda: Questions(("a",), asked, ("b", "c")), "2 answers do not go with 1 prompts"),
        (lambda: Questions(("a",), asked, ("bcd",), room=2), "'bcd' has 3 characters: room=2 is too small"),
        (lambda: Questions(("a",), asked, held_out=True), "give other prompts instead"),
        (lambda: Questions("1+2=", asked), "prompts='1\\+2=' is one text: give a list"),
        (lambda: Questions(("a", "b"), asked, "cd"), "answers='cd' is one text: give a list"),
        (lambda: Questions(("a",), 1.0), "reward=1.0 must be a function of a prompt and an answer"),
        (lambda: Questions(("a",), asked, seconds=0), "seconds=0 must be positive"),
    ],
)
def test_questions_that_make_no_sense(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_a_task_of_reasoning_gym_is_judged_by_its_own_verifier():
    pytest.importorskip("reasoning_gym")
    env = make_jax_env("ReasoningGym-v0", task="chain_sum", size=5, room=6, max_terms=2, max_digits=1)
    assert len(env.prompts) == 5
    for prompt, answer, reward in play(env, lambda host: np.asarray(jax.vmap(env.shown)(host.state))):
        assert reward == 1
        assert prompt in env.prompts
        assert env.reward(prompt, answer + "9") < 1
    assert make_jax_env("ReasoningGym-v0", task="chain_sum", size=5, room=6, max_terms=2, max_digits=1) == env
    with pytest.raises(ValueError, match="reasoning-gym refuses task='nothing'"):
        make_jax_env("ReasoningGym-v0", task="nothing")
