"""How figures are written for a reader."""

import math

from negbench.report.statistics import Difference, Interval

NOTHING = "–"


def percent(interval: Interval) -> str:
    """`88.8 ± 7.9`, of fractions."""
    if not interval.n:
        return NOTHING
    half = "" if math.isnan(interval.low) else f" ± {100 * interval.half_width:.1f}"
    return f"{100 * interval.centre:.1f}{half}"


def points(difference: Difference) -> str:
    """`+1.2 [−0.5, +2.9]`, of fractions."""
    if not difference.n:
        return NOTHING
    bounds = (difference.centre, difference.low, difference.high)
    centre, low, high = (f"{100 * bound:+z.1f}".replace("-", "−") for bound in bounds)
    return centre if math.isnan(difference.low) else f"{centre} [{low}, {high}]"


def ratio(interval: Interval) -> str:
    """`1.05 [0.98, 1.12]`."""
    if not interval.n:
        return NOTHING
    bounds = "" if math.isnan(interval.low) else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.centre:.2f}{bounds}"


def amount(interval: Interval, unit: float) -> str:
    """`2.5 [2.4, ∞]`, in `unit`s."""
    if not interval.n:
        return NOTHING
    centre, low, high = (number(value / unit) for value in (interval.centre, interval.low, interval.high))
    return centre if math.isnan(interval.low) else f"{centre} [{low}, {high}]"


def number(value: float) -> str:
    """Three digits that matter, and all of those before the point."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞"
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def listed(parts: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def some(parts: list[str], most: int) -> str:
    """As `listed`, the first `most` and how many more."""
    return listed(parts if len(parts) <= most else [*parts[:most], f"{len(parts) - most} more"])


def count(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
