"""Checkpoints: what they hold, and files that are atomic, have a checksum, and are read without unpickling.

`step-00001200.pt` is beside `step-00001200.pt.sha256` (the format of `sha256sum -c`). The checksum is written
first and the checkpoint is renamed into place after it: whatever ends in `.pt` is whole or contradicts it.

To change the format, change `State`, raise `VERSION`, and let `load` complete the state of earlier versions, or raise
`OLDEST`. mypy then names what writes and reads the state in train/.
"""

import hashlib
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypedDict, cast

import torch
from torch import Tensor

import negbench
from negbench.records.files import storage_error, write_atomically
from negbench.runtime.errors import UserError

VERSION = 3  # of the format that is written; a checkpoint without one is of version 1
OLDEST = 1  # version that is read
WEIGHTS: Final = "method"  # the key of weights and buffers, for readers of encoders


class ClockState(TypedDict):
    """`train.clock.Clock`: seconds by kind, and joules by rank, None where unknown."""

    seconds: dict[str, float]
    joules: list[float | None]


class MeterState(TypedDict):
    """`train.meter.Meter`: sums over `count` steps, [world, number of names]; None if there are none."""

    names: list[str]
    sums: Tensor | None
    count: int


class RowsState(TypedDict):
    """`train.rows.Rows`: what the next rows are made of."""

    step_meter: MeterState
    epoch_meter: MeterState
    epoch_start_seconds: dict[str, float]


class State(ClockState, RowsState):
    """All that the next step depends on, and the length of the run's records."""

    step: int  # steps trained
    world_size: int  # processes that wrote it
    world_sizes: list[int]  # of all attempts that have trained this state
    precision: str  # the encoders' autocast type
    peak_memory_bytes: int | None
    peak_reserved_bytes: int | None
    negatives_per_query: Tensor | None  # of the first step
    communicated_bytes: dict[str, int]  # of the last step, by purpose
    method: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    lost_seconds: float  # trained after a checkpoint that an attempt resumed from
    evaluated_step: int  # the last one, -1 before
    curve: dict[int, dict[str, Any]]  # what evaluations to come need of earlier steps
    skipped: list[str]  # paths of undecodable files
    metrics_bytes: int  # of metrics.jsonl
    metrics_sha256: str | None  # of these bytes; as `run_id`, None in checkpoints of earlier versions
    run_id: str | None


def save(folder: Path, step: int, state: Mapping[str, object], keep: int) -> Path:
    """Write a `State` of `step` and delete all but the newest `keep`. `StorageError` if it cannot be written."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, "negbench_version": negbench.__version__, **state}, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:08d}.pt"
    line = f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"
    before = _checksum(path).read_text() if path.is_file() else ""
    try:
        write_atomically(_checksum(path), line + before)  # both count until the file is replaced
        write_atomically(path, content)
        if before:
            write_atomically(_checksum(path), line)
    except OSError as error:
        if not path.exists():
            _checksum(path).unlink(missing_ok=True)
        kept = find(folder)
        whole = f"{kept[0].name} is whole, and the same command resumes from it" if kept else "no checkpoint before it"
        raise storage_error(path, error, f"{len(content) / 2**20:,.0f} MiB are needed; {whole}") from None
    for old in find(folder)[keep:]:
        old.unlink()
        _checksum(old).unlink(missing_ok=True)
    return path


def find(folder: Path) -> list[Path]:
    """Return the checkpoints, newest first."""
    found = (path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", path.name) and path.is_file())
    return sorted(found, reverse=True)


def load(path: Path) -> State:
    """Return the state on the CPU. UserError naming the file if it is damaged or of a version that is not read."""
    content = read_whole(path)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"checkpoint {path} is damaged: {error}") from None
    check_version(path, state)
    if "version" not in state:
        state = {"world_sizes": [state["world_size"]], "curve": {}} | state  # early ones lack them
    state = {"run_id": None, "metrics_sha256": None} | state
    return cast(State, state)


def check_version(path: Path, content: Mapping[str, Any]) -> None:
    """UserError for a checkpoint of a version that is not read. Files of other programs pass."""
    writer = content.get("negbench_version")
    version = content.get("version", 1) if writer else 1
    if not OLDEST <= version <= VERSION:
        known = f"negbench {writer}" if writer else "an earlier negbench"
        raise UserError(
            f"checkpoint {path} is of version {version}, written by {known}, and negbench {negbench.__version__} reads "
            f"versions {OLDEST} to {VERSION}; use {known}, or start the run again with --fresh"
        )


def check_run(path: Path, content: Mapping[str, Any], *run_ids: str | None) -> None:
    """Raise UserError for a checkpoint of another run than `run_ids`; one of an earlier version does not name its."""
    run_id = content.get("run_id")
    if run_id is not None and run_id not in run_ids:
        raise UserError(
            f"checkpoint {path} is of another run, {run_id}; put it back there, or make this run anew with --fresh"
        )


def step_of(content: Mapping[str, Any]) -> int | None:
    """Return the steps that a checkpoint was trained for, None for files of other programs."""
    return content.get("step")


def find_whole(folder: Path, warn: Callable[[str], None], set_aside: bool = False) -> Path | None:
    """Return the newest whole checkpoint, None if there are none.

    `warn` names each damaged one; `set_aside` renames it to `.damaged`, so that it does not count among those kept.
    UserError, and nothing renamed, if all are damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for path in find(folder):
        try:
            read_whole(path)
        except UserError as error:
            damaged.append((path, str(error)))
            continue
        for other, reason in damaged:
            warn(f"{reason}; an earlier one is used")
            if set_aside:
                other.rename(other.with_name(f"{other.name}.damaged"))
        return path
    if damaged:
        raise UserError(f"every checkpoint in {folder} is damaged; --fresh starts the run again")
    return None


def has_checksum(path: Path) -> bool:
    """Whether the file at `path` claims to be a checkpoint of negbench."""
    return _checksum(path).exists()


def read_whole(path: Path) -> bytes:
    """Return the file's content. UserError naming the file if it is damaged."""
    content = path.read_bytes()
    checksum = _checksum(path)
    if not checksum.exists():
        raise UserError(f"checkpoint {path} is damaged: {checksum.name} is missing")
    if hashlib.sha256(content).hexdigest() not in {
        line.partition(" ")[0] for line in checksum.read_text().splitlines()
    }:
        raise UserError(f"checkpoint {path} is damaged: its checksum does not match")
    return content


def _checksum(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
