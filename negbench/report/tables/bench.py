"""Tables of a bench: what a step costs, its parts, and both sweeps."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from negbench.records.crowding import FOR_BENCHES, is_crowded
from negbench.report import text
from negbench.report.read.benches import Bench, BenchRow, GroupRows
from negbench.report.read.statistics import Interval
from negbench.report.tables.base import Cell, CsvRow, Table, interval_columns
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
_OUT, _AWAITED = "out of memory", "not timed"


def bench_tables(bench: Bench, baseline: str, slug: str) -> list[Table]:
    """Those that the bench has rows for."""
    tables = [_cost(bench, baseline, slug), _parts(bench, slug)]
    if len({row.num_negatives for _, row in bench.by_num_negatives}) > 1:
        tables.append(_num_negatives(bench, baseline, slug))
    if len({row.batch_size for _, row in bench.by_batch_size}) > 1:
        tables.append(_batch_size(bench, baseline, slug))
    return [table.without_empty_columns() for table in tables]


def _cost(bench: Bench, baseline: str, slug: str) -> Table:
    columns = ["step of", "step, ms", "/ bare", f"/ {baseline}", "images/s", "peak memory, MiB", "reserved, MiB"]
    columns += ["state, MiB", "negatives a query", "parameters, M", "GFLOP a step", "share of matrix rate"]
    rate = _matrix_rate(bench.main)
    cells, csv_rows = [], []
    for row in bench.main.rows:
        if row.kind == "matrices":
            continue
        flops = row.facts["flops"]
        share = math.nan if flops is None else flops / row.median / rate
        bare, against = bench.main.ratio(row, row.bare_name), bench.main.ratio(row, baseline)
        cells.append(
            [
                Cell(row.name),
                _milliseconds(row),
                _ratio(bare),
                _ratio_or_baseline(row, baseline, against),
                _images_per_second(row),
                _known(row, "peak_memory_bytes", MIB),
                _known(row, "peak_reserved_bytes", MIB),
                _known(row, "source_state_bytes", MIB),
                _known(row, "negatives_per_query", 1),
                _known(row, "parameters", 1e6),
                _known(row, "flops", GIGA),
                Cell(words.NOTHING if math.isnan(share) else f"{share:.0%}", share),
            ]
        )
        csv_row = _csv_row(bench, row, bare, against)
        csv_rows.append(csv_row | {"matrix_flops_per_second": rate, "share_of_matrix_rate": share})
    told = f" Matrices: {rate / GIGA:,.0f} GFLOP/s." if math.isfinite(rate) else ""
    note = (
        f"{_where(bench)} Step: median [quartiles] of the rounds. Ratios: median of the ratios within rounds "
        "[95% bootstrap interval]. bare a+b: the encoder's a forward passes of queries, b of keys, backward and "
        "optimizer on one fixed batch, nothing else; each method is held against the bare step with its own passes. "
        "Peak memory: of the subject alone, over what the process held before it was built. Share of the matrix rate: "
        "counted operations (matrix products and convolutions) a second over those of large square matrices in the "
        f"encoder's precision, in the same rounds.{told}"
    )
    return Table(f"{slug}-cost", bench.title, note, columns, cells, pd.DataFrame(csv_rows))


def _parts(bench: Bench, slug: str) -> Table:
    columns = ["step of", *(PART_TITLES.get(part, part) for part in bench.part_names), "step"]
    cells, csv_rows = [], []
    for row in bench.main.rows:
        if row.kind == "matrices" or not row.is_timed:
            continue
        medians = {part: part_median(row, part) for part in bench.part_names}
        cells.append(
            [
                Cell(row.name),
                *(_of(medians[part], 1e-3) for part in bench.part_names),
                _of(row.median, 1e-3),
            ]
        )
        about = {"study": bench.study, "device": bench.device, "step": row.name}
        csv_rows.append(about | {f"{part}_seconds": median for part, median in medians.items()})
        csv_rows[-1]["step_seconds"] = row.median
    note = (
        "Milliseconds, medians of the rounds, each part without the parts inside it: medians of parts need not add up "
        "to that of the step. Refresh: of the source after the optimizer's step, AdCo's ascent with its own forward "
        "and backward through the contrast. Rest: what is in no part, as the step's metrics. On a GPU a part is the "
        "time between two points of the device's own order of work, so that a device that waits for the host is "
        "counted in the part in which it waits."
    )
    return Table(f"{slug}-parts", f"Parts of a step, ms: {bench.study}", note, columns, cells, pd.DataFrame(csv_rows))


def _num_negatives(bench: Bench, baseline: str, slug: str) -> Table:
    columns = ["step of", "K", "step, ms", "/ bare", f"/ {baseline}", "loss, ms", "backward, ms", "refresh, ms"]
    columns += ["peak memory, MiB", "reserved, MiB", "state, MiB", "GFLOP a step"]
    cells, csv_rows = [], []
    for group, row in bench.by_num_negatives:
        bare, against = group.ratio(row, row.bare_name), group.ratio(row, baseline)
        cells.append(
            [
                Cell(row.name),
                Cell(f"{row.num_negatives:,}", row.num_negatives),
                _milliseconds(row),
                _ratio(bare),
                _ratio_or_baseline(row, baseline, against),
                *(_of(part_median(row, part), 1e-3) for part in ("loss", "backward", "refresh")),
                _known(row, "peak_memory_bytes", MIB),
                _known(row, "peak_reserved_bytes", MIB),
                _known(row, "source_state_bytes", MIB),
                _known(row, "flops", GIGA),
            ]
        )
        csv_rows.append(_csv_row(bench, row, bare, against))
    note = (
        f"{_where(bench)} K: num_negatives. As in the table of the study's own setting; each K is a group of its own, "
        f"and / {baseline} is at the same K{_reasons(row for _, row in bench.by_num_negatives)}."
    )
    title = f"A step by the number of negatives: {bench.study}"
    return Table(f"{slug}-num-negatives", title, note, columns, cells, pd.DataFrame(csv_rows))


def _batch_size(bench: Bench, baseline: str, slug: str) -> Table:
    columns = ["step of", "batch", "step, ms", "µs an image", "/ bare", f"/ {baseline}", "images/s"]
    columns += ["peak memory, MiB", "reserved, MiB", "GFLOP a step"]
    cells, csv_rows = [], []
    for group, row in bench.by_batch_size:
        bare, against = group.ratio(row, row.bare_name), group.ratio(row, baseline)
        cells.append(
            [
                Cell(row.name),
                Cell(f"{row.batch_size:,}", row.batch_size),
                _milliseconds(row),
                _of(row.median / row.batch_size, 1e-6),
                _ratio(bare),
                _ratio_or_baseline(row, baseline, against),
                _images_per_second(row),
                _known(row, "peak_memory_bytes", MIB),
                _known(row, "peak_reserved_bytes", MIB),
                _known(row, "flops", GIGA),
            ]
        )
        csv_rows.append(_csv_row(bench, row, bare, against))
    note = (
        f"{_where(bench)} As in the table of the study's own setting; each batch size is a group of its own"
        f"{_reasons(row for _, row in bench.by_batch_size)}."
    )
    title = f"A step by batch size: {bench.study}"
    return Table(f"{slug}-batch-size", title, note, columns, cells, pd.DataFrame(csv_rows))


def bench_cautions(bench: Bench) -> list[str]:
    """What a reader must know before the figures."""
    told = []
    timed = sum(group.is_done for group in bench.groups)
    if timed < bench.num_groups:
        told.append(f"The bench was stopped: times of {timed} of its {bench.num_groups} groups are here.")
    if is_crowded(bench.environment, FOR_BENCHES):
        load, cores = bench.environment["load_average"], bench.environment["num_cpus"]
        told.append(
            f"It started on a crowded machine (load average {load:.1f} on {cores} cores): times may be disturbed. "
            "Ratios within rounds suffer least."
        )
    return told


def part_median(row: BenchRow, part: str) -> float:
    """Seconds; nan of a part that the step does not have."""
    values = row.parts.get(part)
    return math.nan if values is None or not values.any() else float(np.median(values))


def _matrix_rate(group: GroupRows) -> float:
    """Floating-point operations a second; nan where matrices were not multiplied."""
    matrices = next((row for row in group.rows if row.kind == "matrices"), None)
    return matrices.facts["flops"] / matrices.median if matrices is not None else math.nan


def _where(bench: Bench) -> str:
    place = bench.environment
    turns = f"{bench.rounds} rounds of {bench.steps} timed steps"
    return f"{bench.device}, torch {place.get('torch_version')}, {place.get('precision')}, {turns} each."


def _milliseconds(row: BenchRow) -> Cell:
    if row.out_of_memory:
        return Cell(_OUT, math.inf)
    if not row.is_timed:
        return Cell(_AWAITED, math.nan)
    first, middle, third = np.percentile(1e3 * row.seconds, (25, 50, 75)).tolist()
    return Cell(f"{words.number(middle)} [{words.number(first)}, {words.number(third)}]", middle)


def _images_per_second(row: BenchRow) -> Cell:
    return _of(row.batch_size / row.median, 1)


def _ratio(interval: Interval | None) -> Cell:
    return Cell(text.ratio(interval), interval.centre) if interval is not None else Cell(words.NOTHING, math.nan)


def _ratio_or_baseline(row: BenchRow, baseline: str, against: Interval | None) -> Cell:
    return Cell("baseline") if row.name == baseline else _ratio(against)


def _known(row: BenchRow, name: str, unit: float) -> Cell:
    value = row.facts.get(name)
    return _of(math.nan if value is None else float(value), unit)


def _of(value: float, unit: float) -> Cell:
    return Cell(words.number(value / unit), value)


def _reasons(rows: Iterable[BenchRow]) -> str:
    """What those that ran out of memory were told, once each."""
    told = [f"{row.name}: {row.out_of_memory}" for row in rows if row.out_of_memory]
    return f". Out of memory: {'; '.join(dict.fromkeys(told))}" if told else ""


def _csv_row(bench: Bench, row: BenchRow, bare: Interval | None, against: Interval | None) -> CsvRow:
    csv_row: CsvRow = {"study": bench.study, "device": bench.device, "step": row.name}
    csv_row |= {"batch_size": row.batch_size, "num_negatives": row.num_negatives, "rounds": bench.rounds}
    quartiles = np.percentile(row.seconds, (25, 50, 75)).tolist() if row.is_timed else [math.nan] * 3
    csv_row |= dict(zip(("step_seconds_q1", "step_seconds_median", "step_seconds_q3"), quartiles, strict=True))
    for name, interval in (("bare", bare), ("baseline", against)):
        csv_row |= interval_columns(interval or Interval(math.nan, math.nan, math.nan, 0), f"ratio_to_{name}", "median")
    csv_row |= {f"{part}_seconds": part_median(row, part) for part in bench.part_names}
    names = ("peak_memory_bytes", "peak_reserved_bytes", "source_state_bytes", "negatives_per_query", "parameters")
    return csv_row | {name: row.facts.get(name) for name in (*names, "flops", "out_of_memory")}
