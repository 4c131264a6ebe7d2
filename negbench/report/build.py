"""A whole report: computed first, which takes seconds, then drawn and written."""

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import negbench
from negbench.report.ablation import Ablation, ablation_table, ablations
from negbench.report.accuracy import accuracy
from negbench.report.anchors import anchor_table
from negbench.report.bench_tables import bench_cautions, bench_tables
from negbench.report.benches import Bench
from negbench.report.cautions import cautions
from negbench.report.comparisons import Comparison, compare, slug_of
from negbench.report.cost import cost, default_target, time_to_target
from negbench.report.diagnostics import diagnostic_tables
from negbench.report.findings import Finding, findings
from negbench.report.runs import Run
from negbench.report.table import Table
from negbench.report.tunings import title_of, trials_table, tuning_cautions, tuning_table
from negbench.report.write import write_table
from negbench.tuning.record import Tuning

PREFERRED_BASELINE = "moco"
MANIFEST = "report.json"
PAGE = "index.html"


@dataclass(frozen=True)
class Section:
    """All about one comparison."""

    comparison: Comparison
    findings: Sequence[Finding]
    cautions: Sequence[str]
    tables: Sequence[Table]
    diagnostics: Sequence[Table]


@dataclass(frozen=True)
class BenchSection:
    """All about one bench."""

    bench: Bench
    title: str
    slug: str
    cautions: Sequence[str]
    tables: Sequence[Table]


@dataclass(frozen=True)
class TuningSection:
    """All about one tuning."""

    tuning: Tuning
    title: str
    slug: str
    cautions: Sequence[str]
    tables: Sequence[Table]


@dataclass(frozen=True)
class Report:
    baseline: str
    sections: Sequence[Section]
    swept: Sequence[tuple[Table, Sequence[Ablation]]]
    runs: Sequence[Run]
    benches: Sequence[BenchSection] = ()
    tunings: Sequence[TuningSection] = ()

    @property
    def unused(self) -> list[Run]:
        return [run for run in self.runs if not run.is_used]

    @property
    def others(self) -> "list[TuningSection | BenchSection]":
        """What is no comparison of runs."""
        return [*self.tunings, *self.benches]

    @property
    def tables(self) -> list[Table]:
        compared = [table for section in self.sections for table in (*section.tables, *section.diagnostics)]
        apart = [table for section in self.others for table in section.tables]
        return compared + [table for table, _ in self.swept] + apart


def build(
    runs: Sequence[Run],
    baseline: str | None = None,
    targets: Sequence[float] = (),
    benches: Sequence[Bench] = (),
    tunings: Sequence[Tuning] = (),
) -> Report:
    """Everything but the figures. ValueError if there is no row `baseline`."""
    comparisons = compare(runs)
    chosen = _baseline(comparisons, benches, baseline)
    sections = [
        Section(c, findings(c, chosen), cautions(c, chosen), _tables(c, chosen, targets), diagnostic_tables(c))
        for c in comparisons
    ]
    swept: dict[str, list[Ablation]] = {}
    for ablation in ablations(comparisons):
        swept.setdefault(ablation.title, []).append(ablation)
    tables = [(ablation_table(members), members) for members in swept.values()]
    return Report(chosen, sections, tables, runs, _bench_sections(benches, chosen), _tuning_sections(tunings))


def write(report: Report, output: Path, tell: Callable[[str], None]) -> Path:
    """The page, tables, figures and `report.json` in `output`, which replaces an earlier report whole; the page's path.

    ValueError if `output` holds anything but a report, or cannot be written.
    """
    check_output(output)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        for folder in (partial / "tables", partial / "figures"):
            folder.mkdir(parents=True)
        for table in report.tables:
            write_table(table, partial / "tables")
        _run_table(report.runs).to_csv(partial / "runs.csv", index=False)
        (partial / MANIFEST).write_text(json.dumps(_facts(report), indent=1) + "\n")
        from negbench.report.page import write_page

        write_page(report, partial, tell)
        _replace(partial, output)
    except OSError as error:
        raise ValueError(f"cannot write to {output}: {error.strerror or error}; choose another --output") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output / PAGE


def check_output(output: Path) -> None:
    """ValueError if `output` is there and no report."""
    if output.is_dir() and any(output.iterdir()) and not (output / MANIFEST).exists():
        raise ValueError(f"--output {output} holds something else than a report; choose a new folder")
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; choose a new folder")


def _tables(comparison: Comparison, baseline: str, targets: Sequence[float]) -> list[Table]:
    tables: list[Table | None] = [accuracy(comparison, baseline)]
    own, whose = default_target(comparison, baseline), ""
    if not targets and own is not None:
        targets, whose = [own], f"The target is what {baseline} has at the end, in the median over its seeds."
    for part in comparison.by_hardware():
        tables += [cost(part, baseline), time_to_target(part, targets, whose)]
    tables.append(anchor_table(comparison))
    return [table for table in tables if table is not None]


def _bench_sections(benches: Sequence[Bench], baseline: str) -> list[BenchSection]:
    sections = []
    titles = [bench.title for bench in benches]
    for number, bench in enumerate(benches):
        slug, title = slug_of(f"bench-{bench.study}-{bench.environment.get('device_type')}"), bench.title
        if titles.count(title) > 1:
            title = f"{title}, {bench.environment.get('time')}"
        if len(benches) > 1:
            slug = f"{slug}-{number + 1}"
        sections.append(BenchSection(bench, title, slug, bench_cautions(bench), bench_tables(bench, baseline, slug)))
    return sections


def _tuning_sections(tunings: Sequence[Tuning]) -> list[TuningSection]:
    sections = []
    for number, tuning in enumerate(tunings, 1):
        slug = slug_of(f"tuning-{tuning.study}") + (f"-{number}" if len(tunings) > 1 else "")
        tables = [tuning_table(tuning, slug), trials_table(tuning, slug)]
        sections.append(TuningSection(tuning, title_of(tuning), slug, tuning_cautions(tuning), tables))
    return sections


def _baseline(comparisons: Sequence[Comparison], benches: Sequence[Bench], wanted: str | None) -> str:
    rows = [row for comparison in comparisons for row in comparison.rows]
    benched = [method for bench in benches for method in bench.methods]
    finished = {row.method for row in rows if row.runs} or set(benched)
    names = list(dict.fromkeys([row.method for row in rows] + [row.label for row in rows] + benched))
    if wanted is not None:
        if names and wanted not in names:
            raise ValueError(f"--baseline {wanted}: there is no such row; there are {', '.join(names[:20])}")
        return wanted
    return PREFERRED_BASELINE if PREFERRED_BASELINE in finished or not finished else min(finished)


def _replace(new: Path, old: Path) -> None:
    if old.exists():
        outdated = old.with_name(f".{old.name}.{os.getpid()}.outdated")
        old.rename(outdated)
        new.rename(old)
        shutil.rmtree(outdated)
    else:
        new.rename(old)


def _run_table(runs: Sequence[Run]) -> Any:
    """Every run in one line: where it stands and all that its summary tells."""
    import pandas as pd

    lines = []
    for run in runs:
        known = {"run": run.name, "state": run.state, "reason": run.reason, "study": run.study, "track": run.track}
        told = {key: value for key, value in run.summary.items() if not isinstance(value, dict)}
        lines.append(known | {"method": run.method, "seed": run.seed} | told)
    return pd.DataFrame(lines)


def _facts(report: Report) -> dict[str, Any]:
    return {
        "negbench_version": negbench.__version__,
        "baseline": report.baseline,
        "comparisons": [
            {
                "title": section.comparison.title,
                "settings": section.comparison.settings,
                "findings": {finding.question: finding.answer for finding in section.findings},
                "cautions": list(section.cautions),
            }
            for section in report.sections
        ],
        "tables": {table.slug: [_plain(line) for line in table.data.to_dict("records")] for table in report.tables},
        "not_used": {run.name: f"{run.state}: {run.reason}" for run in report.unused},
        **({"benches": [_bench_facts(section) for section in report.benches]} if report.benches else {}),
        **({"tunings": [_tuning_facts(section) for section in report.tunings]} if report.tunings else {}),
    }


def _bench_facts(section: BenchSection) -> dict[str, Any]:
    told = {"title": section.title, "folder": section.bench.path.name, "cautions": list(section.cautions)}
    return told | {"settings": section.bench.settings}


def _tuning_facts(section: TuningSection) -> dict[str, Any]:
    told = {"title": section.title, "folder": section.tuning.path.name, "cautions": list(section.cautions)}
    return told | {"settings": section.tuning.record.settings}


def _plain(line: dict[Any, Any]) -> dict[str, Any]:
    """Without what JSON has no word for: nan becomes null, infinity "inf"."""
    plain = {}
    for key, value in line.items():
        if isinstance(value, float) and not math.isfinite(value):
            value = None if math.isnan(value) else "inf"
        plain[str(key)] = value.item() if hasattr(value, "item") else value
    return plain
