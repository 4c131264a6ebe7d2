"""Image folders: root/train/CLASS/* and root/val/CLASS/* (or root/test/CLASS/*), or packs of them."""

from pathlib import Path

import torch

from negbench.data.files.pack import open_files
from negbench.data.sets import Files, FolderSet, Loaded
from negbench.runtime.errors import UserError
from negbench.settings.facts import DataSet
from negbench.settings.schema import DataConfig

DATASET = DataSet(root="train/CLASS and val/CLASS")


def load(config: DataConfig) -> Loaded:
    train, test, classes = load_folder(config)
    return train, test, classes, 0


def load_folder(config: DataConfig) -> tuple[FolderSet, FolderSet, tuple[str, ...]]:
    """Return training set, test set and class names (sorted) of the image folder `data.root`. Nothing is decoded yet.

    UserError if the layout is not the one above.
    """
    assert config.root is not None
    train, test = open_files(Path(config.root).expanduser())
    return FolderSet.all_of(train, train.class_N, config), labelled(test, train.classes, config), train.classes


def labelled(files: Files, classes: tuple[str, ...], config: DataConfig) -> FolderSet:
    """Return all of `files`, labelled by the numbers of `classes`. UserError for a class that is none of them."""
    number_of = {name: number for number, name in enumerate(classes)}
    if unknown := sorted(set(files.classes) - set(classes)):
        raise UserError(f"{files.path(0)} and others are of class {unknown[0]}, which the training images have not")
    return FolderSet.all_of(files, torch.tensor([number_of[name] for name in files.classes])[files.class_N], config)
