"""The report's statistics against scipy and statsmodels."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from negbench.report.read.statistics import holm, median_interval, paired_difference, paired_ratio, t_interval


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_t_interval_is_scipys(n: int) -> None:
    values = np.random.default_rng(n).normal(0.8, 0.02, n)
    interval = t_interval(values.tolist())
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert (interval.centre, interval.low, interval.high) == pytest.approx((values.mean(), low, high), rel=1e-12)
    assert interval.n == n and interval.half_width == pytest.approx((high - low) / 2)


def test_one_value_has_no_interval() -> None:
    interval = t_interval([0.7])
    assert interval.centre == 0.7 and math.isnan(interval.low) and math.isnan(interval.high)
    assert math.isnan(t_interval([]).centre) and t_interval([]).n == 0


def test_paired_difference_is_scipys_over_shared_seeds() -> None:
    generator = np.random.default_rng(0)
    a = dict(enumerate(generator.normal(0.8, 0.02, 5)))
    b = {seed: value - generator.normal(0.01, 0.01) for seed, value in a.items()} | {7: 0.1}
    a[9] = 0.99  # seeds that one side lacks do not count
    result = stats.ttest_rel([a[s] for s in range(5)], [b[s] for s in range(5)])
    difference = paired_difference(a, b)
    bounds = result.confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((bounds.low, bounds.high), rel=1e-10)
    assert difference.p == pytest.approx(result.pvalue, rel=1e-10) and difference.n == 5


@pytest.mark.parametrize(("a", "b"), [((0.9, 0.8), (0.8, 0.7)), ((0.3, 0.2), (0.3, 0.2))])
def test_equal_differences_are_no_proof(a: tuple[float, float], b: tuple[float, float]) -> None:
    """0.9 - 0.8 and 0.8 - 0.7 differ by rounding only; taken for a spread, that would make p vanish."""
    assert math.isnan(paired_difference(dict(enumerate(a)), dict(enumerate(b))).p)


def test_no_shared_seed() -> None:
    difference = paired_difference({0: 0.5}, {1: 0.5})
    assert difference.n == 0 and math.isnan(difference.centre) and math.isnan(difference.p)


@pytest.mark.parametrize("n", [1, 4, 11])
def test_holm_is_statsmodels(n: int) -> None:
    p_values = np.random.default_rng(n).uniform(0, 0.2, n).tolist()
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_holm_counts_tests_that_could_not_be_made() -> None:
    adjusted = holm([0.02, math.nan, 0.03])
    assert adjusted[0] == pytest.approx(0.06) and math.isnan(adjusted[1]) and adjusted[2] == pytest.approx(0.06)
    assert holm([]) == []


def test_paired_ratio_is_the_t_interval_of_logs() -> None:
    a, b = {0: 2.0, 1: 3.0, 2: 2.5}, {0: 1.0, 1: 1.2, 2: 1.1}
    logs = np.log([a[s] / b[s] for s in range(3)])
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    ratio = paired_ratio(a, b)
    assert (ratio.centre, ratio.low, ratio.high) == pytest.approx(tuple(np.exp([logs.mean(), low, high])))


@pytest.mark.parametrize("values", [(3.0, 1.0), (3.0, 1.0, 2.0), (4.0, 1.0, 8.0, 2.0), (5.0, 1.0, 4.0, 2.0, 3.0)])
def test_median_interval_looks_at_every_resample(values: tuple[float, ...]) -> None:
    medians = [np.median(resample) for resample in itertools.product(values, repeat=len(values))]
    low, high = np.quantile(medians, (0.025, 0.975), method="inverted_cdf")
    interval = median_interval(values)
    assert interval.centre == np.median(values)
    assert (interval.low, interval.high) == (low, high)


def test_median_interval_of_many_is_scipys_bootstrap() -> None:
    values = np.random.default_rng(3).exponential(1, 41)
    theirs = stats.bootstrap(
        (values,), np.median, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    interval = median_interval(values.tolist())
    assert interval.centre == np.median(values)
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), rel=0.15)


def test_medians_of_infinite_times() -> None:
    inf = math.inf
    assert median_interval([1.0, 2.0, inf]).centre == 2 and median_interval([1.0, 2.0, inf]).high == inf
    assert median_interval([inf, inf, 1.0]).centre == inf
    interval = median_interval([1.0, inf])  # there is no mean of the two
    assert (interval.centre, interval.low, interval.high) == (1, 1, inf)
    interval = median_interval([3.0, 2.0, inf, 1.0])
    assert (interval.centre, interval.low, interval.high) == (2, 1, inf)
    assert math.isnan(median_interval([4.0]).low) and median_interval([4.0]).centre == 4
