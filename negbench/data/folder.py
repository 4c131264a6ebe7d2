"""Image folders: which files there are, how one is decoded, and one training step's views as uint8.

Layout: root/train/CLASS/* and root/val/CLASS/* (or root/test/CLASS/*), JPEG, PNG or WebP of any size.
Shape legend: N images of a set, M images chosen, B images of the global batch, n of this rank's, V views, P uniform
numbers a view, S side of a view in pixels, H x W pixels of a file.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from negbench import views
from negbench.config import DataConfig, RunConfig
from negbench.data.decode import BadImageError
from negbench.data.listing import EXTENSIONS, Listing, list_classes
from negbench.data.pack import is_pack, open_pack
from negbench.data.sets import batch_index, steps_per_epoch

_CHUNK = 16  # decoded images held at once; the crops of so many are drawn in one call, which costs as much as for one


class Files(Protocol):
    """N encoded images in order, wherever their bytes lie."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def class_N(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def path(self, position: int, /) -> str: ...
    def num_bytes(self, position: int, /) -> int: ...
    def decode(self, position: int, /) -> Tensor: ...


@dataclass(frozen=True)
class FolderSet:
    """Some of the images of `files` (`index_N`, int64 [N]) and their labels (int64 [N]), decoded when needed.

    `whole`: the evaluation view is the whole image, squeezed to a square, and not its centre.
    """

    files: Files
    index_N: Tensor
    labels_N: Tensor
    image_size: int
    on_bad_image: str = "error"
    workers: int = 0
    whole: bool = False

    @classmethod
    def all_of(cls, files: Files, labels_N: Tensor, config: DataConfig) -> "FolderSet":
        index_N = torch.arange(len(files))
        return cls(files, index_N, labels_N, config.image_size, config.on_bad_image, config.workers)

    def __len__(self) -> int:
        return len(self.index_N)

    def path(self, position: int) -> str:
        return self.files.path(int(self.index_N[position]))

    def num_bytes(self, position: int) -> int:
        return self.files.num_bytes(int(self.index_N[position]))

    def decode(self, position: int) -> Tensor:
        """The image at `position`, uint8 [3, H, W]. Raises BadImageError."""
        return self.files.decode(int(self.index_N[position]))

    def subset(self, index_M: Tensor) -> "FolderSet":
        """The images at the positions `index_M` (int64 [M]), in that order."""
        return replace(self, index_N=self.index_N[index_M], labels_N=self.labels_N[index_M])

    def joined(self, other: "FolderSet") -> "FolderSet":
        """These images and then those of `other`, which are of the same files."""
        assert self.files is other.files
        index_N, labels_N = torch.cat([self.index_N, other.index_N]), torch.cat([self.labels_N, other.labels_N])
        return replace(self, index_N=index_N, labels_N=labels_N)


def load_folder(config: DataConfig) -> tuple[FolderSet, FolderSet, tuple[str, ...]]:
    """Training set, test set and class names (sorted) of the image folder `data.root`. Nothing is decoded yet.

    Raises ValueError if the layout is not the one above.
    """
    if config.root is None:
        raise ValueError("data.root is not set; for imagefolder it is the folder that holds train/CLASS and val/CLASS")
    train, test = open_files(Path(config.root).expanduser())
    return (
        FolderSet.all_of(train, train.class_N, config),
        labelled(test, train.classes, config),
        train.classes,
    )


def labelled(files: Files, classes: tuple[str, ...], config: DataConfig) -> FolderSet:
    """All of `files`, by the numbers of `classes`. ValueError for a class that is none of them."""
    number_of = {name: number for number, name in enumerate(classes)}
    if unknown := sorted(set(files.classes) - set(classes)):
        raise ValueError(f"{files.path(0)} and others are of class {unknown[0]}, which the training images have not")
    return FolderSet.all_of(files, torch.tensor([number_of[name] for name in files.classes])[files.class_N], config)


def open_files(root: Path) -> tuple[Files, Files]:
    """The files for training and for testing, of a folder or of a pack (see pack.py)."""
    return open_pack(root) if is_pack(root) else list_folder(root)


def list_folder(root: Path) -> tuple[Listing, Listing]:
    """The files for training and for testing. ValueError if the layout is not the one above."""
    train_folder = root / "train"
    test_folder = root / "val" if (root / "val").is_dir() else root / "test"
    for folder, wanted in ((train_folder, "train/CLASS"), (test_folder, "val/CLASS or test/CLASS")):
        if not folder.is_dir():
            raise ValueError(f"data.root {root} has no folders {wanted} with images")
    train, test = list_classes(train_folder), list_classes(test_folder)
    unknown = sorted(set(test.classes) - set(train.classes))
    if unknown:
        raise ValueError(
            f"{test_folder / unknown[0]} is a class that {train_folder} has not; both need the same classes"
        )
    kinds = ", ".join(EXTENSIONS)
    empty = (train.class_N.bincount(minlength=len(train.classes)) == 0).nonzero()
    if len(empty):
        raise ValueError(f"{train_folder / train.classes[int(empty[0])]} holds no image ({kinds})")
    for files in (train, test):
        if not len(files):
            raise ValueError(f"{files.root} holds no images ({kinds}) in folders of classes")
    return train, test


def decode_or_next(images: FolderSet, position: int) -> tuple[Tensor, int, list[str]]:
    """The image at `position`, uint8 [3, H, W], its position and the paths that failed before it.

    With on_bad_image "skip" an undecodable file is replaced by the next decodable image of the set in its order, so
    that batches stay full and a repetition of the run sees the same; with "error" it raises BadImageError.
    """
    failed: list[str] = []
    for offset in range(len(images)):
        candidate = (position + offset) % len(images)
        try:
            return images.decode(candidate), candidate, failed
        except BadImageError:
            if images.on_bad_image != "skip":
                raise
            failed.append(images.path(candidate))
    raise BadImageError(f"none of the {len(images)} training images can be decoded; the first is {images.path(0)}")


class StepDataset(Dataset[tuple[list[Tensor], Tensor, list[str]]]):
    """Training as a sequence of steps: item `step` is this rank's part of that step's global batch.

    An item is a list with one uint8 [n, 3, S, S] a view (cropped and resized, neither flipped nor coloured), the
    positions of the images shown (int64 [n]), and the paths that could not be decoded. It depends on the seed and the
    step only, so training can start at any step, and the items of all ranks concatenated do not depend on their number.
    """

    def __init__(self, images: FolderSet, config: RunConfig[Any], rank: int = 0, world_size: int = 1) -> None:
        steps_per_epoch(len(images), config.batch_size)  # complain here and not in a worker
        self.images = images
        self.kinds = list(zip(config.views.all, config.views.sizes(config.data.image_size), strict=True))
        self.seed = config.seed
        self.batch_size = config.batch_size
        self.rank, self.world_size = rank, world_size

    def __getitem__(self, step: int) -> tuple[list[Tensor], Tensor, list[str]]:
        index_n = batch_index(step, len(self.images), self.batch_size, self.seed, self.rank, self.world_size).clone()
        rows = len(index_n)
        uniforms_VBP = views.uniforms(self.seed, step, self.batch_size, len(self.kinds))
        uniforms_VnP = uniforms_VBP[:, self.rank * rows : (self.rank + 1) * rows]
        batch = [torch.empty(rows, 3, size, size, dtype=torch.uint8) for _, size in self.kinds]
        bad_paths: list[str] = []
        for chunk in torch.split(torch.arange(rows), _CHUNK):
            images: list[Tensor] = []
            for row in chunk.tolist():
                image_3HW, index_n[row], failed = decode_or_next(self.images, int(index_n[row]))
                images.append(image_3HW)
                bad_paths += failed
            heights, widths = torch.tensor([image_3HW.shape[1:] for image_3HW in images]).unbind(dim=1)
            for view_n3SS, (view_config, size), uniforms_nP in zip(batch, self.kinds, uniforms_VnP, strict=True):
                boxes = views.crop_boxes(view_config, uniforms_nP[chunk], heights, widths).tolist()
                for row, image_3HW, (top, left, height, width) in zip(chunk.tolist(), images, boxes, strict=True):
                    crop_3HW = image_3HW[:, top : top + height, left : left + width]
                    view_n3SS[row] = F.interpolate(crop_3HW[None], (size, size), mode="bilinear", antialias=True)[0]
        return batch, index_n, bad_paths


def center_crop(image_3HW: Tensor, size: int) -> Tensor:
    """The evaluation view, uint8 [3, S, S]: the shorter side is resized to 256/224 of S, then the centre is cut out.

    An image whose shorter side is between the two is not enlarged, and a smaller one only to S.
    """
    shorter = min(image_3HW.shape[-2:])
    target = min(max(shorter, size), round(size * 256 / 224))
    if target != shorter:
        image_3HW = transforms.resize(image_3HW, [target], antialias=True)
    center_3SS: Tensor = transforms.center_crop(image_3HW, [size, size])
    return center_3SS


def squeezed(image_3HW: Tensor, size: int) -> Tensor:
    """The whole image, uint8 [3, S, S], whatever its shape was."""
    image_3SS: Tensor = transforms.resize(image_3HW, [size, size], antialias=True)
    return image_3SS


class EvaluationDataset(Dataset[tuple[Tensor, Tensor, list[str]]]):
    """Item i is a batch of evaluation views: uint8 [n, 3, S, S], labels (int64 [n]) and paths left out as bad."""

    def __init__(self, images: FolderSet, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, list[str]]:
        crops: list[Tensor] = []
        labels: list[Tensor] = []
        bad_paths: list[str] = []
        view = squeezed if self.images.whole else center_crop
        for position in range(item * self.batch_size, min((item + 1) * self.batch_size, len(self.images))):
            try:
                crops.append(view(self.images.decode(position), self.images.image_size))
                labels.append(self.images.labels_N[position])
            except BadImageError:
                if self.images.on_bad_image != "skip":
                    raise
                bad_paths.append(self.images.path(position))
        if not crops:
            size = self.images.image_size
            return torch.empty(0, 3, size, size, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), bad_paths
        return torch.stack(crops), torch.stack(labels), bad_paths


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2)


def shield_worker(_worker: int = 0) -> None:
    """A worker's first act: block the signals, yet exit on SIGTERM from the process that asked for the worker.

    That is how multiprocessing ends workers at exit, and it waits for them. The mask is set once more because
    forkserver and spawn do not hand it on.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_when_told, args=(parent.pid,), daemon=True).start()


def _exit_when_told(by: int | None) -> None:
    if hasattr(signal, "sigwaitinfo"):
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != by:
            pass
    else:  # macOS, where a sender is not known
        signal.sigwait([signal.SIGTERM])
    os._exit(0)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block SIGINT, SIGTERM, SIGCONT and SIGUSR2, for good in the threads and processes that are started within.

    A Ctrl-C and a scheduler's warning go to the whole process group, but only the main process may act on them.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
