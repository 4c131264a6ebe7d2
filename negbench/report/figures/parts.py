"""The parts of a step, stacked in a bar for each method and bare step."""

import itertools
from collections.abc import Sequence
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from negbench.report.figures.common.steps import where_sentence
from negbench.report.figures.common.style import Drawing, Style
from negbench.report.read.benches import Bench, BenchRow
from negbench.report.tables.bench import PART_TITLES, part_median
from negbench.settings.plugins.facts import Figure

FIGURE = Figure(section="bench", title="Parts of a step", place=10)
HATCHES = ("", "//", "..", "xx", "", "\\\\", "++", "oo", "--", "")  # by part
READABLE = 0.045  # of the axis: the narrowest bar that a number is written into
REST = (0.82, 0.82, 0.82)
LIGHT = 0.6  # mean of red, green and blue from which on a bar's number is black


def drawing(bench: Bench, style: Style) -> Drawing | None:
    stepped = [row for row in bench.main.rows if row.kind != "matrices" and row.is_timed]
    if not stepped:
        return None
    caption = (
        "The parts of a step, each without the parts inside it. A bare step is the encoder's a + b forward passes "
        "of queries and keys, backward and optimizer on one fixed batch; a number in a bar is the part's "
        f"milliseconds.{where_sentence(bench, bench.main.rows)}"
    )
    return Drawing(caption, partial(_draw, bench, stepped))


def _draw(bench: Bench, stepped: Sequence[BenchRow]) -> Canvas:
    canvas, axes = plt.subplots(figsize=(10.5, 1.6 + 0.5 * len(stepped)))
    colours = dict(zip(bench.record.parts, sns.color_palette("colorblind", len(bench.record.parts)), strict=True))
    colours["rest"] = REST
    hatches = dict(zip(bench.record.parts, itertools.cycle(HATCHES), strict=False))
    longest = max(sum(_parts_of(bench, row).values()) for row in stepped)
    drawn = [part for part in bench.record.parts if any(part in _parts_of(bench, row) for row in stepped)]
    for place, row in enumerate(stepped):
        left = 0.0
        for part, length in _parts_of(bench, row).items():
            look = {"color": colours[part], "hatch": hatches[part], "edgecolor": "white", "linewidth": 0.6}
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
    handles = [Patch(facecolor=colours[part], edgecolor="white", hatch=hatches[part]) for part in drawn]
    canvas.legend(handles, [PART_TITLES.get(part, part) for part in drawn], loc="outside upper center", ncols=5)
    return canvas


def _parts_of(bench: Bench, row: BenchRow) -> dict[str, float]:
    """Milliseconds by part."""
    medians = {part: 1e3 * part_median(row, part) for part in bench.record.parts}
    return {part: median for part, median in medians.items() if median > 0}


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 10 else f"{milliseconds:.1f}"
