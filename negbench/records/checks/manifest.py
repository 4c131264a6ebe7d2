"""`manifest.json`: a digest of every record of a finished run, so that a later change shows. Imports no torch."""

import codecs
import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from negbench.records.files import as_json, write_json
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
    """Write the digests of all records, or replace those of `names` alone, in a manifest that can be read."""
    path = folder.path / MANIFEST
    known = read_manifest(folder.path) if names is not None else {}
    if names is not None and not known:
        return
    new = {name: digest(folder.path / name) for name in (record_files(folder.path) if names is None else names)}
    write_json(path, {"files": dict(sorted((known | new).items()))})


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the digests by the records' names; empty if there is no manifest that can be read."""
    files: dict[str, str] = (readable([], read_form, folder / MANIFEST, _FORM) or {}).get("files", {})
    return files


def changed_records(folder: Path) -> list[str]:
    """Return a sentence for each record that is not as the manifest says; nothing without a manifest."""
    known, present = read_manifest(folder), set(record_files(folder))
    if not known:
        return []
    found = [f"{name} is missing" for name in sorted(known.keys() - present)]
    found += [f"{name} is not in {MANIFEST}" for name in sorted(present - known.keys())]
    changed = (name for name in _other_bytes(folder, known) if not _says_the_same(folder / name, known[name]))
    return [*found, *(f"{name} was changed after the run's end" for name in changed)]


def rewritten_records(folder: Path) -> list[str]:
    """Return the names of records that have other bytes than the manifest says, and the same content."""
    known = read_manifest(folder)
    return [name for name in _other_bytes(folder, known) if _says_the_same(folder / name, known[name])]


def _other_bytes(folder: Path, known: dict[str, str]) -> list[str]:
    return [name for name in record_files(folder) if name in known and digest(folder / name) != known[name]]


def _says_the_same(path: Path, sha256: str) -> bool:
    """Whether a file differs from one of that digest in the ends of its lines alone, as JSON in white space alone."""
    content = path.read_bytes()
    written = [content.replace(b"\r\n", b"\n")]
    if path.suffix == ".json":
        with suppress(ValueError, RecursionError):
            written.append(as_json(json.loads(content.removeprefix(codecs.BOM_UTF8))).encode())
    return sha256 in (hashlib.sha256(each).hexdigest() for each in written)
