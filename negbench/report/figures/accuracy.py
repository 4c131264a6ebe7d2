"""Every seed's accuracy, and the means of the rows."""

from collections.abc import Sequence
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Canvas

from negbench.report.figures.common.means import ROWS, error_bars, left_out, mean_look, within_percents
from negbench.report.figures.common.style import Drawing, Style
from negbench.report.read.comparisons import Comparison, Row
from negbench.report.read.statistics import t_interval
from negbench.report.tables.accuracy import METRICS, main_metric
from negbench.settings.plugins.facts import Figure

FIGURE = Figure(section="comparison", title="Accuracy by seed", place=10)


def drawing(comparison: Comparison, style: Style) -> Drawing | None:
    metric = main_metric(comparison)
    if metric is None:
        return None
    rows = [row for row in comparison.rows if row.by_seed(metric)]
    caption = (
        f"{METRICS[metric]} accuracy: every seed a point, and the mean with its 95% t interval, cut at the axis."
        f"{left_out(rows)}"
    )
    return Drawing(caption, partial(_draw, rows[:ROWS], metric, style))


def _draw(rows: Sequence[Row], metric: str, style: Style) -> Canvas:
    longest = max(len(row.label) for row in rows)
    canvas, axes = plt.subplots(figsize=(7.5 + 0.08 * max(0, longest - 30), 1.2 + 0.42 * len(rows)))
    for place, (row, colour, marker, _) in enumerate(style.of(rows)):
        values = 100 * np.array(list(row.by_seed(metric).values()))
        axes.plot(values, np.full(len(values), place - 0.16), marker, color=colour, alpha=0.55, markersize=5)
        interval = t_interval(list(values))
        axes.errorbar(interval.centre, place + 0.1, xerr=error_bars(interval), **mean_look(colour, marker))
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(*within_percents(axes.get_xlim()))
    axes.set_xlabel(f"{METRICS[metric]} accuracy, %")
    axes.grid(axis="y", visible=False)
    return canvas
