"""Read runs from their folders. A damaged or unfinished run comes with its reason."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from negbench.records.benches import BENCHES
from negbench.records.checks.consistency import misfits, read_records
from negbench.records.files import read_json
from negbench.records.forms import readable
from negbench.records.jobs import Job, jobs_if_asked, read_note
from negbench.records.run.config import read_settings
from negbench.records.run.data import DataRecord, read_data_record
from negbench.records.run.metrics import CURVE
from negbench.records.run_folder import SCHEMA_VERSION, RunFolder
from negbench.records.status import RunStatus, find_runs, is_run, status_of
from negbench.records.tunings import TUNINGS
from negbench.report.read.grouping import grouped
from negbench.runtime.errors import UserError
from negbench.settings.keys import Flat

RUN_ID = re.compile(r".+-s\d+-(?P<digest>[0-9a-f]{8})")
OUT_OF_MEMORY = "out of memory"  # a state
USED = "done"  # the state of the runs that tables and figures are made of
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder. `state` is `status_of`'s, or "out of memory", "damaged", "other version" or "copy"."""

    path: Path
    state: str
    reason: str = ""
    study: str = ""
    track: str = ""
    method: str = ""
    seed: int = 0
    digest: str = ""  # of all that can change a result, the seed aside: the same for all seeds of a row
    settings: Flat = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    data: DataRecord | None = None
    apart: dict[str, str] = field(default_factory=dict)  # what tells it from copies, see `circumstances`
    curve: dict[str, Floats] = field(default_factory=dict)  # of the evaluations, by the names of `CURVE`
    diagnostics: Sequence[dict[str, Any]] = ()  # the records of that kind, in order
    epoch_seconds: Floats = field(default_factory=lambda: np.array([]))
    steps_per_epoch: tuple[float, ...] = ()  # every value that it had: several if a resume stretched its schedule

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_used(self) -> bool:
        return self.state == USED

    @property
    def hardware(self) -> str:
        """What must be equal where times are compared."""
        processes = self.environment.get("world_size") or 1
        shared = f", {processes} processes" if processes > 1 else ""
        return f"{self.environment.get('device')}{shared}, torch {self.environment.get('torch_version')}"

    @property
    def version(self) -> str:
        """What should be equal where results are compared."""
        revision = short_revision(str(self.environment.get("git_revision") or "unknown revision"))
        negbench = f"negbench {self.environment.get('negbench_version')} ({revision})"
        return f"{negbench}, torch {self.summary.get('torch_version')}"


def short_revision(revision: str) -> str:
    return revision[:10] + ("+changes" if revision.endswith("+changes") else "")


def find(arguments: Sequence[str], default: Path) -> list[Path]:
    """Return the run folders named, those in folders named, and those of studies named, which `default` holds.

    Without arguments all in `default`. UserError if an argument names no runs, benches or tunings.
    """
    found: list[Path] = []
    for argument in arguments or [str(default)]:
        path = Path(argument)
        if path.is_dir():
            inside = [path] if is_run(path) else [] if TUNINGS.has(path) else find_runs(path)
            if not inside and not BENCHES.find([argument], path) and not TUNINGS.find([argument], path):
                raise UserError(f"{path} is no run folder and holds none; `negbench run` or `sweep` makes them")
        elif path.exists():
            raise UserError(f"{path} is a file; name run folders, folders of runs, or studies")
        else:
            studies = grouped(find_runs(default) if default.is_dir() else [], _study_of)
            known_studies = {*studies, *BENCHES.studies(default).values(), *TUNINGS.studies(default).values()}
            if argument not in known_studies:
                known = f"it has {', '.join(sorted(known_studies))}" if known_studies else "it holds no runs"
                raise UserError(f"{argument} is neither a folder nor a study in {default}; {known}")
            inside = studies.get(argument, [])
        found += inside
    return list(dict.fromkeys(found))


def load(paths: Sequence[Path]) -> list[Run]:
    """Return every run, in the order of `paths`. Never raises for what is in a folder."""
    notes = {path: read_note(path) for path in paths if not (path / "done").exists()}
    jobs = jobs_if_asked(notes.values())
    return [_load(path, jobs) for path in paths]


def _load(path: Path, jobs: dict[str, Job] | None) -> Run:
    if not (path / "done").exists():
        return _unfinished(path, status_of(path, jobs))
    records = read_records(path)
    settings, summary, environment = records.settings, records.summary, records.environment
    match = RUN_ID.fullmatch(records.run_id)
    known: dict[str, Any] = {
        "study": settings.get("study", ""),
        "track": settings.get("track", ""),
        "method": settings.get("method.name", ""),
        "seed": settings.get("seed", 0),
        "digest": match["digest"] if match else "",
        "settings": settings,
        "summary": summary,
        "environment": environment,
        "data": read_data_record(path / "data.json"),
    }
    version = read_json(path / "summary.json").get("schema_version")  # another one may have another form
    if isinstance(version, int) and version != SCHEMA_VERSION:
        reason = f"its records are of schema {version}, this negbench reads {SCHEMA_VERSION}"
        return Run(path, "other version", reason, **known)
    if wrong := misfits(records):
        return Run(path, "damaged", wrong[0], **known)
    if not match:
        return Run(path, "damaged", "neither its name nor its summary holds a run id", **known)
    evaluations = [row for row in records.rows if row["kind"] == "evaluation"]
    diagnostics = [row for row in records.rows if row["kind"] == "diagnostics"]
    epochs = [row for row in records.rows if row["kind"] == "epoch"]
    epoch_seconds = np.array([row["epoch_seconds"] for row in epochs], float)
    paces = sorted({row["step"] / row["epoch"] for row in epochs if row["epoch"]})
    curve = {name: np.array([row[name] for row in evaluations], float) for name in CURVE} if evaluations else {}
    known |= {"curve": curve, "diagnostics": diagnostics, "epoch_seconds": epoch_seconds}
    return Run(path, USED, "", **known, steps_per_epoch=tuple(paces))


def _unfinished(path: Path, status: RunStatus) -> Run:
    folder = RunFolder(path)
    settings, summary = readable([], read_settings, folder.config) or {}, folder.read_summary()
    match = RUN_ID.fullmatch(str(summary.get("run_id") or path.name))
    state = OUT_OF_MEMORY if status.ending == "out_of_memory" else status.state
    reason = status.detail.removeprefix(f"{state}: ")  # the state is shown beside it
    progress = "" if status.epoch is None else f"at epoch {status.epoch:.4g} of {status.epochs}"
    return Run(
        path,
        state,
        reason or progress,
        study=status.study,
        track=settings.get("track", ""),
        method=settings.get("method.name") or status.method,
        seed=status.seed or 0,
        digest=match["digest"] if match else "",
        settings=settings,
        summary=summary,
        environment=folder.read_environment(),
        data=read_data_record(folder.data),
    )


def _study_of(path: Path) -> str:
    settings = readable([], read_settings, path / "config.yaml") or {}
    noted = (read_note(path).get("settings", {}), RunFolder(path).read_summary())
    return str(next(filter(None, (known.get("study") for known in (settings, *noted))), ""))


def cumulative(run: Run, column: str) -> Floats:
    """Return a column of the run's curve, in the unit of its name. Views are those back-propagated until then."""
    if column == "views":
        return run.curve["step"] * float(run.summary["views_per_step"])
    return run.curve[column]
