"""Diagnostics of the representation over training."""

from negbench.report.figures.common.panels import panels
from negbench.report.figures.common.style import Drawing, Style
from negbench.report.read.comparisons import Comparison
from negbench.report.tables.diagnostics import OF_REPRESENTATION
from negbench.settings.plugins.facts import Figure

FIGURE = Figure(section="diagnostics", title="Representation over training", place=20)


def drawing(comparison: Comparison, style: Style) -> Drawing | None:
    return panels(comparison, lambda row: [None], OF_REPRESENTATION, style)
