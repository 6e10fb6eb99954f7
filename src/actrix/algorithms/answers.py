"""Every answer by its name: what the command line, settings, files, tables and tests know of them follows from here."""

from __future__ import annotations

import warnings
from typing import Any

from actrix.actors.corrected import ACER, PGQL, ImportanceScore, OffPAC
from actrix.actors.greedy import Boltzmann, EpsilonGreedy, Greedy
from actrix.actors.kronecker import KroneckerFactored
from actrix.actors.natural import NaturalGradient, TrustRegion
from actrix.actors.pathwise import Deterministic, Soft
from actrix.actors.policy_gradient import PPOClip
from actrix.actors.ppo_kl import PPOKL
from actrix.actors.regression import Cloning, Weighted
from actrix.actors.score import Score
from actrix.core import words
from actrix.core.answers import Actor, Critic, Data
from actrix.critics.corrected import (
    ImportanceMC,
    ImportanceQ,
    ImportanceTD,
    QLambda,
    Retrace,
    TreeBackup,
    VTrace,
)
from actrix.critics.crossq import CrossQ
from actrix.critics.ensemble import Conservative, Ensemble
from actrix.critics.expectile import Expectile
from actrix.critics.nothing import NoCritic
from actrix.critics.policy_q import QMC, QTD, QNStep, QTDLambda
from actrix.critics.q import Q
from actrix.critics.value import GAE, MC, TD, NStep, TDLambda
from actrix.data.chunk import OnPolicy
from actrix.data.hindsight import Hindsight
from actrix.data.lagged import Lagged
from actrix.data.replay import Fixed, Replay
from actrix.data.shown import Shown
from actrix.data.trajectories import Trajectories

CRITICS: dict[str, type[Critic]] = {
    cls.name: cls
    for cls in (
        MC, TD, NStep, TDLambda, GAE, VTrace, ImportanceTD, ImportanceMC, QMC, QTD, QNStep, QTDLambda, Retrace,
        TreeBackup, QLambda, ImportanceQ, NoCritic, Q, Ensemble, Conservative, Expectile, CrossQ,
    )
}  # fmt: skip
ACTORS: dict[str, type[Actor]] = {
    cls.name: cls
    for cls in (
        Score, PPOClip, PPOKL, NaturalGradient, TrustRegion, KroneckerFactored, OffPAC, ACER, PGQL, ImportanceScore,
        Greedy, EpsilonGreedy, Boltzmann, Deterministic, Soft, Weighted, Cloning,
    )
}  # fmt: skip
DATA: dict[str, type[Data]] = {
    cls.name: cls for cls in (OnPolicy, Lagged, Trajectories, Replay, Hindsight, Fixed, Shown)
}


def parse_critic(text: str, base: Critic | None = None) -> Critic:
    """'td-lambda:0.9', 'gae', 'q:double,dueling,c51', 'ensemble:5,quantiles=25', 'none' → the answer."""
    return words.parse(text, CRITICS, "critic", base)


def parse_actor(text: str, base: Actor | None = None) -> Actor:
    """'score:reward-to-go', 'ppo-clip:0.2', 'boltzmann:0.1', 'soft' → the answer."""
    return words.parse(text, ACTORS, "actor", base)


def parse_data(text: str, base: Data | None = None) -> Data:
    """'on-policy', 'lag:8', 'trajectories:4:50000:1000', 'replay:per,n=3' → the answer."""
    return words.parse(present_word(text), DATA, "data", base)


def said_in(what: str, text: str) -> words.Said:
    """What the word of a critic, an actor or data, one that can be read, sets."""
    classes: dict[str, Any] = {"critic": CRITICS, "actor": ACTORS, "data": DATA}[what]  # type: ignore[assignment]
    return words.said_in(text, classes[text.split(":")[0]])


def present_word(text: str) -> str:
    """The word of a data answer as it is written now, with a notice where it was another."""
    name, *segments = str(text).split(":")
    if name == Replay.name and segments and segments[0].replace(".", "").replace("e", "").isdigit():
        text = ":".join([Trajectories.name, *segments])
        warnings.warn(
            f"data {':'.join([name, *segments])!r}: replayed trajectories are written {text!r} now; 'replay' is of "
            "transitions.",
            FutureWarning,
            stacklevel=3,
        )
    return text
