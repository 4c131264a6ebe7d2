"""Whether the records of a run fit each other: all of its folder but checkpoints. Imports no torch."""

import itertools
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from negbench.records.forms import Plain, Record, read_form, readable
from negbench.records.run.config import read_settings
from negbench.records.run.data import DATA
from negbench.records.run.metrics import read_rows
from negbench.records.run.summary import SUMMARY, damage_of, figures_of, top1_figures
from negbench.records.run_folder import ENVIRONMENT, RunFolder
from negbench.settings.identity import make_run_id, recorded_differences
from negbench.settings.keys import Flat
from negbench.settings.plugins.code import code_digest
from negbench.settings.plugins.find import METHOD, PluginFile, list_methods
from negbench.settings.plugins.protocols import PROTOCOLS


class Evaluation(Record):
    """`evaluations/PROTOCOL.json`. That of `negbench evaluate` has a step, which that of a run's end lacks."""

    trained: dict[str, Plain] | None = None


EVALUATION: TypeAdapter[Any] = TypeAdapter(Evaluation)


@dataclass(frozen=True)
class Records:
    """What can be read of a run's folder. `damage` says of each other record which it is and why."""

    folder: RunFolder
    settings: Flat
    summary: dict[str, Any]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]  # of metrics.jsonl
    evaluations: dict[str, dict[str, Any]]  # by protocol
    damage: list[str] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        return str(self.summary.get("run_id") or self.folder.path.name)


def read_records(path: Path, with_steps: bool = False) -> Records:
    """Read a run's folder, on request with the rows of training steps."""
    folder, damage = RunFolder(path), list[str]()
    settings = readable(damage, read_settings, folder.config) or {}
    summary = readable(damage, read_form, folder.summary, SUMMARY) or {}
    environment = readable(damage, read_form, folder.environment, ENVIRONMENT) or {}
    rows = readable(damage, read_rows, folder.metrics, with_steps) if folder.metrics.exists() else None
    evaluations = {
        name: readable(damage, read_form, folder.evaluations / f"{name}.json", EVALUATION) or {}
        for name, protocol in PROTOCOLS.items()
        if protocol.at_end
    }
    readable(damage, read_form, folder.data, DATA)
    return Records(folder, settings, summary, environment, rows or [], evaluations, damage)


def problems(path: Path) -> list[str]:
    """Return a sentence for each thing in a run's folder that is damaged or does not fit the rest; none if all is well.

    Records that are not there yet, as in a run that is not done, are no problem.
    """
    records = read_records(path, with_steps=True)
    found = misfits(records)
    if records.run_id != path.absolute().name:
        found.append(f"the folder's name is not the run's id, {records.run_id}")
    return found


def misfits(records: Records) -> list[str]:
    """Return the `problems` of records but for the folder's name, the gravest first."""
    found = list(records.damage)
    if records.folder.done.exists():
        found += _of_done(records)
    found += _of_identity(records)
    steps = [row["step"] for row in records.rows]
    if any(a > b for a, b in itertools.pairwise(steps)):
        found.append("metrics.jsonl: its steps go back")
    return found


def _of_done(records: Records) -> list[str]:
    folder, summary, rows = records.folder, records.summary, records.rows
    needed = {
        folder.config: records.settings,
        folder.summary: summary,
        folder.environment: records.environment,
        folder.metrics: rows,
    }
    damaged = {reason.partition(": ")[0] for reason in records.damage}
    found = [
        f"{path.name} is missing or empty"
        for path, content in needed.items()
        if not content and path.name not in damaged
    ]
    if summary.get("status", "done") != "done":
        found.append(f"the run is marked done, and summary.json says {summary['status']}")
    if summary and (damage := damage_of(summary)):
        found.append(damage)
    epochs = records.settings.get("epochs")
    if epochs and rows and rows[-1]["epoch"] != epochs:
        found.append(f"metrics.jsonl ends at epoch {rows[-1]['epoch']} of {epochs}")
    of_rows = figures_of(rows) | {"steps": rows[-1]["step"]} if rows else {}
    of_evaluations = top1_figures({k: v for k, v in records.evaluations.items() if v and "step" not in v})
    for source, figures in (("metrics.jsonl", of_rows), ("evaluations/", of_evaluations)):
        for name, value in figures.items():
            known = summary.get(name)
            if None not in (value, known) and value != known:
                found.append(f"summary.json: {name} is {known}, and by {source} {value}")
    return found


def _of_identity(records: Records) -> list[str]:
    settings, run_id = records.settings, records.run_id
    if not settings:
        return []
    start = f"{settings['study']}-{settings['method.name']}-s{settings['seed']}-"
    expected = _run_id_of(records) or start
    if run_id.startswith(expected):
        return []
    return [f"config.yaml is of the run {expected.removesuffix('-')}, and not of {run_id}"]


def _run_id_of(records: Records) -> str | None:
    """Return the id that the settings give; None if the code that declares the method's is not the one that ran."""
    settings, copied = records.settings, records.folder.method
    name = settings["method.name"]
    file = PluginFile(METHOD, name, copied, None) if copied.exists() else list_methods().get(name)
    try:
        source = file.path.read_bytes() if file else b""
        if file is None or records.environment.get("method_code") != _code_digest(file, source):
            return None
    except (OSError, SyntaxError, ValueError):
        return None
    differences = recorded_differences(settings, source)
    if differences is None:
        return None
    return make_run_id(settings["study"], name, settings["seed"], differences, source if file.module is None else None)


@cache
def _code_digest(file: PluginFile, source: bytes) -> str:
    """Return the digest of a method's code, once for all runs of the same `source`."""
    return code_digest(file)
