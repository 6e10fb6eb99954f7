"""Every sound critic × actor × data learns to act, the others are refused; and how compositions are written."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from helpers import greedy, policy_of, presets, small, train, train_apart

import actrix
from actrix import zoo
from actrix.algorithms.answers import parse_actor, parse_critic, parse_data
from actrix.algorithms.learn import Composition
from actrix.algorithms.presets import PRESETS, compose, composed, words_of
from actrix.algorithms.settings import SettingError, configure, over
from actrix.algorithms.sound import table
from actrix.core.types import Goals, Spec
from actrix.core.words import WordError, write
from actrix.envs.goals import goal_observation
from actrix.envs.probes import ActionObs, ContinuousTarget
from actrix.runs.config import resolve

CELLS = table()
named = lambda c: f"{c.critic}|{c.actor}{c.psi and ':'}{c.psi}|{c.data}"
ALONE = ("replay", "fixed", "hindsight")
APART = [named(c) for c in CELLS if c.reason is None and (c.critic == "q" or c.data in ALONE)]
"""The critic has a network of its own, or there is a memory of transitions: another loop than that of the others."""
SOUND = [named(c) for c in CELLS if c.reason is None and named(c) not in APART]
NATURAL = ("none|npg:return", "q-td-lambda|npg:advantage", "n-step|npg:td-error", "none|trpo:moving-average",
           "mc|trpo:advantage", "gae|acktr:advantage")  # fmt: skip
"""Of the actors that share one update but for its metric, the quick ones are of these cells."""
LEARNED = [c for c in SOUND if not c.endswith("|shown")]  # where answers are shown: tests/run/test_init.py


def quick(cell):
    return (
        cell.split("|")[1].split(":")[0] not in ("npg", "trpo", "acktr") or cell.rsplit("|", 1)[0] in NATURAL
    )


def parts(cell):
    """The critic, the actor, the ψ and the data."""
    critic, actor, data = cell.split("|")
    name, _, psi = actor.partition(":")
    return {("critic", critic), ("actor", name), ("psi", psi), ("data", data)}


def by_presets():
    """Parts of the presets that test_learning.py asks the same and more; and those that learn from data sets in
    test_regression.py, test_off_policy.py and run/test_offline.py."""
    found = {("critic", "conservative"), ("critic", "expectile")}
    for name in presets():
        algorithm = PRESETS[name].algorithm if isinstance(name, str) else None
        if isinstance(algorithm, Composition):
            psi = algorithm.actor.psi
            critic, actor, data = (answer.partition(":")[0] for answer in PRESETS[name].answers)
            found |= parts(f"{critic}|{actor}:{psi.name if psi else ''}|{data}")
    return found


def cover(cells):
    """As few of the cells as have every critic, every actor, every ψ and every data, but for `by_presets`."""
    left, chosen = set().union(*map(parts, cells)) - by_presets(), []
    while left:
        chosen.append(max(cells, key=lambda cell: len(parts(cell) & left)))
        left -= parts(chosen[-1])
    return chosen


def sampled(cells):
    """The cells that cover all of these; the rest are `slow`."""
    chosen = cover([cell for cell in cells if quick(cell)])
    return [*chosen, *(pytest.param(cell, marks=pytest.mark.slow) for cell in cells if cell not in chosen)]


@pytest.mark.parametrize("cell", sampled(LEARNED))
def test_every_sound_cell_learns_to_act(cell):
    """ActionObs: the reward is 1 for the action that matches the observation, so π(match) → 1."""
    critic, actor, data = cell.split("|")
    acting = act_on_observation(composed(critic, actor, data).algorithm)
    assert policy_of(acting, [1.0, 0.0])[1] > 0.9
    assert policy_of(acting, [-1.0, 0.0])[0] > 0.9


def act_on_observation(algorithm, seed=0):
    """The policy after 60 chunks of ActionObs, each learned from at once: minibatches would cost compilation."""
    return train_apart(small(algorithm, batch_size=None), ActionObs(), 60, seed).acting


@pytest.mark.parametrize(
    "cell",
    sampled([cell for cell in APART if not cell.endswith(("fixed", "hindsight")) and "cloning" not in cell]),
)
def test_critics_apart_learn_to_act(cell):
    """The same reward; a soft actor of continuous actions and a deterministic one find ±½ by the sign of it.
    CrossQ's critics read actions of a Box whatever the actor.

    Cloning imitates its own random behaviour, so there is nothing to learn, and a fixed data set is fed by its loop.
    """
    critic, actor, data = cell.split("|")
    continuous = actor in ("soft", "deterministic") or critic == "crossq"
    algorithm = composed(critic, actor, data).algorithm
    runner = train(small(algorithm), ContinuousTarget() if continuous else ActionObs(), 300)
    act = lambda x: greedy(runner.algorithm, runner.actings[0], [x, 0.0])
    for x in (1.0, -1.0):
        if continuous:
            np.testing.assert_allclose(act(x), [x / 2], atol=0.2)
        else:
            assert act(x) == (x > 0)


@dataclasses.dataclass(frozen=True)
class Match:
    """One step towards a goal of ±½: an action achieves ±½, or itself in a Box; −|achieved − goal| is the reward."""

    continuous: bool = False

    @functools.cached_property
    def spec(self):
        box = spaces.Box(-1.0, 1.0, (1,), np.float32)
        space = spaces.Dict(goal_observation(box, box, box))
        return Spec(
            space, box if self.continuous else spaces.Discrete(2), 1, goals=Goals(self.compute_reward)
        )

    def reset(self, key):
        goal = jax.random.bernoulli(key, shape=(1,)) - 0.5
        return goal, goal_observation(jnp.zeros(1), jnp.zeros(1), goal)

    def step(self, key, goal, action):
        achieved = jnp.reshape(action if self.continuous else action - 0.5, 1)
        obs, no = goal_observation(jnp.zeros(1), achieved, goal), jnp.zeros((), bool)
        return goal, obs, self.compute_reward(achieved, goal, {}), ~no, no

    def mask(self, state):
        return None

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -jnp.sum(jnp.abs(achieved_goal - desired_goal), axis=-1)


@pytest.mark.slow  # data/test_hindsight.py learns to flip bits
@pytest.mark.parametrize(
    "cell", [cell for cell in APART if cell.endswith("hindsight") and "cloning" not in cell]
)
def test_hindsight_learns_to_reach_goals(cell):
    """Whatever composition: the action that achieves the goal."""
    critic, actor, data = cell.split("|")
    continuous = actor in ("soft", "deterministic") or critic == "crossq"
    algorithm = small(composed(critic, actor, data).algorithm)
    algorithm = configure(algorithm, {"learning_starts": max(algorithm.data.learning_starts, 64)})
    runner = train(algorithm, Match(continuous), 300)
    goals = jnp.array([[0.5], [-0.5]])
    obs = goal_observation(jnp.zeros((2, 1)), jnp.zeros((2, 1)), goals)
    action, _ = algorithm.policy(runner.actings[0], None, obs, None, None)
    if continuous:
        np.testing.assert_allclose(action, goals, atol=0.2)
    else:
        assert action.tolist() == [1, 0]


def some(cells, stride=53):
    """Every so many of the cells, and the first with each reason, critic, actor, ψ and data."""
    first = {}
    for cell in cells:
        for field in ("reason", "critic", "actor", "psi", "data"):
            first.setdefault((field, getattr(cell, field)), cell)
    chosen = dict.fromkeys([*cells[::stride], *first.values()])
    assert {cell.reason for cell in chosen} == {cell.reason for cell in cells}
    return chosen


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
def test_the_unsound_cells_are_refused_with_their_reason(every):
    refused = [c for c in CELLS if c.reason is not None]
    assert len(refused) + len(SOUND) + len(APART) == len(CELLS)
    for cell in refused if every else some(refused):
        with pytest.raises(SettingError, match="refused") as error:
            composed(cell.critic, f"{cell.actor}:{cell.psi}", cell.data)
        assert cell.reason in str(error.value)


@pytest.mark.parametrize(
    ("critic", "actor", "message"),
    [
        ("q", "epsilon-greedy", "each step is critic q's"),
        ("none", "score:return", "there is no critic to fit"),
    ],
)
def test_passes_of_a_critic_that_has_none_are_refused(critic, actor, message):
    algorithm = composed(critic, actor).algorithm
    with pytest.raises(SettingError, match=f"{message}.*n_critic_updates must be 0"):
        configure(algorithm, {"n_critic_updates": 2})


@pytest.mark.parametrize(
    "text", ["on-policy", "lag:9", "lag:0", "trajectories:3", "replay:prioritized", "fixed"]
)
def test_data_text_round_trips(text):
    assert write(parse_data(text)) == text
    assert parse_data(write(parse_data(text), full=True)) == parse_data(text)


def test_the_former_word_of_replayed_trajectories_is_read_and_says_its_new_one():
    with pytest.warns(FutureWarning, match="'trajectories:4:50000:1000' now"):
        assert parse_data("replay:4:50000:1000") == parse_data("trajectories:4:50000:1000")


@pytest.mark.parametrize(
    "text",
    ["score", "score:reward-to-go:gamma", "ppo-clip:0.2", "ppo-kl:0.02:0.5:td-error", "off-pac:5.0:td-error",
     "acer:10.0:1.0:0.9", "pgql:0.3", "score-is:weighted", "trpo:0.02", "npg:0.01:lin_0.5:20:0.1", "acktr:0.002",
     "greedy", "epsilon-greedy:0.1:0.2", "boltzmann:lin_1.0_0.1", "deterministic:0.2", "soft:auto_0.1", "soft:discrete",
     "weighted:2.0:50.0", "cloning"],
)  # fmt: skip
def test_actor_text_round_trips(text):
    actor = parse_actor(text)
    assert parse_actor(write(actor)) == actor
    assert parse_actor(write(actor, full=True)) == actor


@pytest.mark.parametrize(
    "text",
    ["gae:0.9", "td-lambda:0.5", "n-step:3", "td", "mc", "q-td", "q-n-step:4", "none", "v-trace:0.9:2.0:1.5",
     "td-is:3.0", "mc-is:weighted", "q-retrace:0.9", "q-tree-backup", "q-lambda:0.5", "q-importance",
     "q:double,dueling,noisy,c51", "q:soft=0.1", "q:qr,n_quantiles=8", "q:munchausen", "q:lam=0.9", "ensemble:5",
     "ensemble:2:quantiles,actor_q=mean", "conservative:2.0", "expectile:0.9"],
)  # fmt: skip
def test_critic_text_round_trips(text):
    critic = parse_critic(text)
    assert parse_critic(write(critic)) == critic
    assert parse_critic(write(critic, full=True)) == critic


# ------------------------------------------------------------------ wrong words, other spellings


READERS = {"data": parse_data, "actor": parse_actor, "critic": parse_critic}


@pytest.mark.parametrize(
    ("what", "text", "same"),
    [
        ("critic", "q:c51,double", "q:double,c51"),
        ("critic", "q:soft=0.1", "q:soft,temperature=0.1"),
        ("critic", "ensemble:5,quantiles=25", "ensemble:5:quantiles"),
        ("actor", "ppo-clip:advantage:0.2", "ppo-clip:0.2:advantage"),
        ("actor", "ppo-clip:clip_range=0.2", "ppo-clip:0.2"),
        ("data", "replay:per,n=3", "replay:prioritized,n_steps=3"),
    ],
)
def test_other_spellings_of_the_same(what, text, same):
    read = READERS[what]
    assert read(text) == read(same)


@pytest.mark.parametrize(
    ("what", "text", "message"),
    [
        ("critic", "gea", "critic 'gea': unknown; did you mean gae"),
        ("critic", "gae:2", "gae_lambda=2 must lie in"),
        ("critic", "gae:0.9:3", "the form is gae:gae_lambda"),
        ("critic", "q:duelling", "cannot read 'duelling'; did you mean dueling"),
        ("critic", "gae:[1]", "cannot read it; the form is gae:gae_lambda"),
        ("critic", "q:double=maybe", "double takes no value, not 'maybe': write double, or double=false"),
        ("critic", "q:double,soft", "'double' and 'soft' set the same, backup: leave one out"),
        ("critic", "q:c51,qr", "'c51' and 'qr' set the same"),
        ("critic", "gae:0.9,gae_lambda=0.8", "set the same, gae_lambda"),
        ("critic", "q:v_min=1", "q has no 'v_min' without c51"),
        ("actor", "ppo-clip:td-error,q", "'td-error' and 'q' set the same, psi"),
        ("actor", "ppo-clip:advantag", "As for 'advantag': did you mean advantage"),
        ("data", "replay:n=3,n_steps=5", "'n=3' and 'n_steps=5' set the same"),
        ("critic", "q:c51,sarsa", "c51 backs up the whole distribution of one action"),
        ("critic", "q:n_atoms=5", "q has no 'n_atoms'"),
        ("actor", "ppo-clip:epsilon=3", "ppo-clip has no 'epsilon'"),
        ("data", "replay:per=maybe", "prioritized='maybe' must be True or False"),
    ],
)
def test_a_wrong_word_gets_one_sentence(what, text, message):
    with pytest.raises(WordError, match=message):
        READERS[what](text)


@pytest.mark.parametrize(
    ("preset", "settings", "what"),
    [
        ("dqn", {"double": True, "target": "soft"}, "'double=true' and 'target=soft' set the same, backup"),
        ("dqn", {"double": False, "target": "double"}, "backup"),
        ("dqn", {"critic": "q:soft", "double": True}, "'soft' and 'double=true' set the same, backup"),
        ("dqn", {"distributional": "c51", "representation": "qr"}, "representation"),
        ("dqn", {"soft": 0.1, "temperature": 0.2}, "temperature"),
        ("dqn", {"per": True, "prioritized": False}, "prioritized"),
        ("dqn", {"n_step": 3, "n_steps": 5}, "n_steps"),
        ("dqn", {"data": "replay:n=3", "n_step": 5}, "n_steps"),
        ("dqn", {"actor": "boltzmann", "exploration": "epsilon-greedy"}, "actor"),
        ("td3", {"action_noise": 0.1, "noise_std": 0.2}, "noise_std"),
        ("tqc", {"quantiles": 6, "n_quantiles": 5}, "n_quantiles"),
        ("a2c", {"use_rms_prop": True, "optimizer": "adam"}, "optimizer"),
        ("ppo", {"critic": "gae:0.9", "gae_lambda": 0.8}, "'0.9' and 'gae_lambda=0.8' set the same"),
        ("ppo", {"actor": "ppo-clip:moving-average", "psi": "td-error"}, "psi"),
        ("ppo", {"normalize": True, "normalize_obs": False}, "normalize_obs"),
        ("ppo", {"optimizer": "sgd", "policy_kwargs": {"optimizer_class": "Adam"}}, "give it once"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(preset, settings, what):
    """Whichever comes first: none of them wins."""
    for given in (settings, dict(reversed(settings.items()))):
        with pytest.raises(SettingError, match=r"set the same|give it once") as error:
            configure(PRESETS[preset].algorithm, given)
        assert what.rpartition(" ")[2] in str(error.value)
    with pytest.raises(SettingError, match=what):
        configure(PRESETS[preset].algorithm, settings)


@pytest.mark.parametrize(
    ("preset", "settings", "word"),
    [
        ("dqn", {"double": True, "target": "double"}, "q:double"),
        ("dqn", {"double": False, "target": "soft"}, "q:soft"),
        ("dqn", {"critic": "q:double", "double": True}, "q:double"),
        ("dqn", {"exploration": "boltzmann", "actor": "boltzmann:0.2"}, "boltzmann:0.2"),
        ("dqn", {"noisy": True, "actor": "epsilon-greedy:0.2"}, "epsilon-greedy:0.2"),
        ("ppo", {"critic": "gae:0.9", "gae_lambda": 0.9}, "gae:0.9"),
    ],
)
def test_settings_that_say_the_same_twice_are_taken(preset, settings, word):
    assert word in configure(PRESETS[preset].algorithm, settings).answers


def test_two_settings_in_one_keep_what_is_not_gone_over():
    ppo, dqn = PRESETS["ppo"].algorithm, PRESETS["dqn"].algorithm
    assert over(ppo, {"normalize": True, "gamma": 0.9}, {"normalize_obs": False, "gamma": 0.5}) == {
        "normalize_reward": True, "normalize_obs": False, "gamma": 0.5,
    }  # fmt: skip
    assert over(dqn, {"double": True, "per": True}, {"target": "soft"}) == {"per": True, "target": "soft"}


def test_what_goes_over_other_settings_contradicts_nothing(monkeypatch, tmp_path):
    """The user's go over the zoo's, and over a file's."""
    tuned = {"double": True, "dueling": True}
    monkeypatch.setattr(zoo, "settings", lambda *_: (dict(tuned), True))
    own = resolve("dqn", "CartPole-v1", seeds=[0], settings={"target": "soft"})
    assert own.build().answers[0] == "q:soft,dueling"
    filed = resolve(
        "dqn", "CartPole-v1", seeds=[0], settings={"target": "soft"}, file={"double": True, "per": True}
    )
    assert filed.build().answers == ("q:soft,dueling", "epsilon-greedy", "replay:prioritized")
    monkeypatch.undo()
    filed = resolve(None, "CartPole-v1", critic="gae:0.9", file={"gae_lambda": 0.8, "n_envs": 2}, n_envs=3)
    assert (filed.build().answers[0], filed.n_envs) == ("gae:0.8", 3)
    path = actrix.DQN("MlpPolicy", ActionObs(), double=True, critic="q:c51", seed=0).save(tmp_path / "model")
    assert actrix.DQN.load(path).algorithm.answers[0] == "q:double,c51"
    assert actrix.DQN.load(path, target="max", v_max=5).algorithm.answers[0] == "q:c51,v_max=5"
    with pytest.raises(SettingError, match="give it once"):
        resolve(None, "CartPole-v1", critic="gae:0.9", settings={"critic": "mc"})
    with pytest.raises(SettingError, match="n_envs is 3, and 4 in the settings: give it once"):
        resolve("ppo", "CartPole-v1", n_envs=3, settings={"n_envs": 4})
    with pytest.raises(SettingError, match=r"'0.9' and 'gae_lambda=0.8' set the same"):
        resolve(None, "CartPole-v1", critic="gae:0.9", settings={"gae_lambda": 0.8})
    with pytest.raises(SettingError, match=r"'0.9' and 'gae_lambda=0.8' set the same"):
        actrix.ActorCritic("MlpPolicy", ActionObs(), critic="gae:0.9", gae_lambda=0.8)


# ------------------------------------------------------------------ a preset is its words


COMPOSITIONS = [name for name, preset in PRESETS.items() if isinstance(preset.algorithm, Composition)]


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_preset_is_nothing_but_its_words(name):
    """What the words resolve to is the preset's configuration: equal ones are one program, with the same updates. They
    are printed again as they were read."""
    said = words_of(PRESETS[name].algorithm)
    again = compose(*said.values())
    assert again == PRESETS[name].algorithm
    assert words_of(again) == said
    assert again.answers == tuple(said.values())[:3]


def arguments(word):
    """The word without each of its arguments in turn."""
    name, *parts = word.replace(",", ":").split(":")
    return [":".join([name, *parts[:i], *parts[i + 1 :]]) for i in range(len(parts))]


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_words_hold_nothing_that_is_taken_anyhow_and_nothing_twice(name):
    said = words_of(PRESETS[name].algorithm)
    settings = said.pop("settings")
    for what in said:
        for shorter in arguments(said[what]):
            with contextlib.suppress(SettingError):
                assert compose(**said | {what: shorter}, settings=settings) != PRESETS[name].algorithm
    for key in settings:
        less = {k: x for k, x in settings.items() if k != key}
        assert compose(**said, settings=less) != PRESETS[name].algorithm
    algorithm = PRESETS[name].algorithm
    answers = (algorithm.critic, algorithm.actor, algorithm.data)
    names = {f.name for answer in answers for f in dataclasses.fields(answer)}
    assert not names & settings.keys(), "a field of an answer stands in its word"


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_tuned_settings_are_words_too(name):
    for entry in zoo.load(name).values():
        own = {key: x for key, x in entry.items() if key not in zoo.RUN_KEYS}
        algorithm = configure(PRESETS[name].algorithm, own)
        said = words_of(algorithm)
        assert compose(*said.values()) == algorithm
        assert words_of(compose(*said.values())) == said


@pytest.mark.parametrize(
    ("former", "now"),
    [
        (("gae:0.95", "ppo-clip:0.2:advantage", "on-policy", {"n_steps": 2048}),
         ("gae", "ppo-clip", "on-policy:n_steps=2048", {})),
        (("v-trace:1.0", "score:ent_coef=0.01", "lag:8", {}), ("v-trace", "score:ent_coef=0.01", "lag", {})),
        (("q:soft,temperature=0.1", "boltzmann:0.1", "replay", {}), ("q:soft=0.1", "boltzmann:0.1", "replay", {})),
        (("q:lam=0.95", "epsilon-greedy:0.05:0.2", "on-policy", {}),
         ("q:lam=0.95", "epsilon-greedy:exploration_fraction=0.2", "on-policy", {})),
        (("ensemble:2:quantiles,actor_q=mean", "soft:auto", "replay:per", {"train_freq": 2}),
         ("ensemble:quantiles,actor_q=mean", "soft", "replay:train_freq=2,prioritized", {})),
        (("none", "score:reward-to-go:gamma", "on-policy", {"n_steps": None, "n_epochs": 1}),
         ("none", "score:gamma", "on-policy", {})),
    ],
)  # fmt: skip
def test_former_and_longer_words_are_printed_in_the_one_form(former, now):
    assert words_of(compose(*former)) == dict(zip(("critic", "actor", "data", "settings"), now, strict=True))
    assert compose(*former) == compose(*now)
