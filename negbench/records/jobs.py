"""Jobs: what a run's `job.json` records, and what Slurm and this machine know, without accounting. Imports no torch."""

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Required, cast

from pydantic import Field, GetPydanticSchema, TypeAdapter, with_config
from typing_extensions import TypedDict

from negbench.records.files import write_json
from negbench.records.forms import STRICT, Plain, Positive, Whole, read_form, readable
from negbench.runtime.errors import UserError
from negbench.runtime.variables import outside

TIMEOUT_SECONDS = 60
STARTED = "started"  # in a background job's folder: it has its turn
MOST_RESTARTS = 10
_FIELDS = ("JobArrayID", "State", "Reason", "NodeList", "RestartCnt")
_ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


@with_config(STRICT)
class Description(TypedDict, total=False):
    """`Resolved.description`."""

    study: str
    method: str
    seed: Whole
    label: str
    changed: dict[str, Plain]


@with_config(STRICT)
class JobNote(TypedDict, total=False):
    """`job.json`: the newest job of a run. It is empty where the run has had none."""

    launcher: Required[str]  # slurm or local
    job_id: Required[Annotated[str, Field(pattern=r"^\w{1,40}$")]]  # of Slurm, as "10_1", or the controller's process
    folder: Required[str]  # of the submission; the logs are in its folder `job_id`
    num_ranks: Positive
    submitted: str  # ISO 8601, as `cancelled`
    command: list[str]  # that submitted it
    settings: Annotated[dict[str, Any], GetPydanticSchema(lambda _, schema: schema(Description))]
    cancelled: str


JOB_NOTE: TypeAdapter[JobNote] = TypeAdapter(JobNote)


def read_note(run: Path, damage: list[str] | None = None) -> JobNote:
    """Return the `job.json` of a run's folder, empty if none can be read; why not is added to `damage`."""
    found = readable([] if damage is None else damage, read_form, run / "job.json", JOB_NOTE)
    return cast(JobNote, found or {})


def write_note(run: Path, note: JobNote) -> None:
    write_json(run / "job.json", dict(note))


class SchedulerError(UserError):
    """Slurm cannot be asked; one sentence."""


@dataclass(frozen=True)
class Job:
    """One Slurm job or array element, as squeue shows it."""

    job_id: str  # "12", or "10_1"
    state: str
    reason: str
    nodes: str
    restarts: int

    @property
    def is_active(self) -> bool:
        return self.state not in _ENDED

    @property
    def is_held_by_slurm(self) -> bool:
        """Held after a failed launch, as by a node that went down then. Nothing but a release ends that."""
        return self.state == "PENDING" and self.reason.endswith("requeued held")


def jobs() -> dict[str, Job]:
    """Return this user's jobs by id, also those that ended minutes ago. `SchedulerError` if squeue does not answer."""
    format_ = ",".join(f"{field}:|" for field in _FIELDS)
    shown = _run("squeue", "--noheader", "--array", "--me", "--states=all", "--Format", format_)
    found: dict[str, Job] = {}
    for line in filter(re.compile(r"\w+\|").match, shown.splitlines()):  # others name a cluster of SLURM_CLUSTERS
        job_id, state, reason, nodes, restarts, *_ = line.strip().split("|")
        found[job_id] = Job(job_id, state, "" if reason == "None" else reason, nodes, int(restarts or 0))
    return found


def jobs_of(notes: Iterable[JobNote]) -> dict[str, Job]:
    """Return what `jobs` does; nothing, without asking squeue, if no note of a run names a Slurm job."""
    return jobs() if any(note.get("launcher") == "slurm" for note in notes) else {}


def jobs_if_asked(notes: Iterable[JobNote]) -> dict[str, Job] | None:
    """Return what `jobs_of` does; None, and a line on standard error the first time, if Slurm cannot be asked."""
    try:
        return jobs_of(notes)
    except SchedulerError as error:
        _warn(f"{error}; the run folders alone are read")
        return None


@functools.cache  # once
def _warn(text: str) -> None:
    print(f"negbench: {text}", file=sys.stderr, flush=True)


def is_active(note: JobNote, known: dict[str, Job]) -> bool:
    """Whether the job that is noted waits or runs."""
    if note.get("launcher") == "slurm":
        job = known.get(str(note.get("job_id")))
        return job is not None and job.is_active
    return note.get("launcher") == "local" and is_controller(str(note.get("job_id")))


def is_controller(pid: str) -> bool:
    """Whether process `pid` of this machine is the controller of a background job, or its shell before."""
    try:
        return "negbench.launch.jobs.background" in (Path("/proc") / pid / "cmdline").read_text()
    except OSError:
        return False


def waits_here(note: JobNote) -> bool:
    """Whether a background job that is active has not started its processes yet."""
    return note.get("launcher") == "local" and not os.path.exists(Path(note["folder"], note["job_id"], STARTED))


def release_held(notes: Iterable[JobNote], known: dict[str, Job]) -> list[str]:
    """Release the jobs of these runs that Slurm holds after a failed launch, and return their ids."""
    ids = [str(note.get("job_id")) for note in notes if note.get("launcher") == "slurm"]
    held = [job_id for job_id in ids if job_id in known and known[job_id].is_held_by_slurm]
    if held:
        _run("scontrol", "release", *held)
    return held


def released(job_ids: Sequence[str]) -> str:
    """Return the sentence on jobs that `release_held` has released."""
    return f"Slurm held job {', '.join(job_ids)} after a failed launch; it is released and waits again"


def watched_jobs(notes: Sequence[JobNote], say: Callable[[str], None]) -> dict[str, Job] | None:
    """Return what `jobs_if_asked` does, for a call that waits: nobody else may come to release what Slurm holds.

    It releases a job `MOST_RESTARTS` times at most, since a node may fail at every launch.
    """
    known = jobs_if_asked(notes)
    try:
        if held := release_held(notes, {k: job for k, job in (known or {}).items() if job.restarts < MOST_RESTARTS}):
            say(released(held))
    except SchedulerError as error:
        _warn(str(error))
    return known


def cancel(job_ids: Sequence[str]) -> None:
    """End Slurm jobs. `SchedulerError` if scancel refuses."""
    _run("scancel", *job_ids)


def _run(*command: str) -> str:
    try:
        with outside():
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except FileNotFoundError:
        raise SchedulerError(f"{command[0]} is not on PATH, so Slurm cannot be asked about its jobs") from None
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{command[0]} has not answered for {TIMEOUT_SECONDS} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise SchedulerError(f"{command[0]}: {said[0]}")
    return done.stdout
