"""A bundle: one ZIP file with what others need to trust runs and to repeat them. Imports no torch.

`bundle.json` names every other file with its size and digest. Each run is a folder `runs/RUN_ID`, and each tuning a
folder `tunings/NUMBER` with its trials.
"""

import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

import negbench
from negbench.records.checks.manifest import MANIFEST, RECORDS, digest, record_files
from negbench.records.checks.verify import newest_checkpoint, verify
from negbench.records.forms import Strict, reason_of
from negbench.records.run_folder import RunFolder
from negbench.records.tunings import TUNINGS
from negbench.runtime.errors import UserError

VERSION = 1
SUFFIX = ".zip"
INDEX = "bundle.json"
MAX_INDEX_BYTES = 2**26
_PLACE = re.compile(r"(runs/[^/]+|tunings/\d+/[^/]+)/(.+)|tunings/\d+/" + re.escape(TUNINGS.record))
_HELD = (*RECORDS, MANIFEST, "done", "checkpoints/step-*.pt", "checkpoints/step-*.pt.sha256")  # of a run
_FORBIDDEN = set('\\\\:*?"<>|')  # in names of files, by some file systems
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, NotImplementedError)
_CHUNK = 2**20


class FileEntry(Strict):
    size: int
    sha256: str


class Index(Strict):
    """`bundle.json`."""

    version: int
    negbench_version: str
    files: dict[str, FileEntry]

    @property
    def runs(self) -> list[str]:
        """Return the folders of the runs."""
        return sorted({"/".join(name.split("/")[:2]) for name in self.files if name.startswith("runs/")})


def write_bundle(file: Path, runs: Sequence[Path], tunings: Sequence[Path] = (), encoder: bool = False) -> int:
    """Write finished runs, and tunings, to a new file and return its size. `encoder` adds each run's newest checkpoint.

    UserError if a run is not finished or does not verify, if two have one name, or if the file exists.
    """
    if file.suffix != SUFFIX:
        raise UserError(f"{file}: a bundle's name ends with {SUFFIX}")
    if file.exists():
        raise UserError(f"{file} exists; choose another name, or delete it")
    contents = dict(_contents(runs, tunings, encoder))
    files = {name: FileEntry(size=path.stat().st_size, sha256=digest(path)) for name, path in sorted(contents.items())}
    if (reason := _unfit(files)) is not None:
        raise UserError(f"{file} cannot be written: {reason}")
    index = Index(version=VERSION, negbench_version=negbench.__version__, files=files)
    partial = file.with_name(f".{file.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(INDEX), index.model_dump_json(indent=1), zipfile.ZIP_DEFLATED)
            for name in files:
                with contents[name].open("rb") as source, archive.open(_info(name), "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
        partial.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return file.stat().st_size


def unpack(file: Path, folder: Path) -> list[Path]:
    """Unpack a bundle into a folder, if it is not there yet, and return its runs' folders.

    Only records of runs that `bundle.json` names are written, within `folder`. Each must have its size and digest, and
    each run must verify. UserError, and nothing is left, if the file is no bundle or is damaged, or if `folder` is
    anything else than this bundle.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            index = _read_index(file, archive)
            if os.path.lexists(folder):
                _check_unpacked(folder, index)
            else:
                folder.parent.mkdir(parents=True, exist_ok=True)
                _unpack(file, archive, index, folder)
    except UserError:
        raise
    except (*_DAMAGE, RuntimeError) as error:
        raise UserError(f"{file} is no bundle of negbench, or is damaged: {error}") from None
    except OSError as error:
        raise UserError(f"cannot unpack {file} to {folder}: {error.strerror or error}") from None
    return [folder / run for run in index.runs]


def _unpack(file: Path, archive: zipfile.ZipFile, index: Index, folder: Path) -> None:
    size, free = sum(entry.size for entry in index.files.values()), shutil.disk_usage(folder.parent).free
    if size > free:
        raise UserError(f"{file} holds {size:,} bytes, and {folder.parent} has room for {free:,}")
    with tempfile.TemporaryDirectory(".partial", ".bundle-", folder.parent, ignore_cleanup_errors=True) as partial:
        whole = Path(partial, "whole")
        for name, entry in index.files.items():
            _extract(file, archive, name, entry, whole)
        for run in index.runs:
            _check_run(whole / run, f"{file} is damaged: {run}")
        whole.rename(folder)


def _check_unpacked(folder: Path, index: Index) -> None:
    """UserError if a folder does not hold exactly the files of a bundle."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()}
    odd = next(iter(sorted(there ^ index.files.keys())), None) or next(
        (name for name, entry in index.files.items() if digest(folder / name) != entry.sha256), None
    )
    if odd is not None or folder.is_symlink():
        where = f", for instance in {odd}" if odd is not None else ""
        raise UserError(
            f"{folder} is there, and differs from what the bundle unpacks to{where}; choose another --output, or move "
            "the folder away"
        )


def _contents(runs: Sequence[Path], tunings: Sequence[Path], encoder: bool) -> Iterator[tuple[str, Path]]:
    """Yield names within the bundle, and the files."""
    taken: dict[str, Path] = {}
    for folder in runs:
        name = str(RunFolder(folder).read_summary().get("run_id"))
        if name in taken:
            raise UserError(f"{taken[name]} and {folder} are copies of one run; a bundle holds one of them")
        taken[name] = folder
        yield from _run(folder, f"runs/{name}", encoder)
    for number, folder in enumerate(tunings, 1):
        place = f"tunings/{number}"
        yield f"{place}/{TUNINGS.record}", folder / TUNINGS.record
        for trial in sorted(path for path in folder.iterdir() if (path / "config.yaml").exists()):
            yield from _records(trial, f"{place}/{trial.name}")


def _run(folder: Path, place: str, encoder: bool) -> Iterator[tuple[str, Path]]:
    _check_run(folder, str(folder))
    yield from _records(folder, place)
    if encoder:
        newest = newest_checkpoint(folder)
        if newest is None:
            raise UserError(f"{folder} has no checkpoint left, so that its encoder cannot be added")
        for path in (newest, newest.with_name(f"{newest.name}.sha256")):
            yield f"{place}/checkpoints/{path.name}", path


def _check_run(folder: Path, name: str) -> None:
    """UserError if a run, which is called `name`, does not verify or is not finished."""
    if problems := verify(folder).problems:
        raise UserError(f"{name} does not verify: {problems[0]}; `negbench verify` says what it finds")
    if not (folder / "done").exists():
        raise UserError(f"{name} is not finished; a bundle holds finished runs")


def _records(folder: Path, place: str) -> Iterator[tuple[str, Path]]:
    for name in (*record_files(folder), MANIFEST, "done"):
        if (folder / name).exists():
            yield f"{place}/{name}", folder / name


def _info(name: str) -> zipfile.ZipInfo:
    """Return an entry of a fixed date: equal records give an equal file."""
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_STORED if name.endswith(".pt") else zipfile.ZIP_DEFLATED
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _read_index(file: Path, archive: zipfile.ZipFile) -> Index:
    names = archive.namelist()
    if INDEX not in names:
        raise UserError(f"{file} is no bundle of negbench: it has no {INDEX}")
    if archive.getinfo(INDEX).file_size > MAX_INDEX_BYTES:
        raise UserError(f"{file} is no bundle of negbench: its {INDEX} is larger than {MAX_INDEX_BYTES:,} bytes")
    try:
        index = Index.model_validate_json(archive.read(INDEX))
    except ValidationError as error:
        raise UserError(f"{file} is damaged: {INDEX}: {reason_of(error)}") from None
    if index.version != VERSION:
        raise UserError(f"{file} is of version {index.version}, and negbench {negbench.__version__} reads {VERSION}")
    if sorted(names) != sorted([INDEX, *index.files]):
        raise UserError(f"{file} is damaged: it does not hold the files that its {INDEX} names, each once")
    if (reason := _unfit(index.files)) is not None:
        raise UserError(f"{file} is no bundle of negbench: {reason}")
    if not index.runs:
        raise UserError(f"{file} holds no runs")
    for name in index.files:
        mode = archive.getinfo(name).external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise UserError(f"{file} is no bundle of negbench: {name} is no plain file")
    return index


def _unfit(names: Iterable[str]) -> str | None:
    """Return why files of these names are no bundle's, None if they can be."""
    for name in names:
        if not _is_plain(name):
            return f"{name!r} is no plain path inside a folder"
        match = _PLACE.fullmatch(name)
        if match is None or (match[2] and not any(_matches(match[2], pattern) for pattern in _HELD)):
            return f"{name!r} is no record of a run or of a tuning"
    alike = _alike(names)
    return None if alike is None else f"{alike!r} and another of its names are one on some file systems"


def _is_plain(name: str) -> bool:
    """Whether it is a relative path that every file system can hold, without hidden parts and ".."."""
    parts = name.split("/")
    return name.isprintable() and not _FORBIDDEN & {*name} and all(_is_plain_part(part) for part in parts)


def _is_plain_part(part: str) -> bool:
    return bool(part) and not part.startswith((".", " ")) and not part.endswith((".", " ")) and len(part.encode()) < 256


def _matches(name: str, pattern: str) -> bool:
    """Whether a path is one that `glob(pattern)` finds."""
    start, deep, end = pattern.partition("**/")
    if deep:
        return name.startswith(start) and PurePosixPath(name).match(end)
    return name.count("/") == pattern.count("/") and PurePosixPath(name).match(pattern)


def _alike(names: Iterable[str]) -> str | None:
    """Return a path that differs from another in case or Unicode form alone, or is file and folder; None without."""
    seen: dict[str, tuple[str, bool]] = {}
    for name in names:
        parts = name.split("/")
        for count in range(1, len(parts) + 1):
            path, is_file = "/".join(parts[:count]), count == len(parts)
            if seen.setdefault(unicodedata.normalize("NFC", path).casefold(), (path, is_file)) != (path, is_file):
                return path
    return None


def _extract(file: Path, archive: zipfile.ZipFile, name: str, entry: FileEntry, folder: Path) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    found, size = hashlib.sha256(), 0
    with archive.open(name) as source, target.open("xb") as written:
        while size <= entry.size and (chunk := source.read(_CHUNK)):
            found.update(chunk)
            size += len(chunk)
            written.write(chunk)
    if (size, found.hexdigest()) != (entry.size, entry.sha256):
        raise UserError(f"{file} is damaged: {name} is not as {INDEX} says")
