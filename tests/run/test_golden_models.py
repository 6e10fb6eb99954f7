"""Model files of every kind of network, as released formats wrote them, load and act as they did.

Preferred actions, a memory carried on between two of them, and samples, which show the policy's probabilities. The
models are in `tests/golden/models.py`; `python tests/golden/make.py` writes those that are missing.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from actrix.files import container
from actrix.model import Model

GOLDEN = Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))

import models  # noqa: E402

FILES = sorted(GOLDEN.glob("format-*/kinds/*.safetensors"))
PREDICTIONS = {
    folder: json.loads((folder / "predictions.json").read_text())
    for folder in {path.parent for path in FILES}
}


OTHER_STREAM = ("pqn",)
"""Their behaviour draws its noise in another order since: PQN's as all that is greedy in Q(s, ·)."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_every_kind_of_model_acts_as_when_it_was_written(path, tmp_path):
    recorded = PREDICTIONS[path.parent][path.stem]
    model = Model.load(path)
    assert model.preset.name == recorded["algorithm"]
    answers = models.answers(model, recorded)
    kinds = ("preferred",) if model.preset.name in OTHER_STREAM else ("preferred", "sampled")
    for kind in kinds:
        np.testing.assert_allclose(answers[kind], recorded[kind], rtol=1e-4, atol=1e-5, err_msg=kind)
    if path.parent.parent.name == f"format-{container.FORMAT}":  # nothing is lost, critics included
        again = safetensors.numpy.load_file(model.save(tmp_path / "again"))
        before = safetensors.numpy.load_file(path)
        assert again.keys() == before.keys()
        assert all(np.array_equal(again[name], x) for name, x in before.items())


def test_every_kind_has_a_file_of_this_format_and_they_are_small():
    present = GOLDEN / f"format-{container.FORMAT}"
    assert {path.stem for path in FILES if path.parent.parent == present} == set(models.CASES)
    assert {case[0] for case in models.CASES.values()} >= {"ppo", "dqn", "sac", "bc", "q-learning", "cpi"}
    assert sum(path.stat().st_size for path in present.rglob("*") if path.is_file()) < 1_000_000
