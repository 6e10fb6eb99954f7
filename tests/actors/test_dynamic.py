"""Groups that are drawn until a batch is full, lengths that cost, contexts, pass@k: against loops and counts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actrix.algorithms.presets import PRESETS, compose
from actrix.algorithms.settings import SettingError, configure
from actrix.critics import groups
from actrix.envs.tokens.env import END
from actrix.envs.tokens.tasks import Reverse
from actrix.loops.answers import pass_at
from actrix.loops.compiled import CompiledRunner
from actrix.runs.config import resolve

LSTM = {"policy_kwargs": {"cell": "lstm", "net_arch": [], "hidden_size": 8}}
TRANSFORMER = {"cell": "transformer", "net_arch": [], "d_model": 16, "n_heads": 2, "n_layers": 1}


def drawn_until_full(rewards, keep):
    """DAPO's loop: draw, drop what does not vary, stop when there are `keep`."""
    kept = []
    for i, group in enumerate(rewards):
        if len(set(group)) > 1:
            kept.append(i)
        if len(kept) == keep:
            return kept, i + 1
    return kept, len(rewards)


@pytest.mark.parametrize("keep", [1, 3, 6, None])
def test_the_first_groups_that_vary_fill_the_batch(keep):
    rng = np.random.default_rng(0)
    for p in (0.05, 0.5, 0.95):
        for _ in range(10):
            rewards = (rng.random((6, 3)) < p).astype(np.float32)
            kept, drawn = groups.until_full(jnp.asarray(rewards), keep)
            wanted = drawn_until_full(rewards.tolist(), len(rewards) if keep is None else keep)
            assert (np.flatnonzero(kept).tolist(), int(drawn)) == wanted


def test_what_is_kept_and_drawn_is_logged():
    algorithm = compose(
        "none", "ppo-clip:0.2:group-std,dynamic=true,keep=1", "on-policy",
        {"n_steps": None, "n_epochs": 1, "batch_size": None, "gamma": 1.0} | LSTM,
    )  # fmt: skip
    metrics = CompiledRunner(algorithm, Reverse(1, 2, group=4), 64, [0]).advance(1)[0].metrics
    assert metrics["rollout/groups_kept"] == 1
    assert 1 <= metrics["rollout/groups_drawn"] <= 16
    assert metrics["rollout/groups_alike"] < 1


@pytest.mark.parametrize(
    ("words", "n", "text"),
    [
        ("ppo-clip:0.2:group-std,keep=2", 8, "say dynamic=true, too"),
        ("ppo-clip:0.2:group-std,dynamic=true,keep=0", 8, "keep=0 must be a whole number of at least 1"),
        ("ppo-clip:0.2:group-std,dynamic=true,keep=3", 8, "keep=3 groups of 2 that are drawn"),
    ],
)
def test_what_cannot_be_kept_is_said(words, n, text):
    env = Reverse(2, 2, group=4)
    with pytest.raises((SettingError, ValueError), match=text):
        compose("none", words, settings=LSTM | {"n_steps": None}).check(env.spec, n)


@pytest.mark.parametrize("overlong", [0, 1, 3])
def test_an_overlong_answer_costs_by_the_papers_cases(overlong):
    env, room = Reverse(4, 2, overlong=overlong, group=1), 5
    step = jax.jit(env.step)
    for length in range(1, room + 1):
        for ended in (True, False):
            if not ended and length < room:
                continue
            state, _ = env.reset(jax.random.key(3))
            total, right = 0.0, False
            asked = int(state.instance.length)
            for t in range(1, asked + length):
                place = t - asked
                token = END if place == length - 1 and ended else 2
                state, _, reward, done, _ = step(jax.random.key(0), state, jnp.int32(token))
                total += float(reward)
            assert bool(done)
            right = bool(env.right(state.instance, state.answer))
            if not overlong or length <= room - overlong:
                cost = 0.0
            else:
                cost = (room - overlong - length) / overlong
            if overlong and not ended:
                cost = -1.0
            assert total == pytest.approx(right + cost)
    assert env.spec.prompts.verified == (not overlong)


def test_a_penalty_is_refused_where_no_answer_would_be_free():
    with pytest.raises(ValueError, match="overlong=5 must be less than 5"):
        _ = Reverse(4, 2, overlong=5).spec
    with pytest.raises(ValueError, match="overlong=-1 must be"):
        Reverse(4, overlong=-1)


def test_a_context_that_holds_no_whole_answer_is_one_sentence():
    env = Reverse(4, 2, group=2)
    steps = env.spec.max_episode_steps
    make = lambda context: configure(
        PRESETS["grpo"].algorithm, {"policy_kwargs": TRANSFORMER | {"context": context}}
    )
    make(steps).fitted(env.spec, 4).check(env.spec, 4)
    with pytest.raises(ValueError, match=f"the transformer sees {steps - 1} steps") as error:
        make(steps - 1).fitted(env.spec, 4).check(env.spec, 4)
    assert "\n" not in str(error.value)


def test_pass_at_k_is_the_share_of_draws_without_replacement():
    for n, c, k in itertools.product([5], range(6), range(1, 6)):
        draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
        assert pass_at(k, [c], n) == pytest.approx(sum(any(d) for d in draws) / len(draws))
    with pytest.raises(ValueError, match="pass@6 needs at least 6 answers"):
        pass_at(6, [1], 5)


def test_default_batches_are_of_whole_answers_with_any_number_of_environments():
    """256 × 11 rows hold 11 batches of 256, but no answer is whole in one: sequences would have one row."""
    env = Reverse(5, 2, group=4)
    assert env.spec.max_episode_steps == 11
    algorithm = configure(PRESETS["dapo"].algorithm, {"policy_kwargs": {"cell": "lstm", "hidden_size": 4}})
    for n in (8, 64, 256):
        data = algorithm.fitted(env.spec, n).data
        assert data.training_length(11) == 11
        assert data.batch_size <= 256
        assert (11 * n) % data.batch_size == 0


@pytest.mark.parametrize("preset", ["gspo", "dapo", "rlhf-ppo"])
def test_commands_have_batches_of_whole_answers_too(preset):
    spec = Reverse().spec
    config = resolve(preset, "Reverse-v0", seeds=[0])
    algorithm = config.build()
    algorithm.check(spec, config.n_envs)
    assert algorithm.data.training_length(spec.max_episode_steps) == spec.max_episode_steps == 13
    assert algorithm.data.batch_size == 208
    given = resolve(preset, "Reverse-v0", seeds=[0], settings={"batch_size": 64}).build()
    assert given.data.batch_size == 64
    word = resolve(
        None,
        "Reverse-v0",
        seeds=[0],
        critic="none",
        actor="ppo-clip:0.2:group",
        data="on-policy:batch_size=26",
    )
    assert word.build().data.batch_size == 26
