"""Accuracy by the values of a setting, while all others are equal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure as Canvas

from negbench.report.figures.common.means import ROWS, error_bars, mean_look, percent_axis
from negbench.report.figures.common.style import Drawing, Style, add_legend
from negbench.report.read.statistics import t_interval
from negbench.report.tables.ablation import Ablation
from negbench.report.tables.accuracy import METRICS
from negbench.settings.plugins.facts import Figure

FIGURE = Figure(section="ablation", title="Ablation")


def drawing(members: Sequence[Ablation], style: Style) -> Drawing:
    caption = (
        f"{METRICS[members[0].metric]} accuracy by {members[0].name}, all other settings equal within a line: every "
        "seed a point, the mean with its 95% t interval."
    )
    return Drawing(caption, partial(_draw, members[:ROWS], style))


def _draw(members: Sequence[Ablation], style: Style) -> Canvas:
    members = [replace(a, points=[(_hashable(value), row) for value, row in a.points]) for a in members]
    values = list(dict.fromkeys(value for ablation in members for value, _ in ablation.points))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places: Mapping[Any, float] = {value: float(value) if numeric else i for i, value in enumerate(values)}
    low, high = min(places.values()), max(places.values())
    logarithmic = numeric and low > 0 and high / low >= 8

    def beside(place: float, by: float) -> float:
        """A place moved by a share of the axis, so that lines do not hide each other's seeds."""
        return place * (high / low) ** by if logarithmic else place + by * (high - low)

    canvas, axes = plt.subplots(figsize=(7.5, 4.6))
    firsts = [ablation.points[0][1] for ablation in members]
    for number, (ablation, (_, colour, marker, line)) in enumerate(zip(members, style.of(firsts), strict=True)):
        aside = 0.022 * (number - (len(members) - 1) / 2)
        x = [beside(places[value], aside) for value, _ in ablation.points]
        seeds = [[100 * v for v in row.by_seed(ablation.metric).values()] for _, row in ablation.points]
        for place, points in zip(x, seeds, strict=True):
            axes.plot([beside(place, -0.008)] * len(points), points, marker, color=colour, alpha=0.4, markersize=4)
        intervals = [t_interval(points) for points in seeds]
        bars = np.array([error_bars(interval) for interval in intervals])[:, :, 0].T
        means = [interval.centre for interval in intervals]
        look = mean_look(colour, marker) | {"linestyle": line if numeric else "", "label": ablation.label}
        axes.errorbar(x, means, yerr=bars, **look)
    if logarithmic:
        axes.set_xscale("log", base=2 if all(place.is_integer() for place in places.values()) else 10)
        axes.xaxis.set_major_formatter(lambda place, _: _tick(place))
    if len(values) <= 12:
        axes.set_xticks(list(places.values()), [_tick(value) for value in values])
        axes.minorticks_off()
    axes.set_xlabel(members[0].name)
    percent_axis(axes, METRICS[members[0].metric])
    add_legend(canvas, axes, len(members))
    return canvas


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _tick(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
