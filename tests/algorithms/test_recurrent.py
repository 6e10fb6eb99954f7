"""Memory where it is needed: the cue of a T-maze decides at its end."""

import numpy as np
import pytest
from helpers import small

from actrix.algorithms.presets import PRESETS
from actrix.envs.probes import TMaze
from actrix.loops.compiled import CompiledRunner

ITERATIONS, ROWS, ENVS = 200, 10, 32


def _final_return(**policy_kwargs):
    algorithm = small(
        PRESETS["ppo"].algorithm, n_steps=ROWS, batch_size=80, learning_rate="lin_0.005", ent_coef=0.02,
        policy_kwargs={"net_arch": [16], **policy_kwargs},
    )  # fmt: skip
    runner = CompiledRunner(algorithm, TMaze(length=4), ENVS, [0])
    runner.set_training(total_steps=ITERATIONS * ROWS * ENVS)
    runner.advance(ITERATIONS - 10)
    return np.mean(runner.advance(10)[0].ep_returns)


@pytest.mark.parametrize("cell", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
def test_a_recurrent_policy_solves_the_t_maze(cell):
    assert _final_return(cell=cell, hidden_size=16) > 0.9


def test_a_feed_forward_policy_cannot():
    assert 0.4 < _final_return() < 0.6
