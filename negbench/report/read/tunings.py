"""Read tunings for a report."""

from collections.abc import Sequence
from pathlib import Path

from negbench.records.tunings import Tuning, load
from negbench.report.read.runs import Run
from negbench.runtime.errors import UserError


def load_tunings(paths: Sequence[Path]) -> tuple[list[Tuning], list[Run]]:
    """Return the tunings that can be read, and the others with their reasons."""
    tunings, unused = [], []
    for path in paths:
        try:
            tunings.append(load(path))
        except UserError as error:
            unused.append(Run(path, "damaged", str(error)))
    return tunings, unused
