"""`manifest.json`: a digest of every record of a finished run, so that a later change shows. Imports no torch."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from negbench.records.files import write_json
from negbench.records.forms import Record, read_form, readable
from negbench.records.run_folder import RunFolder

MANIFEST = "manifest.json"
RECORDS = (
    *("config.yaml", "environment.json", "data.json", "method.py", "metrics.jsonl", "summary.json"),
    *("changes*.patch", "code/**/*.py", "evaluations/*.json"),
)  # what a run's record consists of: locks, notes of jobs, checkpoints and files of loggers are not


class _Manifest(Record):
    files: dict[str, str]


_FORM: TypeAdapter[Any] = TypeAdapter(_Manifest)


def record_files(folder: Path) -> list[str]:
    """Return the names of the records in a run's folder, without links."""
    found = {path for pattern in RECORDS for path in folder.glob(pattern) if path.is_file() and not path.is_symlink()}
    return sorted(path.relative_to(folder).as_posix() for path in found)


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: RunFolder, names: Iterable[str] | None = None) -> None:
    """Write the digests of all records, or replace those of `names` alone, and then only in a manifest that exists."""
    path = folder.path / MANIFEST
    if names is not None and not path.exists():
        return
    known = read_manifest(folder.path) if names is not None else {}
    new = {name: digest(folder.path / name) for name in (record_files(folder.path) if names is None else names)}
    write_json(path, {"files": dict(sorted((known | new).items()))})


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the digests by the records' names; empty if there is no manifest that can be read."""
    files: dict[str, str] = (readable([], read_form, folder / MANIFEST, _FORM) or {}).get("files", {})
    return files


def changed_records(folder: Path) -> list[str]:
    """Return a sentence for each record that is not as the manifest says; nothing without a manifest."""
    known = read_manifest(folder)
    present = set(record_files(folder))
    if not known:
        return []
    found = [f"{name} is missing" for name in sorted(known.keys() - present)]
    found += [f"{name} is not in {MANIFEST}" for name in sorted(present - known.keys())]
    changed = (name for name in sorted(known.keys() & present) if digest(folder / name) != known[name])
    return [*found, *(f"{name} was changed after the run's end" for name in changed)]
