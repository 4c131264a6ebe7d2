"""`metrics.jsonl`: the forms of its rows, and reading them. `train.rows` writes them. Imports no torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_core import from_json

from negbench.records.files import DamagedError, read_bytes
from negbench.records.forms import Amount, Fraction, Plain, Quantity, Record, reason_of

CURVE = ("step", "epoch", "knn_top1", "train_seconds", "device_hours")  # columns that every evaluation has


class Row(Record):
    """Any row. Loss and further figures of a training step may be infinite or nan."""

    kind: str
    step: Amount
    epoch: Quantity = 0
    loss: float | None = None
    knn_top1: Fraction | None = None
    knn200_top1: Fraction | None = None
    test_top1: Fraction | None = None
    train_seconds: Quantity = 0
    step_seconds: Quantity | None = None
    images_per_second: Quantity | None = None


class EpochRow(Row):
    epoch: Quantity
    epoch_seconds: Annotated[Quantity, Field(gt=0)]
    data_wait_seconds: Quantity = 0
    energy_joules: Quantity | None = None


class EvaluationRow(Row):
    epoch: Quantity
    knn_top1: Fraction
    train_seconds: Quantity
    device_hours: Quantity


class DiagnosticsRow(Row):
    epoch: Quantity
    sources: dict[str, dict[str, Plain]] = Field(default={})


_FORMS: Mapping[str, type[Row]] = {"epoch": EpochRow, "evaluation": EvaluationRow, "diagnostics": DiagnosticsRow}


def parse(line: bytes, form: type[Row] | None = None) -> dict[str, Any]:
    """Return the row in a line. ValueError if it is none of its kind, or of the `form`."""
    row = from_json(line)
    kind = row.get("kind") if isinstance(row, dict) else None
    (form or _FORMS.get(str(kind), Row)).model_validate(row)
    return row


def read_rows(path: Path, with_steps: bool = True) -> list[dict[str, Any]]:
    """Return the rows of a file, on request without those of training steps. `DamagedError` if one cannot be read."""
    try:
        lines = read_bytes(path).splitlines()
    except OSError as error:
        raise DamagedError(path, f"it cannot be read: {error.strerror}") from None
    return check_rows(path, lines if with_steps else [b"" if _is_step(line) else line for line in lines])


def check_rows(path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    """Return the rows in the lines that are not empty. `DamagedError` if one is no row."""
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                rows.append(parse(line))
        except ValidationError as error:
            raise DamagedError(path, f"line {number}: {reason_of(error)}") from None
        except ValueError:
            raise DamagedError(path, f"line {number} is cut or damaged") from None
    return rows


def complete_rows(content: bytes) -> Iterator[dict[str, Any]]:
    """Yield the rows until the first line that a killed process left unfinished: nothing after it counts."""
    for line in content.splitlines():
        try:
            yield parse(line)
        except ValueError:
            return


def _is_step(line: bytes) -> bool:
    return line.startswith(b'{"kind": "train"') and line.endswith(b"}")
