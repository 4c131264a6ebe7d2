"""Accuracies as figures show them: seeds, means and intervals."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from negbench.report.read.comparisons import Row
from negbench.report.read.statistics import Interval

ROWS = 24  # of a figure; the tables hold all


def left_out(rows: Sequence[Row], most: int = ROWS) -> str:
    """Return a caption's sentence on rows that are not drawn, or nothing."""
    return f" The best {most} of {len(rows)} rows are drawn." if len(rows) > most else ""


def mean_look(colour: Any, marker: str) -> dict[str, Any]:
    """Return the look of a mean with its error bar, for `Axes.errorbar`."""
    kept = {"color": colour, "marker": marker, "markersize": 8, "capsize": 3, "elinewidth": 1.4}
    return kept | {"markeredgecolor": "white", "linestyle": "none"}


def error_bars(interval: Interval) -> list[list[float]]:
    """Return the lengths of both error bars, 0 without an interval."""
    half = 0.0 if math.isnan(interval.low) else interval.half_width
    return [[half], [half]]


def within_percents(limits: tuple[float, float]) -> tuple[float, float]:
    """Return the limits of an axis, cut to where accuracies can be: intervals of few seeds are wider."""
    return max(limits[0], -1.0), min(limits[1], 101.0)


def percent_axis(axes: Axes, title: str) -> None:
    """Label the vertical axis and cut it to where accuracies can be."""
    axes.set_ylabel(f"{title} accuracy, %")
    axes.set_ylim(*within_percents(axes.get_ylim()))
