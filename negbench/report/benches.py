"""Records of `negbench bench` as a report reads them: from their folders alone."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from negbench.bench.record import BENCH_SCHEMA_VERSION, RECORD, benches_in, is_bench, study_of
from negbench.report.runs import Run
from negbench.report.statistics import Interval, median_interval
from negbench.study import Flat

Floats = npt.NDArray[np.float64]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """What was stepped: a method, a bare step, or matrices. `seconds` and `parts` are means of turns, by round."""

    kind: str
    name: str
    batch_size: int
    num_negatives: int | None
    seconds: Floats  # empty where it ran out of memory
    parts: dict[str, Floats]
    facts: Facts
    settings: Flat = field(default_factory=dict)  # the method's own

    @property
    def is_method(self) -> bool:
        return self.kind == "method"

    @property
    def median(self) -> float:
        return float(np.median(self.seconds)) if len(self.seconds) else math.nan

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

    def named(self, name: str | None) -> Subject | None:
        return next((subject for subject in self.subjects if subject.name == name), None)

    def ratio(self, subject: Subject, name: str | None) -> Interval | None:
        """Median over rounds of `subject`'s seconds over those of `name`, with its bootstrap interval; None without."""
        other = self.named(name)
        if other is None or other is subject or not len(other.seconds) or not len(subject.seconds):
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
        return str(self.environment.get("device"))

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
            content = json.loads((path / RECORD).read_text())
            version = content["schema_version"]
            if version != BENCH_SCHEMA_VERSION:
                reason = f"its record is of schema {version}, this negbench reads {BENCH_SCHEMA_VERSION}"
                unused.append(Run(path, "other version", reason))
                continue
            benches.append(_read(path, content))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else "cannot be read"
            unused.append(Run(path, "damaged", f"{RECORD} {what}"))
    return benches, unused


def _read(path: Path, content: Facts) -> Bench:
    """ValueError, KeyError, TypeError or IndexError if it is damaged."""
    groups = tuple(
        Group(group["kind"], group["value"], tuple(_subject(facts, content["rounds"]) for facts in group["subjects"]))
        for group in content["groups"]
    )
    if groups[0].kind != "study" or not any(subject.is_method for subject in groups[0].subjects):
        raise ValueError
    return Bench(
        path,
        study=str(content["study"]),
        rounds=int(content["rounds"]),
        steps=int(content["steps_per_turn"]),
        num_groups=int(content["num_groups"]),
        part_names=tuple(content["parts"]),
        settings=dict(content["settings"]),
        environment=dict(content["environment"]),
        groups=groups,
    )


def _subject(facts: Facts, rounds: int) -> Subject:
    seconds = np.array(facts.get("seconds", []), float)
    parts = {name: np.array(values, float) for name, values in facts.get("parts", {}).items()}
    expected = 0 if facts.get("out_of_memory") else rounds
    if len(seconds) != expected or any(len(values) != expected for values in parts.values()):
        raise ValueError
    if not (np.isfinite(seconds).all() and (seconds > 0).all()):
        raise ValueError
    is_matrices = facts["kind"] == "matrices"
    return Subject(
        facts["kind"],
        str(facts["name"]),
        batch_size=0 if is_matrices else int(facts["batch_size"]),
        num_negatives=None if is_matrices else facts["num_negatives"],
        seconds=seconds,
        parts=parts,
        facts=facts,
        settings=dict(facts.get("settings", {})),
    )
