"""Figures of a bench. Nothing is told by colour alone."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from negbench.report.figures.style import LINES, MARKERS, Drawing, Style, add_legend, logarithmic
from negbench.report.read.benches import Bench, BenchRow, GroupRows
from negbench.report.tables.bench import MIB, PART_TITLES, part_median

HATCHES = ("", "//", "..", "xx", "", "\\\\", "++", "oo", "--", "")  # by part
READABLE = 0.045  # of the axis: the narrowest bar that a number is written into
GREY, REST = "0.35", (0.82, 0.82, 0.82)
LIGHT = 0.6  # mean of red, green and blue from which on a bar's number is black
Point = tuple[float, float, float, float]  # size, median, quartiles


def bench_drawings(bench: Bench, style: Style, slug: str) -> list[Drawing]:
    """Those that the bench has points for."""
    where = f" {bench.device}, medians of {bench.rounds} rounds."
    stepped = [s for s in bench.main.rows if s.kind != "matrices" and s.is_timed]
    found = []
    if stepped:
        caption = (
            "The parts of a step, each without the parts inside it. A bare step is the encoder's a + b forward passes "
            "of queries and keys, backward and optimizer on one fixed batch; a number in a bar is the part's "
            f"milliseconds.{where}{_left_out(bench.main.rows)}"
        )
        draw = partial(_parts, bench, stepped)
        found.append(Drawing(f"{slug}-parts", f"Parts of a step: {bench.study}", caption, draw))
    sized = [row for _, row in bench.by_num_negatives]
    if len({row.num_negatives for row in sized if row.is_timed}) > 1:
        caption = (
            "Time and peak memory of a step by the number of negatives K. Bars: quartiles of the rounds, and of the "
            "ratio to the bare step of the same rounds the 95% bootstrap interval. Each K was stepped at its own time: "
            "what disturbed the machine then is in the milliseconds and hardly in the ratio. Methods without K and "
            "the bare steps are level lines, at the study's own setting. Memory is of each method alone, over what the "
            f"process held before.{where}{_left_out(sized)}"
        )
        draw = partial(_by_num_negatives, bench, style)
        found.append(Drawing(f"{slug}-num-negatives", f"Cost by K: {bench.study}", caption, draw))
    sized = [row for _, row in bench.by_batch_size]
    if len({row.batch_size for row in sized if row.is_timed}) > 1:
        caption = (
            "Time a step takes for each image of its batch, with quartiles of the rounds, and its ratio to the bare "
            "step of the same rounds, with the 95% bootstrap interval, cut at the axis. K is the study's."
            f"{where}{_left_out(sized)}"
        )
        draw = partial(_by_batch_size, bench, style)
        found.append(Drawing(f"{slug}-batch-size", f"Cost by batch size: {bench.study}", caption, draw))
    return found


def _left_out(rows: Sequence[BenchRow]) -> str:
    lost = [_sized_name(row) for row in rows if row.out_of_memory]
    return f" Out of memory: {', '.join(lost)}." if lost else ""


def _sized_name(row: BenchRow) -> str:
    return f"{row.name} (K = {row.num_negatives:,})" if row.num_negatives else row.name


def _parts(bench: Bench, stepped: Sequence[BenchRow]) -> Canvas:
    canvas, axes = plt.subplots(figsize=(10.5, 1.6 + 0.5 * len(stepped)))
    colours = dict(zip(bench.part_names, sns.color_palette("colorblind", len(bench.part_names)), strict=True))
    colours["rest"] = REST
    longest = max(sum(_parts_of(bench, row).values()) for row in stepped)
    drawn = [part for part in bench.part_names if any(part in _parts_of(bench, row) for row in stepped)]
    for place, row in enumerate(stepped):
        left = 0.0
        for part, length in _parts_of(bench, row).items():
            hatch = HATCHES[bench.part_names.index(part) % len(HATCHES)]
            look = {"color": colours[part], "hatch": hatch, "edgecolor": "white", "linewidth": 0.6}
            axes.barh(place, length, left=left, height=0.7, **look)
            if length > READABLE * longest:
                box = {"facecolor": colours[part], "edgecolor": "none", "pad": 1.2}
                middle = left + length / 2
                ink = "black" if np.mean(colours[part]) > LIGHT else "white"
                axes.text(middle, place, _short(length), ha="center", va="center", color=ink, size=9, bbox=box)
            left += length
        axes.text(left + 0.008 * longest, place, f"{_short(left)} ms", va="center", size=9)
    axes.set_yticks(range(len(stepped)), [row.name for row in stepped])
    axes.set_ylim(len(stepped) - 0.5, -0.5)
    axes.set_xlim(0, 1.09 * longest)
    axes.set_xlabel("step, ms")
    axes.grid(axis="y", visible=False)
    handles = [
        Patch(facecolor=colours[part], edgecolor="white", hatch=HATCHES[bench.part_names.index(part)]) for part in drawn
    ]
    canvas.legend(handles, [PART_TITLES.get(part, part) for part in drawn], loc="outside upper center", ncols=5)
    return canvas


def _parts_of(bench: Bench, row: BenchRow) -> dict[str, float]:
    """Milliseconds by part."""
    medians = {part: 1e3 * part_median(row, part) for part in bench.part_names}
    return {part: median for part, median in medians.items() if median > 0}


def _by_num_negatives(bench: Bench, style: Style) -> Canvas:
    canvas, panels = plt.subplots(1, 3, figsize=(14, 4.6))
    names = list(dict.fromkeys(row.name for _, row in bench.by_num_negatives))
    for name in names:
        look = _look(style, name)
        mine = [(g, s, s.num_negatives or 0) for g, s in bench.by_num_negatives if s.name == name]
        _line(panels[0], [(size, *_quartiles(s, 1e3)) for _, s, size in mine], look)
        _line(panels[1], [(size, *_over_bare(g, s)) for g, s, size in mine], look)
        _line(panels[2], [(size, _peak(s), _peak(s), _peak(s)) for _, s, size in mine], look)
    level = [s for s in bench.main.rows if s.kind != "matrices" and s.name not in names and not s.out_of_memory]
    for number, row in enumerate(level):
        look = {"color": style.colours[row.name] if row.is_method else GREY, "label": row.name}
        look |= {"linestyle": LINES[1 + number % (len(LINES) - 1)], "linewidth": 1.4}
        for axes, value in zip(panels, (1e3 * row.median, _over_bare(bench.main, row)[0], _peak(row)), strict=True):
            if math.isfinite(value):
                axes.axhline(value, **look)
    sizes = sorted({row.num_negatives or 0 for _, row in bench.by_num_negatives})
    for axes, title in zip(panels, ("step, ms", "step / bare step", "peak memory, MiB"), strict=True):
        axes.set_ylabel(title)
        _size_axis(axes, sizes, "K, number of negatives")
        _mark_lost(axes, [row for _, row in bench.by_num_negatives if row.out_of_memory])
    logarithmic(panels[0])
    logarithmic(panels[2])
    add_legend(canvas, panels[0], len(names) + len(level))
    return canvas


def _by_batch_size(bench: Bench, style: Style) -> Canvas:
    canvas, (time, ratio) = plt.subplots(1, 2, figsize=(12, 4.6))
    groups = [group for group in bench.groups if group.kind in ("study", "batch_size")]
    stepped = [(g, s) for g in groups for s in g.rows if s.kind != "matrices"]
    stepped.sort(key=lambda pair: pair[1].batch_size)
    bares = [row.name for row in bench.main.rows if row.kind == "bare"]
    names = [*bench.methods, *bares]
    for place, name in enumerate(names):
        mine = [(g, s, s.batch_size) for g, s in stepped if s.name == name]
        aside = 2 ** (0.05 * (place - (len(names) - 1) / 2))  # so that bars do not cover each other
        look = _look(style, name) if name not in bares else {"color": GREY, "marker": "", "label": name}
        if name in bares:
            look["linestyle"] = LINES[1 + bares.index(name) % (len(LINES) - 1)]
        _line(time, [(aside * size, *_quartiles(s, 1e6 / size)) for _, s, size in mine], look)
        _line(ratio, [(aside * size, *_over_bare(g, s)) for g, s, size in mine], look)
    for axes, title in ((time, "µs an image"), (ratio, "step / bare step")):
        axes.set_ylabel(title)
        _size_axis(axes, sorted({row.batch_size for _, row in stepped}), "batch size, images a step")
    logarithmic(time)
    _around_medians(ratio, [_over_bare(group, row)[0] for group, row in stepped])
    add_legend(canvas, time, len(names))
    return canvas


def _look(style: Style, name: str) -> dict[str, Any]:
    marker = MARKERS[list(style.colours).index(name) % len(MARKERS)]
    return {"color": style.colours[name], "marker": marker, "linestyle": "-", "label": name}


def _line(axes: Axes, points: Sequence[Point], look: dict[str, Any]) -> None:
    known = [point for point in points if math.isfinite(point[1])]
    if known:
        x, y, low, high = (np.array(column, float) for column in zip(*known, strict=True))
        axes.errorbar(x, y, yerr=[y - low, high - y], markersize=6, capsize=2, elinewidth=1, **look)


def _quartiles(row: BenchRow, unit: float) -> tuple[float, float, float]:
    """Median, first and third quartile of the step's seconds times `unit`."""
    if not len(row.seconds):
        return math.nan, math.nan, math.nan
    first, middle, third = np.percentile(unit * row.seconds, (25, 50, 75)).tolist()
    return middle, first, third


def _over_bare(group: GroupRows, row: BenchRow) -> tuple[float, float, float]:
    """The ratio to the bare step of the same rounds, and its interval; nan where there is none, as for bare steps."""
    interval = group.ratio(row, row.bare_name)
    return (interval.centre, interval.low, interval.high) if interval else (math.nan, math.nan, math.nan)


def _peak(row: BenchRow) -> float:
    """MiB; nan where it is unknown, and 0, which no logarithmic axis has, counts as unknown."""
    return (row.facts.get("peak_memory_bytes") or math.nan) / MIB


def _size_axis(axes: Axes, sizes: Sequence[int], title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize="small")
    axes.set_xlabel(title)


def _around_medians(axes: Axes, medians: Sequence[float]) -> None:
    """A linear vertical axis that one disturbed row's interval does not stretch; it is cut there."""
    known = [median for median in medians if math.isfinite(median)]
    if known:
        margin = 0.05 + 2 * (max(known) - min(known))
        axes.set_ylim(min(known) - margin, max(known) + margin)


def _mark_lost(axes: Axes, lost: Sequence[BenchRow]) -> None:
    """A cross above the axes at each K, with the names of those whose first it is."""
    transform, named = axes.get_xaxis_transform(), set[str]()
    for size in sorted({row.num_negatives or 0 for row in lost}):
        axes.plot(size, 1.035, marker="X", color="black", markersize=7, transform=transform, clip_on=False)
        names = [s.name for s in lost if s.num_negatives == size and s.name not in named]
        named.update(names)
        if names:
            told = f"out of memory: {', '.join(names)}  "
            axes.text(size, 1.035, told, transform=transform, ha="right", va="center", size=9)


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 10 else f"{milliseconds:.1f}"
