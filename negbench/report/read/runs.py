"""Read runs from their folders. A damaged or unfinished run comes with its reason."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from negbench.records.benches import BENCHES
from negbench.records.jobs import Job, jobs_if_asked, read_note
from negbench.records.run_folder import SCHEMA_VERSION, RunFolder
from negbench.records.status import find_runs, is_run, status_of
from negbench.records.summary import damage_of
from negbench.records.tunings import TUNINGS
from negbench.runtime.errors import UserError
from negbench.settings.keys import Flat, flatten_raw

RUN_ID = re.compile(r".+-s\d+-(?P<digest>[0-9a-f]{8})")
OUT_OF_MEMORY = "out of memory"  # a state
USED = "done"  # the state of the runs that tables and figures are made of
CURVE = ("step", "epoch", "knn_top1", "train_seconds", "device_hours")
SEED = re.compile(r"^seed: (\d+)$", re.MULTILINE)
Floats = npt.NDArray[np.float64]
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Run:
    """One run folder. `state` is `status_of`'s, or "out of memory", "damaged" or "other version"."""

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
    curve: dict[str, Floats] = field(default_factory=dict)  # of the evaluations, by the names of `CURVE`
    diagnostics: Sequence[dict[str, Any]] = ()  # the records of that kind, in order
    epoch_seconds: Floats = field(default_factory=lambda: np.array([]))

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
        revision = str(self.environment.get("git_revision") or "unknown revision")
        short = revision[:10] + ("+changes" if revision.endswith("+changes") else "")
        negbench = f"negbench {self.environment.get('negbench_version')} ({short})"
        return f"{negbench}, torch {self.summary.get('torch_version')}"


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
            studies: dict[str, list[Path]] = {}
            for run in find_runs(default) if default.is_dir() else []:
                studies.setdefault(_study_of(run), []).append(run)
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
    runs = [_load(path, jobs) for path in paths]
    chosen: dict[str, Path] = {}
    for run in sorted(runs, key=lambda run: not run.is_used):
        chosen.setdefault(_identity(run), run.path)
    return [run if (first := chosen[_identity(run)]) == run.path else _repeated(run, first) for run in runs]


def _repeated(run: Run, first: Path) -> Run:
    return Run(run.path, "damaged", f"the same run as {first}, which stands for both")


def _identity(run: Run) -> str:
    return str(run.summary.get("run_id") or run.path.absolute())


def _load(path: Path, jobs: dict[str, Job] | None) -> Run:
    folder = RunFolder(path)
    settings, damage = _settings(folder.config)
    summary, environment = folder.read_summary(), folder.read_environment()
    status = None if folder.done.exists() else status_of(path, jobs)
    match = RUN_ID.fullmatch(str(summary.get("run_id") or path.name))
    method = str(settings.get("method.name") or (status.method if status else ""))
    seed = settings.get("seed", status.seed if status else 0)
    known: dict[str, Any] = {
        "study": str(settings.get("study") or (status.study if status else "")),
        "track": str(settings.get("track", "")),
        "method": method,
        "seed": seed if isinstance(seed, int) else 0,
        "digest": match["digest"] if match else "",
        "settings": settings,
        "summary": summary,
        "environment": environment,
    }
    if status is not None:
        state = OUT_OF_MEMORY if status.ending == "out_of_memory" else status.state
        reason = status.detail.removeprefix(f"{state}: ")  # the state is shown beside it
        return Run(path, state, reason or _progress(status), **known)
    if damage:
        return Run(path, "damaged", damage, **known)
    if "status" not in summary:
        return Run(path, "damaged", "it is marked done, but summary.json cannot be read", **known)
    if summary.get("schema_version") != SCHEMA_VERSION:
        reason = f"its records are of schema {summary.get('schema_version')}, this negbench reads {SCHEMA_VERSION}"
        return Run(path, "other version", reason, **known)
    if not environment or not match:
        what = "environment.json cannot be read" if match else "neither its name nor its summary holds a run id"
        return Run(path, "damaged", what, **known)
    rows, damage = _read_rows(folder.metrics)
    if damage := damage_of(summary) or damage:
        return Run(path, "damaged", damage, **known)
    try:
        evaluations = [row for row in rows if row["kind"] == "evaluation"]
        diagnostics = [row for row in rows if row["kind"] == "diagnostics"]
        epoch_seconds = np.array([row["epoch_seconds"] for row in rows if row["kind"] == "epoch"], float)
        curve = {name: np.array([row[name] for row in evaluations], float) for name in CURVE} if evaluations else {}
    except (KeyError, TypeError):
        return Run(path, "damaged", "metrics.jsonl: a record lacks what a record needs", **known)
    last = rows[-1]["epoch"] if rows else 0
    if not np.isfinite(epoch_seconds).all() or not all(np.isfinite(column).all() for column in curve.values()):
        return Run(path, "damaged", "metrics.jsonl: a record holds a number that is not finite", **known)
    if last != settings.get("epochs"):
        return Run(path, "damaged", f"metrics.jsonl ends at epoch {last} of {settings.get('epochs')}", **known)
    return Run(path, USED, "", **known, curve=curve, diagnostics=diagnostics, epoch_seconds=epoch_seconds)


def _settings(path: Path) -> tuple[Flat, str]:
    """Dotted settings, or what is wrong with the file."""
    try:
        text = path.read_text()
        seed = SEED.search(text)
        settings = _parsed(SEED.sub("seed: 0", text, count=1))
    except (OSError, ValueError, yaml.YAMLError):
        return {}, "config.yaml cannot be read"
    return settings | ({"seed": int(seed[1])} if seed else {}), ""


@cache
def _parsed(text: str) -> Flat:
    """Parsed once for all seeds: YAML takes longer than all else in a run's folder."""
    content = yaml.load(text, _Loader)
    if not isinstance(content, dict):
        raise ValueError
    return flatten_raw(content)


def _read_rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows but those of training steps, or where the file is damaged."""
    try:
        text = path.read_text()
    except (OSError, ValueError):
        return [], "metrics.jsonl cannot be read"
    lines = text.splitlines()
    kept = [line for line in lines if not (line.startswith('{"kind": "train"') and line.endswith("}"))]
    try:
        return json.loads(f"[{','.join(kept)}]"), ""
    except ValueError:
        number = next(i for i, line in enumerate(lines, 1) if not _is_json(line))
        return [], f"metrics.jsonl is cut or damaged in line {number}"


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _progress(status: Any) -> str:
    return "" if status.epoch is None else f"at epoch {status.epoch:.4g} of {status.epochs}"


def _study_of(path: Path) -> str:
    settings, _ = _settings(path / "config.yaml")
    noted = (read_note(path).get("settings", {}), RunFolder(path).read_summary())
    return str(next(filter(None, (known.get("study") for known in (settings, *noted))), ""))


def cumulative(run: Run, column: str) -> Floats:
    """Return a column of the run's curve, in the unit of its name. Views are those back-propagated until then."""
    if column == "views":
        return run.curve["step"] * float(run.summary["views_per_step"])
    return run.curve[column]
