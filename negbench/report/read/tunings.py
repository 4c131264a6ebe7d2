"""Tunings as a report reads them."""

from collections.abc import Sequence
from pathlib import Path

from negbench.records.tunings import Tuning, load
from negbench.report.read.runs import Run
from negbench.runtime.errors import UserError


def load_tunings(paths: Sequence[Path]) -> tuple[list[Tuning], list[Run]]:
    """Those that can be read, and the others with their reasons."""
    tunings, unused = [], []
    for path in paths:
        try:
            tunings.append(load(path))
        except UserError as error:
            unused.append(Run(path, "damaged", str(error)))
    return tunings, unused
