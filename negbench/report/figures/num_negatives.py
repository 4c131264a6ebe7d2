"""Time and memory of a step by the number of negatives K."""

import math
from collections.abc import Sequence
from functools import partial

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from negbench.report.figures.common import steps
from negbench.report.figures.common.style import LINES, Drawing, Style, add_legend, logarithmic
from negbench.report.read.benches import Bench, BenchRow
from negbench.report.read.statistics import quartiles
from negbench.report.tables.bench import MIB
from negbench.settings.plugins.facts import Figure

FIGURE = Figure(section="bench", title="Cost by K", place=20)


def drawing(bench: Bench, style: Style) -> Drawing | None:
    sized = [row for _, row in bench.by_num_negatives]
    if len({row.num_negatives for row in sized if row.is_timed}) < 2:
        return None
    caption = (
        "Time and peak memory of a step by the number of negatives K. Bars: quartiles of the rounds, and of the "
        "ratio to the bare step of the same rounds the 95% bootstrap interval. Each K was stepped at its own time: "
        "what disturbed the machine then is in the milliseconds and hardly in the ratio. Methods without K and "
        "the bare steps are level lines, at the study's own setting. Memory is of each method alone, over what the "
        f"process held before.{steps.where_sentence(bench, sized)}"
    )
    return Drawing(caption, partial(_draw, bench, style))


def _draw(bench: Bench, style: Style) -> Canvas:
    canvas, panels = plt.subplots(1, 3, figsize=(14, 4.6))
    names = list(dict.fromkeys(row.name for _, row in bench.by_num_negatives))
    for name in names:
        look = steps.method_look(style, name)
        mine = [(g, s, s.num_negatives or 0) for g, s in bench.by_num_negatives if s.name == name]
        steps.errorbar_line(panels[0], [(size, quartiles(1e3 * s.times)) for _, s, size in mine], look)
        steps.errorbar_line(panels[1], [(size, g.ratio_to_bare(s)) for g, s, size in mine], look)
        steps.errorbar_line(panels[2], [(size, quartiles([_peak(s)])) for _, s, size in mine], look)
    level = [s for s in bench.main.rows if s.kind != "matrices" and s.name not in names and not s.out_of_memory]
    for number, row in enumerate(level):
        look = {"color": style.colours[row.name] if row.is_method else steps.GREY, "label": row.name}
        look |= {"linestyle": LINES[1 + number % (len(LINES) - 1)], "linewidth": 1.4}
        values = (1e3 * row.median, bench.main.ratio_to_bare(row).centre, _peak(row))
        for axes, value in zip(panels, values, strict=True):
            if math.isfinite(value):
                axes.axhline(value, **look)
    sizes = sorted({row.num_negatives or 0 for _, row in bench.by_num_negatives})
    for axes, title in zip(panels, ("step, ms", "step / bare step", "peak memory, MiB"), strict=True):
        axes.set_ylabel(title)
        steps.size_axis(axes, sizes, "K, number of negatives")
        _mark_lost(axes, [row for _, row in bench.by_num_negatives if row.out_of_memory])
    logarithmic(panels[0])
    logarithmic(panels[2])
    add_legend(canvas, panels[0], len(names) + len(level))
    return canvas


def _peak(row: BenchRow) -> float:
    """Return MiB; nan if unknown or 0, which no logarithmic axis has."""
    return (row.peak_memory_bytes or math.nan) / MIB


def _mark_lost(axes: Axes, lost: Sequence[BenchRow]) -> None:
    """Draw a cross above the axes at each K, with the names of the methods that fail there first."""
    transform, named = axes.get_xaxis_transform(), set[str]()
    for size in sorted({row.num_negatives or 0 for row in lost}):
        axes.plot(size, 1.035, marker="X", color="black", markersize=7, transform=transform, clip_on=False)
        names = [s.name for s in lost if s.num_negatives == size and s.name not in named]
        named.update(names)
        if names:
            told = f"out of memory: {', '.join(names)}  "
            axes.text(size, 1.035, told, transform=transform, ha="right", va="center", size=9)
