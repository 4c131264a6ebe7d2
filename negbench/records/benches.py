"""A bench's folder: `bench.json`, rewritten after each group and checked when it is read. Imports no torch."""

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from negbench.records.files import storage_error, write_json
from negbench.records.find import BENCH
from negbench.records.forms import Amount, Plain, Positive, Quantity, Record, RecordedFolders, Strict, reason_of
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError

BENCH_SCHEMA_VERSION = 1
BENCHES = RecordedFolders(BENCH)


class BenchFolder:
    """A new folder in `output`, made with the first record."""

    def __init__(self, output: Path, study: str, device_type: str) -> None:
        base = output / f"bench-{study}-{device_type}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.path, number = base, 1
        while self.path.exists():
            number += 1
            self.path = base.with_name(f"{base.name}-{number}")
        self.num_groups = self.num_timed = 0  # on disk

    def check_writable(self) -> None:
        """UserError if the folder cannot be made, before time is spent on measuring."""
        RunFolder(self.path).check_writable()

    def write(self, facts: dict[str, Any], groups: list[dict[str, Any]], num_timed: int) -> None:
        """Write all that is measured; the first `num_timed` groups have times. `StorageError` if it fails."""
        complete = num_timed == facts["num_groups"]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            content = {"schema_version": BENCH_SCHEMA_VERSION, "complete": complete, **facts, "groups": groups}
            write_json(self.path / BENCHES.record, content)
        except OSError as error:
            raise storage_error(self.path / BENCHES.record, error, f"it holds {self.kept}") from None
        self.num_groups, self.num_timed = len(groups), num_timed

    @property
    def kept(self) -> str:
        return f"memory of {self.num_groups} groups and times of {self.num_timed}"


class OtherVersionError(UserError):
    """The record is of another schema."""


class _Version(Strict):
    schema_version: int


class RowRecord(Strict):
    kind: Literal["method", "bare", "matrices"]
    name: str
    batch_size: Positive | None = None
    num_negatives: Positive | None = None
    out_of_memory: str | None = None
    peak_memory_bytes: Amount | None = None
    peak_reserved_bytes: Amount | None = None
    source_state_bytes: Amount | None = None
    parameters: Amount | None = None
    negatives_per_query: Quantity | None = None
    flops: Amount | None = None
    passes: tuple[Amount, Amount] | None = None
    settings: dict[str, Plain] = Field(default={})
    seconds: list[Quantity] = Field(default=[])
    parts: dict[str, list[Quantity]] = Field(default={})

    @model_validator(mode="after")
    def _is_whole(self) -> "RowRecord":
        if self.kind == "matrices" and not self.flops:
            raise UserError("matrices without flops")
        if self.kind != "matrices" and self.batch_size is None:
            raise UserError(f"{self.name} without batch_size")
        if any(len(values) != len(self.seconds) for values in self.parts.values()):
            raise UserError(f"{self.name} has parts of other rounds than its seconds")
        sums = np.sum(list(self.parts.values()), axis=0) if self.parts else 0.0
        if not all(self.seconds) or not np.allclose(self.seconds, sums, atol=0.0):
            raise UserError(f"the parts of {self.name} do not add up to its seconds")
        return self


class GroupRecord(Strict):
    kind: Literal["study", "num_negatives", "batch_size"]
    value: Positive | None
    subjects: list[RowRecord]


class EnvironmentRecord(Record):
    device: str
    device_type: str
    time: str | None = None
    command: list[str] = Field(default=[])
    torch_version: str | None = None
    precision: str | None = None
    load_average: Quantity | None = None
    num_cpus: Positive | None = None


class BenchRecord(Strict):
    complete: bool
    study: str
    rounds: Positive
    steps_per_turn: Positive
    parts: list[str]
    num_groups: Positive
    settings: dict[str, Plain]
    environment: EnvironmentRecord
    groups: list[GroupRecord]

    @model_validator(mode="after")
    def _fits_together(self) -> "BenchRecord":
        if not self.groups or self.groups[0].kind != "study":
            raise UserError("its first group is not the study's own setting")
        known = {row.name for row in self.groups[0].subjects if row.kind == "method"}
        if not known:
            raise UserError("no method was stepped")
        for row in (row for group in self.groups for row in group.subjects):
            if row.kind == "method" and row.name not in known:
                raise UserError(f"{row.name} is not in the first group")
            expected = 0 if row.out_of_memory else self.rounds
            awaits_its_turn = not self.complete and not row.seconds
            if len(row.seconds) != expected and not awaits_its_turn:
                raise UserError(f"{row.name} has {len(row.seconds)} rounds, not {expected}")
            if not row.parts.keys() <= set(self.parts):
                raise UserError(f"{row.name} has parts that the bench does not name")
        return self


def read_record(content: bytes) -> BenchRecord:
    """Return the record. UserError with the reason if it is damaged, `OtherVersionError` if it is of another schema."""
    try:
        version = _Version.model_validate_json(content).schema_version
        if version != BENCH_SCHEMA_VERSION:
            raise OtherVersionError(f"its record is of schema {version}, this negbench reads {BENCH_SCHEMA_VERSION}")
        return BenchRecord.model_validate_json(content)
    except ValidationError as error:
        raise UserError(reason_of(error)) from None
