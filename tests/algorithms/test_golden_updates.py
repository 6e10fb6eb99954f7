"""A few updates of every algorithm, in every loop that can run it, give the parameters that were recorded.

On the machine that recorded them, with its jaxlib, bit for bit. Elsewhere another processor rounds otherwise, and Adam
magnifies that where gradients are nearly 0 (its first step is the gradient's sign): there the distance to the recorded
parameters must be at most 1e-3 of the way that training went, plus 1e-6 of their norm.

While code is rewritten, `ACTRIX_GOLDEN_TOLERANCE=1e-6 pytest tests/algorithms/test_golden_updates.py` compares with
that absolute tolerance on the recording machine instead and prints the largest difference of each case. The cases are
in `tests/golden/updates.py`; `python tests/golden/make_updates.py [CASE…]` records them.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import presets, restart, shared_runner

GOLDEN = Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))

import make_updates  # noqa: E402
import updates  # noqa: E402

RENAMED: dict[str, str] = {}
"""Piece of a recorded name → the same piece of the present name, for parameters that were renamed since."""
TOLERANCE = os.environ.get("ACTRIX_GOLDEN_TOLERANCE")
RECORDED, META = make_updates.read(updates.FILE) if updates.FILE.exists() else ({}, {})


def recorded(case, what):
    """Present name → recorded array of a case at first ('initial') or after its updates in a loop."""
    start, found = f"{case}/{what}/", {}
    for key, x in RECORDED.items():
        if key.startswith(start):
            name = key.removeprefix(start)
            for old, new in RENAMED.items():
                name = name.replace(old, new)
            found[name] = x
    return found


def differences(found, golden):
    """Largest absolute difference of each array that is not the same."""
    assert found.keys() == golden.keys(), "other parameters than recorded: rename them in RENAMED"
    shapes = lambda arrays: {name: (x.shape, x.dtype) for name, x in arrays.items()}
    assert shapes(found) == shapes(golden)
    wide = lambda x: np.asarray(x, np.float64)
    return {
        name: float(np.max(np.abs(wide(x) - wide(golden[name])), initial=0.0))
        for name, x in found.items()
        if not np.array_equal(x, golden[name])
    }


def joined(arrays, part):
    """All numbers of one part of what acts: the network, its statistics, or what explores."""
    found = [
        np.asarray(x, np.float64).reshape(-1) for name, x in sorted(arrays.items()) if part_of(name) == part
    ]
    return np.concatenate(found)


def part_of(name):
    return name.lstrip(".").partition(".")[0].partition("[")[0]


def assert_near(found, golden, initial):
    """What another machine may give."""
    for part in {part_of(name) for name in golden}:
        theta, target, start = (joined(arrays, part) for arrays in (found, golden, initial))
        way, norm = np.linalg.norm(target - start), np.linalg.norm(target)
        assert np.linalg.norm(theta - target) <= 1e-3 * way + 1e-6 * norm, part


BY_HOST = ("ppo",)
"""Of the others the host loop is `slow`: it gives the same bits, which test_modes.py asks."""
BY_OTHERS = ("vpg", "a2c", "qac", "tdac", "ppo-kl", "npg", "off-pac", "pgql", "c51", "qr-dqn", "ddpg", "redq", "cql",
             "tqc", "td3-bc", "td", "td-lambda", "sarsa", "expected-sarsa", "q-learning", "double-q", "awr",
             "td-lambda-ac", "droq", "d4pg")  # fmt: skip
"""Other settings of parts that these have: reinforce, ppo, trpo, v-trace, acer, rainbow, iqn, td3, sac, iql,
sarsa-lambda, q-lambda, tree-backup, awac and stream-ac; TQC is what IQN is, of SAC; D4PG's critics and DroQ's subsets
are in test_new_answers.py, its dropout is in core/test_q_networks.py."""
BY_PROBES = {name for name in presets() if isinstance(name, str)}
"""Presets whose program for the probes is made anyway: their numbers in it are recorded, too, and the cases `slow`."""


def params():
    for case, loop in updates.RUNS:
        again = "compiled" in updates.CASES[case].loops and (
            case not in BY_HOST if loop == "host" else case in BY_OTHERS or case in BY_PROBES
        )
        slow = [pytest.mark.slow] if updates.CASES[case].slow or again else []
        yield pytest.param(case, loop, id=f"{case}-{loop}", marks=slow)


@pytest.mark.parametrize(("case", "loop"), list(params()))
def test_updates_give_the_recorded_parameters(case, loop, capsys):
    before, after = updates.run(case, loop)
    compare(before, after, case, loop, capsys)


@pytest.mark.parametrize("name", presets())
def test_so_do_those_of_the_program_for_the_probes(name, capsys):
    """The one that `test_learning.py`, `test_modes.py` and `test_resume_presets.py` use."""
    before, after = updates.run_runner(restart(shared_runner(name), 3, total_steps=10_000), 5)
    compare(before, after, name, "probes", capsys)


def compare(before, after, case, loop, capsys):
    initial = recorded(case, "initial" if loop != "probes" else "at first")
    golden = recorded(case, loop)
    assert golden, "not recorded"
    at_first, different = differences(before, initial), differences(after, golden)
    if updates.fingerprint() != META["fingerprint"]:
        assert_near(before, initial, initial)
        assert_near(after, golden, initial)
    elif TOLERANCE is not None:
        largest = max([*at_first.values(), *different.values()], default=0.0)
        with capsys.disabled():
            print(f"\n{case}, {loop}: {largest:.2e}")
        assert largest <= float(TOLERANCE), (at_first, different)
    else:
        assert (at_first, different) == ({}, {})


def test_every_preset_has_a_case_and_nothing_else_is_recorded():
    assert {case.preset for case in updates.CASES.values()} >= set(updates.PRESETS)
    found = {tuple(key.split("/")[:2]) for key in RECORDED}
    assert found == {
        (case, loop) for case, one in updates.CASES.items() for loop in ("initial", *one.loops)
    } | {(name, what) for name in make_updates.probed() for what in ("at first", "probes")}
    assert set(META["commits"]) == set(updates.CASES)
    assert updates.FILE.stat().st_size < 1_500_000


def test_no_two_cases_give_the_same_parameters():
    """Else one of them would show nothing: what it is there for does not happen in so few updates."""
    digests = {}
    for case in updates.CASES:
        arrays = recorded(case, updates.CASES[case].loops[0])
        digests.setdefault(b"".join(x.tobytes() for _, x in sorted(arrays.items())), []).append(case)
    assert [cases for cases in digests.values() if len(cases) > 1] == []
