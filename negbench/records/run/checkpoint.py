"""Checkpoints: what they hold, and files that are atomic, have a checksum, and are read without unpickling.

`step-00001200.pt` is beside `step-00001200.pt.sha256` (the format of `sha256sum -c`). The checksum is written
first and the checkpoint is renamed into place after it: whatever ends in `.pt` is whole or contradicts it.

To change the format, change `State`, raise `VERSION`, and let `load` complete the state of earlier versions, or raise
`OLDEST`. mypy then names what writes and reads the state in train/.
"""

import hashlib
import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, cast

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from torch import Tensor
from typing_extensions import TypedDict

import negbench
from negbench.records.files import storage_error, write_atomically
from negbench.records.forms import Amount, Positive, Quantity, reason_of
from negbench.records.run.checkpoint_files import (
    DamagedCheckpoint,
    checksum_of,
    read_checksum,
    read_whole,
    step_named_by,
)
from negbench.records.run.checkpoint_files import find as find
from negbench.runtime.errors import UserError
from negbench.runtime.failure import is_out_of_memory

VERSION = 3  # of the format that is written; a checkpoint without one is of version 1
OLDEST = 1  # version that is read
WEIGHTS: Final = "method"  # the key of weights and buffers, for readers of encoders
_FORM = with_config(ConfigDict(strict=True, arbitrary_types_allowed=True))


@_FORM
class ClockState(TypedDict):
    """`train.clock.Clock`: seconds by kind, and joules by rank, None where unknown."""

    seconds: dict[str, Quantity]
    joules: list[Quantity | None]


@_FORM
class MeterState(TypedDict):
    """`train.meter.Meter`: sums over `count` steps, [world, number of names]; None if there are none."""

    names: list[str]
    sums: Tensor | None
    count: Amount


@_FORM
class RowsState(TypedDict):
    """`train.rows.Rows`: what the next rows are made of."""

    step_meter: MeterState
    epoch_meter: MeterState
    epoch_start_seconds: dict[str, Quantity]


@_FORM
class OptimizerState(TypedDict):
    """What `Optimizer.state_dict` returns."""

    state: dict[int, dict[str, Any]]
    param_groups: list[dict[str, Any]]


@_FORM
class State(ClockState, RowsState):
    """All that the next step depends on, and the length of the run's records."""

    step: Amount  # steps trained
    world_size: Positive  # processes that wrote it
    world_sizes: list[Positive]  # of all attempts that have trained this state
    precision: str  # the encoders' autocast type
    peak_memory_bytes: Amount | None
    peak_reserved_bytes: Amount | None
    negatives_per_query: Tensor | None  # of the first step
    communicated_bytes: dict[str, Amount]  # of the last step, by purpose
    method: dict[str, Tensor]
    optimizer: OptimizerState
    scaler: dict[str, Any]
    lost_seconds: Quantity  # trained after a checkpoint that an attempt resumed from
    evaluated_step: Annotated[int, Field(ge=-1)]  # the last one, -1 before
    curve: dict[int, dict[str, Any]]  # what evaluations to come need of earlier steps
    skipped: list[str]  # paths of undecodable files
    metrics_bytes: Amount  # of metrics.jsonl
    metrics_sha256: str | None  # of these bytes; as `run_id`, None in checkpoints of earlier versions
    run_id: str | None


_STATE: TypeAdapter[Any] = TypeAdapter(State)


def save(folder: Path, step: int, state: Mapping[str, object], keep: int) -> Path:
    """Write a `State` of `step` and delete all but the newest `keep`. `StorageError` if it cannot be written."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, "negbench_version": negbench.__version__, **state}, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:08d}.pt"
    line = f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"
    before = read_checksum(path) if path.is_file() else ""
    try:
        write_atomically(checksum_of(path), line + before)  # both count until the file is replaced
        write_atomically(path, content)
        if before:
            write_atomically(checksum_of(path), line)
    except OSError as error:
        if not path.exists():
            checksum_of(path).unlink(missing_ok=True)
        kept = find(folder)
        whole = f"{kept[0].name} is whole, and the same command resumes from it" if kept else "no checkpoint before it"
        raise storage_error(path, error, f"{len(content) / 2**20:,.0f} MiB are needed; {whole}") from None
    for old in find(folder)[keep:]:
        old.unlink()
        checksum_of(old).unlink(missing_ok=True)
    return path


def load(path: Path) -> State:
    """Return the state on the CPU. `DamagedCheckpoint` for a file that holds none, UserError for a version not read."""
    content = read_whole(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly any
        if is_out_of_memory(error):
            raise
        raise DamagedCheckpoint(path, f"it holds not tensors and plain values alone ({type(error).__name__})") from None
    if not isinstance(state, dict):
        raise DamagedCheckpoint(path, f"it holds a {type(state).__name__}, and no state of a run")
    check_version(path, state)
    if "version" not in state and "world_size" in state:
        state = {"world_sizes": [state["world_size"]], "curve": {}} | state  # early ones lack them
    state = {"run_id": None, "metrics_sha256": None} | state
    try:
        _STATE.validate_python(state)
    except ValidationError as error:
        raise DamagedCheckpoint(path, reason_of(error)) from None
    if state["step"] != step_named_by(path):
        raise DamagedCheckpoint(path, f"it is of step {state['step']:,}, and not of the step in its name")
    if not all(tensor.isfinite().all() for tensor in state[WEIGHTS].values()):
        raise DamagedCheckpoint(path, "its weights are not finite")
    return cast(State, state)


def check_version(path: Path, content: Mapping[str, Any]) -> None:
    """UserError for a checkpoint of a version that is not read. Files of other programs pass."""
    writer = content.get("negbench_version")
    version = content.get("version", 1) if writer else 1
    if type(version) is not int:
        raise DamagedCheckpoint(path, "its version is no whole number")
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
    UserError, and nothing renamed, if all are damaged, or the newest of the others is of a version that is not read.
    """
    damaged: list[tuple[Path, str]] = []
    for path in find(folder):
        try:
            load(path)
        except DamagedCheckpoint as error:
            damaged.append((path, str(error)))
            continue
        for other, reason in damaged:
            warn(f"{reason}; an earlier one is used")
            if set_aside:
                other.rename(other.with_name(f"{other.name}.damaged"))
        return path
    if damaged:
        raise UserError(f"every checkpoint in {folder} is damaged; --fresh starts the run again ({damaged[0][1]})")
    return None
