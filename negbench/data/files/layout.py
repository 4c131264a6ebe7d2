"""The parts of an image folder: where the images to train and to test lie, and what is left out of them."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from negbench.data.files.listing import EXTENSIONS, Listing, has_images, list_classes
from negbench.data.sets import Files
from negbench.runtime.errors import UserError
from negbench.runtime.kind_of_file import what_is
from negbench.runtime.words import count, listed, some

PARTS = ("val", "test", "valid", "validation")  # folders of images to test, of which the first that holds some is taken
_WANTED = "folders train/CLASS with images"
_NAMED = 6  # entries of a folder


def list_folder(root: Path) -> tuple[Listing, Listing]:
    """Return the files to train and to test; of the latter none if there is no folder of them.

    Images that lie in train/ itself, or in a `root` without train/, are without classes, and then none are to test.
    UserError for another layout.
    """
    refuse_file(root, "unpack it if it is an archive, and give the folder that holds train/CLASS and val/CLASS")
    parts = [name for name in PARTS if (root / name).is_dir()]
    train = _to_train(root, parts)
    test = _to_test(root, parts if train.classes else ())
    _check_classes(train, test)
    unused = [f"the folder {name}" for name in parts if not train.classes or name != Path(test.root).name]
    return train, replace(test, left_out=(*(test.left_out or ()), *unused))


def numbers_of(names: Sequence[str], classes: Sequence[str]) -> list[int | None]:
    """Return each name's number among the `classes`, in whichever Unicode form it is; None if it is none of them."""
    number_of = {_composed(name): number for number, name in enumerate(classes)}
    return [number_of.get(_composed(name)) for name in names]


def sentence_of_left_out(train: Files, test: Files) -> str | None:
    """Return what was left out of a folder's images, and beside how many of each part; None if nothing is known of."""
    parts = ((train, "train"), (test, "test"))
    found = [
        f"beside {count(len(files), 'image')} to {use}, {some(list(files.left_out), _NAMED)}"
        for files, use in parts
        if files.left_out
    ]
    return f"left out: {'; '.join(found)}" if found else None


def refuse_file(root: Path, advice: str) -> None:
    """Raise UserError if `root` is a file, with what it is and what to do."""
    if root.is_file():
        kind = what_is(root)
        raise UserError(f"data.root {root} is a file{f' ({kind})' if kind else ''} and no folder; {advice}")


def _to_train(root: Path, parts: Sequence[str]) -> Listing:
    folder = root / "train"
    if folder.is_dir():
        train = list_classes(folder)
        if not len(train) and has_images(folder):
            return list_classes(folder, flat=True)
        if not len(train):
            raise UserError(f"{folder} holds no images {_others(train)} in folders of classes")
        return train
    if not root.exists():
        raise UserError(f"data.root {root} has no {_WANTED}; there is no such folder")
    if not has_images(root):
        entries = sorted(name for name in os.listdir(root) if not name.startswith("."))
        raise UserError(f"data.root {root} has no {_WANTED}; it has {some(entries, _NAMED) or 'nothing'}")
    if parts:
        raise UserError(f"data.root {root} has {parts[0]}, but no train, and images beside it; move them to {folder}")
    return list_classes(root, flat=True)


def _to_test(root: Path, parts: Sequence[str]) -> Listing:
    """Return the first of the parts that holds images; if none does, the first, or an empty one."""
    found: list[Listing] = []
    for name in parts:
        found.append(list_classes(root / name))
        if len(found[-1]):
            return found[-1]
    return found[0] if found else Listing.empty(str(root / PARTS[0]))


def _check_classes(train: Listing, test: Listing) -> None:
    own = numbers_of(train.classes, train.classes)
    for place, (name, number) in enumerate(zip(train.classes, own, strict=True)):
        if number != place:
            raise UserError(
                f"{train.root} has two folders {name!a} and {train.classes[number or 0]!a}, whose names differ in "
                "their Unicode form alone (NFC and NFD); join them"
            )
    for name, number in zip(test.classes, numbers_of(test.classes, train.classes), strict=True):
        if number is None:
            raise UserError(
                f"{Path(test.root, name)} is a class that {train.root} has not; both need the same classes (or, to "
                f"train without a test, --set evaluation.test=false and no folder {Path(test.root).name})"
            )
    empty = (train.class_N.bincount(minlength=len(train.classes)) == 0).nonzero()
    if len(empty):
        raise UserError(f"{Path(train.root, train.classes[int(empty[0])])} holds no image {_others(train)}")


def _others(files: Listing) -> str:
    """Return what counts as an image, and what was found beside images."""
    found = f"; left out of {Path(files.root).name} are {listed(list(files.left_out))}" if files.left_out else ""
    return f"({', '.join(EXTENSIONS)}{found})"


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
