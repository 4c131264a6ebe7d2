"""What the figures of a bench share."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from negbench.report.figures.common.style import MARKERS, Style
from negbench.report.read.benches import Bench, BenchRow
from negbench.report.read.statistics import Interval

GREY = "0.35"  # of bare steps


def where_sentence(bench: Bench, rows: Sequence[BenchRow]) -> str:
    """Return a caption's end: the device, the rounds, and which rows ran out of memory."""
    lost = [
        f"{row.name} (K = {row.num_negatives:,})" if row.num_negatives else row.name
        for row in rows
        if row.out_of_memory
    ]
    out_of_memory = f" Out of memory: {', '.join(lost)}." if lost else ""
    return f" {bench.device}, medians of {bench.record.rounds} rounds.{out_of_memory}"


def method_look(style: Style, name: str) -> dict[str, Any]:
    marker = MARKERS[list(style.colours).index(name) % len(MARKERS)]
    return {"color": style.colours[name], "marker": marker, "linestyle": "-", "label": name}


def errorbar_line(axes: Axes, points: Sequence[tuple[float, Interval]], look: dict[str, Any]) -> None:
    """Draw the known ones of intervals by size."""
    known = [(size, i.centre, i.low, i.high) for size, i in points if math.isfinite(i.centre)]
    if known:
        x, y, low, high = (np.array(column, float) for column in zip(*known, strict=True))
        axes.errorbar(x, y, yerr=[y - low, high - y], markersize=6, capsize=2, elinewidth=1, **look)


def size_axis(axes: Axes, sizes: Sequence[int], title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize="small")
    axes.set_xlabel(title)
