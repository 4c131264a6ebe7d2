"""Packs: an image folder in a few large files, for file systems that are slow with many small ones.

    manifest.json     what there is, with the size and SHA-256 of every other file
    train/00000.pack  the files' bytes as they are, one after another; a file lies in one shard as a whole
    train/index.npz   names, classes, and where each file lies, with a checksum
    val/ or test/     the same

Shape legend: N images of a split.
"""

import codecs
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError, model_validator
from torch import Tensor

from negbench.data.files.cache import UNREADABLE
from negbench.data.files.decode import BadImageError, decode_bytes
from negbench.data.files.layout import PARTS, list_folder
from negbench.data.files.listing import Listing
from negbench.data.files.strings import Arrays, numbers_from
from negbench.data.sets import Files
from negbench.records.forms import reason_of
from negbench.runtime.errors import UserError

MANIFEST, INDEX = "manifest.json", "index.npz"
FORMAT: Literal["negbench pack"] = "negbench pack"
VERSION = 1
AGAIN = "copy it again from where it is whole, or pack the images again"
_MOST_OPEN = 256  # shards a process keeps open; systems allow some 1,000 files


@dataclass(frozen=True)
class Extents:
    """The places of images: number of the shard (int32 [N]), first byte, length and CRC-32 (each int64 [N])."""

    shard_N: Tensor
    start_N: Tensor
    length_N: Tensor
    checksum_N: Tensor

    def to_arrays(self) -> Arrays:
        return {name: tensor.numpy() for name, tensor in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Any) -> "Extents":
        """Return the extents. KeyError if an array is missing, ValueError if it has another form."""
        most = torch.iinfo(torch.int64).max
        shard_N = numbers_from(arrays, "shard_N", torch.int32, 0, torch.iinfo(torch.int32).max)
        rest = (numbers_from(arrays, name, torch.int64, 0, most) for name in ("start_N", "length_N", "checksum_N"))
        return cls(shard_N, *rest)

    def check(self, num_images: int, sizes: Sequence[int]) -> None:
        """Raise ValueError unless the images lie one after another in shards of these sizes and fill them."""
        shard_N, length_N = self.shard_N.long(), self.length_N
        if {len(column) for column in vars(self).values()} != {num_images}:
            raise ValueError("not each image has a place")
        if num_images and (int(shard_N.max()) >= len(sizes) or int(length_N.max()) > max(sizes)):
            raise ValueError("an image lies outside of the shards")
        filled = torch.zeros(len(sizes), dtype=torch.int64).index_add(0, shard_N, length_N)
        before_N = (filled.cumsum(0) - filled)[shard_N]  # bytes in the shards before an image's
        right_N = self.start_N == length_N.cumsum(0) - length_N - before_N
        if (shard_N.diff() < 0).any() or not right_N.all() or filled.tolist() != list(sizes):
            raise ValueError("images overlap, or leave gaps")


class Pack:
    """The images of one split. A process opens a shard when it first reads from it, so a worker after its start."""

    def __init__(self, listing: Listing, extents: Extents, shards: Sequence[Path]) -> None:
        self.listing, self.extents, self.shards = listing, extents, shards
        self._open: dict[int, BinaryIO] = {}

    @property
    def root(self) -> str:
        return self.listing.root

    @property
    def classes(self) -> tuple[str, ...]:
        return self.listing.classes

    @property
    def class_N(self) -> Tensor:
        return self.listing.class_N

    def __len__(self) -> int:
        return len(self.listing)

    def path(self, position: int) -> str:
        """The file's name in the folder that was packed, and the shard that it lies in now."""
        return f"{self.listing.path(position)} in {self.shards[int(self.extents.shard_N[position])]}"

    def num_bytes(self, position: int) -> int:
        return int(self.extents.length_N[position])

    def names_in_bytes(self) -> tuple[bytes, ...]:
        return self.listing.names_in_bytes()

    @property
    def left_out(self) -> tuple[str, ...] | None:
        return self.listing.left_out

    def decode(self, position: int) -> Tensor:
        """Return the image at `position` as uint8 RGB [3, H, W]. Raises BadImageError."""
        path = self.path(position)
        try:
            data = self.read(position)
        except OSError as error:
            raise BadImageError(f"cannot decode the image {path}: {error.strerror or error}") from error
        if not self.is_whole(position, data):
            raise BadImageError(f"cannot decode the image {path}: these are not the bytes that were packed")
        return decode_bytes(data, path)

    def read(self, position: int) -> bytes:
        """Return the bytes in the place of the image; fewer if the shard has become shorter."""
        shard = int(self.extents.shard_N[position])
        if shard not in self._open:
            while len(self._open) >= _MOST_OPEN:
                self._open.popitem()[1].close()
            self._open[shard] = open(self.shards[shard], "rb", buffering=0)  # noqa: SIM115
        length, start = int(self.extents.length_N[position]), int(self.extents.start_N[position])
        return os.pread(self._open[shard].fileno(), length, start)

    def is_whole(self, position: int, data: bytes) -> bool:
        """Return whether `data` is what was packed as the image."""
        return zlib.crc32(data) == int(self.extents.checksum_N[position])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": {}}


class PackedFile(BaseModel):
    name: str
    bytes: int = Field(ge=0, lt=2**63)
    sha256: str


class PackedSplit(BaseModel):
    classes: list[str]
    images: int = Field(ge=0, lt=2**63)
    index: PackedFile
    shards: list[PackedFile]


class Manifest(BaseModel):
    format: Literal["negbench pack"] = FORMAT
    version: int = Field(VERSION, ge=0, lt=2**31)
    splits: dict[str, PackedSplit]

    @model_validator(mode="after")
    def _two_splits_of_their_own_files(self) -> "Manifest":
        if set(self.splits) not in [{"train", name} for name in PARTS]:
            raise UserError(f"splits must be train and one of {', '.join(PARTS)}, not {', '.join(self.splits)}")
        for name, split in self.splits.items():
            shards = (shard_name(number) for number in range(len(split.shards)))
            if [file.name for file in (split.index, *split.shards)] != [f"{name}/{file}" for file in (INDEX, *shards)]:
                raise UserError(f"the files of {name} must be {name}/{INDEX}, {name}/{shard_name(0)} and so on")
        return self

    @property
    def names(self) -> tuple[str, str]:
        """Return the names of the splits for training and for testing."""
        return "train", next(name for name in self.splits if name != "train")


def is_pack(root: Path) -> bool:
    """Return whether `root` holds a pack, whole or not, rather than an image folder."""
    if (root / "train" / shard_name(0)).exists():
        return True
    try:
        return FORMAT in (root / MANIFEST).read_text(errors="replace")
    except OSError:
        return False


def shard_name(number: int) -> str:
    return f"{number:05}.pack"


def read_manifest(root: Path) -> Manifest:
    """Return the manifest. UserError if there is no pack that this version reads."""
    path = root / MANIFEST
    if not is_pack(root):
        raise UserError(f"{root} is no pack; one has a {MANIFEST} that negbench data pack wrote")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {AGAIN}") from None
    except ValidationError as error:
        raise UserError(f"{path} is damaged ({reason_of(error)}): {AGAIN}") from None
    if manifest.version != VERSION:
        raise UserError(f"{root} is a pack of version {manifest.version}, and this negbench reads version {VERSION}")
    return manifest


def open_files(root: Path) -> tuple[Files, Files]:
    """Return the files for training and for testing, of a folder or of a pack."""
    return open_pack(root) if is_pack(root) else list_folder(root)


def open_pack(root: Path) -> tuple[Pack, Pack]:
    """Return the images for training and for testing. UserError as `open_split`."""
    manifest = read_manifest(root)
    train, test = (open_split(root, name, manifest.splits[name]) for name in manifest.names)
    return train, test


def open_split(root: Path, name: str, split: PackedSplit) -> Pack:
    """Return a split. UserError if a file is missing, not its own, of another size, or a damaged index."""
    for file in (*split.shards, split.index):
        _check_file(root, file)
    path = root / split.index.name
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != split.index.sha256:
        raise UserError(f"{path} is damaged: {AGAIN}")
    try:
        listing, extents = _read_index(name, content)
        extents.check(len(listing), [shard.bytes for shard in split.shards])
    except (*UNREADABLE, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} is no index that negbench data pack wrote ({reason}): {AGAIN}") from None
    if (listing.classes, len(listing)) != (tuple(split.classes), split.images):
        raise UserError(f"{root / MANIFEST} is damaged, it does not fit {path}: {AGAIN}")
    return Pack(listing, extents, [root / shard.name for shard in split.shards])


def _read_index(name: str, content: bytes) -> tuple[Listing, Extents]:
    with zipfile.ZipFile(io.BytesIO(content)) as entries:
        if any(entry.file_size > len(content) for entry in entries.infolist()):
            raise ValueError("an array is larger than the file")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Listing.from_arrays(name, arrays), Extents.from_arrays(arrays)


def _check_file(root: Path, file: PackedFile) -> None:
    path = root / file.name
    if not path.exists():
        raise UserError(f"{path} is missing: {AGAIN}")
    if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} is no file that lies in the pack, but leads to {path.resolve()}: {AGAIN}")
    if (found := path.stat().st_size) != file.bytes:
        raise UserError(f"{path} has {found:,} bytes and not the {file.bytes:,} that were written: {AGAIN}")
