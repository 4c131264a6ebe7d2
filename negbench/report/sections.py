"""The parts of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from negbench.records.tunings import Tuning
from negbench.report.read.benches import Bench
from negbench.report.read.comparisons import Comparison
from negbench.report.read.runs import Run
from negbench.report.sentences.findings import Finding
from negbench.report.tables.ablation import Ablation
from negbench.report.tables.base import Table

T = TypeVar("T")


@dataclass(frozen=True)
class Section:
    """All about one comparison."""

    comparison: Comparison
    findings: Sequence[Finding]
    cautions: Sequence[str]
    tables: Sequence[Table]
    diagnostics: Sequence[Table]


@dataclass(frozen=True)
class RecordSection(Generic[T]):
    """All about one bench or tuning, its `subject`."""

    title: str
    slug: str
    cautions: Sequence[str]
    tables: Sequence[Table]
    subject: T


@dataclass(frozen=True)
class Report:
    baseline: str
    sections: Sequence[Section]
    swept: Sequence[tuple[Table, Sequence[Ablation]]]
    runs: Sequence[Run]
    benches: Sequence[RecordSection[Bench]] = ()
    tunings: Sequence[RecordSection[Tuning]] = ()

    @property
    def unused(self) -> list[Run]:
        return [run for run in self.runs if not run.is_used]

    @property
    def others(self) -> list[RecordSection[Any]]:
        """Tunings and benches."""
        return [*self.tunings, *self.benches]

    @property
    def tables(self) -> list[Table]:
        compared = [table for section in self.sections for table in (*section.tables, *section.diagnostics)]
        return [*compared, *(table for table, _ in self.swept), *(t for section in self.others for t in section.tables)]
