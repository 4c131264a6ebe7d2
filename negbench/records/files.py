"""Files that are whole or absent, and errors that say which."""

import codecs
import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from negbench.runtime.errors import UserError
from negbench.runtime.failure import StorageError


class DamagedError(UserError):
    """A record cannot be read. `brief` names the file without its folder."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}")
        self.brief = f"{path.name}: {reason}"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside `path`, flush to disk and rename, so that a reader sees the old file or the new one, whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, as_json(content))


def as_json(content: dict[str, Any]) -> str:
    """Return a record as `write_json` writes it."""
    return json.dumps(content, indent=1) + "\n"


def read_bytes(path: Path) -> bytes:
    """Return a file's content. OSError if there is none, or if it is a pipe or a device, which could be without end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no plain file")
    return path.read_bytes()


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file, empty if there is no file. `DamagedError` if it holds anything else."""
    try:
        content = from_json(read_bytes(path).removeprefix(codecs.BOM_UTF8))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DamagedError(path, f"it cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DamagedError(path, str(error)) from None
    if not isinstance(content, dict):
        raise DamagedError(path, f"it holds {json.dumps(content)[:20]}, and no object")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """As `read_object`, and empty for a file that holds anything else."""
    try:
        return read_object(path)
    except DamagedError:
        return {}


def storage_error(path: Path, error: OSError, rest: str) -> StorageError:
    """Return the error that says what could not be written, why, how much room there is, and `rest`."""
    try:
        free = f" ({shutil.disk_usage(path.parent).free / 2**20:,.0f} MiB free)"
    except OSError:
        free = ""
    return StorageError(f"cannot write {path}: {error.strerror or error}{free}; {rest}")


def filesystem(folder: Path) -> str:
    """The kind of filesystem, as `ext2/ext3` or `nfs`; empty if it is unknown."""
    return subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True).stdout.strip()
