"""Reports of run folders, and their tables' cells."""

from pathlib import Path

from negbench.report import build as building
from negbench.report.read.runs import find, load
from negbench.report.sections import Report
from negbench.report.tables.base import Table

# A program: `negbench ARGUMENTS`, and then which of these libraries it has loaded.
LOADED = """
import sys
from negbench.cli.main import app
try:
    app(sys.argv[1:])
finally:
    print("loaded:", *(name for name in ("torch", "matplotlib", "seaborn", "pandas") if name in sys.modules))
"""


def build(output: Path, baseline: str | None = None, targets: tuple[float, ...] = ()) -> Report:
    return building.build(load(find([], output)), baseline, targets)


def cells(table: Table, row: str) -> dict[str, str]:
    """Text by column."""
    (line,) = [line for line in table.rows if line[0].text == row]
    return {column: cell.text for column, cell in zip(table.columns, line, strict=True)}


def table(report: Report, start: str) -> Table:
    """The one whose slug starts so."""
    (found,) = [table for table in report.tables if table.slug.startswith(start)]
    return found
