"""Packing an image folder, and verifying a pack byte for byte."""

import hashlib
import io
import os
import shutil
import zlib
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from negbench.data.files.layout import list_folder, sentence_of_left_out
from negbench.data.files.listing import Listing
from negbench.data.files.pack import (
    AGAIN,
    INDEX,
    MANIFEST,
    Extents,
    Manifest,
    Pack,
    PackedFile,
    PackedSplit,
    is_pack,
    open_split,
    read_manifest,
    shard_name,
)
from negbench.runtime.errors import UserError
from negbench.runtime.kind_of_file import HEAD_BYTES, looks_like

Progress = Callable[[int, int], None]  # images and bytes that are done since the last time
_READERS = 16  # files under way at once: on a network file system a small one is mostly waited for
_AT_ONCE = 64  # images in memory


def make_pack(root: Path, out: Path, shard_bytes: int, begin: Callable[[int], Progress]) -> list[str]:
    """Pack the image folder `root` into the new folder `out`, in shards of at most `shard_bytes` (or of one file).

    It is written as OUT.partial and renamed when all of it is on disk; an exception removes it.
    `begin` is told the number of images. Return sentences on what the pack lacks. UserError where it cannot be done,
    and for a file that cannot be read.
    """
    out = out.resolve()
    if is_pack(root):
        raise UserError(f"{root} is a pack already; data.root={root} reads it")
    if os.path.lexists(out):
        raise UserError(f"{out} exists already, and a pack overwrites nothing; choose another folder")
    with _reading(root):
        listings = list_folder(root)
    for listing in listings:
        if Path(listing.root).resolve() in out.parents:
            raise UserError(f"{out} would be taken for a class of {listing.root}; choose a folder outside")
    partial = out.with_name(f"{out.name}.partial")
    try:
        partial.mkdir(parents=True)
    except FileExistsError:
        raise UserError(
            f"{partial} is of a pack that was killed, or that is being written; if nothing writes it, delete it"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write {partial}: {error.strerror}") from None
    try:
        odd = _write(listings, partial, shard_bytes, begin(sum(map(len, listings))))
        if os.path.lexists(out):
            raise UserError(f"{out} has been made meanwhile, and a pack overwrites nothing; choose another folder")
        partial.rename(out)
        _onto_disk(out.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {partial}: {error.strerror or error}; nothing is kept") from None
        raise
    left_out = sentence_of_left_out(*listings)
    none = [] if len(listings[1]) else [f"{root} has no images to test; runs on the pack need evaluation.test=false"]
    first = f"packed though it is no image: {odd[0]}" if odd else ""
    others = f"; so are {len(odd) - 1:,} more" if len(odd) > 1 else ""
    return [text for text in (left_out, first + others) if text] + none


def verify_pack(root: Path, begin: Callable[[int], Progress]) -> None:
    """Read all of a pack. UserError with shards and images if any byte is not as it was packed."""
    splits = read_manifest(root).splits
    with _reading(root):
        packs = {name: open_split(root, name, split) for name, split in splits.items()}
    progress = begin(sum(map(len, packs.values())))
    damages = [
        f"{root / shard.name} ({damage})"
        for name, pack in packs.items()
        for number, shard in enumerate(splits[name].shards)
        if (damage := _damage(pack, number, shard.sha256, progress))
    ]
    if damages:
        raise UserError(f"not as packed: {', '.join(damages)}: {AGAIN}")


@contextmanager
def _reading(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {error.filename or root}: {error.strerror or error}") from None


def _onto_disk(folder: Path) -> None:
    """Flush the names of the folder's entries to disk; flushing a file does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _damage(pack: Pack, number: int, sha256: str, progress: Progress) -> str | None:
    """Return what is wrong with a shard, or None."""
    digest, damaged = hashlib.sha256(), []
    for position in (pack.extents.shard_N == number).nonzero().squeeze(1).tolist():
        try:
            data = pack.read(position)
        except OSError as error:
            return f"{pack.listing.path(position)} cannot be read: {error.strerror}"
        digest.update(data)
        if not pack.is_whole(position, data):
            damaged.append(pack.listing.path(position))
        progress(1, len(data))
    if digest.hexdigest() == sha256:
        return None
    others = f" and {len(damaged) - 1:,} more" if len(damaged) > 1 else ""
    return f"{damaged[0]}{others}" if damaged else "its SHA-256"


def _write(listings: tuple[Listing, Listing], folder: Path, shard_bytes: int, progress: Progress) -> list[str]:
    """Write the pack. Return path and kind of each file that is no image by its first bytes."""
    splits, odd = {}, list[str]()
    for name, listing in (("train", listings[0]), (Path(listings[1].root).name, listings[1])):
        (folder / name).mkdir()
        shards, extents = _write_shards(listing, folder, name, shard_bytes, progress, odd)
        arrays = io.BytesIO()
        np.savez(arrays, **listing.to_arrays(), **extents.to_arrays())
        index = _File(folder, f"{name}/{INDEX}").add(arrays.getvalue()).finish()
        splits[name] = PackedSplit(classes=list(listing.classes), images=len(listing), index=index, shards=shards)
        _onto_disk(folder / name)
    _File(folder, MANIFEST).add(Manifest(splits=splits).model_dump_json(indent=1).encode()).finish()
    _onto_disk(folder)
    return odd


def _write_shards(
    listing: Listing, folder: Path, name: str, shard_bytes: int, progress: Progress, odd: list[str]
) -> tuple[list[PackedFile], Extents]:
    finished: list[PackedFile] = []
    numbers, starts, lengths, checksums = array("i"), array("q"), array("q"), array("q")
    shard = _File(folder, f"{name}/{shard_name(len(finished))}")
    for chunk in _read(listing):
        for data in chunk:
            if shard.length and shard.length + len(data) > shard_bytes:
                finished.append(shard.finish())
                shard = _File(folder, f"{name}/{shard_name(len(finished))}")
            kind = looks_like(data[:HEAD_BYTES])
            if kind is not None and not kind.endswith("image"):
                odd.append(f"{listing.path(len(numbers))} is {kind}")
            numbers.append(len(finished))
            starts.append(shard.length)
            lengths.append(len(data))
            checksums.append(zlib.crc32(data))
            shard.add(data)
        progress(len(chunk), sum(map(len, chunk)))
    finished.append(shard.finish())
    shard_N = torch.tensor(numbers, dtype=torch.int32)
    places = (torch.tensor(column, dtype=torch.int64) for column in (starts, lengths, checksums))
    return finished, Extents(shard_N, *places)


def _read(listing: Listing) -> Iterator[list[bytes]]:
    """Yield the images' bytes in order, `_AT_ONCE` at a time."""

    def read(position: int) -> bytes:
        path = listing.path(position)
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; mend or delete it, and pack again") from None

    with ThreadPoolExecutor(_READERS) as readers:
        for positions in torch.arange(len(listing)).split(_AT_ONCE):
            yield list(readers.map(read, positions.tolist()))


class _File:
    """A new file of a pack."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.length = name, 0
        self._file = open(folder / name, "xb")  # noqa: SIM115
        self._digest = hashlib.sha256()

    def add(self, data: bytes) -> "_File":
        self._file.write(data)
        self._digest.update(data)
        self.length += len(data)
        return self

    def finish(self) -> PackedFile:
        """Flush the file to disk and return its entry in the manifest."""
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())
        return PackedFile(name=self.name, bytes=self.length, sha256=self._digest.hexdigest())
