"""What `bench.json` must hold, checked when it is read, so that tables and figures can rely on it."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from negbench.bench.record import BENCH_SCHEMA_VERSION

Positive = Annotated[int, Field(ge=1, lt=2**63)]
Amount = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class OtherVersionError(ValueError):
    """The record is of another schema."""


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True)


class _Version(_Checked):
    schema_version: int


class SubjectRecord(_Checked):
    kind: Literal["method", "bare", "matrices"]
    name: str
    batch_size: Positive | None = None
    num_negatives: Positive | None = None
    out_of_memory: str | None = None
    peak_memory_bytes: Amount | None = None
    peak_reserved_bytes: Amount | None = None
    source_state_bytes: Amount | None = None
    parameters: Amount | None = None
    negatives_per_query: Finite | None = None
    flops: Amount | None = None
    passes: tuple[Amount, Amount] | None = None
    settings: dict[str, Any] = {}
    seconds: list[Seconds] = []
    parts: dict[str, list[Seconds]] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> "SubjectRecord":
        if self.kind == "matrices" and not self.flops:
            raise ValueError("matrices without flops")
        if self.kind != "matrices" and self.batch_size is None:
            raise ValueError(f"{self.name} without batch_size")
        if any(len(values) != len(self.seconds) for values in self.parts.values()):
            raise ValueError(f"{self.name} has parts of other rounds than its seconds")
        sums = np.sum(list(self.parts.values()), axis=0) if self.parts else 0.0
        if not all(self.seconds) or not np.allclose(self.seconds, sums, atol=0.0):
            raise ValueError(f"the parts of {self.name} do not add up to its seconds")
        return self


class GroupRecord(_Checked):
    kind: Literal["study", "num_negatives", "batch_size"]
    value: Positive | None
    subjects: list[SubjectRecord]


class EnvironmentRecord(_Checked):
    model_config = ConfigDict(strict=True, extra="allow")

    device: str
    device_type: str
    time: str | None = None
    command: list[str] = []
    torch_version: str | None = None
    precision: str | None = None
    load_average: Finite | None = None
    num_cpus: Positive | None = None


class BenchRecord(_Checked):
    complete: bool
    study: str
    rounds: Positive
    steps_per_turn: Positive
    parts: list[str]
    num_groups: Positive
    settings: dict[str, Any]
    environment: EnvironmentRecord
    groups: list[GroupRecord]

    @model_validator(mode="after")
    def _fits_together(self) -> "BenchRecord":
        if not self.groups or self.groups[0].kind != "study":
            raise ValueError("its first group is not the study's own setting")
        known = {subject.name for subject in self.groups[0].subjects if subject.kind == "method"}
        if not known:
            raise ValueError("no method was stepped")
        for subject in (subject for group in self.groups for subject in group.subjects):
            if subject.kind == "method" and subject.name not in known:
                raise ValueError(f"{subject.name} is not in the first group")
            expected = 0 if subject.out_of_memory else self.rounds
            awaits_its_turn = not self.complete and not subject.seconds
            if len(subject.seconds) != expected and not awaits_its_turn:
                raise ValueError(f"{subject.name} has {len(subject.seconds)} rounds, not {expected}")
            if not subject.parts.keys() <= set(self.parts):
                raise ValueError(f"{subject.name} has parts that the bench does not name")
        return self


def read_record(content: bytes) -> BenchRecord:
    """ValueError with the reason, in a few words, if it is damaged; `OtherVersionError` if it is of another schema."""
    try:
        version = _Version.model_validate_json(content).schema_version
        if version != BENCH_SCHEMA_VERSION:
            raise OtherVersionError(f"its record is of schema {version}, this negbench reads {BENCH_SCHEMA_VERSION}")
        return BenchRecord.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{place}: " for place in [".".join(map(str, first["loc"]))] if place)
        raise ValueError(f"{where}{first['msg'].removeprefix('Value error, ')}") from None
