"""What negatives and representation were like, by row and source; docs/diagnostics.md explains each figure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from negbench.report.read.comparisons import Comparison, Row
from negbench.report.read.runs import Run
from negbench.report.read.statistics import Interval, t_interval
from negbench.report.tables.base import Cell, Table, about, interval_columns
from negbench.runtime import words

ALL = "all"
COLLAPSED_SPREAD = 0.1


@dataclass(frozen=True)
class Quantity:
    title: str
    unit: float = 1  # what is shown as 1


OF_SOURCES = {
    "negatives": Quantity("negatives"),
    "effective_negatives": Quantity("effective number"),
    "mass_share": Quantity("softmax share, %", 0.01),
    "mean_cosine": Quantity("mean cosine"),
    "top10_cosine": Quantity("ten nearest, cosine"),
    "top1_cosine": Quantity("nearest, cosine"),
    "false_negative_rate": Quantity("own class, %", 0.01),
    "false_negative_mass": Quantity("own class, % of softmax", 0.01),
    "own_image_share": Quantity("own image, %", 0.01),
    "tracking": Quantity("tracking"),
    "staleness": Quantity("staleness, cosine"),
    "oldest_age": Quantity("oldest, steps"),
    "angle_degrees": Quantity("angle a step, °"),
    "duplicates": Quantity("duplicates, %", 0.01),
}
OF_REPRESENTATION = {
    "alignment": Quantity("alignment"),
    "uniformity": Quantity("uniformity"),
    "spread": Quantity("spread"),
    "effective_rank": Quantity("effective rank"),
}


def sources_of(row: Row) -> list[str]:
    """Return the names of its sources of negatives, with `all` last if there are several. Empty without diagnostics."""
    rows = [record for run in row.runs for record in run.diagnostics]
    return list(dict.fromkeys(name for record in rows for name in record.get("sources", {})))


def value(record: Mapping[str, Any], figure: str, source: str | None) -> float | None:
    """Return one figure of a record, of `source` or of the representation. None if it is unknown."""
    figures = record if source is None else record.get("sources", {}).get(source, {})
    known = figures.get(figure)
    return float(known) if isinstance(known, int | float) else None


def at_the_end(row: Row, figure: str, source: str | None = None) -> Interval:
    """Return the mean over seeds of the last evaluation's figure, with its t interval."""
    last = [value(run.diagnostics[-1], figure, source) for run in row.runs if run.diagnostics]
    return t_interval([known for known in last if known is not None])


def diagnostic_tables(comparison: Comparison) -> list[Table]:
    """Return tables of negatives and representation at the end of training. Empty without diagnostics."""
    described = [row for row in comparison.rows if any(run.diagnostics for run in row.runs)]
    if not described:
        return []
    negatives = [(row, source) for row in described for source in sources_of(row)]
    note = (
        "Means over seeds at the last evaluation, on fixed training images in evaluation mode; the CSV has their 95% t "
        "intervals. Effective number: exponential of the entropy of the softmax over the negatives. Own class: false "
        "negatives; for learned vectors the class of the nearest training image. Tracking: 1 if the negatives are "
        "distributed as the current keys. Staleness: cosine between an image's key now and when it entered the queue, "
        "mean over the queue's ages. Duplicates: adversaries that have another one at a cosine of 0.99 or more."
    )
    found = []
    if negatives:
        found.append(_table("negatives", "Negatives", comparison, negatives, OF_SOURCES, note))
    note = (
        "Means over seeds at the last evaluation, on fixed training images in evaluation mode. Two views' embeddings: "
        "alignment (mean squared distance), uniformity (0: all equal), spread (0: collapsed, 1: as on the sphere), "
        "effective rank (1: collapsed). They tell a collapse; they do not rank methods."
    )
    rows: list[tuple[Row, str | None]] = [(row, None) for row in described]
    return [*found, _table("representation", "Representation", comparison, rows, OF_REPRESENTATION, note)]


def _table(
    slug: str,
    title: str,
    comparison: Comparison,
    lines: Sequence[tuple[Row, str | None]],
    figures: Mapping[str, Quantity],
    note: str,
) -> Table:
    with_source = any(source is not None for _, source in lines)
    columns = ["method", *(["source"] if with_source else []), *(figure.title for figure in figures.values())]
    cells, csv_rows = [], []
    for row, source in lines:
        line, csv_row = [Cell(row.label)], about(comparison, row)
        if source is not None:
            line.append(Cell(source))
            csv_row |= {"source": source}
        for name, figure in figures.items():
            interval = at_the_end(row, name, source)
            line.append(Cell(words.number(interval.centre / figure.unit), interval.centre))
            csv_row |= interval_columns(interval, name)
        cells.append(line)
        csv_rows.append(csv_row)
    title = f"{title}: {comparison.title}"
    table = Table(f"{slug}-{comparison.slug}", title, note, columns, cells, pd.DataFrame(csv_rows))
    return table.without_empty_columns()


def told(row: Row) -> Iterator[str]:
    """Yield a sentence for each source: how many of its negatives count, and how many are of the query's own class."""
    for source in sources_of(row):
        if source == ALL:
            continue
        count, effective, own = (
            at_the_end(row, name, source) for name in ("negatives", "effective_negatives", "false_negative_mass")
        )
        if not count.n or not effective.n:
            continue
        share = at_the_end(row, "mass_share", source)
        part = f" and hold {100 * share.centre:.0f}% of the softmax over all negatives" if share.centre < 0.999 else ""
        classes = f"; {100 * own.centre:.0f}% of their softmax is on the query's own class" if own.n else ""
        yield (
            f"{row.label}, {source}: {words.number(count.centre)} negatives count as "
            f"{words.number(effective.centre)}{part}{classes}."
        )


def has_collapsed(run: Run) -> bool:
    """Return whether the embeddings of different images were almost the same at the last evaluation."""
    spread = value(run.diagnostics[-1], "spread", None) if run.diagnostics else None
    return spread is not None and spread < COLLAPSED_SPREAD


def common_epochs(runs: Sequence[Run], figure: str, source: str | None) -> tuple[list[float], list[list[float]]]:
    """Return the epochs at which every run that knows the figure has it, and its values by run."""
    of_runs = [{float(record["epoch"]): value(record, figure, source) for record in run.diagnostics} for run in runs]
    known_of_runs = [{epoch: v for epoch, v in values.items() if v is not None} for values in of_runs]
    series = [known for known in known_of_runs if known]
    epochs = sorted(set.intersection(*(set(known) for known in series))) if series else []
    return epochs, [[known[epoch] for epoch in epochs] for known in series]
