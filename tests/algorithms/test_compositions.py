"""Every sound critic × actor × data learns to act, the others are refused; and how compositions are written."""

import pytest
from actrix.actors.answers import format_actor
from actrix.data.answers import format_data
from helpers import policy_of, small, train_apart

from actrix.algorithms.answers import parse_actor, parse_critic, parse_data
from actrix.algorithms.presets import composed
from actrix.algorithms.settings import SettingError
from actrix.algorithms.sound import table
from actrix.envs.probes import ActionObs

CELLS = table()
SOUND = [f"{c.critic}|{c.actor}:{c.psi}|{c.data}" for c in CELLS if c.reason is None]
NATURAL = ("none|npg:return", "q-td-lambda|npg:advantage", "n-step|npg:td-error", "none|trpo:moving-average",
           "mc|trpo:advantage", "gae|acktr:advantage")  # fmt: skip
"""Of the actors that share one update but for its metric, these cells; all of the others."""
LEARNED = [
    c
    for c in SOUND
    if c.split("|")[1].split(":")[0] not in ("npg", "trpo", "acktr") or c.rsplit("|", 1)[0] in NATURAL
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
    for cell in refused:
        with pytest.raises(SettingError, match="refused"):
            composed(cell.critic, f"{cell.actor}:{cell.psi}", cell.data)


@pytest.mark.parametrize("text", ["on-policy", "lag:8", "lag:0", "replay:4:50000:1000"])
def test_data_text_round_trips(text):
    assert format_data(parse_data(text)) == text


@pytest.mark.parametrize(
    "text",
    ["score", "score:reward-to-go:gamma", "ppo-clip:0.2", "ppo-kl:0.02:0.5:td-error", "off-pac:5.0:td-error",
     "acer:10.0:1.0:0.9", "pgql:0.3", "score-is:weighted", "trpo:0.02", "npg:0.01:lin_0.5:20:0.1", "acktr:0.002"],
)  # fmt: skip
def test_actor_text_round_trips(text):
    function = "none" if "reward" in text or "score-is" in text else "v"
    actor = parse_actor(text, function)
    assert parse_actor(format_actor(actor), "v") == actor


@pytest.mark.parametrize(
    "text",
    ["gae:0.9", "td-lambda:0.5", "n-step:3", "td", "mc", "q-td", "q-n-step:4", "none", "v-trace:0.9:2.0:1.5",
     "td-is:3.0", "mc-is:weighted", "q-retrace:0.9", "q-tree-backup", "q-lambda:0.5", "q-importance"],
)  # fmt: skip
def test_critic_text_round_trips(text):
    assert parse_critic(str(parse_critic(text))) == parse_critic(text)
