"""What a run was given as data, as `data.json` in its folder says it."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from negbench.records.forms import read_form, readable


class PartRecord(BaseModel):
    """One part of a data set. Two parts are taken for equal if all that both know of the first five is."""

    model_config = ConfigDict(frozen=True)

    images: int
    names: str | None  # digest of the files' names, class by class; None of images in memory
    contents: str  # digest of the files' bytes, or of pixels and labels in any order
    num_compared: int  # images that `contents` is of
    all_contents: str | None = None  # digest of all files' bytes, where it was asked for
    left_out: tuple[str, ...] | None = None  # what the folder holds beside these images; None: unknown


class DataRecord(BaseModel):
    """A data set: the names of its classes, and the images for training and for testing."""

    model_config = ConfigDict(frozen=True)

    classes: tuple[str, ...]
    train: PartRecord
    test: PartRecord

    def difference(self, before: "DataRecord") -> str | None:
        """Return what is different from `before`, as the part of a sentence, or None."""
        added, missing = _difference(self.classes, before.classes), _difference(before.classes, self.classes)
        if added or missing:
            if sorted(map(_composed, added)) == sorted(map(_composed, missing)):
                forms = f"{added[0]!a} instead of {missing[0]!a}"
                return f"the name of class {added[0]!r} has another Unicode form ({forms})"
            news = [
                f"class {name!r} is {what}" for names, what in ((added, "new"), (missing, "gone")) for name in names
            ]
            return f"it has {len(self.classes)} classes instead of {len(before.classes)}, {_few(news)}"
        for name, now, then in (("train", self.train, before.train), ("test", self.test, before.test)):
            if not then.images:  # a run without images to test depends on none
                continue
            if now.images != then.images:
                return f"it has {now.images:,} images to {name} instead of {then.images:,}"
            if now.names != then.names and None not in (now.names, then.names):
                return f"its files to {name} have other names or classes"
            if now.contents != then.contents:
                return f"its images to {name} have another content ({now.num_compared:,} were compared)"
            if now.all_contents != then.all_contents and None not in (now.all_contents, then.all_contents):
                return f"its images to {name} have another content (all {now.images:,} were compared)"
        return None


DATA = TypeAdapter(DataRecord)


def read_data_record(path: Path) -> DataRecord | None:
    """Return the record in a file, or None if there is none that can be read."""
    content = readable([], read_form, path, DATA)
    return DATA.validate_python(content) if content else None


def _difference(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return [name for name in names if name not in set(others)]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _few(news: Sequence[str]) -> str:
    return ", ".join(news[:3]) + (f" and {len(news) - 3} more" if len(news) > 3 else "")
