"""Checkpoints: atomic, with a checksum, read without unpickling.

`step-00001200.pt` stands beside `step-00001200.pt.sha256` (the format of `sha256sum -c`). The checksum is written
first and the checkpoint is renamed into place after it: whatever ends in `.pt` is whole or contradicts it.
"""

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from negbench.records.files import storage_error, write_atomically
from negbench.runtime.errors import UserError

State = dict[str, Any]


def save(folder: Path, step: int, state: State, keep: int) -> Path:
    """Write the checkpoint of `step` and delete all but the newest `keep`. `StorageError` if it cannot be written."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:08d}.pt"
    line = f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"
    before = _checksum(path).read_text() if path.exists() else ""
    try:
        write_atomically(_checksum(path), line + before)  # both count until the file is replaced
        write_atomically(path, content)
        if before:
            write_atomically(_checksum(path), line)
    except OSError as error:
        if not path.exists():
            _checksum(path).unlink(missing_ok=True)
        kept = find(folder)
        whole = f"{kept[0].name} is whole, and the same command goes on from it" if kept else "no checkpoint before it"
        raise storage_error(path, error, f"{len(content) / 2**20:,.0f} MiB are needed; {whole}") from None
    for old in find(folder)[keep:]:
        old.unlink()
        _checksum(old).unlink(missing_ok=True)
    return path


def find(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted((path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", path.name)), reverse=True)


def load(path: Path) -> State:
    """The state on the CPU. UserError naming the file if it is damaged."""
    content = read_whole(path)
    try:
        return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    except Exception as error:
        raise UserError(f"checkpoint {path} is damaged: {error}") from None


def find_whole(folder: Path, warn: Callable[[str], None], set_aside: bool = False) -> Path | None:
    """The newest whole checkpoint, or None if there is none at all.

    Each damaged one is named through `warn`; `set_aside` renames it to `.damaged`, so that it does not count among
    those kept. UserError, and nothing renamed, if every one is damaged.
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
    """Whether the file at `path` is one of ours, or says so."""
    return _checksum(path).exists()


def read_whole(path: Path) -> bytes:
    """The file's content. UserError naming the file if it is damaged."""
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
