"""What the figures of a bench share."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from negbench.report.figures.common.style import MARKERS, Style
from negbench.report.read.benches import Bench, BenchRow, GroupRows

GREY = "0.35"  # of bare steps
Point = tuple[float, float, float, float]  # size, median, quartiles


def where_sentence(bench: Bench, rows: Sequence[BenchRow]) -> str:
    """Return a caption's end: the device, the rounds, and which rows ran out of memory."""
    lost = [
        f"{row.name} (K = {row.num_negatives:,})" if row.num_negatives else row.name
        for row in rows
        if row.out_of_memory
    ]
    out_of_memory = f" Out of memory: {', '.join(lost)}." if lost else ""
    return f" {bench.device}, medians of {bench.rounds} rounds.{out_of_memory}"


def method_look(style: Style, name: str) -> dict[str, Any]:
    marker = MARKERS[list(style.colours).index(name) % len(MARKERS)]
    return {"color": style.colours[name], "marker": marker, "linestyle": "-", "label": name}


def errorbar_line(axes: Axes, points: Sequence[Point], look: dict[str, Any]) -> None:
    known = [point for point in points if math.isfinite(point[1])]
    if known:
        x, y, low, high = (np.array(column, float) for column in zip(*known, strict=True))
        axes.errorbar(x, y, yerr=[y - low, high - y], markersize=6, capsize=2, elinewidth=1, **look)


def quartiles(row: BenchRow, unit: float) -> tuple[float, float, float]:
    """Return the median, first and third quartile of the step's seconds times `unit`."""
    if not len(row.seconds):
        return math.nan, math.nan, math.nan
    first, middle, third = np.percentile(unit * row.seconds, (25, 50, 75)).tolist()
    return middle, first, third


def ratio_to_bare(group: GroupRows, row: BenchRow) -> tuple[float, float, float]:
    """Return the ratio to the bare step of the same rounds and its interval; nan for the bare steps themselves."""
    interval = group.ratio(row, row.bare_name)
    return (interval.centre, interval.low, interval.high) if interval else (math.nan, math.nan, math.nan)


def size_axis(axes: Axes, sizes: Sequence[int], title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize="small")
    axes.set_xlabel(title)
