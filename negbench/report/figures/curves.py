"""Held-out accuracy over training, against epochs and what training takes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from negbench.report.figures.common.means import ROWS, left_out, within_percents
from negbench.report.figures.common.style import Drawing, Style, add_legend
from negbench.report.read.comparisons import Comparison, Row
from negbench.report.read.runs import Floats, Run, cumulative
from negbench.report.read.statistics import t_interval
from negbench.report.tables.cost import RESOURCES
from negbench.settings.plugins.facts import Figure

FIGURE = Figure(section="hardware", title="Training curves", place=10)
POINTS = 500  # of a drawn curve
BANDS = 6  # rows up to which curves have bands and seeds; more would cover each other


def drawing(part: Comparison, style: Style) -> Drawing | None:
    rows = [row for row in part.rows if any(run.curve for run in row.runs)]
    if not rows:
        return None
    spread = ", band: 95% t interval (cut at the axis), thin lines: seeds" if len(rows) <= BANDS else ""
    caption = f"kNN accuracy on held-out images: mean over seeds{spread}. {part.hardware}.{left_out(rows)}"
    return Drawing(caption, partial(_draw, rows[:ROWS], style))


def _draw(rows: Sequence[Row], style: Style) -> Canvas:
    resources = {"epoch": ("epochs", 1), **{name: RESOURCES[name] for name in ("device_hours", "views")}}
    canvas, panels = plt.subplots(1, len(resources), figsize=(12, 4.4), sharey=True)
    for axes, (resource, (title, unit)) in zip(panels, resources.items(), strict=True):
        for row, colour, marker, line in style.of(rows):
            look = {"color": colour, "marker": marker, "linestyle": line}
            _curve(axes, row, resource, unit, look, len(rows) <= BANDS)
        axes.set_xlabel(title)
        axes.locator_params(axis="x", nbins=5)
    drawn = np.concatenate([run.curve["knn_top1"] for row in rows for run in row.runs if run.curve])
    margin = max(1.0, 6 * float(np.ptp(drawn)))
    limits = 100 * float(drawn.min()) - margin, 100 * float(drawn.max()) + margin
    panels[0].set_ylim(*within_percents(limits))  # a wider band would flatten the curves
    panels[0].set_ylabel("held-out kNN accuracy, %")
    add_legend(canvas, panels[0], len(rows))
    return canvas


def _curve(axes: Axes, row: Row, resource: str, unit: float, style: dict[str, Any], with_spread: bool) -> None:
    runs = [run for run in row.runs if run.curve]
    with_spread = with_spread and len(runs) > 1
    for run in runs if with_spread else []:
        x, y = _along(run, resource) / unit, 100 * _along(run, "knn_top1")
        axes.plot(x, y, color=style["color"], alpha=0.3, linewidth=0.7)
    common = sorted(set.intersection(*(set(run.curve["step"]) for run in runs)))
    keep = [np.isin(run.curve["step"], common) for run in runs]
    x = np.mean([cumulative(run, resource)[mask] for run, mask in zip(runs, keep, strict=True)], axis=0) / unit
    values = 100 * np.array([cumulative(run, "knn_top1")[mask] for run, mask in zip(runs, keep, strict=True)])
    intervals = [t_interval(column.tolist()) for column in values.T]
    places = _thinned(len(x))
    mean, low, high = (np.array([getattr(i, end) for i in intervals])[places] for end in ("centre", "low", "high"))
    axes.plot(x[places], mean, label=row.label, markevery=max(1, len(places) // 8), markersize=5, **style)
    if with_spread:
        axes.fill_between(x[places], low, high, color=style["color"], alpha=0.12, linewidth=0)


def _along(run: Run, column: str) -> Floats:
    values: Floats = cumulative(run, column)
    return values[_thinned(len(values))]


def _thinned(count: int) -> npt.NDArray[np.int64]:
    """Return at most `POINTS` places of `count`, including the last one."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(np.int64))
