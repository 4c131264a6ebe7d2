"""Whether a run's data permits the evaluations that its settings ask for, and what a user should know of the data.

Shape legend: C classes.
"""

from negbench.data.files.layout import sentence_of_left_out
from negbench.data.sets import FolderSet, Loaded
from negbench.runtime.errors import UserError
from negbench.runtime.words import count, some
from negbench.settings.schema import SharedConfig

_NAMED = 3  # classes, or kinds of files


def check_evaluable(loaded: Loaded, config: SharedConfig) -> None:
    """Raise UserError if the run would be evaluated on fewer than two classes, or without images to test."""
    train, test, classes, _ = loaded
    where = f"data.root {config.data.root}" if config.data.root else config.data.name
    if len(classes) < 2 and (config.evaluation.test or _shows_curve(config)):
        found = f"{where} has one class, {classes[0]!r}, and every accuracy would be 100%" if classes else ""
        if not classes:
            folder = train.files.root if isinstance(train, FolderSet) else where
            found = f"{folder} has {count(len(train), 'image')} but no folders of classes, which an evaluation needs"
        raise UserError(
            f"{found}; give each class a folder train/CLASS of its own, or train without an evaluation by "
            "--set evaluation.test=false --set data.validation=0"
        )
    if config.evaluation.test and not len(test):
        left_out = test.files.left_out if isinstance(test, FolderSet) else None
        beside = f" (left out: {some(list(left_out), _NAMED)})" if left_out else ""
        raise UserError(
            f"{where} has no folders val/CLASS or test/CLASS with images{beside}; add them, or train without a test by "
            "--set evaluation.test=false"
        )


def notes_of(loaded: Loaded, config: SharedConfig) -> list[str]:
    """Return a sentence for each thing that a user may not expect: what is left out, not tested, or not evaluated."""
    train, test, classes, _ = loaded
    notes = []
    if isinstance(train, FolderSet) and isinstance(test, FolderSet):
        left_out = sentence_of_left_out(train.files, test.files)
        notes += [left_out] if left_out else []
    counts_C = test.labels_N.bincount(minlength=len(classes)).tolist()
    absent = [repr(name) for name, number in zip(classes, counts_C, strict=False) if not number]
    if absent and len(test):
        which = "class" if len(absent) == 1 else f"{len(absent)} of the {len(classes)} classes:"
        notes.append(f"no image to test is of {which} {some(absent, _NAMED)}")
    if not config.evaluation.test and not _shows_curve(config):
        notes.append("nothing is evaluated: evaluation.test=false, and no images are held out for a curve")
    return notes


def _shows_curve(config: SharedConfig) -> bool:
    return config.data.validation > 0 and config.evaluate_every_epochs > 0
