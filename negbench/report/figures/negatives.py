"""Diagnostics of the negatives over training, by source."""

from negbench.report.figures.common.panels import panels
from negbench.report.figures.common.style import Drawing, Style
from negbench.report.read.comparisons import Comparison
from negbench.report.tables.diagnostics import ALL, OF_SOURCES, sources_of
from negbench.settings.plugins.facts import Figure

FIGURE = Figure(section="diagnostics", title="Negatives over training", place=10)
DRAWN = (
    *("effective_negatives", "mass_share", "top10_cosine", "mean_cosine"),
    *("false_negative_mass", "tracking", "staleness", "angle_degrees"),
)


def drawing(comparison: Comparison, style: Style) -> Drawing | None:
    figures = {name: OF_SOURCES[name] for name in DRAWN}
    return panels(comparison, lambda row: [name for name in sources_of(row) if name != ALL], figures, style)
