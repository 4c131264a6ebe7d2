"""CIFAR-10 from torchvision's archive or from a copy as class folders of 32 x 32 PNGs.

Both give the same images in the same order, so the same images are held out.
Shape legend: N images of a set.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

from negbench.data.files.cache import UNREADABLE, write_arrays
from negbench.data.files.decode import BadImageError, decode
from negbench.data.files.layout import refuse_file
from negbench.data.files.listing import list_images
from negbench.data.sets import Loaded, ResidentSet
from negbench.runtime.errors import UserError
from negbench.runtime.kind_of_file import what_is
from negbench.settings.plugins.facts import DataSet
from negbench.settings.schema import DataConfig

DATASET = DataSet(title="CIFAR-10", train=50_000, test=10_000, num_classes=10, num_bytes=170_498_071)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_HOME = Path("~/.cache/negbench")
_SIZE = 32  # pixels


def load(config: DataConfig) -> Loaded:
    train, test, skipped = load_cifar10(config)
    return train, test, CLASSES, skipped


def load_cifar10(config: DataConfig) -> tuple[ResidentSet, ResidentSet, int]:
    """Return training set, test set and number of files left out (of class folders with on_bad_image "skip").

    `data.root` (default ~/.cache/negbench/cifar10) holds cifar-10-batches-py, cifar-10-python.tar.gz, or
    train/CLASS/*.png and test/CLASS/*.png. Otherwise `data.download` fetches the archive there. A missing `data.root`
    is not created, since it may be mistyped. UserError if there is neither data nor a way to get it.
    """
    root = Path(config.root or _HOME / "cifar10").expanduser()
    refuse_file(root, f"give the folder that {CIFAR10.filename} lies in")
    if config.root and config.download and not root.is_dir():
        raise UserError(f"there is no folder data.root {root}; make it, and CIFAR-10 is fetched there")
    with _locked(root, make=config.download):
        if (root / "train").is_dir() and not (root / CIFAR10.base_folder).is_dir():
            train, skipped_train = _from_folders(root, "train", config.on_bad_image)
            test, skipped_test = _from_folders(root, "test", config.on_bad_image)
            return train, test, skipped_train + skipped_test
        return _from_archive(root, True, config.download), _from_archive(root, False, config.download), 0


def _from_archive(root: Path, train: bool, download: bool) -> ResidentSet:
    archive = root / CIFAR10.filename
    has_archive = check_integrity(str(archive), CIFAR10.tgz_md5)  # unpacking it needs no network
    try:
        dataset = CIFAR10(str(root), train=train, download=download or has_archive)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if archive.is_file() and not has_archive:
            reason = f"{CIFAR10.filename} there is {what_is(archive) or 'damaged'} and has another md5"
        raise UserError(
            f"CIFAR-10 is not usable in {root} and was not {'fetched' if download else 'to be fetched'} ({reason}): "
            f"put {CIFAR10.filename} (md5 {CIFAR10.tgz_md5}) there, as {archive}"
        ) from error
    images_N3HW = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return _ordered(images_N3HW, torch.tensor(dataset.targets, dtype=torch.int64))


def _from_folders(root: Path, split: str, on_bad_image: str) -> tuple[ResidentSet, int]:
    paths_by_class = [list_images(root / split / name) for name in CLASSES]
    for name, paths in zip(CLASSES, paths_by_class, strict=True):
        if not paths:
            raise UserError(
                f"{root / split / name} holds no PNG; a CIFAR-10 folder needs {split}/CLASS/*.png of each class"
            )
    labelled = [(path, label) for label, paths in enumerate(paths_by_class) for path in paths]
    fingerprint = _fingerprint(root, [path for path, _ in labelled])
    name = f"negbench-cifar10-{split}.npz"
    elsewhere = hashlib.blake2b(str(root.resolve()).encode(), digest_size=4).hexdigest()
    caches = (root / name, _HOME.expanduser() / f"{elsewhere}-{name}")
    for cache in caches:
        cached = _read_cache(cache, fingerprint)
        if cached is not None:
            return cached, 0
    images: list[Tensor] = []
    labels: list[int] = []
    for path, label in labelled:
        try:
            image_3HW = decode(path)
        except BadImageError:
            if on_bad_image != "skip":
                raise
            continue
        if image_3HW.shape != (3, _SIZE, _SIZE):
            height, width = image_3HW.shape[1:]
            raise UserError(f"{path} has {height} x {width} pixels; CIFAR-10 has {_SIZE} x {_SIZE}")
        images.append(image_3HW)
        labels.append(label)
    if not images:
        raise BadImageError(f"none of the {len(labelled)} images in {root / split} can be decoded")
    dataset = _ordered(torch.stack(images), torch.tensor(labels, dtype=torch.int64))
    skipped = len(labelled) - len(images)
    if not skipped:  # a bad file may be mended, and with on_bad_image "error" must not go unnoticed
        _write_cache(caches, dataset, fingerprint)
    return dataset, skipped


def _ordered(images_N3HW: Tensor, labels_N: Tensor) -> ResidentSet:
    """Return the set in the order of a hash of each image, which does not depend on file names or the archive."""
    digests = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images_N3HW.contiguous().numpy()]
    order = sorted(range(len(digests)), key=lambda i: (digests[i], int(labels_N[i])))
    return ResidentSet(images_N3HW, labels_N).subset(torch.tensor(order))


def _fingerprint(root: Path, paths: list[str]) -> str:
    digest = hashlib.blake2b(f"{len(paths)}".encode(), digest_size=16)
    for path in paths:
        digest.update(f"\0{os.path.relpath(path, root)}\0{os.path.getsize(path)}".encode())
    return digest.hexdigest()


def _read_cache(cache: Path, fingerprint: str) -> ResidentSet | None:
    try:
        with np.load(cache, allow_pickle=False) as arrays:
            if str(arrays["fingerprint"]) != fingerprint:
                return None
            return ResidentSet(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]))
    except UNREADABLE:
        return None


def _write_cache(caches: tuple[Path, ...], dataset: ResidentSet, fingerprint: str) -> None:
    """Write the first cache that can be written; without any the images are decoded each time."""
    arrays = {"images": dataset.images_NCHW.numpy(), "labels": dataset.labels_N.numpy()}
    for cache in caches:
        with suppress(OSError):
            write_arrays(cache, **arrays, fingerprint=np.array(fingerprint))
            return


@contextmanager
def _locked(root: Path, make: bool) -> Iterator[None]:
    """Let one process at a time fetch, unpack or decode: the ranks of a node start together."""
    try:
        if make:
            root.mkdir(parents=True, exist_ok=True)
        file = open(root / ".negbench.lock", "w")  # noqa: SIM115
    except OSError:  # not writable, so there is nothing to protect
        yield
        return
    with file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
