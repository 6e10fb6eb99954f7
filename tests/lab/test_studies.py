"""Each study runs at a small size, and its numbers are what theory says."""

import functools
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from actrix.cli import main
from actrix.lab import bounds, clip, command, credit, importance, sampling, sequence, soft, variance
from actrix.lab import exact as oracle


@functools.cache
def report(name):
    small = {
        "variance": lambda: variance.study(n_batches=1500),
        "credit": lambda: credit.study(n_runs=20, n_episodes=12, animate=False),
        "importance": lambda: importance.study(n_batches=150),
        "bounds": lambda: bounds.study(points=31),
        "clip": lambda: clip.study(points=131),
        "soft": lambda: soft.study(points=9),
        "sequence": lambda: sequence.study(decoders=1, points=5, levels=(0.5,)),
    }
    assert set(small) == set(command.STUDIES)
    with jax.enable_x64(True):
        return small[name]()


def numbers(name):
    return report(name).numbers


@pytest.mark.parametrize("name", [name for name in command.STUDIES if name != "sequence"])
def test_every_study_writes_a_figure_its_numbers_and_its_tables(name, tmp_path):
    check_files(name, tmp_path)


def check_files(name, tmp_path):
    paths = report(name).write(tmp_path, name)
    assert [p.name for p in paths] == [f"{name}.{suffix}" for suffix in ("png", "json", "txt")]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[0].stat().st_size < 150_000
    assert set(json.loads(paths[1].read_text())) == set(numbers(name))
    titles = [table.title for table in report(name).tables]
    assert titles[0][:20] in paths[2].read_text()


def test_the_command_line(tmp_path, capsys):
    assert main(["lab", "clip", "--out", str(tmp_path / "new")]) == 0
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"clip.png", "clip.json", "clip.txt"}
    assert "PPO-clip" in capsys.readouterr().out
    assert main(["lab"]) == 0
    listed = capsys.readouterr().out
    assert all(f"actrix lab {name}" in listed for name in command.STUDIES)
    assert main(["lab", "clip", "--seed", "-1"]) == 2
    assert capsys.readouterr().err == "actrix: --seed -1 must be at least 0.\n"
    assert main(["lab", "nope"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "actrix: no study is named 'nope': choose one of variance, credit, importance, bounds, clip, soft, sequence."
    ]


# Variance


def test_the_right_forms_are_unbiased_and_the_others_are_not():
    forms = numbers("variance")["forms"]
    # 95% intervals of ten forms over the same episodes: the seed is one in which all of them hold.
    found = {name for name, f in forms.items() if f["bias_interval"][0] > 0}
    assert found == set(variance.BIASED)


def test_the_batchs_own_mean_shrinks_the_gradient_by_one_over_n():
    shrunk, whole = (
        numbers("variance")["forms"][k] for k in ("R(τ) − own batch's mean", "R(τ), whole return")
    )
    assert shrunk["along"] / whole["along"] == pytest.approx(1 - 1 / 8, abs=0.04)


def test_variance_of_gae_grows_with_lambda_and_its_bias_falls():
    gae = numbers("variance")["gae"]
    # Of whole gradient estimates this is a tendency: per time step it is a theorem (test_theorems.py).
    assert (np.diff([f["variance"] for f in gae["right"]][1:]) > 0).all()
    assert all(f["bias_interval"][0] == 0 for f in gae["right"])
    wrong = [f["bias"] for f in gae["wrong"][:-2]]  # the last ones are within the noise
    assert (np.diff(wrong) < 0).all()
    assert gae["wrong"][-1]["bias_interval"][0] == 0  # λ = 1: any V is only a baseline


def test_the_optimal_constant_has_less_variance_than_none():
    forms = numbers("variance")["forms"]
    assert forms["G − optimal constant"]["variance"] < forms["G, reward-to-go"]["variance"]
    assert forms["A"]["variance"] == min(f["variance"] for f in forms.values())


# Credit


def test_each_target_reaches_as_far_as_its_traces():
    found = numbers("credit")
    path, after = found["path"], {name: v[1] for name, v in found["values"].items()}
    visited, last = set(path[:-1]), path[-2]
    reach = {name: set(np.flatnonzero(v)) for name, v in after.items()}
    assert reach["TD(0)"] == {last}
    assert last in reach["TD(4)"] < reach["MC"]
    assert reach["MC"] == reach["TD(λ = 0.8)"] == visited
    assert all(v[last] == pytest.approx(after["TD(0)"][last]) for v in after.values())  # one visit, α·1


def test_more_reach_learns_faster_at_first():
    error = {name: e["mean"] for name, e in numbers("credit")["error"].items()}
    assert error["MC"][10] < error["TD(4)"][10] < error["TD(0)"][10]
    assert error["TD(λ = 0.8)"][10] < error["TD(0)"][10]
    assert len({e[0] for e in error.values()}) == 1


# Importance


def test_unbiased_estimators_are_unbiased_and_per_decision_varies_least_of_them():
    for axis in ("horizon", "distance"):
        for row in numbers("importance")[axis]:
            for name in ("ordinary", "per-decision"):
                if row["horizon"] <= 16 and row["kl"] < 0.1:  # beyond, samples of this size say nothing
                    assert abs(row[name]["bias"]) < 2 * row[name]["bias_error"], (
                        row["horizon"],
                        row["kl"],
                        name,
                    )
            if row["horizon"] >= 8 and row["kl"] > 0.01:
                assert row["per-decision"]["variance"] < row["ordinary"]["variance"]
            assert row["V-trace"]["variance"] < row["ordinary"]["variance"]
            assert row["Retrace"]["variance"] < row["ordinary"]["variance"]
    last = numbers("importance")["distance"][-1]
    assert last["V-trace"]["bias"] < -5 * last["V-trace"]["bias_error"]  # pulled towards the critic's policy


def test_the_exact_variance_of_ordinary_sampling():
    mdp = importance.random_mdp(4, 2, 2, seed=1, gamma=0.9)
    target, behaviour = (oracle.softmax_policy(x) for x in np.random.default_rng(0).normal(size=(2, 4, 2)))
    paths = oracle.trajectories(mdp, behaviour, 4, start=0, action=1)
    ratio = paths.taken(target / behaviour)
    ratio[0] = 1
    total = ratio.prod(axis=0) * (paths.reward * mdp.gamma ** np.arange(4)[:, None]).sum(axis=0)
    _, expected = oracle.moments(total, paths.probability)
    found = importance._exact_variance(mdp, target, behaviour, 4, 0, 1)
    assert found == pytest.approx(float(expected), abs=1e-8)


# Bounds, clipping, temperature


def test_bounds_lie_below_the_return_and_the_step_is_the_best_one():
    found = numbers("bounds")
    for part in ("whole", "near"):
        for name in ("cpi", "kl", "pinsker"):
            assert (found[part][name] <= found[part]["eta"] + 1e-8).all()
            assert found[part][name][0] == pytest.approx(found[part]["eta"][0], abs=1e-8)
    assert found["near"]["alpha"][np.argmax(found["near"]["cpi"])] == pytest.approx(found["step"], abs=0.003)
    assert (found["wrong"]["wrong"] > found["wrong"]["eta"] + 1e-3).any()
    assert (found["wrong"]["kl"] <= found["wrong"]["eta"] + 1e-8).all()
    assert found["whole"]["surrogate"][-1] > found["whole"]["eta"][0] > found["whole"]["eta"][-1]


def test_the_clipped_gradient_vanishes_exactly_where_the_gain_is_taken():
    found = numbers("clip")
    ratio = found["ratio"]
    inside = np.abs(np.abs(ratio - 1) - 0.2) > 1e-6
    for sign, taken in ((1, ratio > 1.2), (-1, ratio < 0.8)):
        plain, clipped = found[f"ratio {sign:+d}"], found[f"clip {sign:+d}"]
        np.testing.assert_array_equal((clipped["gradient"] == 0)[inside], taken[inside])
        np.testing.assert_allclose(clipped["gradient"][~taken & inside], sign, atol=1e-12)
        assert (clipped["objective"] <= plain["objective"] + 1e-12).all()
        assert (found[f"kl {sign:+d}"]["objective"] <= plain["objective"] + 1e-12).all()


def test_temperature_goes_from_greedy_to_uniform_and_soft_q_is_a_policy_gradient():
    found = numbers("soft")
    bandit, grid, gradient = found["bandit"], found["grid"], found["gradient"]
    np.testing.assert_allclose(bandit["policy"][0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(bandit["policy"][-1], 1 / 3, atol=0.005)
    assert (np.diff(bandit["soft"]) < 0).all()
    assert (np.diff(grid["soft"]) < 0).all()
    assert (grid["soft"] <= grid["plain"] + 1e-12).all()
    assert (grid["plain"] <= grid["greedy"] + 1e-8).all()
    np.testing.assert_allclose(gradient["policy gradient + value fit"], gradient["soft q"], rtol=0, atol=1e-8)
    for name in ("policy gradient alone", "score × Q alone + value fit"):
        assert np.abs(gradient[name] - gradient["soft q"]).max() > 0.1


def test_the_objectives_of_answers_lie_where_theory_puts_them(tmp_path):
    """And the study's files: in one test, so that no two processes make it."""
    check_files("sequence", tmp_path)
    found = numbers("sequence")
    of = lambda name: {m: x[0, 0] for m, x in found["objectives"][name].items()}
    unbiased = ("REINFORCE", "r − moving average", "r − V(x)", "critic, GAE λ = 1", "critic, GAE λ = 0",
                "leave-one-out (RLOO)")  # fmt: skip
    for name in unbiased:
        assert of(name)["cosine"] == pytest.approx(1, abs=1e-9), name
        assert of(name)["length"] == pytest.approx(1, abs=1e-9), name
    for name in ("group mean (Dr.GRPO)", "GPG", "mean, dynamic sampling"):
        assert of(name)["cosine"] == pytest.approx(1, abs=1e-9), name
    assert of("group mean (Dr.GRPO)")["length"] == pytest.approx(7 / 8, abs=1e-9)
    for name in ("std of the sample", "mean, per token", "mean, per sequence", "best of G"):
        assert of(name)["cosine"] < 1 - 1e-7, name  # prompts or lengths are weighed anew
    for name, x in found["ratios"].items():
        exact = np.abs(x["cosine"] - 1) < 1e-9
        assert exact.all() == (name == "whole answer"), name
        assert (x["clipped"] > 0).any() == ("clip" in name), name
    # Against ∇KL: unbiased as a reward or as the answer's k2; 0 as a loss; the value of k2 alone is biased.
    kl = {name: {m: v[0, 0] for m, v in x.items()} for name, x in found["kl"].items()}
    for name in ("k1 in the reward", "k2 of the answer", "exact, also in the reward"):
        assert kl[name]["cosine"] == pytest.approx(1, abs=1e-9), name
        assert kl[name]["length"] == pytest.approx(1, abs=1e-9), name
    assert abs(kl["k1 by token"]["length"]) < 1e-9
    for name in ("k2 by token", "k3 by token", "exact by token"):
        assert kl[name]["cosine"] < 0.999, name
    assert {n for n, x in kl.items() if abs(x["value"] - 1) > 1e-9} == {"k2 by token", "k2 of the answer"}


def test_sampled_episodes_have_the_laws_of_the_enumerated_ones():
    mdp = variance.slippery_grid()
    policy = oracle.uniform_policy(mdp)
    paths = sampling.play(mdp, policy, 20_000, 12, np.random.default_rng(0))
    discounted = (np.where(paths.valid, paths.reward, 0) * mdp.gamma ** np.arange(12)[:, None]).sum(axis=0)
    truth = mdp.rho0 @ oracle.finite_horizon_value(mdp, policy, 12)[0]
    assert abs(discounted.mean() - truth) < 4 * discounted.std() / np.sqrt(20_000)
    ended = paths.terminated | paths.truncated
    assert (ended.sum(axis=0) == 1).all()
    assert (paths.valid.sum(axis=0) == ended.argmax(axis=0) + 1).all()


def test_the_theory_guide_names_tests_that_exist():
    root = Path(__file__).parents[2]
    defined = {
        name
        for file in (root / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    for page in (root / "docs" / "theory.md", *(root / "docs" / "lab").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert all((root / file).is_file() for file in re.findall(r"`(tests/[\w/]+\.py)`", text)), page.name
        assert set(re.findall(r"`(test_\w+)`", text)) <= defined, page.name
