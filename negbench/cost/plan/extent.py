"""How many images a run has: listed, known, given by the user, or ImageNet's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from negbench.data.load import load_for_run
from negbench.data.sets import FolderSet
from negbench.data.splits import balanced_subset, split_validation
from negbench.runtime.errors import UserError
from negbench.settings.plugins.facts import DataSet
from negbench.settings.plugins.find import DATASET, find_plugin
from negbench.settings.schema import DataConfig, SharedConfig

IMAGENET_TRAIN, IMAGENET_TEST, IMAGENET_CLASSES = 1_281_167, 50_000, 1000
IMAGES_A_CLASS = 100  # where neither images nor classes are known


@dataclass(frozen=True)
class Extent:
    """Numbers of images by their use, and the files among them that are there."""

    train: int
    validation: int
    test: int
    num_classes: int
    source: str
    files: FolderSet | None = None  # the training images of a folder that is there
    decoded_in_training: bool = False
    known_bytes: int | None = None  # of the data set on disk; None: as many as its files have on average

    @property
    def total(self) -> int:
        return self.train + self.validation + self.test


def extent_of(run: SharedConfig, num_images: int | None) -> Extent:
    """Return the images after `data.validation` and `data.num_images`. UserError as `load_for_run` raises it."""
    config = run.data
    facts: DataSet = find_plugin(DATASET, config.name).facts
    known = config.root is not None or not facts.root
    if num_images is not None and known:
        raise UserError(
            f"--num-images {num_images} is for an image folder that is not here, and {config.root or config.name} has "
            "a number of its own; --set data.num_images=N uses a part of it"
        )
    if facts.train:
        labels_N, source = torch.arange(facts.train) % facts.num_classes, f"all of {facts.title or config.name}"
        return Extent(*_divided(labels_N, config), facts.test, facts.num_classes, source, known_bytes=facts.num_bytes)
    if known:
        splits = load_for_run(run)
        held_out = 0 if splits.validation is None else len(splits.validation)
        sizes = len(splits.train), held_out, len(splits.test), max(1, len(splits.classes))
        if isinstance(splits.train, FolderSet):
            return Extent(*sizes, f"listed in {config.root}", splits.train, decoded_in_training=True)
        return Extent(*sizes, f"all of {config.name}", known_bytes=0)
    if num_images is None:
        train, test, classes = IMAGENET_TRAIN, IMAGENET_TEST, IMAGENET_CLASSES
        source = "ImageNet-1k's, since neither data.root nor --num-images is given"
    else:
        train, classes = num_images, min(IMAGENET_CLASSES, -(-num_images // IMAGES_A_CLASS))
        test = round(num_images * IMAGENET_TEST / IMAGENET_TRAIN)
        source = f"--num-images, {classes:,} classes and {test:,} test images in ImageNet's proportion"
    labels_N = torch.arange(train) % classes
    return Extent(*_divided(labels_N, config), test, classes, source, decoded_in_training=True)


def _divided(labels_N: Tensor, config: DataConfig) -> tuple[int, int]:
    """Return how many images `load_for_run` trains on and holds out, of a set with these labels."""
    kept_N, held_out_N = split_validation(labels_N, config.validation, config.name)
    if config.num_images is not None:
        kept_N = balanced_subset(labels_N[kept_N], config.num_images, config.name)
    return len(kept_N), len(held_out_N)
