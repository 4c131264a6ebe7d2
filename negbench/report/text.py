"""Estimates with their intervals as text."""

import math

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
    if not difference.n:
        return NOTHING
    bounds = (difference.centre, difference.low, difference.high)
    centre, low, high = (f"{100 * bound:+z.1f}".replace("-", "−") for bound in bounds)
    return centre if math.isnan(difference.low) else f"{centre} [{low}, {high}]"


def ratio(interval: Interval) -> str:
    """Return `1.05 [0.98, 1.12]`."""
    if not interval.n:
        return NOTHING
    bounds = "" if math.isnan(interval.low) else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.centre:.2f}{bounds}"


def amount(interval: Interval, unit: float) -> str:
    """Return `2.5 [2.4, ∞]`, in `unit`s."""
    if not interval.n:
        return NOTHING
    centre, low, high = (number(value / unit) for value in (interval.centre, interval.low, interval.high))
    return centre if math.isnan(interval.low) else f"{centre} [{low}, {high}]"
