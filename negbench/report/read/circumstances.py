"""What runs were made on and by: data, code and machine. Copies of one run are told apart by it, or count once.

What a record lacks is unknown: it is taken for what all others have, if those agree.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence

from negbench.records.run.data import DataRecord
from negbench.report.read.grouping import grouped
from negbench.report.read.runs import Run, short_revision
from negbench.runtime.words import listed

COPY = "copy"  # a state
UNKNOWN = "unknown"
FOLDER = "folder"  # what tells runs apart that should be equal, and are not
MACHINE = {  # of environment.json: what may differ within a comparison, and its name for people
    "device": "hardware",
    "torch_version": "torch",
    "negbench_version": "version of negbench",
    "git_revision": "revision",
    "decoders": "image decoders",
}
_ALWAYS_APART = ("precision", "world_size", "method_code", "results_version")  # of environment.json, beside the data
Labels = Mapping[DataRecord | None, str]
Facts = dict[str, str]


def fact(run: Run, name: str) -> str | None:
    """Return what environment.json says of `name`, None if it does not."""
    value = run.environment.get(name)
    if value is None:
        return None
    return short_revision(str(value)) if name == "git_revision" else str(value)


def data_labels(runs: Sequence[Run]) -> Labels:
    """Return a short name for the data of each record: the same for records of equal data."""
    labels: dict[DataRecord | None, str] = {}
    seen: list[DataRecord] = []
    for record in sorted({run.data for run in runs if run.data}, key=lambda record: record.model_dump_json()):
        equal = next((known for known in seen if record.difference(known) is None), None)
        seen += [] if equal else [record]
        labels[record] = labels[equal] if equal else hashlib.sha256(record.model_dump_json().encode()).hexdigest()[:6]
    return labels


def assumed(runs: Sequence[Run], known: Callable[[Run], str | None]) -> dict[Run, str]:
    """Return what is known of each run; of one of which nothing is, what all others agree on, or "unknown"."""
    values = {value for run in runs if (value := known(run)) is not None}
    otherwise = values.pop() if len(values) == 1 else UNKNOWN
    return {run: known(run) or otherwise for run in runs}


def confounded(runs: Sequence[Run], others: Sequence[Run]) -> dict[str, tuple[str, str]]:
    """Return the facts of the machine in which no run is as any of the others: by name, the values of both sides."""
    found = {}
    for name, title in MACHINE.items():
        ours, theirs = ({fact(run, name) for run in side} for side in (runs, others))
        if ours and theirs and None not in ours | theirs and not ours & theirs:
            found[title] = (listed(sorted(map(str, ours))), listed(sorted(map(str, theirs))))
    return found


def settled(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with copies of one run told apart, in the order given, whatever that is.

    Where copies differ in hardware, versions or revision, `apart` says so for all runs of the row. Equal ones count
    once. Of copies that should be equal and have other figures, each keeps its folder in `apart`.
    """
    labels = data_labels(runs)
    identified = [run for run in runs if run.digest]
    rows = grouped(identified, lambda run: (run.study, run.track, run.method, run.digest))
    changed: dict[Run, Run] = {}
    for members in rows.values():
        if len({run.seed for run in members}) < len(members):
            changed |= _told_apart(members, labels)
    return [changed.get(run, run) for run in runs]


def _told_apart(members: Sequence[Run], labels: Labels) -> dict[Run, Run]:
    facts = {run: _facts(run, members, labels) for run in members}
    copies = grouped(members, lambda run: run.seed)
    keys = [
        key
        for key in (*MACHINE, *_ALWAYS_APART, "data")
        if any(len({facts[run].get(key) for run in some} - {None}) > 1 for some in copies.values())
    ]
    changed: dict[Run, Run] = {}
    for part in grouped(members, lambda run: tuple(facts[run].get(key, UNKNOWN) for key in keys)).values():
        apart = {key: facts[part[0]].get(key, UNKNOWN) for key in keys if key in MACHINE}
        copies = grouped(part, lambda run: run.seed)
        if not any(map(_is_contested, copies.values())):
            changed |= {run: after for some in copies.values() for run, after in _once(some, apart).items()}
            continue
        for run, place in _places(part).items():
            changed[run] = dataclasses.replace(run, apart=apart | {FOLDER: place})
    return changed


def _facts(run: Run, members: Sequence[Run], labels: Labels) -> Facts:
    """What is known of a run. One without a record of its machine is taken to have run where those beside it did."""
    known = [other for other in members if other.environment]
    beside = min(known, key=lambda other: (other.path.parent != run.path.parent, other.path), default=run)
    stand_in = run if run.environment else beside
    facts = {name: fact(stand_in, name) for name in (*MACHINE, *_ALWAYS_APART)} | {"data": labels.get(run.data)}
    return {name: value for name, value in facts.items() if value is not None}


def _once(copies: Sequence[Run], apart: Facts) -> dict[Run, Run]:
    """Return one of equal runs, by choice one that its id names, with `apart`, and the others without a row."""

    def place(run: Run) -> tuple[bool, bool, str, str]:
        own_name = run.name == run.summary.get("run_id")
        return not run.is_used, not own_name, str(run.environment.get("time")), str(run.path)

    first, *others = sorted(copies, key=place)
    changed = {first: dataclasses.replace(first, apart=apart)}
    for run in others:
        reason = f"the same run as {first.path}, which is counted"
        if not run.is_used:
            reason = "; ".join(filter(None, (run.reason, reason)))
        changed[run] = dataclasses.replace(run, state=COPY if run.is_used else run.state, reason=reason, digest="")
    return changed


def figures(run: Run) -> dict[str, object]:
    """Return the accuracies of a run, in which equal runs agree."""
    curve = run.curve["knn_top1"].tolist() if run.curve else []
    return {key: value for key, value in run.summary.items() if "_top1" in key} | {"curve": curve}


def _is_contested(copies: Sequence[Run]) -> bool:
    used = [run for run in copies if run.is_used]
    return any(figures(run) != figures(used[0]) for run in used[1:])


def _places(runs: Sequence[Run]) -> dict[Run, str]:
    """Return by run where it lies: the folder that holds it, or its own if that has another name than the run's id."""
    absolute = {run: run.path.absolute() for run in runs}
    places = {
        run: path.parent if path.name == run.summary.get("run_id", path.name) else path
        for run, path in absolute.items()
    }
    top = os.path.dirname(os.path.commonpath(places.values()))
    return {run: os.path.relpath(place, top) for run, place in places.items()}
