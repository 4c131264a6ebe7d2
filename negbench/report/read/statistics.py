"""Statistics of a few seeds: t intervals, paired differences, Holm's correction, medians of times."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

Key = TypeVar("Key")
ALPHA, LEVEL = 0.05, 0.95
RESAMPLES = 10_000
_ROUNDING = 1e-12  # a spread below this, relative to the values, is that of floating point


@dataclass(frozen=True)
class Interval:
    """A mean, or a median, and its two-sided interval; the bounds are nan where there are too few values."""

    centre: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Difference(Interval):
    """Mean over the seeds that both have. `p` is the two-sided paired t test's; nan where it cannot be made.

    `p_holm` is p after Holm's correction over the differences that are looked at together.
    """

    p: float
    p_holm: float = math.nan

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the interval excludes 0, and still would after Holm's correction."""
        return self.p_holm < ALPHA and (self.low > 0 or self.high < 0)


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Student's interval of the mean. With one value the bounds are nan, with none the mean too."""
    n = len(values)
    if n < 2:
        return Interval(values[0] if n else math.nan, math.nan, math.nan, n)
    mean, spread = float(np.mean(values)), _spread(values)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * spread / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], level: float = LEVEL) -> Difference:
    """Return a - b over the seeds in both. p is nan if the difference is the same for every seed."""
    differences = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    interval = t_interval(differences, level)
    p = math.nan
    if interval.n > 1 and (spread := _spread(differences)):
        p = 2 * float(stdtr(interval.n - 1, -abs(interval.centre) / (spread / math.sqrt(interval.n))))
    return Difference(interval.centre, interval.low, interval.high, interval.n, p)


def paired_ratio(a: Mapping[int, float], b: Mapping[int, float]) -> Interval:
    """Return the geometric mean of positive a / b over the seeds in both, with the t interval of its logarithm."""
    log_a, log_b = ({seed: math.log(value) for seed, value in values.items()} for values in (a, b))
    log = paired_difference(log_a, log_b)
    return Interval(math.exp(log.centre), math.exp(log.low), math.exp(log.high), log.n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's correction (1979). nan stays nan, and counts as 1."""
    filled = [1.0 if math.isnan(p) else p for p in p_values]
    adjusted, largest = [0.0] * len(filled), 0.0
    for place, i in enumerate(sorted(range(len(filled)), key=filled.__getitem__)):
        largest = max(largest, min(1.0, (len(filled) - place) * filled[i]))
        adjusted[i] = largest
    return [math.nan if math.isnan(p) else value for p, value in zip(p_values, adjusted, strict=True)]


def with_holm(differences: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """Return each difference with its `p_holm` over all of them."""
    adjusted = holm([difference.p for difference in differences.values()])
    return {key: replace(d, p_holm=p) for (key, d), p in zip(differences.items(), adjusted, strict=True)}


def quartiles(values: Sequence[float] | npt.NDArray[np.float64]) -> Interval:
    """Return the median between the first and the third quartile; nan without values."""
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist() if len(values) else [math.nan] * 3
    return Interval(middle, low, high, len(values))


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median and its percentile bootstrap interval, of values that may be infinite.

    Of an even number of values it is the mean of the two in the middle, where all are finite, and the lower otherwise.
    Every resample is looked at up to 5 values, 10,000 drawn from a fixed seed beyond. With one value the bounds are
    nan.
    """
    n = len(values)
    if n < 2:
        return Interval(values[0] if n else math.nan, math.nan, math.nan, n)
    ordered = np.sort(np.asarray(values, float))
    if n <= 5:
        places = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        places = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    middle = [(n - 1) // 2, n // 2 if math.isfinite(ordered[-1]) else (n - 1) // 2]
    medians = np.sort(ordered[np.sort(places, axis=1)[:, middle]].mean(axis=1))
    tail = (1 - LEVEL) / 2
    low = medians[int(tail * (len(medians) - 1))]
    high = medians[math.ceil((1 - tail) * (len(medians) - 1))]
    return Interval(float(ordered[middle].mean()), float(low), float(high), n)


def _spread(values: Sequence[float]) -> float:
    """Standard deviation with n - 1, and 0 where the values differ by rounding only."""
    spread = float(np.std(values, ddof=1))
    return spread if spread > _ROUNDING * float(np.max(np.abs(values))) else 0.0
