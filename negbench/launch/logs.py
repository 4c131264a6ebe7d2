"""The log files of jobs."""

import sys
import time
from collections import deque
from pathlib import Path

from negbench.launch.scheduler import is_active, jobs_if_asked
from negbench.records import read_json
from negbench.status import is_locked, status_of

POLL_SECONDS = 0.5
JOB_POLL_SECONDS = 5.0
OVER = ("done", "failed", "cancelled")  # a run that was interrupted or is dead may be requeued
RUN_LOG = "run.log"  # of a run that a sweep starts on this machine


def log_of(run: Path, rank: int = 0) -> Path:
    """Where the newest job of `run`, or its process, writes. ValueError if it has none."""
    note = read_json(run / "job.json")
    if note:
        if rank >= note.get("num_ranks", 1):
            raise ValueError(f"{run} has {note.get('num_ranks', 1)} ranks, numbered from 0; there is no rank {rank}")
        job_id = note["job_id"]
        return Path(note["folder"]) / job_id / f"{job_id}_{rank}_log.out"
    if (run / RUN_LOG).exists():
        return run / RUN_LOG
    raise ValueError(f"{run} has no log: it is not a run of a job or a sweep" if run.is_dir() else f"no run {run}")


def follow_log(run: Path, path: Path, lines: int | None = None) -> None:
    """Copy the log to standard output, its last `lines` first, until the run's job is over."""
    position, looked = 0, -JOB_POLL_SECONDS
    over = False
    while True:
        if time.monotonic() - looked >= JOB_POLL_SECONDS:
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
        time.sleep(POLL_SECONDS)


def _is_alive(run: Path) -> bool:
    """Whether the run's job waits or runs; it does, where Slurm cannot be asked, until the run's folder says no."""
    note = read_json(run / "job.json")
    known = jobs_if_asked([note])
    if known is None:
        return status_of(run, known).state not in OVER
    return is_active(note, known) or is_locked(run / "run.lock")
