"""Cost: what rows take on one kind of hardware, and what they spend until they reach an accuracy."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from negbench.report import text
from negbench.report.read.comparisons import Comparison, Row
from negbench.report.read.runs import Floats, Run, cumulative
from negbench.report.read.statistics import Interval, median_interval, paired_ratio, quartiles
from negbench.report.tables.base import Cell, CsvRow, Table, about, interval_columns, quartile_columns, seeds
from negbench.runtime import words

RESOURCES = {  # what a run's curve is drawn and a target is reached in: the title, and one shown unit
    "train_seconds": ("training, min", 60),
    "device_hours": ("device-hours", 1),
    "views": ("views, millions", 1e6),
}
# of summary.json: the title, one shown unit, and what is made of several runs
_FIGURES: dict[str, tuple[str, int, Callable[..., Any]]] = {
    "images_per_second": ("images/s", 1, np.median),
    "views_per_second": ("views/s", 1, np.median),
    "views_per_step": ("views a step", 1, np.median),
    "device_hours": ("device-hours", 1, np.median),
    "end_to_end_seconds": ("end to end, min", 60, np.median),
    "energy_joules": ("energy, kJ", 1000, np.median),
    "peak_memory_bytes": ("peak memory, MiB", 2**20, np.max),
    "peak_reserved_bytes": ("reserved, MiB", 2**20, np.max),
    "negatives_per_query": ("negatives a query", 1, np.median),
    "source_state_bytes": ("their state, MiB", 2**20, np.max),
    "received_bytes_per_step": ("received a step, KiB", 2**10, np.max),
}


def cost(comparison: Comparison, baseline: str) -> Table:
    """Return the table of what each row takes. `comparison` is of one kind of hardware."""
    columns = ["method", "seeds", "s an epoch", f"time / {baseline}", *(title for title, _, _ in _FIGURES.values())]
    cells, csv_rows = [], []
    for row in comparison.rows:
        seconds = np.concatenate([np.array([]), *(_epoch_seconds(run) for run in row.runs)])
        of_epochs = quartiles(seconds)
        against = time_ratio(comparison, row, baseline)
        figures = {name: _joined(row.runs, name) for name in _FIGURES}
        wait = max((float(run.summary["data_wait_share"] or 0) for run in row.runs), default=0.0)
        bound = any(run.summary.get("loader_bound") for run in row.runs)
        csv_row: CsvRow = about(comparison, row) | {"hardware": comparison.hardware, "runs": len(row.runs)}
        csv_row |= {"epochs": len(seconds)} | quartile_columns(of_epochs, "epoch_seconds") | figures
        csv_row |= interval_columns(against, "ratio") if against else {}
        csv_rows.append(csv_row | {"data_wait_share": wait, "loader_bound": bound})
        nothing = "baseline" if baseline in (row.label, row.method) else words.NOTHING
        cells.append(
            [
                Cell(row.label),
                seeds(row),
                Cell(text.amount(of_epochs), of_epochs.centre),
                Cell(text.ratio(against), against.centre) if against else Cell(nothing),
                *(Cell(words.number(figures[name] / unit), figures[name]) for name, (_, unit, _) in _FIGURES.items()),
                Cell(f"{wait:.1%}" + (" loader-bound" if bound else "") if row.runs else words.NOTHING, wait),
            ]
        )
    note = (
        f"{comparison.hardware}. Seconds an epoch: median [quartiles] over the epochs after each run's first, without "
        "evaluations and checkpoints; their ratio: geometric mean over seeds, with its 95% interval. Speeds, "
        "device-hours, energy and the time end to end (with evaluations, checkpoints and repeated steps): median over "
        "runs; memory: the largest. Views are those back-propagated. Received: by one process, for the negatives "
        "alone. Loader-bound: over 5% of the time spent waiting for data."
    )
    columns.append("data wait")
    table = Table(f"cost-{comparison.slug}", f"Cost: {comparison.title}", note, columns, cells, pd.DataFrame(csv_rows))
    return table.without_empty_columns()


def default_target(comparison: Comparison, baseline: str) -> float | None:
    """Return the median over seeds of the baseline's final held-out accuracy.

    None without a baseline or curves, and where runs of the baseline are of different code.
    """
    rows = [row for row in comparison.rows if baseline in (row.label, row.method)]
    if any(not row.may_meet(rows[0]) for row in rows):
        return None
    final = [float(run.curve["knn_top1"][-1]) for row in rows for run in row.runs if run.curve]
    return median_interval(final).centre if final else None


def time_to_target(comparison: Comparison, targets: Sequence[float], whose: str) -> Table | None:
    """Return what each row took until its curve first reached an accuracy. None if there is no curve or no target.

    A run that failed, as one that diverged, is a miss. `whose` says where targets come from, for the note.
    """
    if not targets or not any(run.curve for run in comparison.runs):
        return None
    columns = ["method", "target, %", "reached", *(title for title, _ in RESOURCES.values())]
    cells, csv_rows = [], []
    for target in targets:
        for row in comparison.rows:
            runs = [run for run in row.runs if run.curve]
            failed = [math.inf for run in row.unused if run.state == "failed"]
            spent = {
                name: median_interval([first_reached(run, target, name) for run in runs] + failed) for name in RESOURCES
            }
            reached = sum(math.isfinite(first_reached(run, target, "views")) for run in runs)
            tried, unknown = len(runs) + len(failed), len(row.unused) - len(failed)
            told = f"{reached} of {tried}" + (f", {unknown} without a result" if unknown else "")
            line = [Cell(row.label), Cell(f"{100 * target:.1f}", target), Cell(told, reached)]
            line += [Cell(text.amount(spent[name], unit), spent[name].centre) for name, (_, unit) in RESOURCES.items()]
            cells.append(line)
            csv_row: CsvRow = about(comparison, row) | {"hardware": comparison.hardware, "target": target}
            csv_row |= {"reached": reached, "runs": tried, "without_result": unknown}
            csv_rows.append(
                csv_row | {k: v for name, i in spent.items() for k, v in interval_columns(i, name, "median").items()}
            )
    note = (
        f"{comparison.hardware}. Until the kNN accuracy on held-out images first reached the target: median over "
        "seeds [95% percentile bootstrap interval: up to five seeds their range, which holds the true median 75% of "
        f"the time with three and 94% with five]; ∞: not reached, or failed. {whose}"
    )
    title = f"Time to target: {comparison.title}"
    return Table(f"targets-{comparison.slug}", title, note, columns, cells, pd.DataFrame(csv_rows))


def first_reached(run: Run, target: float, resource: str) -> float:
    """Return what `run` had spent when its curve first reached `target`; infinity if it did not."""
    reached = np.flatnonzero(run.curve["knn_top1"] >= target)
    return float(cumulative(run, resource)[reached[0]]) if len(reached) else math.inf


def time_ratio(comparison: Comparison, row: Row, baseline: str) -> Interval | None:
    """Return the seconds an epoch of `row` over those of its baseline. None for the baseline itself."""
    other = comparison.baseline_of(row, baseline)
    return paired_ratio(_epoch_medians(row), _epoch_medians(other)) if other else None


def _epoch_seconds(run: Run) -> Floats:
    """Without the first epoch, in which kernels are chosen and memory is taken, if there are others."""
    return run.epoch_seconds[1:] if len(run.epoch_seconds) > 1 else run.epoch_seconds


def _epoch_medians(row: Row) -> dict[int, float]:
    return {run.seed: float(np.median(_epoch_seconds(run))) for run in row.runs if len(run.epoch_seconds)}


def _joined(runs: Sequence[Run], name: str) -> float:
    """Return one figure of several runs; nan if none has it."""
    values = [float(value) for run in runs if (value := _told(run, name)) is not None]
    return float(_FIGURES[name][2](values)) if values else math.nan


def _told(run: Run, name: str) -> float | None:
    if name == "received_bytes_per_step":
        return float(run.summary["communicated_bytes_per_step"]["negatives"])
    if name == "end_to_end_seconds":
        parts = ("train_seconds", "eval_seconds", "checkpoint_seconds", "lost_seconds")
        return sum(float(run.summary[part]) for part in parts)
    value = run.summary[name]
    return None if value is None else float(value)
