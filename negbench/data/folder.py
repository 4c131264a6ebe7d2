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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from negbench import views
from negbench.config import DataConfig, RunConfig
from negbench.data.decode import BadImageError, decode
from negbench.data.sets import batch_index, steps_per_epoch

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
_CHUNK = 16  # decoded images held at once; the crops of so many are drawn in one call, which costs as much as for one


@dataclass(frozen=True)
class FolderSet:
    """Image files and their labels (int64 [N]), decoded when they are needed.

    `whole`: the evaluation view is the whole image, squeezed to a square, and not its centre.
    """

    paths: list[str]
    labels_N: Tensor
    image_size: int
    on_bad_image: str = "error"
    workers: int = 0
    whole: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, index_M: Tensor) -> "FolderSet":
        """The images at the positions `index_M` (int64 [M]), in that order."""
        return replace(self, paths=[self.paths[i] for i in index_M.tolist()], labels_N=self.labels_N[index_M])

    def joined(self, other: "FolderSet") -> "FolderSet":
        """These images and then those of `other`."""
        return replace(self, paths=self.paths + other.paths, labels_N=torch.cat([self.labels_N, other.labels_N]))


def load_folder(config: DataConfig) -> tuple[FolderSet, FolderSet, tuple[str, ...]]:
    """Training set, test set and class names (sorted) of the image folder `data.root`. Nothing is decoded yet.

    Raises ValueError if the layout is not the one above.
    """
    if config.root is None:
        raise ValueError("data.root is not set; for imagefolder it is the folder that holds train/CLASS and val/CLASS")
    root = Path(config.root).expanduser()
    train_folder = root / "train"
    test_folder = root / "val" if (root / "val").is_dir() else root / "test"
    for folder, wanted in ((train_folder, "train/CLASS"), (test_folder, "val/CLASS or test/CLASS")):
        if not folder.is_dir():
            raise ValueError(f"data.root {root} has no folders {wanted} with images")
    classes = _subfolders(train_folder)
    unknown = sorted(set(_subfolders(test_folder)) - set(classes))
    if unknown:
        raise ValueError(
            f"{test_folder / unknown[0]} is a class that {train_folder} has not; both need the same classes"
        )
    train = _scan(train_folder, classes, config)
    empty = sorted(set(range(len(classes))) - set(train.labels_N.tolist()))
    if empty:
        raise ValueError(f"{train_folder / classes[empty[0]]} holds no image ({', '.join(EXTENSIONS)})")
    test = _scan(test_folder, classes, config)
    for folder, images in ((train_folder, train), (test_folder, test)):
        if not len(images):
            raise ValueError(f"{folder} holds no images ({', '.join(EXTENSIONS)}) in folders of classes")
    return train, test, classes


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")))


def list_images(folder: Path) -> list[str]:
    """Paths of all images under `folder`, sorted by code point; hidden files and other extensions are not images."""
    found = (
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    )
    return sorted(found)


def _scan(folder: Path, classes: tuple[str, ...], config: DataConfig) -> FolderSet:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        of_class = list_images(folder / name)
        paths += of_class
        labels += [label] * len(of_class)
    return FolderSet(
        paths, torch.tensor(labels, dtype=torch.int64), config.image_size, config.on_bad_image, config.workers
    )


def decode_or_next(images: FolderSet, position: int) -> tuple[Tensor, int, list[str]]:
    """The image at `position`, uint8 [3, H, W], its position and the paths that failed before it.

    With on_bad_image "skip" an undecodable file is replaced by the next decodable image of the set in its order, so
    that batches stay full and a repetition of the run sees the same; with "error" it raises BadImageError.
    """
    failed: list[str] = []
    for offset in range(len(images)):
        candidate = (position + offset) % len(images)
        try:
            return decode(images.paths[candidate]), candidate, failed
        except BadImageError:
            if images.on_bad_image != "skip":
                raise
            failed.append(images.paths[candidate])
    raise BadImageError(f"none of the {len(images)} training images can be decoded; the first is {images.paths[0]}")


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
                crops.append(view(decode(self.images.paths[position]), self.images.image_size))
                labels.append(self.images.labels_N[position])
            except BadImageError:
                if self.images.on_bad_image != "skip":
                    raise
                bad_paths.append(self.images.paths[position])
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
