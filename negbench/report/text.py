"""Estimates with their intervals as text."""

import math
from collections.abc import Callable

from negbench.report.read.statistics import Difference, Interval
from negbench.runtime.words import NOTHING, number


def percent(interval: Interval) -> str:
    """Return `88.8 ± 7.9` for fractions."""
    if not interval.n:
        return NOTHING
    half = "" if math.isnan(interval.low) else f" ± {100 * interval.half_width:.1f}"
    return f"{100 * interval.centre:.1f}{half}"


def points(difference: Difference) -> str:
    """Return `+1.2 [−0.5, +2.9]` for fractions."""
    return _with_bounds(difference, lambda share: f"{100 * share:+z.1f}".replace("-", "−"))


def ratio(interval: Interval) -> str:
    """Return `1.05 [0.98, 1.12]`."""
    return _with_bounds(interval, "{:.2f}".format)


def amount(interval: Interval, unit: float = 1) -> str:
    """Return `2.5 [2.4, ∞]`, in `unit`s."""
    return _with_bounds(interval, lambda value: number(value / unit))


def _with_bounds(interval: Interval, shown: Callable[[float], str]) -> str:
    if not interval.n:
        return NOTHING
    centre, low, high = map(shown, (interval.centre, interval.low, interval.high))
    return centre if math.isnan(interval.low) else f"{centre} [{low}, {high}]"
