"""A whole report, computed in seconds."""

from collections.abc import Sequence

from negbench.records.tunings import Tuning
from negbench.report.read.benches import Bench
from negbench.report.read.circumstances import settled
from negbench.report.read.comparisons import Comparison, compare, slug_of
from negbench.report.read.grouping import grouped
from negbench.report.read.runs import Run
from negbench.report.sections import RecordSection, Report, Section
from negbench.report.sentences.cautions import cautions
from negbench.report.sentences.findings import findings
from negbench.report.tables.ablation import ablation_table, ablations
from negbench.report.tables.accuracy import accuracy
from negbench.report.tables.anchors import anchor_table
from negbench.report.tables.base import Table
from negbench.report.tables.bench import bench_cautions, bench_tables
from negbench.report.tables.cost import cost, default_target, time_to_target
from negbench.report.tables.diagnostics import diagnostic_tables
from negbench.report.tables.tunings import name_of, trials_table, tuning_cautions, tuning_table
from negbench.runtime.errors import UserError

PREFERRED_BASELINE = "moco"


def build(
    runs: Sequence[Run],
    baseline: str | None = None,
    targets: Sequence[float] = (),
    benches: Sequence[Bench] = (),
    tunings: Sequence[Tuning] = (),
) -> Report:
    """Return a report, whose figures are drawn when it is written. UserError if there is no row `baseline`."""
    runs = settled(runs)
    comparisons = compare(runs)
    chosen = _baseline(comparisons, benches, baseline)
    sections = [
        Section(
            c, findings(c, chosen), cautions(c, chosen, comparisons), _tables(c, chosen, targets), diagnostic_tables(c)
        )
        for c in comparisons
    ]
    swept = grouped(ablations(comparisons), lambda ablation: ablation.title)
    tables = [(ablation_table(members), members) for members in swept.values()]
    return Report(chosen, sections, tables, runs, _bench_sections(benches, chosen), _tuning_sections(tunings))


def _tables(comparison: Comparison, baseline: str, targets: Sequence[float]) -> list[Table]:
    tables: list[Table | None] = [accuracy(comparison, baseline)]
    own, whose = default_target(comparison, baseline), ""
    if not targets and own is not None:
        targets, whose = [own], f"The target is what {baseline} has at the end, in the median over its seeds."
    for part in comparison.by_hardware():
        tables += [cost(part, baseline), time_to_target(part, targets, whose)]
    tables.append(anchor_table(comparison))
    return [table for table in tables if table is not None]


def _bench_sections(benches: Sequence[Bench], baseline: str) -> list[RecordSection[Bench]]:
    sections = []
    titles = [bench.title for bench in benches]
    for number, bench in enumerate(benches):
        slug, title = slug_of(f"bench-{bench.study}-{bench.environment.get('device_type')}"), bench.title
        if titles.count(title) > 1:
            title = f"{title}, {bench.environment.get('time')}"
        if len(benches) > 1:
            slug = f"{slug}-{number + 1}"
        sections.append(RecordSection(title, slug, bench_cautions(bench), bench_tables(bench, baseline, slug), bench))
    return sections


def _tuning_sections(tunings: Sequence[Tuning]) -> list[RecordSection[Tuning]]:
    sections = []
    for number, tuning in enumerate(tunings, 1):
        slug = slug_of(f"tuning-{tuning.study}") + (f"-{number}" if len(tunings) > 1 else "")
        tables = [tuning_table(tuning, slug), trials_table(tuning, slug)]
        sections.append(RecordSection(f"Tuning: {name_of(tuning)}", slug, tuning_cautions(tuning), tables, tuning))
    return sections


def _baseline(comparisons: Sequence[Comparison], benches: Sequence[Bench], wanted: str | None) -> str:
    rows = [row for comparison in comparisons for row in comparison.rows]
    benched = [method for bench in benches for method in bench.methods]
    finished = {row.method for row in rows if row.runs} or set(benched)
    names = list(dict.fromkeys([row.method for row in rows] + [row.label for row in rows] + benched))
    if wanted is not None:
        if names and wanted not in names:
            raise UserError(f"--baseline {wanted}: there is no such row; there are {', '.join(names[:20])}")
        return wanted
    return PREFERRED_BASELINE if PREFERRED_BASELINE in finished or not finished else min(finished)
