"""A tuning's folder: `tuning.json` lists the trials; their results are in their own folders. Imports no torch."""

import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError, model_validator

from negbench.records.find import TUNING
from negbench.records.forms import Fraction, Name, Plain, Positive, RecordedFolders, Strict, Whole, reason_of
from negbench.records.run_folder import RunFolder
from negbench.records.status import status_of
from negbench.runtime.errors import UserError
from negbench.settings.keys import Flat
from negbench.settings.space import Space

TUNING_SCHEMA_VERSION = 1
TUNINGS = RecordedFolders(TUNING)
SCORE = "knn_top1_validation"  # of summary.json: kNN (k = 20) on the held-out images at the last step


class PlannedTrial(Strict):
    run_id: Name
    values: dict[str, Plain]


class PlannedMethod(Strict):
    """`file` is the path of a user's method."""

    space: dict[str, list[Plain]]
    trials: list[PlannedTrial]
    file: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "PlannedMethod":
        for trial in self.trials:
            if trial.values.keys() != self.space.keys() or any(
                value not in self.space[key] for key, value in trial.values.items()
            ):
                raise UserError(f"the values of {trial.run_id} are not of its space")
        return self


class TuningRecord(Strict):
    """`tuning.json`. `settings` are the `--set` texts of all trials that can change a result."""

    schema_version: int
    study: str
    base: str  # digest of the study's settings for all methods
    track: str
    seed: Whole
    settings: list[str]
    epochs: Positive
    validation: Fraction  # share of the training images that is held out
    num_images: Positive | None  # of the others, those that are used, if not all
    methods: dict[str, PlannedMethod]


@dataclass(frozen=True)
class Trial:
    """`score` is None unless the trial is done; `state` is that of `status_of`, or damaged."""

    run_id: str
    values: Flat
    state: str
    reason: str
    score: float | None
    seconds: float | None  # of training
    num_images: int | None  # that it was trained on or scored by

    @property
    def has_ended(self) -> bool:
        """Whether it is done or failed, so that its budget is spent."""
        return self.state in ("done", "failed")


@dataclass(frozen=True)
class Tuned:
    """One method's trials, in the order of the draw."""

    method: str
    space: Space
    trials: tuple[Trial, ...]

    @property
    def scores(self) -> list[float]:
        return [trial.score for trial in self.trials if trial.score is not None]

    @property
    def has_ended(self) -> bool:
        return all(trial.has_ended for trial in self.trials)

    @property
    def best(self) -> Trial | None:
        """The trial with the highest score, the first of equals."""
        scored = [trial for trial in self.trials if trial.score is not None]
        return max(scored, key=lambda trial: trial.score or 0.0) if scored else None

    @property
    def median(self) -> float:
        return statistics.median(self.scores) if self.scores else math.nan


@dataclass(frozen=True)
class Tuning:
    path: Path
    record: TuningRecord
    methods: tuple[Tuned, ...]

    @property
    def study(self) -> str:
        return self.record.study

    @property
    def has_ended(self) -> bool:
        return all(method.has_ended for method in self.methods)

    @property
    def num_held_out(self) -> int | None:
        """Images of each score; None before a trial has ended."""
        totals = [trial.num_images for method in self.methods for trial in method.trials if trial.num_images]
        if not totals:
            return None
        used = self.record.num_images
        return max(0, totals[0] - used) if used else round(self.record.validation * totals[0])


def read_record(path: Path) -> TuningRecord:
    """Return the record. UserError, with what to do, if it is damaged or of another schema."""
    file = path / TUNINGS.record
    remedy = "delete it, and the call of `negbench tune` that made it writes it anew from the trials, which are kept"
    try:
        record = TuningRecord.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise UserError(f"{file} is damaged ({reason_of(error)}); {remedy}") from None
    if record.schema_version != TUNING_SCHEMA_VERSION:
        raise UserError(f"{file} is of schema {record.schema_version}, not {TUNING_SCHEMA_VERSION}; {remedy}")
    return record


def load(path: Path) -> Tuning:
    """Return the record with the result of each trial. UserError as `read_record`."""
    record = read_record(path)
    methods = (
        Tuned(name, planned.space, tuple(_trial(path / trial.run_id, trial) for trial in planned.trials))
        for name, planned in record.methods.items()
    )
    return Tuning(path, record, tuple(methods))


def _trial(path: Path, planned: PlannedTrial) -> Trial:
    status, summary = status_of(path, None), RunFolder(path).read_summary()
    score = summary.get(SCORE) if status.state == "done" else None
    seconds, images = summary.get("train_seconds"), summary.get("num_images")
    state, reason = status.state, status.detail
    if score is None and state in ("done", "damaged"):
        reason = f"{reason or 'its summary.json holds no accuracy'}; delete {path.name} to make it again"
        state = "damaged"
    return Trial(
        planned.run_id,
        planned.values,
        state,
        reason,
        None if score is None else float(score),
        None if seconds is None else float(seconds),
        None if images is None else int(images),
    )
