import numpy as np
import pytest
import scipy.stats

from actrix.show.stats import align, bootstrap_interval, common_grid, iqm, summarize


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 10, 100])
def test_iqm_is_scipys_trimmed_mean(n):
    x = np.random.default_rng(n).normal(size=n)
    assert iqm(x) == pytest.approx(scipy.stats.trim_mean(x, 0.25))


def test_iqm_by_hand_and_along_an_axis():
    assert iqm([1, 100, 2, 3, -50]) == pytest.approx(2.0)
    x = np.random.default_rng(0).normal(size=(3, 8, 4))
    np.testing.assert_allclose(iqm(x, axis=1), scipy.stats.trim_mean(x, 0.25, axis=1))
    assert isinstance(iqm(x), float)


def test_a_failed_seed_is_not_trimmed_away():
    assert np.isnan(iqm([1.0, 2.0, np.nan, 4.0, 5.0]))
    with pytest.raises(ValueError, match="no values"):
        iqm([])


def test_interval_agrees_with_scipy():
    x = np.random.default_rng(1).normal(10, 3, size=30)
    low, high = bootstrap_interval(x, np.mean, n=5000)
    theirs = scipy.stats.bootstrap(
        (x,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert low == pytest.approx(theirs.low, abs=0.1)
    assert high == pytest.approx(theirs.high, abs=0.1)


def test_interval_of_curves_repeats_and_keeps_unknown_points():
    x = np.random.default_rng(0).normal(size=(6, 5))
    x[2, 3] = np.nan
    low, high = bootstrap_interval(x)
    assert low.shape == high.shape == (5,)
    assert np.isnan(low[3])
    assert np.isnan(high[3])
    known = [0, 1, 2, 4]
    assert (low[known] <= iqm(x, axis=0)[known]).all()
    assert (iqm(x, axis=0)[known] <= high[known]).all()
    np.testing.assert_array_equal(low, bootstrap_interval(x)[0])
    assert low[0] == pytest.approx(bootstrap_interval(x[:, 0])[0])


def test_interval_refuses_what_has_none():
    with pytest.raises(ValueError, match="at least 2 values, got 1"):
        bootstrap_interval([3.0])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1, 2, 3], confidence=95)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = (bootstrap_interval(rng.normal(size=30), np.mean, n=400, seed=i) for i in range(200))
    assert 0.87 <= np.mean([low <= 0 <= high for low, high in intervals]) <= 0.99


def test_summary_from_five_seeds_on_is_an_iqm():
    s = summarize([490.0, 500.0, 500.0, 480.0, 300.0])
    assert s.n == 5
    assert s.iqm == pytest.approx(490.0)
    assert s.low < s.iqm < s.high + 1e-9
    assert str(s).startswith("IQM 490.0 (95% interval ")
    assert "5 seeds" in str(s)


def test_summary_below_five_seeds_lists_every_seed():
    s = summarize({3: [240.0, 242.0], 7: [256.0], 9: 259.0})
    assert (s.seeds, s.values, s.iqm) == ((3, 7, 9), (241.0, 256.0, 259.0), None)
    assert str(s) == "252.0 ± 9.6 (mean ± std of 3 seeds: 241.0, 256.0, 259.0)"
    assert str(summarize([12.34])) == "12.3 (1 seed)"


def test_summary_says_that_a_seed_failed():
    s = summarize([1.0, 2.0, float("nan"), 4.0, 5.0])
    assert str(s) == "undefined: 1 of 5 seeds not finite (1.0, 2.0, nan, 4.0, 5.0)"
    assert str(summarize([float("inf"), 1.0])).startswith("undefined: 1 of 2 seeds")
    with pytest.raises(ValueError, match="no seeds"):
        summarize([])
    with pytest.raises(ValueError, match="seed 4 has no episodes"):
        summarize({4: []})


def test_align_interpolates_inside_and_is_silent_outside():
    a = ([0, 10, 20], [0.0, 1.0, 3.0])
    b = ([20, 5, 5, 12], [2.0, 9.0, 0.0, np.nan])
    grid = [0, 5, 10, 20, 25]
    np.testing.assert_allclose(
        align([a, b, ([], [])], grid),
        [[0, 0.5, 1, 3, np.nan], [np.nan, 0, 2 / 3, 2, np.nan], [np.nan] * 5],
    )
    np.testing.assert_allclose(common_grid([a, b], 4), [5, 10, 15, 20])
    assert common_grid([a, ([], [])]).size == 0
    assert common_grid([]).size == 0
    with pytest.raises(ValueError, match="one length"):
        align([([1, 2], [1.0])], grid)
