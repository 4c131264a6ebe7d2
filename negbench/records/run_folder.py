"""A run's folder: what is written, when, and by whom.

`config.yaml`, `environment.json`, `data.json` and `code/` at the start, `metrics.jsonl` appended while it runs,
`checkpoints/`, `summary.json` at every end, `manifest.json` and `done` at the good one. `run.lock` holds the number of
the attempt that may write.
Imports no torch.
"""

import hashlib
import itertools
import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from negbench.records import locks
from negbench.records.files import storage_error
from negbench.records.forms import STRICT, Amount, Plain, Positive, Quantity, Record, read_form, readable
from negbench.records.run.metrics import check_rows, complete_rows
from negbench.records.run.summary import SUMMARY
from negbench.runtime.errors import InUseError, UserError
from negbench.runtime.variables import number, text

SCHEMA_VERSION = 2  # of summary.json
LOCK = "run.lock"
TIMING_SUFFIXES = ("_seconds", "_per_second", "_hours", "_joules", "_bytes")


@with_config(STRICT)
class Lock(TypedDict, total=False):
    """`run.lock`: the newest attempt, whose process holds the file's lock."""

    attempt: Amount
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    host: str
    started: str  # ISO 8601
    slurm_job_id: str  # both in a Slurm job alone
    slurm_restarts: Amount


class Environment(Record):
    """What readers use of `environment.json`: the newest attempt's machine and software, and all attempts."""

    device: str | None = None
    device_type: str | None = None
    world_size: Positive | None = None
    precision: str | None = None
    num_cpus: Positive | None = None
    load_average: Quantity | None = None
    torch_version: str | None = None
    negbench_version: str | None = None
    git_revision: str | None = None
    method_code: str | None = None
    results_version: Amount | None = None
    reproduce: list[str] | None = None
    changed: dict[str, Plain] | None = None
    attempts: list[dict[str, Plain]] = Field(default=[])


ENVIRONMENT: TypeAdapter[Any] = TypeAdapter(Environment)
LOCK_FORM: TypeAdapter[Any] = TypeAdapter(Lock)


class RunFolder:
    """Paths and writers of one run. Only rank 0 writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.config = path / "config.yaml"
        self.method = path / "method.py"  # a copy of the user's method file
        self.code = path / "code"  # copies of the files of any other method, and of what it imports
        self.environment = path / "environment.json"
        self.data = path / "data.json"
        self.metrics = path / "metrics.jsonl"
        self.summary = path / "summary.json"
        self.done = path / "done"
        self.evaluations = path / "evaluations"
        self.attempt = 0
        self._lock: int | None = None

    def is_done(self) -> bool:
        """Whether the run is finished. UserError if the folder cannot be read."""
        try:
            return self.done.exists()
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from None

    def check_writable(self) -> None:
        """UserError if the folder can be neither written nor made, before time is spent on loading data."""
        existing = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not existing.is_dir():
            raise UserError(f"cannot write to {self.path}: {existing} is a file; choose another folder with --output")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"cannot write to {existing}: no permission; choose another folder with --output")

    def open(self, fresh: bool = False) -> None:
        """Make the folder and take its lock; `fresh` empties it first. UserError if that fails or a process uses it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if fresh:
                self._empty()
            self._make_checkpoints()
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path}: {error.strerror or error}; choose another folder with --output"
            ) from None
        self._remove_leftovers()

    def is_ours(self) -> bool:
        """Whether no later attempt has taken the run over."""
        return bool(self.read_lock().get("attempt") == self.attempt)

    def takes_an_ending(self) -> bool:
        """Whether this process may record that the run has failed: it holds the run, or nobody does."""
        is_free = self.is_ours() if self.attempt else not is_locked(self.path)
        return is_free and self.path.is_dir() and not self.done.exists()

    def check_still_ours(self) -> None:
        """RuntimeError if a later attempt has taken the run over."""
        if not self.is_ours():
            holder = self.read_lock()
            raise RuntimeError(
                f"{self.path} was taken over by attempt {holder.get('attempt')} (process {holder.get('pid')} on "
                f"{holder.get('host')}); this is attempt {self.attempt}, and it writes no more"
            )

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def append(self, row: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`. `StorageError` if it cannot be written."""
        self.check_still_ours()
        try:
            with open(self.metrics, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise storage_error(self.metrics, error, "the same command resumes from the last checkpoint") from None

    def metrics_on_disk(self) -> tuple[int, str]:
        """Return length and digest of `metrics.jsonl`, flushed first, so that a checkpoint counts no line that could be
        lost."""
        if not self.metrics.exists():
            return 0, _digest(b"")
        with open(self.metrics, "rb") as file:
            os.fsync(file.fileno())
            content = file.read()
        return len(content), _digest(content)

    def check_metrics(self, length: int, digest: str | None) -> None:
        """Raise UserError if `metrics.jsonl` does not begin with the `length` bytes that a checkpoint counts.

        Without their `digest`, as in checkpoints of earlier versions, they need only be whole rows.
        """
        kept = self.metrics.read_bytes()[:length] if self.metrics.is_file() else b""
        reason = ""
        if len(kept) < length:
            reason = f"it has {len(kept):,} bytes and not the {length:,} that there were"
        elif digest is None:
            damage: list[str] = []
            readable(damage, check_rows, self.metrics, kept.splitlines())
            reason = "".join(damage)
        elif _digest(kept) != digest:
            reason = "its rows were changed"
        if reason:
            raise UserError(
                f"{self.metrics} is not as the newest checkpoint left it: {reason}; put the file back, or start the "
                "run again with --fresh"
            )

    def truncate_metrics(self, length: int) -> list[dict[str, Any]]:
        """Cut `metrics.jsonl` to `length` bytes and return the rows that are cut off."""
        if not self.metrics.exists():
            return []
        with open(self.metrics, "r+b") as file:
            file.seek(length)
            rest = file.read()
            file.truncate(min(length, self.metrics.stat().st_size))
        return list(complete_rows(rest))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the rows before the first line that cannot be read."""
        return list(complete_rows(self.metrics.read_bytes())) if self.metrics.is_file() else []

    def read_summary(self) -> dict[str, Any]:
        """Return the record, empty if there is none that can be read."""
        return readable([], read_form, self.summary, SUMMARY) or {}

    def read_environment(self) -> dict[str, Any]:
        """As `read_summary`."""
        return readable([], read_form, self.environment, ENVIRONMENT) or {}

    def _take_lock(self) -> None:
        os.register_at_fork(after_in_child=self.close)  # or a worker would hold the lock after this process's death
        path = self.path / LOCK
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        is_taken = locks.take(self._lock, self.path)
        holder = self.read_lock()
        if not is_taken:
            self.close()
            if not _is_earlier_incarnation(holder):
                raise InUseError(
                    f"{self.path} is in use by process {holder.get('pid')} on {holder.get('host')}; "
                    "wait for it, or end it first"
                )
            partial = self.path / f".{LOCK}.{os.getpid()}.partial"
            self._lock = os.open(partial, os.O_RDWR | os.O_CREAT, 0o644)
            locks.take(self._lock, self.path)
            partial.replace(path)
        self.attempt = int(holder.get("attempt", 0)) + 1
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        mine: Lock = {"attempt": self.attempt, "pid": os.getpid(), "host": socket.gethostname(), "started": started}
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, json.dumps(mine | _slurm_attempt()).encode(), 0)

    def _remove_leftovers(self) -> None:
        """Remove the files of a process that was killed while it wrote."""
        for folder in (self.path, self.checkpoints, self.evaluations):
            for partial in folder.glob(".*.partial"):
                if not partial.is_dir():
                    partial.unlink(missing_ok=True)
        for checksum in self.checkpoints.glob("*.pt.sha256"):
            if not (checksum.with_suffix("").exists() or checksum.is_dir()):
                checksum.unlink(missing_ok=True)

    def read_lock(self) -> Lock:
        """As `read_summary`."""
        return cast(Lock, readable([], read_form, self.path / LOCK, LOCK_FORM) or {})

    def _make_checkpoints(self) -> None:
        if self.checkpoints.is_symlink() and not self.checkpoints.exists():
            target = self.checkpoints.readlink()
            raise UserError(
                f"{self.checkpoints} is a link to {target}, which is not there; make it, or remove the link"
            )
        if self.checkpoints.exists() and not self.checkpoints.is_dir():
            raise UserError(f"{self.checkpoints} is no folder, and checkpoints would be written there; move it away")
        self.checkpoints.mkdir(exist_ok=True)

    def _empty(self) -> None:
        """Remove all but the lock and what links lead to; of a linked folder of checkpoints, which stays, those."""
        for entry in self.path.iterdir():
            if entry == self.checkpoints and entry.is_symlink() and entry.is_dir():
                for file in itertools.chain(entry.glob("step-*.pt*"), entry.glob(".step-*.partial")):
                    _remove(file)
            elif entry.name != LOCK:
                _remove(entry)


def _remove(entry: Path) -> None:
    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of the run in `path`; a lock of another machine may not show."""
    return locks.is_taken(path / LOCK)


def _slurm_attempt() -> Lock:
    job_id = text("SLURM_JOB_ID")
    return {"slurm_job_id": job_id, "slurm_restarts": number("SLURM_RESTART_COUNT")} if job_id else {}


def _is_earlier_incarnation(holder: Lock) -> bool:
    """Whether the lock's holder is this very Slurm job before its last requeue, left over on a node that was lost."""
    mine = _slurm_attempt()
    same_job = bool(mine) and holder.get("slurm_job_id") == mine["slurm_job_id"]
    return same_job and holder.get("slurm_restarts", 0) < mine["slurm_restarts"]


def without_timings(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields in which two equal runs agree."""
    return {key: value for key, value in row.items() if key != "time" and not key.endswith(TIMING_SUFFIXES)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
