"""Every sound critic × actor × data learns to act, the others are refused; and how compositions are written."""

import pytest
from helpers import policy_of, small, train_apart

from actrix.algorithms.answers import parse_actor, parse_critic, parse_data
from actrix.algorithms.learn import Composition
from actrix.algorithms.presets import PRESETS, compose, composed, words_of
from actrix.algorithms.settings import SettingError
from actrix.algorithms.sound import table
from actrix.core.words import WordError, write
from actrix.envs.probes import ActionObs

CELLS = table()
SOUND = [f"{c.critic}|{c.actor}:{c.psi}".rstrip(":") + f"|{c.data}" for c in CELLS if c.reason is None]
NATURAL = ("none|npg:return", "q-td-lambda|npg:advantage", "n-step|npg:td-error", "none|trpo:moving-average",
           "mc|trpo:advantage", "gae|acktr:advantage")  # fmt: skip
"""Of the actors that share one update but for its metric, these cells; all of the others."""
LEARNED = [
    c
    for c in SOUND
    if (
        c.rsplit("|", 1)[1] not in ("replay", "fixed")  # each learns as a preset in test_learning.py
        and c.split("|")[1] != "greedy"  # which does not explore
        and c.split("|")[1].split(":")[0] not in ("npg", "trpo", "acktr")
    )
    or c.rsplit("|", 1)[0] in NATURAL
]


def cover(cells):
    """As few of the cells as have every critic and every actor with every data that it goes with."""
    parts = lambda cell: (lambda critic, actor, data: {(critic, data), (actor, data)})(*cell.split("|"))
    left, chosen = set().union(*map(parts, cells)), []
    while left:
        chosen.append(max(cells, key=lambda cell: len(parts(cell) & left)))
        left -= parts(chosen[-1])
    return chosen


COVER = cover(LEARNED)
REST = [pytest.param(cell, marks=pytest.mark.slow) for cell in LEARNED if cell not in COVER]


@pytest.mark.parametrize("cell", [*COVER, *REST])
def test_every_sound_cell_learns_to_act(cell):
    """ActionObs: the reward is 1 for the action that matches the observation, so π(match) → 1."""
    critic, actor, data = cell.split("|")
    acting = act_on_observation(composed(critic, actor, data).algorithm)
    assert policy_of(acting, [1.0, 0.0])[1] > 0.9
    assert policy_of(acting, [-1.0, 0.0])[0] > 0.9


def act_on_observation(algorithm, seed=0):
    """The policy after 60 chunks of ActionObs, each learned from at once: minibatches would cost compilation."""
    return train_apart(small(algorithm, batch_size=None), ActionObs(), 60, seed).acting


def test_the_unsound_cells_are_refused_with_their_reason():
    refused = [c for c in CELLS if c.reason is not None]
    assert len(refused) + len(SOUND) == len(CELLS)
    for cell in refused[::5]:
        with pytest.raises(SettingError, match="refused"):
            composed(cell.critic, f"{cell.actor}:{cell.psi}".rstrip(":"), cell.data)


# ------------------------------------------------------------------ the grammar


DATA = ["on-policy", "lag:8", "lag:0", "trajectories:4", "trajectories:2:500:100", "replay", "fixed",
        "replay:n_steps=3,prioritized", "on-policy:n_steps=None,n_epochs=1"]  # fmt: skip
ACTORS = ["score:advantage", "score:reward-to-go,gamma", "ppo-clip:0.2:advantage", "ppo-kl:0.02:0.5:td-error",
          "off-pac:5.0:td-error", "acer:20.0:1.0:0.9:advantage", "pgql:0.3:advantage", "score-is:weighted:return",
          "trpo:0.02:advantage", "npg:0.01:lin_0.5:20:0.2:advantage", "acktr:0.002:advantage", "greedy",
          "epsilon-greedy:0.1", "boltzmann:0.1", "soft:auto", "soft:0.2:discrete", "deterministic:0.3",
          "weighted:1.0", "cloning"]  # fmt: skip
CRITICS = ["gae:0.9", "td-lambda:0.5", "n-step:3", "td", "mc", "q-td", "q-n-step:4", "none", "v-trace:0.9:2.0:1.5",
           "td-is:3.0", "mc-is:weighted", "q-retrace:0.9", "q-tree-backup:1.0", "q-lambda:0.5", "q-importance:1.0",
           "q", "q:double,c51,dueling", "q:soft,temperature=0.1", "ensemble:5:quantiles", "conservative:2.0",
           "expectile:0.8"]  # fmt: skip
READERS = {"data": (parse_data, DATA), "actor": (parse_actor, ACTORS), "critic": (parse_critic, CRITICS)}


@pytest.mark.parametrize(
    ("what", "text"), [(what, text) for what, (_, texts) in READERS.items() for text in texts]
)
def test_the_canonical_form_is_read_and_written(what, text):
    read = READERS[what][0]
    assert write(read(text)) == text
    assert read(write(read(text), full=True)) == read(text)


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
    read = READERS[what][0]
    assert read(text) == read(same)


def test_the_old_word_of_replayed_trajectories_goes_on_with_a_notice():
    with pytest.warns(FutureWarning, match="'trajectories:4:50000' now"):
        assert parse_data("replay:4:50000") == parse_data("trajectories:4:50000")


@pytest.mark.parametrize(
    ("what", "text", "message"),
    [
        ("critic", "gea", "critic 'gea': unknown; did you mean gae"),
        ("critic", "gae:2", "gae_lambda=2 must lie in"),
        ("critic", "gae:0.9:3", "the form is gae:gae_lambda"),
        ("critic", "q:duelling", "cannot read 'duelling'; the form is q"),
        ("critic", "q:c51,sarsa", "c51 backs up the whole distribution of one action"),
        ("critic", "q:n_atoms=5", "q has no 'n_atoms'"),
        ("actor", "ppo-clip:epsilon=3", "ppo-clip has no 'epsilon'"),
        ("data", "replay:per=maybe", "prioritized='maybe' must be True or False"),
    ],
)
def test_a_wrong_word_gets_one_sentence(what, text, message):
    with pytest.raises(WordError, match=message):
        READERS[what][0](text)


# ------------------------------------------------------------------ a preset is its words


COMPOSITIONS = [name for name, preset in PRESETS.items() if isinstance(preset.algorithm, Composition)]


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_preset_is_nothing_but_its_words(name):
    """What the words resolve to is the preset's configuration, and so are its updates."""
    said = words_of(PRESETS[name].algorithm)
    settings = said.pop("settings")
    assert compose(said["critic"], said["actor"], said["data"], settings) == PRESETS[name].algorithm
