"""The log files of jobs."""

import sys
import time
from collections import deque
from pathlib import Path

from negbench.records.jobs import is_active, read_note, watched_jobs
from negbench.records.run_folder import is_locked
from negbench.records.status import status_of
from negbench.runtime.errors import UserError

POLL_SECONDS = 0.5
JOB_POLL_SECONDS = 5.0
RUN_LOG = "run.log"  # of a run that a sweep starts on this machine


def log_of(run: Path, rank: int = 0) -> Path:
    """Return the log file of `run`'s newest job, or of its process in a sweep. UserError if it has none."""
    if note := read_note(run):
        if rank >= (num_ranks := note.get("num_ranks", 1)):
            raise UserError(f"{run} has {num_ranks} ranks, numbered from 0; there is no rank {rank}")
        job_id = note["job_id"]
        return Path(note["folder"]) / job_id / f"{job_id}_{rank}_log.out"
    if (run / RUN_LOG).exists():
        return run / RUN_LOG
    raise UserError(f"{run} has no log: it is not a run of a job or a sweep" if run.is_dir() else f"no run {run}")


def follow_log(
    run: Path, path: Path, lines: int | None = None, poll_s: float = POLL_SECONDS, job_poll_s: float = JOB_POLL_SECONDS
) -> None:
    """Copy the log to standard output, its last `lines` first, until the run's job is over.

    It looks into the log every `poll_s` and asks for the job's state every `job_poll_s`.
    """
    position, looked, over = 0, -job_poll_s, False
    while True:
        if time.monotonic() - looked >= job_poll_s:
            over, looked = not _is_alive(run), time.monotonic()
        if path.exists():
            with open(path, errors="replace") as file:
                file.seek(position)
                text = file.read()
                position = file.tell()
            if lines is not None:
                text, lines = "".join(deque(text.splitlines(keepends=True), lines)), None
            sys.stdout.write(text)
            sys.stdout.flush()
        if over:
            return
        time.sleep(poll_s)


def waits_or_runs(state: str, slurm_was_asked: bool) -> bool:
    """Whether a run in `state` waits or runs; unless Slurm was asked, also whether it may have been requeued."""
    if slurm_was_asked:
        return state in ("pending", "running", "stalled")
    return state not in ("done", "failed", "cancelled")


def _is_alive(run: Path) -> bool:
    note = read_note(run)
    known = watched_jobs([note], lambda text: print(f"negbench: {text}", file=sys.stderr, flush=True))
    if known is None:
        return waits_or_runs(status_of(run, known).state, slurm_was_asked=False)
    return is_active(note, known) or is_locked(run)
