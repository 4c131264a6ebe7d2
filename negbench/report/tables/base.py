"""A table for a reader, and the numbers behind it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from negbench.report import text
from negbench.report.read.comparisons import Comparison, Row
from negbench.report.read.statistics import Difference, Interval
from negbench.runtime import words

CsvRow = dict[str, Any]  # a line of a table's CSV file, by column


@dataclass(frozen=True)
class Cell:
    text: str
    value: float | str | None = None  # what sorting goes by; None: the text
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """`data` is written as CSV; `rows` are what a reader sees of it."""

    slug: str
    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    data: pd.DataFrame = field(default_factory=pd.DataFrame)

    def without_empty_columns(self) -> "Table":
        """Return the table without the columns in which nothing is known."""
        kept = [i for i in range(len(self.columns)) if any(row[i].text != words.NOTHING for row in self.rows)]
        rows = [[row[i] for i in kept] for row in self.rows]
        return Table(self.slug, self.title, self.note, [self.columns[i] for i in kept], rows, self.data)


def about(comparison: Comparison, row: Row) -> CsvRow:
    """Return the columns that name a row."""
    return {"study": comparison.study, "comparison": comparison.title, "row": row.label, "method": row.method}


def interval_columns(interval: Interval, name: str = "", centre: str = "mean") -> CsvRow:
    """Return `NAME_mean`, `NAME_low`, `NAME_high` and `NAME_n`."""
    prefix = f"{name}_" if name else ""
    values = {centre: interval.centre, "low": interval.low, "high": interval.high, "n": interval.n}
    return {prefix + key: value for key, value in values.items()}


def difference_columns(difference: Difference) -> CsvRow:
    return interval_columns(difference, "difference") | {"p": difference.p, "p_holm": difference.p_holm}


def difference_cell(difference: Difference, note: str = "") -> Cell:
    """Return a difference in points, bold if it is beyond chance."""
    return Cell(text.points(difference) + note, difference.centre, difference.is_beyond_chance)


def quartile_columns(quartiles: Interval, name: str) -> CsvRow:
    """Return `NAME_q1`, `NAME_median` and `NAME_q3`."""
    return {f"{name}_q1": quartiles.low, f"{name}_median": quartiles.centre, f"{name}_q3": quartiles.high}


def seeds(row: Row) -> Cell:
    return Cell(row.seeds, len(row.runs))
