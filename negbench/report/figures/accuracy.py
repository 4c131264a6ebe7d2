"""Figures of comparisons: curves, accuracy against cost, seeds, ablations."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from negbench.report.figures.style import Drawing, Floats, Style, add_legend
from negbench.report.read.comparisons import Comparison, Row
from negbench.report.read.runs import Run, cumulative
from negbench.report.read.statistics import t_interval
from negbench.report.tables.ablation import Ablation
from negbench.report.tables.accuracy import METRICS, main_metric
from negbench.report.tables.cost import RESOURCES

POINTS = 500  # of a drawn curve
ROWS = 24  # of a figure; the tables hold all
BANDS = 6  # rows up to which curves have bands and seeds; more would cover each other


def drawings(comparison: Comparison, style: Style) -> list[Drawing]:
    """The figures of one comparison; none of what no run has."""
    metric = main_metric(comparison)
    if metric is None:
        return []
    name, title = METRICS[metric], comparison.title
    rows = [row for row in comparison.rows if row.by_seed(metric)]
    caption = (
        f"{name} accuracy: every seed a point, and the mean with its 95% t interval, cut at the axis.{_left_out(rows)}"
    )
    draw = partial(_seeds, rows[:ROWS], metric, style)
    found = [Drawing(f"accuracy-{comparison.slug}", f"Accuracy by seed: {title}", caption, draw)]
    for part in comparison.by_hardware():
        where = f" {part.hardware}."
        rows = [row for row in part.rows if any(run.curve for run in row.runs)]
        spread = ", band: 95% t interval (cut at the axis), thin lines: seeds" if len(rows) <= BANDS else ""
        if rows:
            caption = f"kNN accuracy on held-out images: mean over seeds{spread}.{where}{_left_out(rows)}"
            draw = partial(_curves, rows[:ROWS], style)
            found.append(Drawing(f"curves-{part.slug}", f"Training curves: {title}", caption, draw))
        rows = [row for row in part.rows if row.by_seed(metric)]
        if rows:
            caption = (
                f"{name} accuracy against what training took: every seed a small mark, the mean of a row a large one, "
                f"with its 95% t interval, cut at the axis. {_front_told(rows, metric)}{where}{_left_out(rows)}"
            )
            draw = partial(_cost, rows[:ROWS], metric, style)
            found.append(Drawing(f"pareto-{part.slug}", f"Accuracy against cost: {title}", caption, draw))
    return found


def ablation_drawing(members: Sequence[Ablation], style: Style) -> Drawing:
    """Those of one title."""
    name = members[0].name
    caption = (
        f"{METRICS[members[0].metric]} accuracy by {name}, all other settings equal within a line: every seed a point, "
    )
    caption += "the mean with its 95% t interval."
    draw = partial(_ablation, name, members[:ROWS], style)
    return Drawing(members[0].slug, f"Ablation: {members[0].title}", caption, draw)


def _front_told(rows: Sequence[Row], metric: str) -> str:
    front = pareto_front([_mean_point(row, metric) for row in rows])
    if len(front) > 1:
        return "The line joins the rows that none beats in both, by their means alone."
    best = next(row.label for row in rows if _mean_point(row, metric) == front[0])
    return f"By the means no row beats {best} in either."


def _mean_point(row: Row, metric: str) -> tuple[float, float]:
    """Device-hours and accuracy in percent, means over the seeds."""
    by_seed = row.by_seed(metric)
    hours = [float(run.summary["device_hours"]) for run in row.runs if run.seed in by_seed]
    return float(np.mean(hours)), 100 * float(np.mean(list(by_seed.values())))


def _left_out(rows: Sequence[Row]) -> str:
    return f" The best {ROWS} of {len(rows)} rows are drawn." if len(rows) > ROWS else ""


def _seeds(rows: Sequence[Row], metric: str, style: Style) -> Canvas:
    known = [row for row in rows if row.by_seed(metric)]
    longest = max(len(row.label) for row in known)
    canvas, axes = plt.subplots(figsize=(7.5 + 0.08 * max(0, longest - 30), 1.2 + 0.42 * len(known)))
    for place, (row, colour, marker, _) in enumerate(style.of(known)):
        values = 100 * np.array(list(row.by_seed(metric).values()))
        axes.plot(values, np.full(len(values), place - 0.16), marker, color=colour, alpha=0.55, markersize=5)
        interval = t_interval(list(values))
        axes.errorbar(interval.centre, place + 0.1, xerr=_bars(interval), **_mean(colour, marker))
    axes.set_yticks(range(len(known)), [row.label for row in known])
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.set_xlim(*_within_percents(axes.get_xlim()))
    axes.set_xlabel(f"{METRICS[metric]} accuracy, %")
    axes.grid(axis="y", visible=False)
    return canvas


def _curves(rows: Sequence[Row], style: Style) -> Canvas:
    resources = {"epoch": ("epochs", 1.0), **{name: (title, float(unit)) for name, (title, unit) in RESOURCES.items()}}
    del resources["train_seconds"]
    canvas, panels = plt.subplots(1, len(resources), figsize=(12, 4.4), sharey=True)
    for axes, (resource, (title, unit)) in zip(panels, resources.items(), strict=True):
        for row, colour, marker, line in style.of(rows):
            _curve(
                axes, row, resource, unit, {"color": colour, "marker": marker, "linestyle": line}, len(rows) <= BANDS
            )
        axes.set_xlabel(title)
        axes.locator_params(axis="x", nbins=5)
    drawn = np.concatenate([run.curve["knn_top1"] for row in rows for run in row.runs if run.curve])
    margin = max(1.0, 6 * float(np.ptp(drawn)))
    limits = 100 * float(drawn.min()) - margin, 100 * float(drawn.max()) + margin
    panels[0].set_ylim(*_within_percents(limits))  # a wider band would flatten the curves
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
    mean = np.array([interval.centre for interval in intervals])[places]
    axes.plot(x[places], mean, label=row.label, markevery=max(1, len(places) // 8), markersize=5, **style)
    if with_spread:
        low, high = (np.array([getattr(interval, end) for interval in intervals])[places] for end in ("low", "high"))
        axes.fill_between(x[places], low, high, color=style["color"], alpha=0.12, linewidth=0)


def _cost(rows: Sequence[Row], metric: str, style: Style) -> Canvas:
    canvas, axes = plt.subplots(figsize=(7.5, 4.8))
    means = []
    for row, colour, marker, _ in style.of(rows):
        by_seed = row.by_seed(metric)
        runs = [run for run in row.runs if run.seed in by_seed]
        x = [float(run.summary["device_hours"]) for run in runs]
        y = [100 * by_seed[run.seed] for run in runs]
        axes.plot(x, y, marker, color=colour, alpha=0.4, markersize=4)
        means.append(_mean_point(row, metric))
        axes.errorbar(*means[-1], yerr=_bars(t_interval(y)), label=row.label, **_mean(colour, marker))
    front = pareto_front(means)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color="0.35", linestyle=":", zorder=0, label="Pareto front")
    axes.set_ylim(*_within_percents(axes.get_ylim()))
    axes.set_xlabel("device-hours of training")
    axes.set_ylabel(f"{METRICS[metric]} accuracy, %")
    add_legend(canvas, axes, len(means) + 1)
    return canvas


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, accuracy), those that no other has both at most the cost and at least the accuracy of; by cost."""
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _ablation(name: str, members: Sequence[Ablation], style: Style) -> Canvas:
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
        bars = np.array([_bars(interval) for interval in intervals])[:, :, 0].T
        means = [interval.centre for interval in intervals]
        look = _mean(colour, marker) | {"linestyle": line if numeric else "", "label": ablation.label}
        axes.errorbar(x, means, yerr=bars, **look)
    if logarithmic:
        axes.set_xscale("log", base=2 if all(place.is_integer() for place in places.values()) else 10)
        axes.xaxis.set_major_formatter(lambda place, _: _tick(place))
    if len(values) <= 12:
        axes.set_xticks(list(places.values()), [_tick(value) for value in values])
        axes.minorticks_off()
    axes.set_xlabel(name)
    axes.set_ylabel(f"{METRICS[members[0].metric]} accuracy, %")
    axes.set_ylim(*_within_percents(axes.get_ylim()))
    add_legend(canvas, axes, len(members))
    return canvas


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _mean(colour: Any, marker: str) -> dict[str, Any]:
    kept = {"color": colour, "marker": marker, "markersize": 8, "capsize": 3, "elinewidth": 1.4}
    return kept | {"markeredgecolor": "white", "linestyle": "none"}


def _bars(interval: Any) -> list[list[float]]:
    half = 0.0 if math.isnan(interval.low) else interval.half_width
    return [[half], [half]]


def _within_percents(limits: tuple[float, float]) -> tuple[float, float]:
    """No wider than accuracies can be, though intervals of few seeds are."""
    return max(limits[0], -1.0), min(limits[1], 101.0)


def _along(run: Run, column: str) -> Floats:
    values: Floats = cumulative(run, column)
    return values[_thinned(len(values))]


def _thinned(count: int) -> npt.NDArray[np.int64]:
    """At most `POINTS` places of `count`, the last one among them."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(np.int64))


def _tick(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
