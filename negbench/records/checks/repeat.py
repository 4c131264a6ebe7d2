"""How a run that was repeated differs from the first. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negbench.records.files import read_json
from negbench.records.run.summary import top1_figures
from negbench.records.run_folder import RunFolder, without_timings


@dataclass(frozen=True)
class Repeated:
    """`differences` are sentences, one for each record that differs, about its first difference."""

    figures: dict[str, tuple[float, float | None]]  # accuracies by key, before and now
    differences: list[str]


def compare(before: Path, now: Path, evaluations: Sequence[str], rows: bool = True) -> Repeated:
    """Compare the named evaluations of two folders of one run, and the rows of training.

    Times, speeds and sizes of memory aside, and what only the second has on record.
    """
    folders = [RunFolder(path) for path in (before, now)]
    differences = list(_rows(*folders)) if rows else []
    known = [{name: read_json(folder.evaluations / f"{name}.json") for name in evaluations} for folder in folders]
    for name in evaluations:
        if not known[0][name]:
            differences.append(f"evaluations/{name}.json is not on record, or cannot be read")
        elif difference := next(_different(known[0][name], known[1][name]), None):
            differences.append(f"evaluations/{name}.json: {difference}")
    figures = [top1_figures(each) for each in known]
    both = {name: (value, figures[1].get(name)) for name, value in figures[0].items() if value is not None}
    return Repeated(both, differences)


def _rows(before: RunFolder, now: RunFolder) -> Iterator[str]:
    rows = [[without_timings(row) for row in folder.read_metrics()] for folder in (before, now)]
    for first, second in zip(*rows, strict=False):
        if difference := next(_different(first, second), None):
            yield f"metrics.jsonl differs first at step {first.get('step')}: {difference}"
            return
    if len(rows[0]) != len(rows[1]):
        yield f"metrics.jsonl has {len(rows[1])} records instead of {len(rows[0])}"


def _different(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Yield where a JSON value differs from an earlier one, and how."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key, value in without_timings(before).items():
            yield from _different(value, now.get(key), f"{place}{key}.")
    elif before != now and before == before:
        yield f"{place.rstrip('.')} is {_short(now)} instead of {_short(before)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
