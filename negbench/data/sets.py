"""Training, validation and test sets, and the order in which training goes through them.

Shape legend: N images of a set, M images chosen, C classes, n images of this rank's batch, H x W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from negbench.config import DataConfig
from negbench.data.patterns import FAMILIES, make_patterns
from negbench.seeding import stream

if TYPE_CHECKING:
    from negbench.data.folder import FolderSet

_PATTERNS_TRAIN, _PATTERNS_TEST, _PATTERNS_LARGEST = 5_000, 2_000, 128


@dataclass(frozen=True)
class ResidentSet:
    """Images of one size that are held in memory (host or device) as a whole: uint8 [N, 3, H, W] and int64 [N]."""

    images_NCHW: Tensor
    labels_N: Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    def subset(self, index_M: Tensor) -> "ResidentSet":
        """The images at the positions `index_M` (int64 [M]), in that order."""
        return ResidentSet(
            self.images_NCHW[index_M.to(self.images_NCHW.device)], self.labels_N[index_M.to(self.labels_N.device)]
        )

    def joined(self, other: "ResidentSet") -> "ResidentSet":
        """These images and then those of `other`."""
        images_NCHW = torch.cat([self.images_NCHW, other.images_NCHW])
        return ResidentSet(images_NCHW, torch.cat([self.labels_N, other.labels_N]))

    def to(self, device: torch.device | str) -> "ResidentSet":
        return ResidentSet(self.images_NCHW.to(device), self.labels_N.to(device))


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set. `validation` is None where `data.validation` is 0.

    `skipped` counts files that were left out while loading; image folders are decoded later and start at 0.
    """

    train: "ResidentSet | FolderSet"
    validation: "ResidentSet | FolderSet | None"
    test: "ResidentSet | FolderSet"
    classes: tuple[str, ...]
    skipped: int = 0

    @property
    def all_training(self) -> "ResidentSet | FolderSet":
        """All training images, and those held out after them."""
        train: Any = self.train
        joined: ResidentSet | FolderSet = train if self.validation is None else train.joined(self.validation)
        return joined

    def to(self, device: torch.device) -> "Splits":
        """With resident sets on `device`; folders are decoded on the host."""

        def moved(part: Any) -> Any:
            return part.to(device) if isinstance(part, ResidentSet) else part

        return replace(self, train=moved(self.train), validation=moved(self.validation), test=moved(self.test))


def load_splits(config: DataConfig) -> Splits:
    """The parts of the data set `config.name`, on the host.

    `validation` holds out that share of each class of the training set. `num_images` then takes that many of the
    remaining training images, as evenly over the classes as their sizes permit; a smaller choice is contained in a
    larger one. Neither depends on the seed of a run, so all runs see the same images.

    Raises ValueError where the data is absent or malformed, and where it cannot be divided as asked.
    """
    try:
        train, test, classes, skipped = _LOADERS[config.name](config)
    except OSError as error:
        raise ValueError(f"cannot read {error.filename or config.root}: {error.strerror or error}") from None
    kept_N, held_out_M = split_validation(train.labels_N, config.validation, config.name)
    if config.num_images is not None:
        kept_N = kept_N[balanced_subset(train.labels_N[kept_N], config.num_images, config.name)]
    validation = train.subset(held_out_M) if len(held_out_M) else None
    return Splits(train.subset(kept_N), validation, test, classes, skipped)


def split_validation(labels_N: Tensor, share: float, name: str) -> tuple[Tensor, Tensor]:
    """Positions (ascending) that stay for training and positions held out, `share` of each class, rounded.

    The choice depends on the data set's `name` and labels only. Every class keeps at least one training image.
    Raises ValueError if a positive share of these few images holds out none.
    """
    counts_C = labels_N.bincount()
    wanted_C = torch.minimum((share * counts_C.double()).round().long(), (counts_C - 1).clamp(min=0))
    held_out_N = _turns(labels_N, stream("validation", name)) < wanted_C[labels_N]
    if share > 0 and not held_out_N.any():
        raise ValueError(
            f"data.validation {share} holds out none of {len(labels_N)} images in {_num_classes(labels_N)} classes; "
            "raise it, or set it to 0 for no validation set"
        )
    return (~held_out_N).nonzero().squeeze(1), held_out_N.nonzero().squeeze(1)


def balanced_subset(labels_N: Tensor, num_images: int, name: str) -> Tensor:
    """Positions (ascending) of `num_images` images, class counts as equal as the classes' sizes permit."""
    num_classes = _num_classes(labels_N)
    if num_images > len(labels_N):
        raise ValueError(
            f"data.num_images {num_images} exceeds the {len(labels_N)} training images of {name} "
            "that are left after the validation share"
        )
    if num_images < num_classes:
        raise ValueError(
            f"data.num_images {num_images} is fewer than the {num_classes} classes of {name}; at least one each is due"
        )
    generator = stream("subset", name)
    order_N = torch.randperm(len(labels_N), generator=generator)  # which classes get the odd images
    turns_N = _turns(labels_N, generator)
    return order_N[turns_N[order_N].argsort(stable=True)][:num_images].sort().values


def _num_classes(labels_N: Tensor) -> int:
    return int((labels_N.bincount() > 0).sum())


def _turns(labels_N: Tensor, generator: torch.Generator) -> Tensor:
    """Each image's place (int64 [N], from 0) in a random order of the images of its class."""
    order_N = torch.randperm(len(labels_N), generator=generator)
    order_N = order_N[labels_N[order_N].argsort(stable=True)]
    counts_C = labels_N.bincount()
    starts_C = counts_C.cumsum(0) - counts_C
    turns_N = torch.empty_like(labels_N)
    turns_N[order_N] = torch.arange(len(labels_N)) - starts_C.repeat_interleave(counts_C)
    return turns_N


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """floor(num_images / batch_size). Raises ValueError if not even one batch can be filled."""
    if batch_size > num_images:
        raise ValueError(f"batch_size {batch_size} exceeds the {num_images} training images; at most that many")
    return num_images // batch_size


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_images: int) -> Tensor:
    """The permutation (int64 [N]) of the training images in `epoch`. It is shared between calls: do not write to it."""
    return torch.randperm(num_images, generator=stream(seed, "order", epoch))


def batch_index(step: int, num_images: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> Tensor:
    """Positions (int64 [n]) of this rank's images at `step`, counted from 0 over the whole run.

    The global batch is a slice of the epoch's order and rank r has its rows r * n to (r + 1) * n, n = batch_size /
    world_size. The last num_images % batch_size images of an epoch's order are left out of it.
    """
    if batch_size % world_size:
        raise ValueError(f"batch_size {batch_size} is not divisible by the {world_size} ranks")
    epoch, within = divmod(step, steps_per_epoch(num_images, batch_size))
    rows = batch_size // world_size
    start = within * batch_size + rank * rows
    return epoch_order(seed, epoch, num_images)[start : start + rows]


Loaded = tuple["ResidentSet | FolderSet", "ResidentSet | FolderSet", tuple[str, ...], int]


def _load_patterns(config: DataConfig) -> Loaded:
    if config.image_size > _PATTERNS_LARGEST:
        raise ValueError(f"data.image_size of patterns is at most {_PATTERNS_LARGEST}, not {config.image_size}")
    train = ResidentSet(*make_patterns(_PATTERNS_TRAIN, 0, "train", config.image_size))
    test = ResidentSet(*make_patterns(_PATTERNS_TEST, 0, "test", config.image_size))
    return train, test, FAMILIES, 0


def _load_cifar10(config: DataConfig) -> Loaded:
    from negbench.data.cifar10 import CLASSES, load_cifar10

    train, test, skipped = load_cifar10(config)
    return train, test, CLASSES, skipped


def _load_imagefolder(config: DataConfig) -> Loaded:
    from negbench.data.folder import load_folder

    train, test, classes = load_folder(config)
    return train, test, classes, 0


# The loaders of files import this module, hence the imports within.
_LOADERS: dict[str, Callable[[DataConfig], Loaded]] = {
    "patterns": _load_patterns,
    "cifar10": _load_cifar10,
    "imagefolder": _load_imagefolder,
}
