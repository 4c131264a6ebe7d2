"""A bundle: one ZIP file with what others need to trust runs and to repeat them. Imports no torch.

`bundle.json` names every other file with its size and digest. Each run is a folder `runs/RUN_ID`, and each tuning a
folder `tunings/NUMBER` with its trials.
"""

import hashlib
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

import negbench
from negbench.records.forms import reason_of
from negbench.records.manifest import MANIFEST, digest, record_files
from negbench.records.run_folder import RunFolder
from negbench.records.tunings import TUNINGS
from negbench.records.verify import newest_checkpoint, verify
from negbench.runtime.errors import UserError

VERSION = 1
SUFFIX = ".zip"
INDEX = "bundle.json"
MAX_INDEX_BYTES = 2**26
_PLAIN = re.compile(r"(?!.*(^|/)\.)[^/\\:\0]+(/[^/\\:\0]+)*")  # a relative path without hidden parts and ".."
_CHUNK = 2**20


class FileEntry(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    size: int
    sha256: str


class Index(BaseModel):
    """`bundle.json`."""

    model_config = ConfigDict(strict=True)

    version: int
    negbench_version: str
    files: dict[str, FileEntry]

    @property
    def runs(self) -> list[str]:
        """Return the folders of the runs."""
        return sorted(
            {name.rpartition("/")[0] for name in self.files if re.fullmatch(r"runs/[^/]+/config\.yaml", name)}
        )


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

    Only plain files that `bundle.json` names are written, within `folder`, and each must have its size and digest.
    UserError, and nothing is left, if the file is no bundle or is damaged, or if the folder holds other files.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with zipfile.ZipFile(file) as archive:
            index = _read_index(file, archive)
            if folder.exists():
                _check_unpacked(folder, index)
                return [folder / run for run in index.runs]
            folder.parent.mkdir(parents=True, exist_ok=True)
            if (size := sum(entry.size for entry in index.files.values())) > (
                free := shutil.disk_usage(folder.parent).free
            ):
                raise UserError(f"{file} holds {size:,} bytes, and {folder.parent} has room for {free:,}")
            for name, entry in index.files.items():
                _extract(file, archive, name, entry, partial)
        partial.rename(folder)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(f"{file} is no bundle of negbench, or is damaged: {error}") from None
    except OSError as error:
        raise UserError(f"cannot unpack {file} to {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [folder / run for run in index.runs]


def _check_unpacked(folder: Path, index: Index) -> None:
    for name, entry in index.files.items():
        if not (folder / name).is_file() or digest(folder / name) != entry.sha256:
            raise UserError(f"{folder / name} is not as in the bundle; delete {folder}, and it is unpacked again")


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
    if problems := verify(folder).problems:
        raise UserError(f"{folder} does not verify: {problems[0]}; `negbench verify` says what it finds")
    if not (folder / "done").exists():
        raise UserError(f"{folder} is not finished; a bundle holds finished runs")
    yield from _records(folder, place)
    if encoder:
        newest = newest_checkpoint(folder)
        if newest is None:
            raise UserError(f"{folder} has no checkpoint left, so that its encoder cannot be added")
        for path in (newest, newest.with_name(f"{newest.name}.sha256")):
            yield f"{place}/checkpoints/{path.name}", path


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
    for name in index.files:
        if not _PLAIN.fullmatch(name):
            raise UserError(f"{file} is no bundle of negbench: {name!r} is no plain path inside a folder")
        mode = archive.getinfo(name).external_attr >> 16
        if mode and not stat.S_ISREG(mode):
            raise UserError(f"{file} is no bundle of negbench: {name} is no plain file")
    return index


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
