"""The number of runs of each row."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure as Canvas

from negbench.report.figures.common.style import Drawing, Style
from negbench.report.read.comparisons import Comparison
from negbench.settings.plugins.facts import Figure

FIGURE = Figure(section="comparison", title="Toy runs", place=50)


def drawing(comparison: Comparison, style: Style) -> Drawing | None:
    if not comparison.runs:
        return None

    def draw() -> Canvas:
        canvas, axes = plt.subplots()
        axes.barh([row.label for row in comparison.rows], [len(row.runs) for row in comparison.rows])
        return canvas

    return Drawing("A bar for each row.", draw)
