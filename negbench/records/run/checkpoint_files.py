"""The files of checkpoints: their names, and whether each has its checksum. Imports no torch."""

import hashlib
import re
from pathlib import Path

from negbench.runtime.errors import UserError

_NAME = re.compile(r"step-(\d{8,15})\.pt")


class DamagedCheckpoint(UserError):
    """A checkpoint cannot be used, and one before it can be."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"checkpoint {path} is damaged: {reason}")


def find(folder: Path) -> list[Path]:
    """Return the checkpoints, newest first."""
    found = [path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=lambda path: (step_named_by(path), path.name), reverse=True)


def step_named_by(path: Path) -> int | None:
    """Return the step in a checkpoint's name."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def checksum_of(path: Path) -> Path:
    """Return the path of a checkpoint's checksum."""
    return path.with_name(f"{path.name}.sha256")


def has_checksum(path: Path) -> bool:
    """Whether the file at `path` claims to be a checkpoint of negbench."""
    return checksum_of(path).exists()


def read_whole(path: Path) -> bytes:
    """Return the file's content. `DamagedCheckpoint` if it does not have its checksum."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedCheckpoint(path, f"it cannot be read: {error.strerror}") from None
    if not checksum_of(path).is_file():
        raise DamagedCheckpoint(path, f"{checksum_of(path).name} is missing")
    known = read_checksum(path).splitlines()
    if hashlib.sha256(content).hexdigest() not in {line.partition(" ")[0] for line in known}:
        raise DamagedCheckpoint(path, "its checksum does not match")
    return content


def read_checksum(path: Path) -> str:
    """Return the lines of a checkpoint's checksum, empty if there is none that can be read."""
    checksum = checksum_of(path)
    try:
        return checksum.read_text(errors="replace") if checksum.is_file() else ""
    except OSError:
        return ""
