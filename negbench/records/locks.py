"""Exclusive locks of files, by flock: a process that ends, however it does, gives them back. Imports no torch."""

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from negbench.records.files import read_json
from negbench.runtime.errors import UserError

READERS_SECONDS = 10.0  # that a lock is tried for while others only look at it
OTHERS_SECONDS = 60.0  # that one is waited for which another process holds for a short piece of work
POLL_SECONDS = 0.05
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def take(descriptor: int, folder: Path) -> bool:
    """Take the lock of an open file in `folder` and return True; False if another process holds it.

    A reader holds it shared for a moment, which is waited for. UserError if the file system has no locks.
    """
    end = time.monotonic() + READERS_SECONDS
    while not _try(descriptor, fcntl.LOCK_EX, folder):
        if not _try(descriptor, fcntl.LOCK_SH, folder) or time.monotonic() > end:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(POLL_SECONDS)
    return True


def check(scratch: Path, folder: Path) -> None:
    """UserError that names `folder` if locks do not work in `scratch`, where a file is left."""
    with open(scratch / "lock", "w") as file:
        take(file.fileno(), folder)


def is_taken(path: Path) -> bool:
    """Whether a process holds the lock of the file; a lock of another machine may not show."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


@contextmanager
def exclusive(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a file that is there meanwhile, in a folder that exists; `doing` is what others are told.

    UserError if another process has held it for `OTHERS_SECONDS`, or if the file system has no locks.
    """
    end, told = time.monotonic() + OTHERS_SECONDS, False
    while (descriptor := _taken(path)) is None:
        holder = read_json(path)
        who = f"process {holder.get('pid')} on {holder.get('host')} {doing}"
        if time.monotonic() > end:
            raise UserError(f"{who}, and has for {OTHERS_SECONDS:.0f} s; call this again when it has ended")
        if not told:
            print(f"negbench: {who}; this call waits for it", file=sys.stderr, flush=True)
            told = True
        time.sleep(POLL_SECONDS)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _taken(path: Path) -> int | None:
    """Return a descriptor of the file that holds its lock; None if another process has it, or has just removed it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's, who may not be done
        if not path.exists():
            raise
        return None
    try:
        if take(descriptor, path.parent) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _try(descriptor: int, kind: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        raise UserError(
            f"locks (flock) do not work on the file system of {folder} ({error.strerror}), and without them two "
            "processes could write one run at once; choose an --output on another file system, or have this one "
            "mounted with locks, as Lustre with -o flock"
        ) from None
    return True
