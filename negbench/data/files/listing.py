"""The images of a folder of classes, in a few tensors, however many they are, and cached.

A list of a million paths takes over 100 MB, and a worker that reads it copies it page by page, since each access to a
Python object writes its reference count. Forked workers share tensors.

Shape legend: N images, F folders (the top one, those of classes, and all below them), C classes.
"""

import hashlib
import os
import time
from array import array
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
from negbench.runtime.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
Arrays = dict[str, Any]  # of numpy
_FORMAT = 1  # of a cached listing
_KEPT = 16  # cached listings, the newest
_SETTLED_NS = 2_000_000_000  # a folder may change again unnoticed if it changed less than this before its listing


@dataclass(frozen=True)
class Strings:
    """Strings in two tensors: their bytes one after another (uint8), and where each ends (int64 [N])."""

    text: Tensor
    ends_N: Tensor

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Strings":
        text, ends = bytearray(), array("q")
        for string in strings:
            text += os.fsencode(string)
            ends.append(len(text))
        return cls(_tensor(text, np.uint8), _tensor(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends_N)

    def __getitem__(self, position: int) -> str:
        start = int(self.ends_N[position - 1]) if position else 0
        return os.fsdecode(self.text[start : int(self.ends_N[position])].numpy().tobytes())


@dataclass(frozen=True)
class Listing:
    """The images of `root`/CLASS and below, by class (sorted) and then sorted by code point.

    Hidden files, files in hidden folders, and other extensions are no images. `folders` are below `root`, `class_F`
    (int64, -1 for `root` itself) is the class that a folder belongs to, `folder_N` (int32) the folder of an image.
    """

    root: str
    classes: tuple[str, ...]
    folders: Strings
    class_F: Tensor
    folder_N: Tensor
    names: Strings

    @classmethod
    def of(cls, paths: Iterable[str]) -> "Listing":
        """Return a listing of files of one class, anywhere, in the order given."""
        names = Strings.of(paths)
        number_N = torch.zeros(len(names), dtype=torch.int32)
        return cls("", ("",), Strings.of([""]), torch.zeros(1, dtype=torch.int64), number_N, names)

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
        classes = Strings.of(self.classes)
        tensors = {
            "class_text": classes.text,
            "class_ends": classes.ends_N,
            "folder_text": self.folders.text,
            "folder_ends": self.folders.ends_N,
            "folder_class": self.class_F,
            "image_folder": self.folder_N,
            "name_text": self.names.text,
            "name_ends": self.names.ends_N,
        }
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    @classmethod
    def from_arrays(cls, root: str, arrays: Any) -> "Listing":
        """Return the listing. KeyError if an array is missing."""
        tensors = {name: torch.from_numpy(arrays[name]) for name in cls.of([]).to_arrays()}
        classes, folders, names = (
            Strings(tensors[f"{kind}_text"], tensors[f"{kind}_ends"]) for kind in ("class", "folder", "name")
        )
        class_names = tuple(classes[number] for number in range(len(classes)))
        return cls(root, class_names, folders, tensors["folder_class"], tensors["image_folder"], names)


def list_folder(root: Path) -> tuple[Listing, Listing]:
    """Return the files for training and for testing. UserError for another layout than train/ and val/ or test/."""
    train_folder = root / "train"
    test_folder = root / "val" if (root / "val").is_dir() else root / "test"
    for folder, wanted in ((train_folder, "train/CLASS"), (test_folder, "val/CLASS or test/CLASS")):
        if not folder.is_dir():
            raise UserError(f"data.root {root} has no folders {wanted} with images")
    train, test = list_classes(train_folder), list_classes(test_folder)
    unknown = sorted(set(test.classes) - set(train.classes))
    if unknown:
        raise UserError(
            f"{test_folder / unknown[0]} is a class that {train_folder} has not; both need the same classes"
        )
    kinds = ", ".join(EXTENSIONS)
    empty = (train.class_N.bincount(minlength=len(train.classes)) == 0).nonzero()
    if len(empty):
        raise UserError(f"{train_folder / train.classes[int(empty[0])]} holds no image ({kinds})")
    for files in (train, test):
        if not len(files):
            raise UserError(f"{files.root} holds no images ({kinds}) in folders of classes")
    return train, test


def list_classes(root: Path) -> Listing:
    """Return the images of the folder `root`, from the cache if no folder in it has changed since.

    Every rank lists for itself, and those of a node mostly read from its memory. OSError if a folder cannot be read,
    UserError for a link to a folder above itself.
    """
    resolved = os.path.realpath(root)
    cache = _cache(resolved)
    cached = _read_cache(cache, str(root), resolved) if cache else None
    if cached is not None:
        return cached
    scan = _Scan(str(root))
    if cache and scan.settled:
        _write_cache(cache, scan.listing, resolved, scan.stamps_F2)
    return scan.listing


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
    dangling = False
    with os.scandir(path) as entries:
        for entry in entries:
            hidden, is_image = entry.name.startswith("."), entry.name.lower().endswith(EXTENSIONS)
            if entry.is_dir():
                folders += [] if hidden else [entry.name]
            elif is_image and not hidden and (entry.is_file() or entry.is_symlink()):
                images.append(entry.name)
            else:
                dangling |= entry.is_symlink() and not os.path.exists(entry.path)
    return _Folder(path, status, images, sorted(folders), dangling)


class _Scan:
    """A new listing, and the times of its folders by which a later change shows."""

    def __init__(self, root: str) -> None:
        self.started_ns = time.time_ns()
        self.settled = True  # whether a later change would show
        self.paths: list[str] = []
        self.classes: list[int] = []
        self.stamps: list[tuple[int, int]] = []
        self.folder_N = array("i")
        top = _read_folder(root)
        self.add(top, -1, "")
        class_names = tuple(name for name in top.folders if not name.startswith("."))
        names = Strings.of(name for label in range(len(class_names)) for name in self.names(root, class_names, label))
        class_F, folder_N = _tensor(array("q", self.classes), np.int64), _tensor(self.folder_N, np.int32)
        self.listing = Listing(root, class_names, Strings.of(self.paths), class_F, folder_N, names)
        self.stamps_F2 = np.array(self.stamps, np.int64)

    def names(self, root: str, class_names: tuple[str, ...], label: int) -> Iterator[str]:
        """Yield the names of a class's images in order, and add their folders."""
        found: list[tuple[str, int]] = []
        for folder in _walk(os.path.join(root, class_names[label]), ()):
            below = os.path.relpath(folder.path, root)
            number = len(self.paths)
            found += [(f"{below}/{name}", number) for name in folder.images]
            self.add(folder, label, below)
        for path, number in sorted(found):
            self.folder_N.append(number)
            yield path.rpartition("/")[2]

    def add(self, folder: _Folder, label: int, below: str) -> None:
        stamp = _stamp(folder.status)
        self.settled &= not folder.dangling and max(stamp) < self.started_ns - _SETTLED_NS
        self.paths.append(below)
        self.classes.append(label)
        self.stamps.append(stamp)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    """Return times that change with a folder's entries. Copying tools can set back the first but not the second."""
    return status.st_mtime_ns, status.st_ctime_ns


def _cache(resolved: str) -> Path | None:
    """Return the path of a folder's cached listing; None without a home folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.blake2b(os.fsencode(resolved), digest_size=16).hexdigest()
    return Path(home, "negbench", "listings", f"{digest}.npz") if os.path.isabs(home) else None


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


def _tensor(buffer: "bytearray | array[int]", dtype: Any) -> Tensor:
    return torch.from_numpy(np.frombuffer(buffer, dtype))
