"""The states of runs, from their folders and Slurm, without accounting or a submitter. Imports no torch."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from negbench.records.find import OF_RUNS, search
from negbench.records.forms import read_form, readable
from negbench.records.jobs import Job, JobNote, is_active, read_note, waits_here
from negbench.records.run import earlier
from negbench.records.run.config import read_settings
from negbench.records.run.metrics import Row, parse
from negbench.records.run.outcome import ending_in
from negbench.records.run.summary import SUMMARY, changed_in
from negbench.records.run_folder import ENVIRONMENT, RunFolder, is_locked
from negbench.runtime.errors import UserError

TAIL_BYTES = 1 << 16
_REASONS = {  # of endings that are nobody's mistake
    "requeued": "the job's time here is over",
    "lost_process": "another process of this run is gone",
}


@dataclass(frozen=True)
class RunStatus:
    """One run.

    `state` is done, pending, running, stalled, failed, interrupted, cancelled, dead, damaged, new or unknown.
    interrupted: a signal ended it, with a checkpoint; dead: it ended without a record; damaged: it does not run, and a
    record of it cannot be read; new: not started; unknown: Slurm could not be asked, and the folder does not show it.
    `ending` is the recorded kind of a run that has ended, `changed` what its command set on top of the study.
    """

    run_id: str
    study: str
    method: str
    seed: int | None
    state: str
    detail: str = ""
    requeued: int = 0
    epoch: float | None = None
    epochs: int | None = None
    loss: float | None = None
    knn_top1: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    node: str = ""
    ending: str = ""
    changed: dict[str, Any] = field(default_factory=dict)


def is_run(path: Path) -> bool:
    """Whether `path` is a run's folder: submitted, started by a sweep, begun, or failed before that.

    The folder of an imported encoder holds `encoder.json`.
    """
    return not (path / "encoder.json").exists() and any((path / name).exists() for name in OF_RUNS)


def find_runs(output: Path) -> list[Path]:
    """Return the run folders in `output`, at any depth, by name. UserError if it is not a folder.

    The trials of a tuning in it are not among them, nor are published records (`find.PUBLISHED`).
    """
    if not output.is_dir():
        raise UserError(f"there is no folder {output}; --output names the parent folder of runs")
    return sorted(path for path, names in search(output) if not names.isdisjoint(OF_RUNS) and is_run(path))


def status_of(path: Path, known: dict[str, Job] | None) -> RunStatus:
    """Return the run's state. `known` are Slurm's jobs, None if unknown."""
    folder, damage = RunFolder(path), list[str]()
    config = readable(damage, read_settings, folder.config) or {}
    summary = readable(damage, read_form, folder.summary, SUMMARY) or {}
    environment = readable(damage, read_form, folder.environment, ENVIRONMENT) or {}
    note = read_note(path, [] if folder.done.exists() else damage)
    settings = note.get("settings", {})
    rows = _last_rows(folder.metrics)
    train: dict[str, Any] = next((row for row in reversed(rows) if row.get("kind") == "train"), {})
    newest: dict[str, Any] = {key: value for row in rows for key, value in row.items()}
    is_slurm = note.get("launcher") == "slurm"
    job = known.get(str(note.get("job_id"))) if known and is_slurm else None
    state, detail = _state(folder, note, job, known or {}, summary)
    if known is None and is_slurm and state not in ("done", "running", "stalled"):
        state = "unknown" if state == "dead" else state
        detail = "; ".join(filter(None, (detail if state != "unknown" else "", "Slurm could not be asked")))
    if damage and state not in ("pending", "running", "stalled"):
        state, detail = "damaged", damage[0]
    epochs, epoch = config.get("epochs"), newest.get("epoch")
    active = state in ("running", "stalled")
    left = None
    if active and epochs and train.get("epoch") and train.get("step_seconds"):
        left = train["step_seconds"] * train["step"] * (epochs / train["epoch"] - 1)
    changed = changed_in(summary, settings, environment)
    label = str(summary.get("label") or settings.get("label") or "")
    restarts = job.restarts if job else max(0, len(environment.get("attempts", [])) - 1)
    return RunStatus(
        run_id=path.name,
        study=str(config.get("study") or settings.get("study") or summary.get("study") or ""),
        method=str(summary.get("method") or settings.get("method") or config.get("method.name") or ""),
        seed=config.get("seed", settings.get("seed", summary.get("seed"))),
        state=state,
        detail=detail,
        requeued=restarts,
        epoch=epoch,
        epochs=epochs,
        loss=train.get("loss", newest.get("loss")),
        knn_top1=summary.get("knn_top1") or newest.get("knn_top1"),
        images_per_second=newest.get("images_per_second"),
        seconds_left=left,
        node=(job.nodes if job else str(folder.read_lock().get("host", ""))) if active else "",
        ending=str(ending_in(summary).get("kind", "")) if state == summary.get("status") else "",
        changed=earlier.changed_by_label(label) if changed is None else changed,
    )


def _state(
    folder: RunFolder, note: JobNote, job: Job | None, known: dict[str, Job], summary: dict[str, Any]
) -> tuple[str, str]:
    if folder.done.exists():
        return "done", ""
    if job is not None and job.state == "PENDING":
        return "pending", f"{job.reason}; the same command releases it" if job.is_held_by_slurm else job.reason
    if is_active(note, known) and waits_here(note):
        return "pending", "for set-up lines, or for another job's end (--max-parallel)"
    if is_active(note, known) or is_locked(folder.path):
        try:
            return "stalled", (folder.path / "stalled").read_text().partition("\n")[0]
        except OSError:
            return "running", ""
    if "cancelled" in note:
        return "cancelled", ""
    if (status := summary.get("status")) in ("failed", "interrupted"):
        return str(status), _reason(summary)
    if job is not None and job.state == "CANCELLED":
        return "cancelled", ""
    if folder.environment.exists():
        return "dead", "its process ended without a record; the same command resumes"
    return ("dead", "its job ended before it started") if note else ("new", "")


def _reason(summary: dict[str, Any]) -> str:
    ending = ending_in(summary)
    kind, signal = ending.get("kind"), ending.get("signal")
    if kind == "interrupted" and signal:
        return str(signal)
    return _REASONS.get(str(kind)) or str(summary.get("error") or "").partition("\n")[0]


def _last_rows(path: Path) -> list[dict[str, Any]]:
    """Return the whole rows in the file's last bytes."""
    try:
        if not path.is_file():
            return []
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        with suppress(ValueError):
            rows.append(parse(line, Row))
    return rows
