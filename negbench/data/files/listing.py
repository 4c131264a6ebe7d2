"""The images of a folder of classes, in a few tensors, however many they are, and cached.

A list of a million paths takes over 100 MB, and a worker that reads it copies it page by page, since each access to a
Python object writes its reference count. Forked workers share tensors.

Shape legend: N images, F folders (the top one, those of classes, and all below them), C classes.
"""

import hashlib
import os
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from negbench.data.files.cache import UNREADABLE, write_arrays
from negbench.data.files.decode import decode
from negbench.data.files.left_out import kind_of, passed_over
from negbench.data.files.strings import Arrays, Strings, numbers_from, tensor_of
from negbench.runtime.errors import UserError

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm"),
)
_FORMAT = 2  # of a cached listing
_KEPT = 16  # cached listings, the newest
_SETTLED_NS = 2_000_000_000  # a folder may change again unnoticed if it changed less than this before its listing


@dataclass(frozen=True)
class Listing:
    """The images of `root`/CLASS and below, by class (sorted) and then sorted by code point.

    Without classes they are those of `root` and below, sorted by path. Hidden files, files in hidden folders, and other
    extensions are no images. `folders` are below `root`, `class_F` (int64, -1 for none) is the class that a folder
    belongs to, `folder_N` (int32) the folder of an image. `left_out` are phrases for what was passed over; None in a
    pack of an earlier version.
    """

    root: str
    classes: tuple[str, ...]
    folders: Strings
    class_F: Tensor
    folder_N: Tensor
    names: Strings
    left_out: tuple[str, ...] | None = ()

    @classmethod
    def of(cls, paths: Iterable[str]) -> "Listing":
        """Return a listing of files of one class, anywhere, in the order given."""
        names = Strings.of(paths)
        number_N = torch.zeros(len(names), dtype=torch.int32)
        return cls("", ("",), Strings.of([""]), torch.zeros(1, dtype=torch.int64), number_N, names)

    @classmethod
    def empty(cls, root: str) -> "Listing":
        """Return a listing of no images and no classes."""
        nothing = Strings.of([])
        class_F = torch.full((1,), -1, dtype=torch.int64)
        return cls(root, (), Strings.of([""]), class_F, torch.zeros(0, dtype=torch.int32), nothing)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def class_N(self) -> Tensor:
        """Return the number of each image's class, int64 [N]."""
        return self.class_F[self.folder_N]

    def path(self, position: int) -> str:
        return os.path.join(self.root, self.folders[int(self.folder_N[position])], self.names[position])

    def num_bytes(self, position: int) -> int:
        return os.stat(self.path(position)).st_size

    def read(self, position: int) -> bytes:
        with open(self.path(position), "rb") as file:
            return file.read()

    def names_in_bytes(self) -> tuple[bytes, ...]:
        """Return what two listings share whose images have the same classes, and the same names below their roots."""
        used, folder_N = self.folder_N.unique(return_inverse=True)
        folders = (os.fsencode(self.folders[number]) for number in used.tolist())
        classes = map(os.fsencode, self.classes)
        names = (folder_N, self.names.text, self.names.ends_N)
        return (b"\0".join(classes), b"\0".join(folders), *(tensor.numpy().tobytes() for tensor in names))

    def decode(self, position: int) -> Tensor:
        """Return the image at `position` as uint8 RGB [3, H, W]. Raises BadImageError."""
        return decode(self.path(position))

    def to_arrays(self) -> Arrays:
        """Return all but `root`."""
        strings = {"class": Strings.of(self.classes), "folder": self.folders, "name": self.names}
        if self.left_out is not None:
            strings["left_out"] = Strings.of(self.left_out)
        arrays: Arrays = {}
        for kind, values in strings.items():
            arrays |= values.to_arrays(kind)
        return arrays | {"folder_class": self.class_F.numpy(), "image_folder": self.folder_N.numpy()}

    @classmethod
    def from_arrays(cls, root: str, arrays: Any) -> "Listing":
        """Return the listing. KeyError if an array is missing, ValueError if they do not fit each other."""
        classes, folders, names = (Strings.from_arrays(kind, arrays) for kind in ("class", "folder", "name"))
        left_out = Strings.from_arrays("left_out", arrays).all if "left_out_text" in arrays else None
        class_F = numbers_from(arrays, "folder_class", torch.int64, -1, max(0, len(classes) - 1))
        folder_N = numbers_from(arrays, "image_folder", torch.int32, 0, len(folders) - 1)
        if len(class_F) != len(folders) or len(folder_N) != len(names) or (class_F[folder_N] < 0).any():
            raise ValueError("an image has no folder, or no class")
        return cls(root, classes.all, folders, class_F, folder_N, names, left_out)


def list_classes(root: Path, flat: bool = False) -> Listing:
    """Return the images of the folder `root`, from the cache if no folder in it has changed since.

    `flat`: images of no class, in `root` and below. Every rank lists for itself, and those of a node mostly read from
    its memory. OSError if a folder cannot be read, UserError for a link to a folder above itself.
    """
    resolved = os.path.realpath(root)
    cache = _cache(resolved, flat)
    cached = _read_cache(cache, str(root), resolved) if cache else None
    if cached is not None:
        return cached
    scan = _Scan(str(root), flat)
    if cache and scan.settled:
        _write_cache(cache, scan.listing, resolved, scan.stamps_F2)
    return scan.listing


def has_images(folder: Path) -> bool:
    """Return whether images lie in `folder` itself."""
    return bool(_read_folder(str(folder)).images)


def list_images(folder: Path) -> list[str]:
    """Return the paths of all images under `folder`, sorted by code point; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(os.path.join(found.path, name) for found in _walk(str(folder), ()) for name in found.images)


@dataclass(frozen=True)
class _Folder:
    path: str
    status: os.stat_result  # from before it was read
    images: list[str]
    folders: list[str]
    others: Counter[str]  # other files, by kind
    dangling: bool  # whether it holds a link to nothing, where a folder may be later


def _walk(path: str, above: tuple[tuple[int, int], ...]) -> Iterator[_Folder]:
    """Yield `path` and the folders below it, following links; `above` are the folders that it lies in."""
    folder = _read_folder(path)
    identity = (folder.status.st_dev, folder.status.st_ino)
    if identity in above:
        raise UserError(f"{path} is a link to a folder that it lies in, so its images have no end; remove the link")
    yield folder
    for name in folder.folders:
        yield from _walk(os.path.join(path, name), (*above, identity))


def _read_folder(path: str) -> _Folder:
    status = os.stat(path)
    images: list[str] = []
    folders: list[str] = []
    others: Counter[str] = Counter()
    dangling = False
    with os.scandir(path) as entries:
        for entry in entries:
            hidden, is_image = entry.name.startswith("."), entry.name.lower().endswith(EXTENSIONS)
            if entry.is_dir():
                folders += [] if hidden else [entry.name]
            elif is_image and not hidden and (entry.is_file() or entry.is_symlink()):
                images.append(entry.name)
            elif not hidden and not is_image and entry.is_file():
                others[kind_of(entry.name)] += 1
            else:
                dangling |= entry.is_symlink() and not os.path.exists(entry.path)
    return _Folder(path, status, images, sorted(folders), others, dangling)


class _Scan:
    """A new listing, and the times of its folders by which a later change shows."""

    def __init__(self, root: str, flat: bool) -> None:
        self.started_ns = time.time_ns()
        self.settled = True  # whether a later change would show
        self.paths: list[str] = []
        self.classes: list[int] = []
        self.stamps: list[tuple[int, int]] = []
        self.folder_N = array("i")
        self.others: Counter[str] = Counter()
        classes: list[str] = []
        outside = 0
        if not flat:
            top = _read_folder(root)
            self.add(top, -1, "")
            classes, outside = top.folders, len(top.images)
        places = [root] if flat else [os.path.join(root, name) for name in classes]
        names = Strings.of(name for label, place in enumerate(places) for name in self.names(root, place, label))
        class_F, folder_N = tensor_of(array("q", self.classes), np.int64), tensor_of(self.folder_N, np.int32)
        left_out = passed_over(self.others, outside)
        self.listing = Listing(root, tuple(classes), Strings.of(self.paths), class_F, folder_N, names, left_out)
        self.stamps_F2 = np.array(self.stamps, np.int64)

    def names(self, root: str, place: str, label: int) -> Iterator[str]:
        """Yield the names of the images in `place` and below in order, and add their folders."""
        found: list[tuple[str, int]] = []
        for folder in _walk(place, ()):
            below = "" if folder.path == root else os.path.relpath(folder.path, root)
            number = len(self.paths)
            found += [(os.path.join(below, name), number) for name in folder.images]
            self.add(folder, label, below)
        for path, number in sorted(found):
            self.folder_N.append(number)
            yield path.rpartition("/")[2]

    def add(self, folder: _Folder, label: int, below: str) -> None:
        stamp = _stamp(folder.status)
        self.settled &= not folder.dangling and max(stamp) < self.started_ns - _SETTLED_NS
        self.others += folder.others
        self.paths.append(below)
        self.classes.append(label)
        self.stamps.append(stamp)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    """Return times that change with a folder's entries. Copying tools can set back the first but not the second."""
    return status.st_mtime_ns, status.st_ctime_ns


def _cache(resolved: str, flat: bool) -> Path | None:
    """Return the path of a folder's cached listing; None without a home folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.blake2b(os.fsencode(resolved), digest_size=16).hexdigest()
    return Path(home, "negbench", "listings", digest + "-flat" * flat + ".npz") if os.path.isabs(home) else None


def _read_cache(cache: Path, root: str, resolved: str) -> Listing | None:
    """Return the cached listing; None if it is missing, damaged, of another version, or older than a folder."""
    try:
        with np.load(cache, allow_pickle=False) as arrays:
            if int(arrays["format"]) != _FORMAT or arrays["resolved"].tobytes() != os.fsencode(resolved):
                return None
            listing = Listing.from_arrays(root, arrays)
            stamps = arrays["stamps"].tolist()
        for number, stamp in enumerate(stamps):
            if _stamp(os.stat(os.path.join(root, listing.folders[number]))) != tuple(stamp):
                return None
        return listing
    except UNREADABLE:
        return None


def _write_cache(cache: Path, listing: Listing, resolved: str, stamps_F2: npt.NDArray[np.int64]) -> None:
    """Write the cache, or nothing if it cannot be written, and delete the oldest ones."""
    name = np.frombuffer(os.fsencode(resolved), np.uint8)
    with suppress(OSError):
        write_arrays(cache, format=np.array(_FORMAT), resolved=name, stamps=stamps_F2, **listing.to_arrays())
        by_age = sorted(cache.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in by_age[_KEPT:]:
            old.unlink(missing_ok=True)
