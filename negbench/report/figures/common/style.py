"""The look of figures. Each is written as PNG, SVG and PDF.

A method has one colour in all of them; rows of one method differ in marker and line. No difference is in colour alone.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # before pyplot: a report needs no screen

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, NullFormatter

from negbench.report.read.comparisons import Row
from negbench.settings.plugins.find import list_methods

FORMATS = ("png", "svg", "pdf")
MARKERS = "osD^vPX*<>"
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
_RC = {
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "negbench",  # the same records give the same bytes
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "legend.frameon": False,
    "legend.fontsize": "small",
}


@dataclass(frozen=True)
class Drawing:
    """A figure that is not drawn yet."""

    caption: str
    draw: Callable[[], Canvas]


class Style:
    """Colours by method, over all figures of a report; markers and lines by row within a method."""

    def __init__(self, methods: Sequence[str]) -> None:
        known = sorted(list_methods())
        names = [*known, *sorted(set(methods) - set(known))]
        palette = itertools.cycle(sns.color_palette("colorblind"))
        self.colours = dict(zip(names, palette, strict=False))

    def of(self, rows: Sequence[Row]) -> Iterator[tuple[Row, Any, str, Any]]:
        """Yield each row with its colour, marker and line."""
        numbers: dict[str, int] = {}
        for row in rows:
            place = numbers[row.method] = numbers.get(row.method, -1) + 1
            marker = MARKERS[(list(self.colours).index(row.method) + place) % len(MARKERS)]
            yield row, self.colours[row.method], marker, LINES[place % len(LINES)]


def write(draw: Callable[[], Canvas], slug: str, folder: Path) -> dict[str, Path]:
    """Draw a figure and write it in all formats. Return the paths by format."""
    sns.set_theme(context="notebook", style="whitegrid", rc=_RC)
    canvas = draw()
    paths = {name: folder / f"{slug}.{name}" for name in FORMATS}
    for name, path in paths.items():
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(name)
        canvas.savefig(path, dpi=150, metadata=metadata)
    plt.close(canvas)
    return paths


def logarithmic(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with round numbers at its ticks."""
    axes.set_yscale("log")
    round_numbers(axes.yaxis)


def round_numbers(axis: Axis) -> None:
    """Write round numbers at the ticks of a logarithmic axis."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_major_formatter(lambda place, _: f"{place:,.6g}")
    axis.set_minor_formatter(NullFormatter())


def add_legend(canvas: Canvas, axes: Axes, count: int) -> None:
    """Add a legend above the figure, which grows by its lines."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    columns = max(1, min(count, int(canvas.get_figwidth() * 12 / (longest + 6))))
    canvas.set_figheight(canvas.get_figheight() + 0.2 * (math.ceil(count / columns) - 1))
    canvas.legend(handles, labels, loc="outside upper center", ncols=columns)
