"""A verifier in Python: what it is asked, and one sentence where it fails."""

import dataclasses
import json
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from actrix import GRPO
from actrix.algorithms.presets import PRESETS
from actrix.algorithms.settings import configure
from actrix.envs.build import UnknownEnvError, single_env, token_task
from actrix.envs.guard import EnvError
from actrix.envs.jax_envs import HostJax
from actrix.envs.make import choose_backend, make_jax_env
from actrix.envs.tokens.questions import Questions
from actrix.loops.answers import answers
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


def silent():
    return task()


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
    with pytest.raises(UnknownEnvError, match=r"Copy-v0 refuses the env_kwargs: .*'lengths'"):
        token_task("Copy-v0", {"lengths": 5})
    with pytest.raises(EnvError, match=r"gave a Questions, .*: say what it makes, def …\(\) -> Questions"):
        single_env(f"{__name__}:silent")


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
        (lambda prompt, answer: None, r"gave None, which is no number, on prompt '\d+\+\d=' and answer '"),
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
        (lambda: Questions(("a",), asked, held_out=True), "held_out=True asks held_out_prompts: give some"),
        (
            lambda: Questions(("a",), asked, held_out_prompts=("b", "a")),
            "'a' is among prompts and held_out_prompts",
        ),
        (lambda: Questions(("a",), asked, end="b"), "end is a token of a tokenizer"),
        (lambda: Questions("1+2=", asked), "prompts='1\\+2=' is one text: give a list"),
        (lambda: Questions(("a", "b"), asked, "cd"), "answers='cd' is one text: give a list"),
        (lambda: Questions(("a",), 1.0), "reward=1.0 must be a function of a prompt and an answer"),
        (lambda: Questions(("a",), asked, seconds=0), "seconds=0 must be positive"),
    ],
)
def test_questions_that_make_no_sense(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_a_complaint_is_made_once():
    """What was trained in vain leaves nothing behind for what begins then."""
    found = [1.0, float("nan")]
    env = Questions(PROMPTS, lambda prompt, answer: found[-1], room=1, group=2)
    with pytest.raises(EnvError, match="gave nan"):
        play(env, lambda host: np.zeros(6, int))
    found.pop()
    assert {reward for *_, reward in play(env, lambda host: np.zeros(6, int))} == {1.0}


def test_what_has_no_right_answers_shows_none():
    """Not the empty answer, which a supervised start would learn in silence."""
    given = dict(room=3, group=1, held_out_prompts=("9+1=",))
    for env in (
        Questions(PROMPTS, asked, **given),
        dataclasses.replace(Questions(PROMPTS, asked, ANSWERS, **given), held_out=True),
    ):
        with pytest.raises(ValueError, match=r"these prompts have none: give Questions answers=…") as error:
            configure(PRESETS["sft"].algorithm, SETTINGS).check(env.spec, 8)
        assert "\n" not in str(error.value)


def test_held_out_prompts_are_asked_only_there():
    env = Questions(PROMPTS, asked, ANSWERS, held_out_prompts=("99+1=", "7+0="), room=3, group=1)
    other = dataclasses.replace(env, held_out=True)
    choose = lambda host: np.zeros(host.num_envs, int)
    assert {prompt for prompt, *_ in play(env, choose, 40)} == set(PROMPTS)
    assert {prompt for prompt, *_ in play(other, choose, 40)} == {"99+1=", "7+0="}
    assert other.vocabulary == env.vocabulary
    assert other.prompt_room == 5 == env.prompt_room  # "10+2="


# ---------------------------------------------------------------------------- the tokens of a tokenizer

TEXTS = ["1+2=", "3+4=", "10+2=", "3", "7", "12", "Was ist 1+2? Antwort: 3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level BPE as published models have, fewer tokens than the weights' 320, with a beginning and two ends."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<s>", "</s>", "<stop>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    path = tmp_path_factory.mktemp("weights")
    made.save(str(path / "tokenizer.json"))
    config = {"model_type": "llama", "vocab_size": 320, "eos_token_id": [1, 2]}
    (path / "config.json").write_text(json.dumps(config))
    return path


def pieces(folder, **kwargs):
    return Questions(
        PROMPTS, asked, **{"answers": ANSWERS, "room": 3, "group": 2, "tokenizer": folder, **kwargs}
    )


def test_texts_become_the_tokenizers_tokens_and_texts_again(folder):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    env = pieces(folder)
    assert len(env.vocabulary) == env.spec.action_space.n == 320
    assert env.texts.end == 1
    assert env.texts.read("10+2=", prompt=True) == theirs.encode("10+2=").ids
    assert env.texts.read("10+2=", prompt=True)[0] == 0  # the beginning is the prompt's
    assert env.texts.read("12") == theirs.encode("12", add_special_tokens=False).ids
    assert env.write([*env.texts.read("12"), 1, 5]) == "12"
    assert pieces(folder, end="<stop>").texts.end == 2
    asked_of = []
    watched = dataclasses.replace(env, reward=lambda p, a: asked_of.append((p, a)) or asked(p, a))
    shown = play(watched, lambda host: np.asarray(jax.vmap(watched.shown)(host.state)))
    assert [reward for *_, reward in shown] == [1.0] * 6
    assert set(asked_of) <= set(
        zip(PROMPTS, ANSWERS, strict=True)
    )  # the texts themselves, not what decoding gives


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"characters": "abc"}, "characters are of answers without a tokenizer"),
        ({"end": "<halt>"}, "end='<halt>' is no token of .*tokenizer.json"),
        ({"answers": ("3", "7</s>", "12")}, "the answer '7</s>' has '</s>', which ends an answer"),
        ({"answers": ("3", "7", "1 2 1 2")}, "the answer '1 2 1 2' has [67] tokens: room=3 is too small"),
        ({"tokenizer": "nowhere"}, "^there is no nowhere/config.json"),
    ],
)
def test_what_a_tokenizer_cannot_write_is_refused(folder, kwargs, text):
    with pytest.raises(ValueError, match=text):
        _ = pieces(folder, **kwargs).spec


def test_a_config_that_names_no_end_asks_for_one(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"vocab_size": 320}))
    with pytest.raises(ValueError, match="eos_token_id is None, no token: say which ends an answer"):
        pieces(other)
    assert pieces(other, end="</s>").texts.end == 1
    (other / "config.json").write_text(json.dumps({"vocab_size": 200, "eos_token_id": 1}))
    with pytest.raises(
        ValueError, match=r"^\S*tokenizer.json has ids up to 2\d\d, the weights 200 tokens: they do"
    ):
        pieces(other)
    (other / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"^there is no \S*tokenizer.json\.$"):
        pieces(other)


def test_a_published_decoder_is_trained_on_its_own_tokens(tmp_path):
    """Folder → tokens and weights → GRPO → file → answers, by the one command of every other task."""
    pytest.importorskip("tokenizers")
    llama = Path(__file__).parent.parent / "golden" / "decoders" / "llama"
    env = Questions(
        ("ab", "cab"), lambda p, a: float(a.startswith("c")), room=3, group=4, tokenizer=llama, end="<end>"
    )
    model = GRPO(
        "MlpTransformerPolicy", env, n_envs=8, seed=0, learning_rate=0.03,
        policy_kwargs={"weights": str(llama), "context": 8},
    )  # fmt: skip
    embedding = safetensors.numpy.load_file(llama / "model.safetensors")["model.embed_tokens.weight"]
    assert any(np.array_equal(x, embedding) for x in model.get_parameters().values())
    assert {a.prompt for a in answers(model.policy, env, 20, 0)} == {
        "ab",
        "cab",
    }  # as given: decoding parts them
    right = lambda model: sum(a.right for a in answers(model.policy, env, 200, 0, deterministic=False))
    before = right(model)
    model.learn(8 * 6 * 40)
    assert right(GRPO.load(model.save(tmp_path / "model"), env=env)) > before + 100


def test_a_task_of_reasoning_gym_is_judged_by_its_own_verifier():
    pytest.importorskip("reasoning_gym")
    env = make_jax_env("ReasoningGym-v0", task="chain_sum", size=5, room=6, max_terms=2, max_digits=1)
    assert len(env.prompts) == 5
    for prompt, answer, reward in play(env, lambda host: np.asarray(jax.vmap(env.shown)(host.state))):
        assert reward == 1
        assert prompt in env.prompts
        assert env.reward(prompt, answer + "9") < 1
    assert make_jax_env("ReasoningGym-v0", task="chain_sum", size=5, room=6, max_terms=2, max_digits=1) == env
    held_out = dataclasses.replace(env, held_out=True)
    for prompt, *_ in play(held_out, lambda host: np.zeros(6, int)):
        assert prompt not in env.prompts
    assert held_out.reward(held_out.asked[0], "no number") < 1  # their own entries are known
    with pytest.raises(ValueError, match="reasoning-gym refuses task='nothing'"):
        make_jax_env("ReasoningGym-v0", task="nothing")
