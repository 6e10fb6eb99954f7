"""A reward model: Bradley and Terry's loss against scipy and by hand, bad files, an environment with it."""

import json

import jax
import numpy as np
import pytest
from scipy.optimize import minimize

from actrix.envs.build import token_task
from actrix.envs.jax_envs import HostJax
from actrix.envs.tokens.preferences import RewardModel, fit_reward, load_reward, preference_loss, read_pairs
from actrix.envs.tokens.questions import Questions
from actrix.envs.tokens.tasks import Reverse

ENV = Reverse(length=2, letters=3)
PAIR = {"prompt": "ab:", "chosen": "ba", "rejected": "ab"}


def written(path, pairs):
    path.write_text("\n".join(p if isinstance(p, str) else json.dumps(p) for p in pairs))
    return path


def pairs_of(number, seed=0):
    """The longer one is preferred, except sometimes."""
    g = np.random.default_rng(seed)
    word = lambda: "".join(g.choice(list("abc"), g.integers(0, 4)))
    out = []
    while len(out) < number:
        a, b = word(), word()
        if a != b:
            good, bad = (a, b) if (len(a) > len(b)) == (g.random() < 0.9) else (b, a)
            out.append({"prompt": "ab:"[: g.integers(1, 4)], "chosen": good, "rejected": bad})
    return out


def test_without_a_hidden_layer_it_is_logistic_regression(tmp_path):
    """Of the differences of features, by scipy in float64 from the formula alone."""
    pairs = read_pairs(written(tmp_path / "pairs.jsonl", pairs_of(60)), ENV)
    hot = lambda x: np.eye(len(ENV.vocabulary))[np.concatenate([pairs.prompt, x], 1)].reshape(len(x), -1)
    difference = hot(pairs.chosen) - hot(pairs.rejected)
    l2 = 0.01

    def loss(w):
        z = difference @ w
        gradient = -difference.T @ (1 / (1 + np.exp(z))) / len(z) + l2 * w
        return np.mean(np.log1p(np.exp(-z))) + l2 / 2 * w @ w, gradient

    wanted = minimize(loss, np.zeros(difference.shape[1]), jac=True, options={"gtol": 1e-10}).x
    found = fit_reward(ENV, pairs, hidden=0, l2=l2)
    np.testing.assert_allclose(found.linear, wanted, atol=2e-3)
    scores = np.concatenate([found(pairs.prompt, x) for x in (pairs.chosen, pairs.rejected)])
    np.testing.assert_allclose([scores.mean(), scores.std()], [0, 1], atol=1e-4)
    chosen, rejected = np.array([0.5, -1.0, 3.0]), np.array([0.0, 1.0, 3.0])
    by_hand = -np.mean([np.log(1 / (1 + np.exp(b - a))) for a, b in zip(chosen, rejected, strict=True)])
    np.testing.assert_allclose(preference_loss(chosen, rejected), by_hand, rtol=1e-6)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: Expecting property name"),
        ({"prompt": "ab:", "chosen": "ba"}, 'line 2: a line is {"prompt": …, "chosen": …, "rejected": …}'),
        (PAIR | {"chosen": 3}, "line 2: 'chosen' is 3, not a text"),
        (PAIR | {"chosen": "bd"}, "line 2: 'chosen' has 'd', which is none of ':abc'"),
        (PAIR | {"rejected": "abab"}, "line 2: 'rejected' has 4 characters, and the environment's room is 3"),
        (PAIR | {"rejected": "ba"}, "line 2: both answers are 'ba'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, said):
    with pytest.raises(ValueError) as error:
        read_pairs(written(tmp_path / "pairs.jsonl", [PAIR, line]), ENV)
    assert said in str(error.value)


def test_its_reward_is_the_environments_and_the_verifier_stays_the_verifier(tmp_path):
    pairs = read_pairs(written(tmp_path / "pairs.jsonl", pairs_of(40)), ENV)
    model = fit_reward(ENV, pairs, hidden=3)
    path = model.save(tmp_path / "reward")
    loaded = load_reward(path, ENV)
    np.testing.assert_array_equal(loaded(pairs.prompt, pairs.chosen), model(pairs.prompt, pairs.chosen))
    env = token_task("Reverse-v0", {"length": 2, "letters": 3, "reward_model": str(path)})
    assert not env.spec.prompts.verified
    assert env.verifier().spec.prompts.verified
    host, rng = HostJax(env, 8, 3), np.random.default_rng(0)
    _, mask = host.reset()
    for _ in range(env.spec.max_episode_steps):
        before, action = host.state, np.array([rng.choice(np.flatnonzero(m)) for m in mask])
        step = host.step(action)
        for i in range(8):
            expected = 0.0
            if step.terminated[i]:
                one = jax.tree.map(lambda x, i=i: x[i], before)
                after, *_ = env.step(None, one, np.int32(action[i]))
                expected = float(model(one.instance.prompt, after.answer))
            assert step.reward[i] == pytest.approx(expected, abs=1e-6)
        mask = step.mask


def test_files_that_do_not_fit_are_refused(tmp_path):
    letters = tuple(ENV.vocabulary)
    good = RewardModel(
        letters, np.zeros(30, np.float32), np.zeros((30, 0), np.float32), np.zeros(0, np.float32)
    )
    spec = lambda **kwargs: token_task("Reverse-v0", kwargs).spec
    for path, says in (
        (
            good.save(tmp_path / "other.v1"),
            r"other\.v1\.npz knows the tokens \. : a b c, and .* has \. : a b c d:",
        ),
        (written(tmp_path / "text.npz", ["no"]), "is no reward model"),
        (RewardModel(letters, *[np.full(2, np.nan)] * 3).save(tmp_path / "nan"), "is no reward model"),
    ):
        with pytest.raises(ValueError, match=says):
            spec(length=2, letters=4, reward_model=str(path))
    path = good.save(tmp_path / "good")
    with pytest.raises(
        ValueError, match=r"good\.npz was fitted to .* of 6 tokens together, .* have 4 \+ 4: "
    ):
        spec(length=3, letters=3, reward_model=str(path))
    many = Questions(("a",), float, characters="".join(map(chr, range(200, 900))))  # as of a tokenizer
    with pytest.raises(ValueError, match="…: fit a reward model to this one") as error:
        load_reward(path, many)
    assert len(str(error.value)) < 400
    with pytest.raises(FileNotFoundError, match=r"^reward_model: there is no .*none.npz\.$"):
        spec(reward_model=str(tmp_path / "none.npz"))
    with pytest.raises(ValueError, match=r"for 6 tokens of prompt and answer does not fit 3 \+ 4 tokens"):
        good(np.zeros(3, np.int32), np.zeros(4, np.int32))
