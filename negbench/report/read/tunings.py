"""Tunings as a report reads them."""

from collections.abc import Sequence
from pathlib import Path

from negbench.records.tunings import Tuning, is_tuning, load, study_of, tunings_in
from negbench.report.read.runs import Run
from negbench.runtime.errors import UserError


def find_tunings(arguments: Sequence[str], default: Path) -> list[Path]:
    """Folders of tunings: those named, those in folders named, and those of studies named, which `default` holds."""
    found: list[Path] = []
    for argument in arguments or [str(default)]:
        path = Path(argument)
        if path.is_dir():
            found += [path] if is_tuning(path) else tunings_in(path)
        else:
            found += [tuning for tuning in tunings_in(default) if study_of(tuning) == argument]
    return list(dict.fromkeys(found))


def load_tunings(paths: Sequence[Path]) -> tuple[list[Tuning], list[Run]]:
    """Those that can be read, and the others with their reasons."""
    tunings, unused = [], []
    for path in paths:
        try:
            tunings.append(load(path))
        except UserError as error:
            unused.append(Run(path, "damaged", str(error)))
    return tunings, unused
