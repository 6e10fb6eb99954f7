"""The conformance suite: every probe passes a right library and fails a wrong one; its command and its record."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conformance import record
from conformance.__main__ import main
from conformance.adapters import ADAPTERS, LACKS, adapter, commit_of
from conformance.probe import SETTINGS, Absent, Check, NotAsked, Outcome, Probe, run
from conformance.probes import PROBES

from conformance_toy import Toy
from quick import OPTION

ROOT = Path(__file__).resolve().parent.parent

FAULTS = {
    "gae_at_termination": "ends ignored",
    "gae_at_truncation": "cuts ignored",
    "squashed_log_prob": "no correction",
    "kl_direction": "reverse",
    "quantile_huber_loss": "quantile sign",
    "prioritized_frequencies": "no alpha",
    "prioritized_weights": "inverse weights",
    "truncation_bootstraps_v": "truncation ends",
    "termination_ends_v": "termination goes on",
    "both_flags_end_v": "termination goes on",
    "true_successor_v": "successor of the reset",
    "chunk_end_bootstraps_v": "chunk ends",
    "chain_values": "other gamma",
    "truncation_bootstraps_q": "truncation ends",
    "termination_ends_q": "termination goes on",
    "both_flags_end_q": "termination goes on",
    "true_successor_q": "successor of the reset",
    "optimal_q": "other gamma",
    "n_step_stops_at_cuts": "windows leak",
    "n_step_stops_at_ends": "windows leak",
    "truncation_bootstraps_actor_critic": "truncation ends",
    "termination_ends_actor_critic": "termination goes on",
    "autoreset_next_step": "successor of the reset",
    "autoreset_same_step": "successor of the reset",
    "autoreset_disabled": "successor of the reset",
    "noise_scale": "noise in units",
    "epsilon_is_the_share_of_random_actions": "half epsilon",
    "warm_up_covers_the_box": "half the box",
    "mask_probabilities": "mask ignored",
    "mask_log_prob": "mask ignored",
    "mask_entropy": "mask ignored",
    "mask_in_training": "mask ignored",
    "mask_in_evaluation": "mask ignored",
    "mask_in_target": "target unmasked",
    "memory_is_zeroed_at_starts": "start forgotten",
    "memory_is_learned": "no memory",
    "dict_observations": "other gamma",
    "discrete_observations": "other gamma",
    "multidiscrete_log_prob": "density",
    "multibinary_log_prob": "density",
    "gaussian_density": "density",
    "gaussian_entropy": "entropy",
    "discrete_start": "start ignored",
    "actions_within_bounds": "unbounded",
    "predictions_within_bounds": "unbounded",
    "box_units": "policy units",
    "deterministic_is_mode": "always samples",
    "greedy_prediction": "always samples",
    "seeds_repeat": "unseeded",
    "seeds_differ": "seedless",
    "saved_model_predicts_alike": "nothing saved",
    "saved_model_has_its_values": "nothing saved",
    "resumed_run_is_the_same": "resumed elsewhere",
    "evaluation_changes_nothing": "evaluation draws",
    "sampled_evaluation_changes_nothing": "evaluation draws",
    "observation_statistics": "statistics",
    "prediction_freezes_statistics": "prediction counts",
    "evaluation_freezes_statistics": "evaluation counts",
    "reward_scale_at_termination": "ends kept",
    "reward_scale_at_truncation": "cuts kept",
    "reward_scale_has_the_learners_gamma": "gamma of its own",
    "targets_start_as_copies": "target drawn",
    "target_waits": "no interval",
    "target_moves_by_tau": "tau of old",
    "policy_delay": "no delay",
    "single_row_minibatch": "one row",
    "advantage_scale_of_the_chunk": "signs",
    "entropy_in_the_target": "no entropy",
}


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_tells_right_from_wrong(name):
    right, wrong = run(PROBES[name], Toy()), run(PROBES[name], Toy(FAULTS[name]))
    assert right.status == "pass", right
    assert wrong.status == "fail", wrong
    assert wrong.expected
    assert wrong.got


def test_every_probe_has_its_fault():
    assert FAULTS.keys() == PROBES.keys()


def _asked(*checks):
    answers = iter(checks)

    def ask(adapter, setting):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return run(Probe("p", "right", (), ask), Toy(), SETTINGS)


def test_what_becomes_of_a_probe():
    right, wrong = Check(1.0, 1.0, 0), Check(1.0, 2.0, 0)
    assert _asked(right, right).status == "pass"
    assert _asked(wrong, wrong).status == "fail"
    assert _asked(wrong, right).status == "unsettled"
    assert _asked(right, wrong) == Outcome("p", "unsettled", "1", "2", "seed 1: pass; seed 2: fail")
    assert _asked(right, KeyError("x")).status == _asked(wrong, KeyError("x")).status == "unsettled"
    assert _asked(Absent("no masks"), Absent("no masks")) == Outcome("p", "n/a", why="no masks")
    assert _asked(NotAsked("no room"), NotAsked("no room")) == Outcome("p", "not asked", why="no room")
    broken = _asked(ValueError("expected numbers:\n[nan]"), ValueError("expected numbers:\n[nan]"))
    assert broken.status == "error"
    assert broken.why.startswith("ValueError: expected numbers (")
    toy = Toy()
    needs = Probe("p", "right", ("ppo", "wings|fins"), None)
    assert run(needs, toy) == Outcome("p", "not asked", why="offers no wings|fins")
    toy.lacks = {"wings"}
    assert run(needs, toy).status == "not asked"
    toy.lacks = {"wings", "fins"}
    assert run(needs, toy).status == "n/a"
    toy.by_design = {"p": "as the paper says"}
    assert run(Probe("p", "right", (), lambda a, s: wrong), toy).status == "by design"


def test_a_library_that_refuses_says_so_of_this_very_thing():
    toy = Toy()
    toy.refusals = {"p": "one row"}

    def ask(adapter, setting):
        raise ValueError(setting_says)

    setting_says = "a minibatch of one row has no deviation."
    refused = run(Probe("p", "right", (), ask), toy)
    assert refused == Outcome("p", "refuses", why="ValueError: a minibatch of one row has no deviation.")
    setting_says = "logits are nan"
    assert run(Probe("p", "right", (), ask), toy).status == "error"


def test_what_is_apart_looks_apart():
    for expected, got in ((0.0, 4.2e-5), (2.0, 2.0000001), (1.0, 1.0 + 1e-15)):
        right, found = Check({"dqn": expected, "ppo": 1.0}, {"dqn": got, "ppo": 1.0}, 0).said()
        assert right != found
        assert float(found.removeprefix("dqn ")) == pytest.approx(got, rel=1e-7, abs=1e-16)
    assert Check(1 / 3, 1 / 3, 0).said() == ("0.3333", "0.3333")


def test_the_discount_of_actrix_is_that_of_its_scaler(monkeypatch):
    from actrix.core import normalize

    before = normalize.update_reward_scale
    monkeypatch.setattr(normalize, "update_reward_scale", lambda *rows: before(*rows[:-1], 0.99))
    found = run(PROBES["reward_scale_has_the_learners_gamma"], adapter("actrix"))
    assert (found.status, found.expected, found.got) == ("fail", "0.5", "0.99")


def test_numbers_that_are_missing_or_no_numbers_fail():
    assert not Check({"a": 1.0, "b": 1.0}, {"a": 1.0}, 9).passed
    assert not Check([1.0, 1.0], [1.0], 9).passed
    assert not Check(1.0, float("nan"), 9).passed


def test_the_command(tmp_path, capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in PROBES)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"library": "sb3"}\n')
    row = dict(library="sb3", versions={"torch": "2"}, date="2026-11-30", probe="kl_direction", status="pass",
               expected="1", got="1", why="")  # fmt: skip
    wrong = tmp_path / "wrong.jsonl"
    for field, value in (("probe", 3), ("library", ["sb3"]), ("versions", "2"), ("versions", {"torch": 2})):
        wrong.write_text(json.dumps(row) + "\n" + json.dumps(row | {field: value}) + "\n")
        assert main(["--table", str(wrong)]) == 2
        assert "line 2, is no outcome of this suite" in capsys.readouterr().err
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe")
    for arguments, said in (
        ([], "say which library is asked: actrix, sb3"),
        (["actrixx"], "is no library known here"),
        (["actrix", "--only", "gaee"], "no probe is called 'gaee'"),
        (["actrix", "--json", str(broken)], "line 1, is no outcome of this suite"),
        (["--table", str(broken)], "line 1, is no outcome of this suite"),
        (["--table", str(tmp_path / "none.jsonl")], "does not exist"),
        (["--table", str(tmp_path)], "is a folder: name the file"),
        (["--table", str(binary)], "is no text in UTF-8: name the file"),
        (["actrix", "--only", "gae,"], "has an empty name: give names"),
        (["actrix", "--only", ""], "has an empty name: give names"),
        (["actrix", "--json", str(tmp_path / "no" / "x")], "is no folder: make it first"),
        (["actrix", "--json", str(tmp_path)], "is a folder: name the file"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert broken.read_text() == '{"library": "sb3"}\n'
    assert main(["actrix", "--only", "gae"]) == 0
    assert "\n2 pass\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", [n for n in ADAPTERS if n != "actrix"])
def test_a_library_that_is_not_installed_is_named(name, monkeypatch, capsys):
    for package in (
        "stable_baselines3",
        "sb3_contrib",
        "sbx",
        "rejax",
        "torch",
        "tianshou",
        "torchrl",
        "tensordict",
    ):
        monkeypatch.setitem(sys.modules, package, None)
    module = f"conformance.adapters.{ADAPTERS[name][0]}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{name} is not installed here")
    assert error.count("\n") == 1


def test_the_record_is_appended_to_and_becomes_a_table(tmp_path):
    file = tmp_path / "record.jsonl"
    for status in ("fail", "pass"):
        record.append(file, "sb3", {"torch": "2"}, Outcome("kl_direction", status, "1", "2"))
        file.write_text(file.read_text().strip())  # as an editor may leave it
    assert len(record.read(file)) == 2
    record.append(
        file, "sbx", {"jax": "1"}, Outcome("kl_direction", "by design", "1", "2", "so the paper says")
    )
    table = record.table(record.read(file))
    record.append(
        file, "sb3", {"torch": "2"}, Outcome("quantile_huber_loss", "n/a")
    )  # leaves the other as it was
    table = record.table(record.read(file))
    assert "(`kl_direction`) | ✓ | by design |" in table
    assert (
        "`python -m conformance sbx --only kl_direction` (by design): expected 1, got 2; so the paper says."
        in table
    )


def test_a_table_counts_everything_by_its_name_and_says_when(tmp_path, monkeypatch):
    file, torch = tmp_path / "record.jsonl", {"torch": "2"}
    rows = [
        ("2026-11-29", torch, Outcome("kl_direction", "unsettled", "1", "2", "seed 1: fail; seed 2: pass")),
        ("2026-11-30", {"torch": "3"}, Outcome("mask_entropy", "n/a", why="offers no maskable_ppo, entropy")),
        ("2026-11-29", torch, Outcome("resumed_run_is_the_same", "n/a", why="offers no ppo|dqn|sac, resume")),
        ("2026-11-29", torch, Outcome("policy_delay", "not asked", why="has no room")),
        ("2026-11-29", torch, Outcome("box_units", "error", why="ValueError: no")),
        ("2026-11-29", torch, Outcome("single_row_minibatch", "refuses", why="ValueError: one row.")),
    ]
    for date, versions, outcome in rows:
        monkeypatch.setattr(record, "today", lambda date=date: date)
        record.append(file, "sb3", versions, outcome)
    table = record.table(record.read(file)).splitlines()
    assert [cell.strip() for cell in table[0].split("|")[4:-1]] == list(record.COLUMNS.values())
    assert table[2].startswith("| sb3 | torch 2; torch 3 | 2026-11-29 to 2026-11-30 | ")
    assert table[2].endswith(" | 0 | 0 | 1 | 0 | 1 | 1 | 1 | 2 |")
    for sign, name in (
        ("–", "mask_entropy"),
        ("·", "resumed_run_is_the_same"),
        ("refuses", "single_row_minibatch"),
    ):
        assert any(line.endswith(f"(`{name}`) | {sign} |") for line in table)
    assert "- sb3, not offered (–): `maskable_ppo`." in table
    assert "- sb3, not asked (·): `dqn`, `ppo`, `resume`, `sac`; has no room (`policy_delay`)." in table
    assert LACKS.keys() <= ADAPTERS.keys()


def test_the_commit_of_a_checkout_is_named(tmp_path, monkeypatch):
    package = tmp_path / "checked_out"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert commit_of("checked_out") == ""
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert re.fullmatch(r" \([0-9a-f]{7,}\)", commit_of("checked_out"))
    (package / "__init__.py").write_text("changed = True")
    assert re.fullmatch(r" \([0-9a-f]{7,}, changed since\)", commit_of("checked_out"))


def test_the_recorded_runs_are_those_of_the_page():
    file = ROOT / "conformance" / "record.jsonl"
    table = record.table(record.read(file, must_exist=True))
    assert table in (ROOT / "docs" / "conformance.md").read_text("utf-8")
    names = {json.loads(line)["library"] for line in file.read_text("utf-8").splitlines()}
    assert "actrix" in names
    assert len(names) >= 6


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_actrix_passes_all_that_apply():
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    # Compiled as users do: rounded as in other tests, `memory_is_learned` is not settled.
    for name in ("XLA_FLAGS", OPTION.upper()):
        env.pop(name, None)
    command = [sys.executable, "-m", "conformance", "actrix"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
