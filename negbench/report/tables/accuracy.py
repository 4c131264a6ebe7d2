"""Accuracy: means over seeds, and differences to a baseline."""

from collections.abc import Sequence

import pandas as pd

from negbench.report import text
from negbench.report.read.circumstances import confounded
from negbench.report.read.comparisons import Comparison, own_values, told
from negbench.report.read.grouping import grouped
from negbench.report.read.statistics import Difference, paired_difference, t_interval, with_holm
from negbench.report.tables.base import (
    Cell,
    CsvRow,
    Table,
    about,
    difference_cell,
    difference_columns,
    interval_columns,
    seeds,
)
from negbench.runtime import words
from negbench.settings.plugins.protocols import NAMED

PUBLISHED = {protocol.figure: protocol for protocol in NAMED.values()}  # for comparison with published figures
WITHOUT_DIFFERENCE = ("knn200_top1", *PUBLISHED)
METRICS = {  # of summary.json, with what a reader calls them
    "knn_top1": "kNN",
    "linear_top1": "linear",
    "knn200_top1": "kNN, k = 200",
    "knn_top1_validation": "held-out kNN",
    **{figure: protocol.title for figure, protocol in PUBLISHED.items()},
}
LOWER_BOUNDS = {
    "knn_top1_untrained": "untrained encoder",
    "knn_top1_pixels": "raw pixels",
    "knn_top1_histogram": "colour histograms",
}


def main_metric(comparison: Comparison) -> str | None:
    """Return the main figure of a comparison: kNN on the test set, or else on held-out images."""
    known = [name for name in metrics_of(comparison) if name not in PUBLISHED]
    return known[0] if known else None


def metrics_of(comparison: Comparison) -> list[str]:
    """Return the figures that a run has. The held-out figure is among them only if the test set was not used."""
    known = [name for name in METRICS if any(row.by_seed(name) for row in comparison.rows)]
    tested = [name for name in known if name != "knn_top1_validation"]
    return tested or known


def accuracy(comparison: Comparison, baseline: str) -> Table:
    """Return the table of means with 95% t intervals over seeds, and of differences to the baseline, paired by seed."""
    metrics = metrics_of(comparison)
    columns, cells = ["method", "seeds"], [[Cell(row.label), seeds(row)] for row in comparison.rows]
    csv_rows: list[CsvRow] = []
    for metric in metrics:
        has_difference = metric not in WITHOUT_DIFFERENCE
        intervals = [t_interval(list(row.by_seed(metric).values())) for row in comparison.rows]
        differences = differences_to_baseline(comparison, metric, baseline)
        columns += [f"{METRICS[metric]}, %", *([f"{METRICS[metric]} − {baseline}"] if has_difference else [])]
        for row, interval, line in zip(comparison.rows, intervals, cells, strict=True):
            line.append(Cell(text.percent(interval), interval.centre))
            csv_row = about(comparison, row) | {"metric": metric} | interval_columns(interval)
            states = " ".join(run.state for run in row.unused)
            csv_rows.append(csv_row | {"without_result": len(row.unused), "states": states})
            if not has_difference:
                continue
            if row.label not in differences:
                line.append(Cell("baseline" if baseline in (row.label, row.method) else words.NOTHING))
                continue
            difference = differences[row.label]
            other = comparison.baseline_of(row, baseline)
            assert other is not None
            which = f" to {other.label}" if other.label not in (baseline, other.method) else ""
            mixed = words.listed(list(confounded(row.runs, other.runs)))
            which += f", confounded with {mixed}" if mixed else ""
            line.append(difference_cell(difference, which))
            csv_rows[-1] |= {"baseline": other.label} | difference_columns(difference)
    note = (
        "Top-1 accuracy, mean ± half of the 95% t interval over seeds. Differences in points, paired by seed, with "
        "their 95% interval; bold: beyond chance at 5% after Holm's correction over the rows of the column, which "
        "a difference that is the same in every seed cannot be tested for. "
    )
    if metrics == ["knn_top1_validation"]:
        note += "The test set was left alone: figures are of the held-out training images. "
    elif metrics:
        selection = selection_note(metrics)
        note += f"Test set, final checkpoint{', but for what follows' if selection else ', used once'}. {selection}"
    note += _lower_bounds(comparison) + _own_settings(comparison)
    title = f"Accuracy: {comparison.title}"
    table = Table(f"accuracy-{comparison.slug}", title, note, columns, cells, pd.DataFrame(csv_rows))
    return table.without_empty_columns()


def selection_note(metrics: Sequence[str]) -> str:
    """Return a sentence on the figures that were chosen on the test set, or nothing."""
    chosen = [PUBLISHED[name].title for name in metrics if name in PUBLISHED and PUBLISHED[name].every_epoch]
    return f"Chosen on the test set, and so too high: {words.listed(chosen)}. " if chosen else ""


def differences_to_baseline(comparison: Comparison, metric: str, baseline: str) -> dict[str, Difference]:
    """Return the paired differences by row's label, corrected over these rows."""
    differences = {}
    for row in comparison.rows:
        other = comparison.baseline_of(row, baseline)
        if other is not None:
            difference = paired_difference(row.by_seed(metric), other.by_seed(metric))
            if difference.n:
                differences[row.label] = difference
    return with_holm(differences)


def _own_settings(comparison: Comparison) -> str:
    """Name the study's own values of the settings that labels of other rows show."""
    parts = []
    for method, rows in grouped(comparison.rows, lambda row: row.method).items():
        if own := own_values(rows):
            parts.append(f"{method} has {told(own, own)}")
    return f" Where its label does not say otherwise, {words.listed(parts)}." if parts else ""


def _lower_bounds(comparison: Comparison) -> str:
    parts = []
    for metric, title in LOWER_BOUNDS.items():
        by_seed = {seed: value for row in comparison.rows for seed, value in row.by_seed(metric).items()}
        if by_seed:
            parts.append(f"{title} {text.percent(t_interval(list(by_seed.values())))}")
    return f"kNN without training: {', '.join(parts)}." if parts else ""
