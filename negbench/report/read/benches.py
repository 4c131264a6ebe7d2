"""Read the records of `negbench bench` from their folders."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from negbench.records.benches import (
    BENCHES,
    BenchRecord,
    OtherVersionError,
    RowRecord,
    read_record,
)
from negbench.report.read.runs import Floats, Run
from negbench.report.read.statistics import Interval, median_interval


class BenchRow(RowRecord):
    """What was stepped: a method, a bare step, or matrices. `seconds` and `parts` are means of turns, by round.

    Both are empty where it ran out of memory, or the bench was stopped before. `settings` are the method's own.
    """

    @property
    def is_method(self) -> bool:
        return self.kind == "method"

    @property
    def is_timed(self) -> bool:
        return bool(self.seconds)

    @property
    def images(self) -> int:
        """Of a step; 0 for matrices."""
        return self.batch_size or 0

    @property
    def times(self) -> Floats:
        return np.array(self.seconds)

    @property
    def median(self) -> float:
        return float(np.median(self.seconds)) if self.is_timed else math.nan

    @property
    def bare_name(self) -> str | None:
        """The bare step with this row's passes."""
        return f"bare {self.passes[0]}+{self.passes[1]}" if self.passes else None


@dataclass(frozen=True)
class GroupRows:
    """Subjects that took turns, whose times may be compared round by round."""

    kind: str
    rows: tuple[BenchRow, ...]

    @property
    def is_done(self) -> bool:
        """Whether no row awaits its turns."""
        return all(row.is_timed or row.out_of_memory for row in self.rows)

    def ratio(self, row: BenchRow, name: str | None) -> Interval:
        """Return the median over rounds of `row`'s seconds over those of `name`, and its interval.

        It is of no round where one of them is not here, or `row` is `name` itself.
        """
        other = next((other for other in self.rows if other.name == name), row)
        can_be = other is not row and other.is_timed and row.is_timed
        return median_interval((row.times / other.times).tolist() if can_be else [])

    def ratio_to_bare(self, row: BenchRow) -> Interval:
        """Return the ratio to the bare step with as many passes; of no round for the bare steps themselves."""
        return self.ratio(row, row.bare_name)


@dataclass(frozen=True)
class Bench:
    path: Path
    record: BenchRecord
    environment: dict[str, Any]
    groups: tuple[GroupRows, ...]

    @property
    def study(self) -> str:
        return self.record.study

    @property
    def main(self) -> GroupRows:
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
        return [row.name for row in self.main.rows if row.is_method]

    @property
    def by_num_negatives(self) -> list[tuple[GroupRows, BenchRow]]:
        """Return methods at each K, by method and K. The study's own group counts if no other group has its K."""
        found = {
            (self.methods.index(row.name), row.num_negatives): (group, row)
            for group, row in self._stepped("num_negatives")
            if row.num_negatives is not None
        }
        return [found[key] for key in sorted(found)]

    @property
    def by_batch_size(self) -> list[tuple[GroupRows, BenchRow]]:
        """Return methods at each batch size, by method and size."""
        found = self._stepped("batch_size")
        return sorted(found, key=lambda pair: (self.methods.index(pair[1].name), pair[1].images))

    def _stepped(self, swept: str) -> list[tuple[GroupRows, BenchRow]]:
        """Return the methods at the study's own setting and at those of one sweep."""
        groups = [group for group in self.groups if group.kind in ("study", swept)]
        return [(group, row) for group in groups for row in group.rows if row.is_method]


def load_benches(paths: Sequence[Path]) -> tuple[list[Bench], list[Run]]:
    """Return the benches that can be used, and the others with their reasons. Never raises for what is in a folder."""
    benches, unused = [], []
    for path in paths:
        try:
            benches.append(_bench(path, read_record((path / BENCHES.record).read_bytes())))
        except OtherVersionError as error:
            unused.append(Run(path, "other version", str(error)))
        except (OSError, ValueError) as error:
            unused.append(Run(path, "damaged", f"{BENCHES.record}: {error}"))
    return benches, unused


def _bench(path: Path, record: BenchRecord) -> Bench:
    groups = tuple(
        GroupRows(group.kind, tuple(BenchRow.model_validate(row.model_dump()) for row in group.subjects))
        for group in record.groups
    )
    return Bench(path, record, record.environment.model_dump(), groups)
