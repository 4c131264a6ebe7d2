"""Panels of diagnostics over training, with a line for each row, or for each of its sources of negatives."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from negbench.report.figures.common.means import left_out
from negbench.report.figures.common.style import LINES, Drawing, Style, add_legend, logarithmic
from negbench.report.read.comparisons import Comparison, Row
from negbench.report.tables.diagnostics import Quantity, common_epochs, sources_of

ROWS = 8  # lines beyond would cover each other
COLUMNS = 4
LOGARITHMIC = ("effective_negatives", "angle_degrees")
Lines = Sequence[tuple[Row, str | None]]


def panels(
    comparison: Comparison,
    sources: Callable[[Row], Sequence[str | None]],
    figures: Mapping[str, Quantity],
    style: Style,
) -> Drawing | None:
    """Return a panel for each of the `figures` that a row knows, with a line for each row and each of its `sources`."""
    rows = [row for row in comparison.rows if any(run.diagnostics for run in row.runs)]
    lines = [(row, source) for row in rows[:ROWS] for source in sources(row)]
    known = {name: figure for name, figure in figures.items() if _is_known(lines, name)}
    if not known:
        return None
    caption = f"Mean over seeds, thin lines: seeds; on fixed training images, in evaluation mode.{left_out(rows, ROWS)}"
    return Drawing(caption, partial(_panels, lines, known, style))


def _is_known(lines: Lines, name: str) -> bool:
    known = [common_epochs(row.runs, name, source)[1] for row, source in lines]
    if name == "mass_share":  # of one source it is always 1
        return any(value < 1 for series in known for values in series for value in values)
    return any(known)


def _panels(lines: Lines, figures: Mapping[str, Quantity], style: Style) -> Canvas:
    height = -(-len(figures) // COLUMNS)
    width = min(len(figures), COLUMNS)
    canvas, grid = plt.subplots(height, width, figsize=(3.2 * width, 0.9 + 2.7 * height), squeeze=False, sharex=True)
    panels = grid.flatten().tolist()
    rows = {row.label: row for row, _ in lines}
    looks = {row.label: (colour, marker) for row, colour, marker, _ in style.of(list(rows.values()))}
    for axes, (name, figure) in zip(panels, figures.items(), strict=False):
        for row, source in lines:
            if name == "mass_share" and len(sources_of(row)) == 1:
                continue  # 1 by definition
            colour, marker = looks[row.label]
            own = [other for other_row, other in lines if other_row.label == row.label]
            look = {"color": colour, "marker": marker, "linestyle": LINES[own.index(source)]}
            label = row.label if source is None else f"{row.label}: {source}"
            _line(axes, row, source, name, figure, {"label": label, **look})
        axes.set_title(figure.title, fontsize="medium")
        if name in LOGARITHMIC:
            logarithmic(axes)
    for axes in panels[len(figures) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(figures) - width) : len(figures)]:
        axes.set_xlabel("epochs")
        axes.xaxis.set_tick_params(labelbottom=True)
    add_legend(canvas, panels[0], len(lines))
    return canvas


def _line(axes: Axes, row: Row, source: str | None, name: str, figure: Quantity, look: dict[str, Any]) -> None:
    epochs, series = common_epochs(row.runs, name, source)
    values = np.array(series).reshape(len(series), len(epochs)) / figure.unit
    for seed in values if len(series) > 1 else []:
        axes.plot(epochs, seed, color=look["color"], alpha=0.3, linewidth=0.7)
    mean = values.mean(0) if len(series) else []
    axes.plot(epochs if len(series) else [], mean, markevery=max(1, len(epochs) // 6), markersize=5, **look)
