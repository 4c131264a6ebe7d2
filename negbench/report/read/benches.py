"""Records of `negbench bench` as a report reads them: from their folders alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from negbench.records.benches import (
    RECORD,
    BenchRecord,
    OtherVersionError,
    RowRecord,
    benches_in,
    is_bench,
    read_record,
    study_of,
)
from negbench.report.read.runs import Run
from negbench.report.read.statistics import Interval, median_interval
from negbench.settings.keys import Flat

Floats = npt.NDArray[np.float64]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """What was stepped: a method, a bare step, or matrices. `seconds` and `parts` are means of turns, by round."""

    kind: str
    name: str
    batch_size: int
    num_negatives: int | None
    seconds: Floats  # empty where it ran out of memory, or the bench was stopped before
    parts: dict[str, Floats]
    facts: Facts
    settings: Flat = field(default_factory=dict)  # the method's own

    @property
    def is_method(self) -> bool:
        return self.kind == "method"

    @property
    def median(self) -> float:
        return float(np.median(self.seconds)) if self.is_timed else math.nan

    @property
    def is_timed(self) -> bool:
        return len(self.seconds) > 0

    @property
    def out_of_memory(self) -> str:
        """How; empty where it did not."""
        return str(self.facts.get("out_of_memory") or "")

    @property
    def bare_name(self) -> str | None:
        """The bare step with this subject's passes."""
        passes = self.facts.get("passes")
        return f"bare {passes[0]}+{passes[1]}" if passes else None


@dataclass(frozen=True)
class Group:
    """Subjects that took turns, whose times may be compared round by round."""

    kind: str
    value: int | None
    subjects: tuple[Subject, ...]

    @property
    def is_done(self) -> bool:
        """Whether no subject awaits its turns."""
        return all(subject.is_timed or subject.out_of_memory for subject in self.subjects)

    def named(self, name: str | None) -> Subject | None:
        return next((subject for subject in self.subjects if subject.name == name), None)

    def ratio(self, subject: Subject, name: str | None) -> Interval | None:
        """Median over rounds of `subject`'s seconds over those of `name`, with its bootstrap interval; None without."""
        other = self.named(name)
        if other is None or other is subject or not other.is_timed or not subject.is_timed:
            return None
        return median_interval((subject.seconds / other.seconds).tolist())


@dataclass(frozen=True)
class Bench:
    path: Path
    study: str
    rounds: int
    steps: int  # timed ones a turn
    num_groups: int  # that were planned
    part_names: tuple[str, ...]
    settings: Flat  # that all methods share
    environment: Facts
    groups: tuple[Group, ...]

    @property
    def main(self) -> Group:
        """At the study's own setting."""
        return self.groups[0]

    @property
    def device(self) -> str:
        return str(self.environment["device"])

    @property
    def title(self) -> str:
        return f"Cost of a step: {self.study}, {self.device}"

    @property
    def methods(self) -> list[str]:
        return [subject.name for subject in self.main.subjects if subject.is_method]

    @property
    def by_num_negatives(self) -> list[tuple[Group, Subject]]:
        """Methods at each K, by method and K; at the study's own K where no other group has it."""
        found: dict[tuple[int, int], tuple[Group, Subject]] = {}
        for group in self.groups:
            if group.kind in ("study", "num_negatives"):
                for subject in group.subjects:
                    if subject.is_method and subject.num_negatives is not None:
                        found[self.methods.index(subject.name), subject.num_negatives] = group, subject
        return [found[key] for key in sorted(found)]

    @property
    def by_batch_size(self) -> list[tuple[Group, Subject]]:
        """Methods at each batch size, by method and size."""
        found = [
            (self.methods.index(subject.name), subject.batch_size, group, subject)
            for group in self.groups
            if group.kind in ("study", "batch_size")
            for subject in group.subjects
            if subject.is_method
        ]
        return [(group, subject) for _, _, group, subject in sorted(found, key=lambda entry: entry[:2])]


def find_benches(arguments: Sequence[str], default: Path) -> list[Path]:
    """Folders of benches: those named, those in folders named, and those of studies named, which `default` holds."""
    found: list[Path] = []
    for argument in arguments or [str(default)]:
        path = Path(argument)
        if path.is_dir():
            found += [path] if is_bench(path) else benches_in(path)
        else:
            found += [bench for bench in benches_in(default) if study_of(bench) == argument]
    return list(dict.fromkeys(found))


def load_benches(paths: Sequence[Path]) -> tuple[list[Bench], list[Run]]:
    """Those that can be used, and the others with their reasons; never raises for what is in a folder."""
    benches, unused = [], []
    for path in paths:
        try:
            benches.append(_bench(path, read_record((path / RECORD).read_bytes())))
        except OtherVersionError as error:
            unused.append(Run(path, "other version", str(error)))
        except (OSError, ValueError) as error:
            unused.append(Run(path, "damaged", f"{RECORD}: {error}"))
    return benches, unused


def _bench(path: Path, record: BenchRecord) -> Bench:
    return Bench(
        path,
        study=record.study,
        rounds=record.rounds,
        steps=record.steps_per_turn,
        num_groups=record.num_groups,
        part_names=tuple(record.parts),
        settings=record.settings,
        environment=record.environment.model_dump(),
        groups=tuple(Group(g.kind, g.value, tuple(map(_subject, g.subjects))) for g in record.groups),
    )


def _subject(record: RowRecord) -> Subject:
    return Subject(
        record.kind,
        record.name,
        batch_size=record.batch_size or 0,
        num_negatives=record.num_negatives,
        seconds=np.array(record.seconds),
        parts={name: np.array(values) for name, values in record.parts.items()},
        facts=record.model_dump(),
        settings=record.settings,
    )
