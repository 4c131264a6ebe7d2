"""Arrays of numpy that are cached in a file, which may be missing, damaged or impossible to write."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

UNREADABLE = (  # what reading a missing or damaged file of arrays raises; its checksums are the zip's
    *(OSError, ValueError, TypeError, KeyError, IndexError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write the arrays to `path`, whole or not at all. OSError if they cannot be written."""
    partial = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(partial, "wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
