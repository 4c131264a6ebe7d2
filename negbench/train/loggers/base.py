"""What a logger of a run receives: the run's facts, each row once, and sentences for people.

Another logger is a file of this folder, or a module that another package names as an entry point in the group
`negbench.loggers`; `loggers: [NAME]` in a run's settings chooses it. The file holds `build() -> Logger`, which opens
nothing. A logger that cannot be built ends the run before its first step.

Only rank 0 has loggers. They are called between steps, in the training's time: what is slow belongs in a thread.

A row is a dictionary that JSON can hold, and no logger changes it. Each has `kind`, `step` (steps trained), `epoch` and
`time` (ISO 8601). A name ends in its unit (`_seconds`, `_per_second`, `_hours`, `_joules`, `_bytes`), accuracies are
fractions, and what is unknown is None or absent. The kinds, in the order in which those of one step come:

    train        every `log_every_steps`: means of the method's metrics over the steps since the last such row, `lr`,
                 `step_seconds` (a median) and `train_seconds` (since the run's start); `epoch` is a fraction
    epoch        at an epoch's end: `loss`, and what the epoch took; `train_seconds`, `device_hours` and `energy_joules`
                 count from the run's start
    evaluation   on held-out images: `knn_top1`, `knn200_top1`
    diagnostics  beside it, see docs/diagnostics.md
    NAME         of a protocol of every epoch: `test_top1`

A run that resumes starts its loggers anew, with `first_step` the step of its checkpoint. Rows of later steps that an
earlier attempt gave come again, and an evaluation at `first_step` may: the new ones count, as in `metrics.jsonl`, where
the old ones are cut off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from negbench.settings.plugins.find import find_logger, import_plugin
from negbench.settings.schema import RunConfig

Row = dict[str, Any]


@dataclass(frozen=True)
class LoggedRun:
    """What a logger knows of a run from its start."""

    run_id: str
    folder: Path
    config: RunConfig[Any]
    num_steps: int
    first_step: int  # steps that are trained already: 0, or those of the checkpoint
    evaluated_steps: frozenset[int]  # those whose rows an evaluation's follow


class Logger:
    """What the trainer calls; these methods do nothing."""

    def start(self, run: LoggedRun) -> None:
        """Begin an attempt, before its first row."""

    def row(self, row: Row) -> None:
        """Take one row."""

    def note(self, text: str) -> None:
        """Take a sentence for people. Some come before `start`."""

    def close(self) -> None:
        """End the attempt, finished, interrupted or failed. A process that is killed does not call it."""


class Loggers(Logger):
    """Passes everything on to several loggers.

    An error of one of `own` ends the run. One that the settings name is left out after an error, and a note says so.
    """

    def __init__(self, own: Sequence[Logger] = ()) -> None:
        self.own = list(own)
        self.named: dict[str, Logger] = {}

    def build(self, names: Sequence[str]) -> None:
        """Add the loggers that the settings name. UserError for one that does not exist or cannot be imported."""
        self.named |= {name: import_plugin(find_logger(name)).build() for name in names}

    def start(self, run: LoggedRun) -> None:
        self._each(lambda logger: logger.start(run))

    def row(self, row: Row) -> None:
        self._each(lambda logger: logger.row(row))

    def note(self, text: str) -> None:
        self._each(lambda logger: logger.note(text))

    def close(self) -> None:
        self._each(lambda logger: logger.close())

    def _each(self, call: Callable[[Logger], None]) -> None:
        for logger in self.own:
            call(logger)
        failures = {}
        for name, logger in self.named.items():
            try:
                call(logger)
            except Exception as error:
                failures[name] = f"{type(error).__name__}: {error}"
        for name in failures:
            del self.named[name]
        for name, reason in failures.items():
            self.note(f"logger {name} has failed and is left out from here on ({reason})")
