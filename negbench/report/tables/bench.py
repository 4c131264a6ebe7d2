"""Tables of a bench: what a step costs, its parts, and both sweeps."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from negbench.records.crowding import FOR_BENCHES, is_crowded
from negbench.report import text
from negbench.report.read.benches import Bench, BenchRow, GroupRows
from negbench.report.read.statistics import Interval, quartiles
from negbench.report.tables.base import Cell, CsvRow, Table, interval_columns, quartile_columns
from negbench.runtime import words

MIB, GIGA = 2**20, 1e9
PART_TITLES = {  # of span.PARTS, with what a reader calls them
    "views": "views",
    "query_forward": "query forward",
    "key_forward": "key forward",
    "shuffle_gather": "shuffle, gather",
    "loss": "loss, negatives",
    "backward": "backward",
    "optimizer": "optimizer",
    "momentum_update": "key update",
    "refresh": "refresh",
    "rest": "rest",
}
FIGURES = {  # of the record, by column: the name, and one shown unit
    "peak memory, MiB": ("peak_memory_bytes", MIB),
    "reserved, MiB": ("peak_reserved_bytes", MIB),
    "state, MiB": ("source_state_bytes", MIB),
    "negatives a query": ("negatives_per_query", 1),
    "parameters, M": ("parameters", 1e6),
    "GFLOP a step": ("flops", GIGA),
}


def bench_tables(bench: Bench, baseline: str, slug: str) -> list[Table]:
    """Return the tables that the bench has rows for."""
    tables = [_cost(bench, baseline, slug), _parts(bench, slug)]
    if len({row.num_negatives for _, row in bench.by_num_negatives}) > 1:
        note = (
            "K: num_negatives. As in the table of the study's own setting; each K is a group of its own, and "
            f"/ {baseline} is at the same K{_reasons(row for _, row in bench.by_num_negatives)}."
        )
        columns = ["step of", "K", "step, ms", "/ bare", f"/ {baseline}", "loss, ms", "backward, ms", "refresh, ms"]
        columns += ["peak memory, MiB", "reserved, MiB", "state, MiB", "GFLOP a step"]
        made = _rows(bench, bench.by_num_negatives, baseline, columns, note)
        tables.append(Table(f"{slug}-num-negatives", f"A step by the number of negatives: {bench.study}", *made))
    if len({row.images for _, row in bench.by_batch_size}) > 1:
        note = (
            "As in the table of the study's own setting; each batch size is a group of its own"
            f"{_reasons(row for _, row in bench.by_batch_size)}."
        )
        columns = ["step of", "batch", "step, ms", "µs an image", "/ bare", f"/ {baseline}", "images/s"]
        columns += ["peak memory, MiB", "reserved, MiB", "GFLOP a step"]
        made = _rows(bench, bench.by_batch_size, baseline, columns, note)
        tables.append(Table(f"{slug}-batch-size", f"A step by batch size: {bench.study}", *made))
    return [table.without_empty_columns() for table in tables]


def _cost(bench: Bench, baseline: str, slug: str) -> Table:
    columns = ["step of", "step, ms", "/ bare", f"/ {baseline}", "images/s", "peak memory, MiB", "reserved, MiB"]
    columns += ["state, MiB", "negatives a query", "parameters, M", "GFLOP a step", "share of matrix rate"]
    rate = _matrix_rate(bench.main)
    told = f" Matrices: {rate / GIGA:,.0f} GFLOP/s." if math.isfinite(rate) else ""
    note = (
        "Step: median [quartiles] of the rounds. Ratios: median of the ratios within rounds "
        "[95% bootstrap interval]. bare a+b: the encoder's a forward passes of queries, b of keys, backward and "
        "optimizer on one fixed batch, nothing else; each method is held against the bare step with its own passes. "
        "Peak memory: of the subject alone, over what the process held before it was built. Share of the matrix rate: "
        "counted operations (matrix products and convolutions) a second over those of large square matrices in the "
        f"encoder's precision, in the same rounds.{told}"
    )
    stepped = [(bench.main, row) for row in bench.main.rows if row.kind != "matrices"]
    note, columns, cells, data = _rows(bench, stepped, baseline, columns, note)
    data["matrix_flops_per_second"] = rate
    data["share_of_matrix_rate"] = [_share(row, rate) for _, row in stepped]
    return Table(f"{slug}-cost", bench.title, note, columns, cells, data)


def _rows(
    bench: Bench, pairs: Sequence[tuple[GroupRows, BenchRow]], baseline: str, columns: list[str], note: str
) -> tuple[str, list[str], list[list[Cell]], pd.DataFrame]:
    """Note, columns, cells and data of a table of steps."""
    cells, csv_rows = [], []
    for group, row in pairs:
        bare, against = group.ratio_to_bare(row), group.ratio(row, baseline)
        share = _share(row, _matrix_rate(group))
        known = {
            "step of": Cell(row.name),
            "K": Cell(f"{row.num_negatives or 0:,}", row.num_negatives),
            "batch": Cell(f"{row.images:,}", row.images),
            "step, ms": _milliseconds(row),
            "µs an image": _of(row.median / row.images, 1e-6) if row.images else Cell(words.NOTHING),
            "/ bare": _ratio(bare),
            f"/ {baseline}": Cell("baseline") if row.name == baseline else _ratio(against),
            "images/s": _of(row.images / row.median, 1),
            **{f"{part}, ms": _of(part_median(row, part), 1e-3) for part in ("loss", "backward", "refresh")},
            **{title: _of(_number(row, name), unit) for title, (name, unit) in FIGURES.items()},
            "share of matrix rate": Cell(words.NOTHING if math.isnan(share) else f"{share:.0%}", share),
        }
        cells.append([known[column] for column in columns])
        csv_rows.append(_csv_row(bench, row, bare, against))
    return f"{_where(bench)} {note}", columns, cells, pd.DataFrame(csv_rows)


def _parts(bench: Bench, slug: str) -> Table:
    columns = ["step of", *(PART_TITLES.get(part, part) for part in bench.record.parts), "step"]
    cells, csv_rows = [], []
    for row in bench.main.rows:
        if row.kind == "matrices" or not row.is_timed:
            continue
        medians = {part: part_median(row, part) for part in bench.record.parts}
        cells.append([Cell(row.name), *(_of(seconds, 1e-3) for seconds in (*medians.values(), row.median))])
        about = {"study": bench.study, "device": bench.device, "step": row.name}
        seconds = {f"{part}_seconds": median for part, median in medians.items()}
        csv_rows.append(about | seconds | {"step_seconds": row.median})
    note = (
        "Milliseconds, medians of the rounds, each part without the parts inside it: medians of parts need not add up "
        "to that of the step. Refresh: of the source after the optimizer's step, AdCo's ascent with its own forward "
        "and backward through the contrast. Rest: what is in no part, as the step's metrics. On a GPU a part is the "
        "time between two points of the device's own order of work, so that a device that waits for the host is "
        "counted in the part in which it waits."
    )
    return Table(f"{slug}-parts", f"Parts of a step, ms: {bench.study}", note, columns, cells, pd.DataFrame(csv_rows))


def bench_cautions(bench: Bench) -> list[str]:
    """Return sentences on what disturbed or stopped the bench."""
    told = []
    timed = sum(group.is_done for group in bench.groups)
    if timed < bench.record.num_groups:
        told.append(f"The bench was stopped: times of {timed} of its {bench.record.num_groups} groups are here.")
    if is_crowded(bench.environment, FOR_BENCHES):
        load, cores = bench.environment["load_average"], bench.environment["num_cpus"]
        told.append(
            f"It started on a crowded machine (load average {load:.1f} on {cores} cores): times may be disturbed. "
            "Ratios within rounds suffer least."
        )
    return told


def part_median(row: BenchRow, part: str) -> float:
    """Return the median seconds of a part; nan if the step does not have it."""
    values = row.parts.get(part)
    return float(np.median(values)) if values and any(values) else math.nan


def _matrix_rate(group: GroupRows) -> float:
    """Floating-point operations a second; nan where matrices were not multiplied."""
    matrices = next((row for row in group.rows if row.kind == "matrices"), None)
    return _number(matrices, "flops") / matrices.median if matrices is not None else math.nan


def _where(bench: Bench) -> str:
    place = bench.environment
    turns = f"{bench.record.rounds} rounds of {bench.record.steps_per_turn} timed steps"
    return f"{bench.device}, torch {place.get('torch_version')}, {place.get('precision')}, {turns} each."


def _milliseconds(row: BenchRow) -> Cell:
    if row.out_of_memory:
        return Cell("out of memory", math.inf)
    if not row.is_timed:
        return Cell("not timed", math.nan)
    milliseconds = quartiles(1e3 * row.times)
    return Cell(text.amount(milliseconds), milliseconds.centre)


def _ratio(interval: Interval) -> Cell:
    return Cell(text.ratio(interval), interval.centre)


def _number(row: BenchRow, name: str) -> float:
    value = getattr(row, name)
    return math.nan if value is None else float(value)


def _share(row: BenchRow, rate: float) -> float:
    """The share of the `rate` of matrices that the row reaches; nan where it is unknown."""
    return _number(row, "flops") / row.median / rate


def _of(value: float, unit: float) -> Cell:
    return Cell(words.number(value / unit), value)


def _reasons(rows: Iterable[BenchRow]) -> str:
    """List the errors of the rows that ran out of memory, each once."""
    told = [f"{row.name}: {row.out_of_memory}" for row in rows if row.out_of_memory]
    return f". Out of memory: {'; '.join(dict.fromkeys(told))}" if told else ""


def _csv_row(bench: Bench, row: BenchRow, bare: Interval, against: Interval) -> CsvRow:
    csv_row: CsvRow = {"study": bench.study, "device": bench.device, "step": row.name}
    csv_row |= {"batch_size": row.images, "num_negatives": row.num_negatives, "rounds": bench.record.rounds}
    csv_row |= quartile_columns(quartiles(row.seconds), "step_seconds")
    csv_row |= interval_columns(bare, "ratio_to_bare", "median") | interval_columns(
        against, "ratio_to_baseline", "median"
    )
    csv_row |= {f"{part}_seconds": part_median(row, part) for part in bench.record.parts}
    return csv_row | {name: getattr(row, name) for name in (*(name for name, _ in FIGURES.values()), "out_of_memory")}
