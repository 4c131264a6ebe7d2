"""Image folders: root/train/CLASS/* and root/val/CLASS/* (or root/test/CLASS/*), or packs of them."""

from pathlib import Path

import torch

from negbench.data.files.layout import numbers_of
from negbench.data.files.pack import open_files
from negbench.data.sets import Files, FolderSet, Loaded
from negbench.runtime.errors import UserError
from negbench.settings.plugins.facts import DataSet
from negbench.settings.schema import DataConfig

DATASET = DataSet(root="train/CLASS and val/CLASS")


def load(config: DataConfig) -> Loaded:
    train, test, classes = load_folder(config)
    return train, test, classes, 0


def load_folder(config: DataConfig) -> tuple[FolderSet, FolderSet, tuple[str, ...]]:
    """Return training set, test set and class names (sorted) of the image folder `data.root`. Nothing is decoded yet.

    The test set is empty if there are no images to test; without classes all labels are 0. UserError if the layout is
    another one.
    """
    assert config.root is not None
    train, test = open_files(Path(config.root).expanduser())
    return FolderSet.all_of(train, train.class_N, config), labelled(test, train.classes, config), train.classes


def labelled(files: Files, classes: tuple[str, ...], config: DataConfig) -> FolderSet:
    """Return all of `files`, labelled by the numbers of `classes`. UserError for a class that is none of them."""
    numbers: list[int] = []
    for name, number in zip(files.classes, numbers_of(files.classes, classes), strict=True):
        if number is None:
            raise UserError(f"{files.path(0)} and others are of class {name}, which the training images have not")
        numbers.append(number)
    return FolderSet.all_of(files, torch.tensor(numbers, dtype=torch.int64)[files.class_N], config)
