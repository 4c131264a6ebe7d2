"""Data sets in their public layouts, as `--data DIR` holds them. Nothing is decoded here."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from negbench.data.datasets.imagefolder import labelled, load_folder
from negbench.data.files.layout import sentence_of_left_out
from negbench.data.files.listing import Listing, list_classes
from negbench.data.sets import FolderSet, Splits
from negbench.evaluate.request import digest
from negbench.runtime.errors import UserError
from negbench.settings.schema import SharedConfig

PLACES205_LISTS = "trainvalsplit_places205"
PLACES205_IMAGES = "data/vision/torralba/deeplearning/images256"
VOC07_IMAGE_SETS = "ImageSets/Main"
VOC07_NUM_CLASSES = 20


def image_folder(root: Path, config: SharedConfig) -> Splits:
    """Return train/CLASS and val/CLASS or test/CLASS; with both, `val` is held out and `test` tested on.

    UserError if the layout is another one.
    """
    wanted = config.data.model_copy(update={"name": "imagefolder", "root": str(root)})
    try:
        train, test, classes = load_folder(wanted)
        if not len(test):
            needed = "val/CLASS or test/CLASS" if classes else "train/CLASS"
            raise UserError(f"data.root {root} has no folders {needed} with images")
        if (root / "val").is_dir() and (root / "test").is_dir():
            return Splits(train, test, labelled(list_classes(root / "test"), classes, wanted), classes)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or root}: {error.strerror or error}") from None
    except UserError as error:
        raise UserError(str(error).replace("data.root", "--data")) from None
    return Splits(train, None, test, classes)


def places205_folder(root: Path, config: SharedConfig) -> Splits:
    """Return Places205's training images, and its validation images as test set. UserError for another layout.

    A line of the lists is an image's path below `PLACES205_IMAGES`, as a/abbey/gsun_0003.jpg, and its class's number.
    """
    parts, folders, images = {}, dict[int, str](), str(root / PLACES205_IMAGES)
    for part in ("train", "val"):
        file = root / PLACES205_LISTS / f"{part}_places205.csv"
        names, labels = [], []
        for number, line in enumerate(_lines(file, root), 1):
            fields = line.replace(",", " ").split()
            if len(fields) != 2 or not fields[1].isdigit():
                raise UserError(f"{file}, line {number} must be a path and a class's number, not {line!r}")
            names.append(os.path.join(images, fields[0].lstrip("/")))
            labels.append(int(fields[1]))
            folders.setdefault(labels[-1], os.path.dirname(fields[0]))
        _check_first(names, file)
        parts[part] = listed_images(names, labels, config)
    classes = tuple(folders.get(label, "") for label in range(max(folders) + 1))
    missing = sorted(set(range(len(classes))) - set(parts["train"].labels_N.tolist()))
    if missing:
        raise UserError(f"{root / PLACES205_LISTS}: no training image is of class {missing[0]} of {len(classes)}")
    return Splits(parts["train"], None, parts["val"], classes)


def voc07_folder(root: Path, config: SharedConfig) -> tuple[Splits, dict[str, torch.Tensor]]:
    """Return VOC2007's trainval and test images, and by `train` and `test` what they show, int64 [N, 20].

    1: the class, -1: not, 0: only `difficult` objects of it. An image's label is its position in its set, and its
    evaluation view the whole image. UserError for another layout.
    """
    base = next(
        (path for path in (root / "VOCdevkit/VOC2007", root / "VOC2007", root) if (path / VOC07_IMAGE_SETS).is_dir()),
        None,
    )
    if base is None:
        raise UserError(f"--data {root} has no VOCdevkit/VOC2007/{VOC07_IMAGE_SETS}, nor has it VOC2007 or is it")
    lists = base / VOC07_IMAGE_SETS
    classes = tuple(sorted(path.name.removesuffix("_trainval.txt") for path in lists.glob("*_trainval.txt")))
    if len(classes) != VOC07_NUM_CLASSES:
        raise UserError(f"{lists} has CLASS_trainval.txt of {len(classes)} classes, and VOC2007 {VOC07_NUM_CLASSES}")
    parts, shown = {}, {}
    for part, name in (("train", "trainval"), ("test", "test")):
        columns = [_voc07_list(lists / f"{of_class}_{name}.txt", root) for of_class in classes]
        images = list(columns[0])
        for of_class, column in zip(classes, columns, strict=True):
            if list(column) != images:
                raise UserError(f"{lists / f'{of_class}_{name}.txt'} lists other images than that of {classes[0]}")
        names = [str(base / "JPEGImages" / f"{image}.jpg") for image in images]
        _check_first(names, lists / f"{classes[0]}_{name}.txt")
        parts[part] = listed_images(names, range(len(names)), config, whole=True)
        shown[part] = torch.tensor([list(column.values()) for column in columns]).T
    return Splits(parts["train"], None, parts["test"], classes), shown


def listed_images(names: list[str], labels: Sequence[int], config: SharedConfig, whole: bool = False) -> FolderSet:
    """Return a set of these files in the view and with the workers of a run."""
    labels_N = torch.tensor(labels, dtype=torch.int64)
    return replace(FolderSet.all_of(Listing.of(names), labels_N, config.data), whole=whole)


def check_classes(splits: Splits, root: Path) -> None:
    if len(splits.classes) < 2:
        raise UserError(f"--data {root} has one class; there must be two or more to tell apart")


def left_out_of(splits: Splits) -> dict[str, str]:
    """Return what a record says of the files that an image folder holds beside its images, if there are any."""
    train, test = splits.train, splits.test
    assert isinstance(train, FolderSet) and isinstance(test, FolderSet)
    sentence = sentence_of_left_out(train.files, test.files)
    return {"left_out": sentence} if sentence else {}


def digest_of(splits: Splits) -> str:
    """Return a digest of a data set, wherever it lies: of labels, names below the files' common folder, and sizes."""
    train, test = splits.train, splits.test
    assert isinstance(train, FolderSet) and isinstance(test, FolderSet)
    paths = [[part.path(position) for position in range(len(part))] for part in (train, test)]
    common = len(os.path.commonpath([min(map(min, paths)), max(map(max, paths))]))
    names = [[path[common:] for path in part] for part in paths]
    sizes = [[part.num_bytes(position) for position in range(len(part))] for part in (train, test)]
    return digest([names, sizes, train.labels_N.tolist(), test.labels_N.tolist()])


def _voc07_list(file: Path, root: Path) -> dict[str, int]:
    shown = {}
    for number, line in enumerate(_lines(file, root), 1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in ("1", "-1", "0"):
            raise UserError(f"{file}, line {number} must be an image and 1, 0 or -1, not {line!r}")
        shown[fields[0]] = int(fields[1])
    return shown


def _lines(file: Path, root: Path) -> list[str]:
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"--data {root} has no {file.relative_to(root)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not lines:
        raise UserError(f"{file} lists no images")
    return lines


def _check_first(names: list[str], file: Path) -> None:
    if not os.path.exists(names[0]):
        raise UserError(f"{file} names {names[0]}, which does not exist")
