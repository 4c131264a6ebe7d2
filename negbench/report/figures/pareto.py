"""Accuracy against device-hours, with the Pareto front of the rows."""

from collections.abc import Sequence
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Canvas

from negbench.report.figures.common.means import ROWS, error_bars, left_out, mean_look, percent_axis
from negbench.report.figures.common.style import Drawing, Style, add_legend
from negbench.report.read.comparisons import Comparison, Row
from negbench.report.read.statistics import t_interval
from negbench.report.tables.accuracy import METRICS, main_metric
from negbench.settings.plugins.facts import Figure

FIGURE = Figure(section="hardware", title="Accuracy against cost", place=20)


def drawing(part: Comparison, style: Style) -> Drawing | None:
    metric = main_metric(part)
    if metric is None:
        return None
    rows = [row for row in part.rows if row.by_seed(metric)]
    caption = (
        f"{METRICS[metric]} accuracy against what training took: every seed a small mark, the mean of a row a large "
        f"one, with its 95% t interval, cut at the axis. {_front_sentence(rows, metric)} {part.hardware}."
        f"{left_out(rows)}"
    )
    return Drawing(caption, partial(_draw, rows[:ROWS], metric, style))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return those of (cost, accuracy) that no other beats in one without losing in the other, by cost."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _front_sentence(rows: Sequence[Row], metric: str) -> str:
    front = pareto_front([_mean_point(row, metric) for row in rows])
    if len(front) > 1:
        return "The line joins the rows that none beats in both, by their means alone."
    best = next(row.label for row in rows if _mean_point(row, metric) == front[0])
    return f"By the means no row beats {best} in either."


def _seed_points(row: Row, metric: str) -> tuple[list[float], list[float]]:
    """Device-hours and accuracies in percent, by seed."""
    by_seed = row.by_seed(metric)
    hours = [float(run.summary["device_hours"]) for run in row.runs if run.seed in by_seed]
    return hours, [100 * by_seed[run.seed] for run in row.runs if run.seed in by_seed]


def _mean_point(row: Row, metric: str) -> tuple[float, float]:
    hours, _ = _seed_points(row, metric)
    return float(np.mean(hours)), 100 * float(np.mean(list(row.by_seed(metric).values())))


def _draw(rows: Sequence[Row], metric: str, style: Style) -> Canvas:
    canvas, axes = plt.subplots(figsize=(7.5, 4.8))
    means = [_mean_point(row, metric) for row in rows]
    for mean, (row, colour, marker, _) in zip(means, style.of(rows), strict=True):
        hours, accuracies = _seed_points(row, metric)
        axes.plot(hours, accuracies, marker, color=colour, alpha=0.4, markersize=4)
        bars = error_bars(t_interval(accuracies))
        axes.errorbar(*mean, yerr=bars, label=row.label, **mean_look(colour, marker))
    front = pareto_front(means)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color="0.35", linestyle=":", zorder=0, label="Pareto front")
    percent_axis(axes, METRICS[metric])
    axes.set_xlabel("device-hours of training")
    add_legend(canvas, axes, len(means) + 1)
    return canvas
