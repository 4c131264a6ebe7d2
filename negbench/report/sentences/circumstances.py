"""What a reader must know of the data, the code and the machines that runs are of."""

from collections.abc import Iterator, Sequence

from negbench.records.run.data import DataRecord
from negbench.report.read.circumstances import FOLDER, confounded, fact, figures
from negbench.report.read.comparisons import CODE, USED, Comparison, Row
from negbench.report.read.grouping import grouped
from negbench.report.read.runs import Run
from negbench.report.tables.accuracy import METRICS
from negbench.runtime import words

NAMED = 6  # rows in a sentence
_ON_RECORD = {"method_code": "method code", "results_version": "results version"}


def of_circumstances(comparison: Comparison, baseline: str, others: Sequence[Comparison]) -> list[str]:
    """Return a sentence for each thing to know; `others` are all comparisons of the report."""
    found = [
        sentence
        for other in others
        if other is not comparison and other.group == comparison.group and other.runs and comparison.runs
        for sentence in _not_compared(comparison, other)
    ]
    found += [*_of_code(comparison), *_of_copies(comparison), *_of_machines(comparison, baseline)]
    return [*found, *_of_records(comparison.runs)]


def _not_compared(comparison: Comparison, other: Comparison) -> Iterator[str]:
    """Say why runs that differ in no setting are elsewhere; precision and processes count if methods go with them."""
    ours, theirs = comparison.settings, other.settings
    reasons = []
    if ours.get("data") != theirs.get("data"):
        reasons.append(_data_difference(_data_of(comparison), _data_of(other)))
    if ours.get("results_version") != theirs.get("results_version"):
        versions = f"{theirs.get('results_version')} and not {ours.get('results_version')}"
        reasons.append(f"their results version of negbench is {versions} (CHANGELOG.md)")
    if {row.method for row in other.rows} - {row.method for row in comparison.rows}:
        used = [key for key in USED if ours.get(key) != theirs.get(key)]
        reasons += [f"they have {key}={theirs.get(key)} instead of {ours.get(key)}" for key in used]
    if reasons:
        who = words.some(list(dict.fromkeys(row.method for row in other.rows)), NAMED)
        yield f"Not compared with these: {who} ({words.count(len(other.runs), 'run')}), since {words.listed(reasons)}."


def _data_of(comparison: Comparison) -> DataRecord | None:
    return next((run.data for run in comparison.runs if run.data), None)


def _data_difference(ours: DataRecord | None, theirs: DataRecord | None) -> str:
    if theirs is None or ours is None:
        return "it is not on record whether they are of equal data"
    return f"they are of other data: {theirs.difference(ours)}"


def _of_code(comparison: Comparison) -> Iterator[str]:
    for method, rows in grouped(comparison.rows, lambda row: row.method).items():
        codes = sorted({str(row.recorded[CODE]) for row in rows})
        if len(codes) > 1:
            yield (
                f"Runs of {method} are of different code of its file ({words.some(codes, NAMED)}), so its rows are "
                "not compared with each other."
            )


def _of_copies(comparison: Comparison) -> Iterator[str]:
    """Name the runs that differ from copies of themselves, and where each lies."""
    found = sorted((run for run in comparison.runs if FOLDER in run.apart), key=lambda run: run.path)
    copies = grouped(found, lambda run: (run.digest, run.seed, tuple(sorted((run.apart | {FOLDER: ""}).items()))))
    told = [_conflict(runs) for runs in copies.values() if any(figures(run) != figures(runs[0]) for run in runs)]
    if told:
        yield (
            f"{words.count(len(told), 'run')} {'has' if len(told) == 1 else 'have'} other figures in another folder "
            f"though all that is on record is equal; rows name the folder: {words.some(told, NAMED)}."
        )


def _conflict(runs: Sequence[Run]) -> str:
    metric = next((name for name in METRICS if len({run.summary.get(name) for run in runs}) > 1), None)
    if metric is None:
        return f"{runs[0].name} in {words.listed([str(run.path.parent) for run in runs])}"
    told = [f"{100 * value:.1f}% in {run.path}" for run in runs if (value := run.summary.get(metric)) is not None]
    return f"{runs[0].method}, seed {runs[0].seed}, {METRICS[metric]} {words.listed(told)}"


def _of_machines(comparison: Comparison, baseline: str) -> Iterator[str]:
    """Name the rows whose machine or version goes along with the method."""
    told = []
    for row in comparison.rows:
        other = _reference_of(comparison, row, baseline)
        if other is not None:
            mixed = confounded(row.runs, other.runs)
            told += [f"{row.label} with {name} {a}, where {other.label} has {b}" for name, (a, b) in mixed.items()]
    if told:
        yield f"Confounded, so that a difference between rows may not be the method's: {'; '.join(told)}."


def _reference_of(comparison: Comparison, row: Row, baseline: str) -> Row | None:
    """Return the row that another is compared with first: its baseline's, or the best where there is none."""
    if any(baseline in (other.label, other.method) and other.runs for other in comparison.rows):
        return comparison.baseline_of(row, baseline)
    best = next((other for other in comparison.rows if other.runs), None)
    return None if best is row else best


def _of_records(runs: Sequence[Run]) -> Iterator[str]:
    """Say in one sentence what records lack."""
    lacking = {"data": [run for run in runs if run.data is None]}
    lacking |= {title: [run for run in runs if fact(run, name) is None] for name, title in _ON_RECORD.items()}
    counts = grouped(lacking, lambda title: len(lacking[title]))
    told = [f"{words.listed(titles)} of {words.count(number, 'run')}" for number, titles in counts.items() if number]
    if told:
        yield f"Unknown, since not on record: {words.listed(told)}; comparisons assume it to be equal."
