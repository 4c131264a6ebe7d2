"""A report in its folder, which replaces an earlier one whole."""

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import negbench
from negbench.report.page.tables import write_csv, write_table
from negbench.report.read.runs import Run
from negbench.report.sections import RecordSection, Report
from negbench.runtime.errors import UserError

MANIFEST = "report.json"
PAGE = "index.html"


def write(
    report: Report, output: Path, tell: Callable[[str], None], warn: Callable[[str], None] = lambda sentence: None
) -> Path:
    """Write the page, tables, figures and `report.json` to `output`, in place of an earlier report. Return the page.

    `warn` is called with a sentence for each figure of another package that could not be drawn. UserError if `output`
    holds anything but a report, or cannot be written.
    """
    check_output(output)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        for folder in (partial / "tables", partial / "figures"):
            folder.mkdir(parents=True)
        for table in report.tables:
            write_table(table, partial / "tables")
        write_csv(_run_table(report.runs), partial / "runs.csv")
        (partial / MANIFEST).write_text(json.dumps(_facts(report), indent=1) + "\n")
        from negbench.report.page.page import write_page

        for problem in write_page(report, partial, tell):
            warn(problem)
        _replace(partial, output)
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror or error}; choose another --output") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output / PAGE


def check_output(output: Path) -> None:
    """Raise UserError if `output` exists and is no report."""
    if output.is_dir() and any(output.iterdir()) and not (output / MANIFEST).exists():
        raise UserError(f"--output {output} holds something else than a report; choose a new folder")
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; choose a new folder")


def _replace(new: Path, old: Path) -> None:
    if old.exists():
        outdated = old.with_name(f".{old.name}.{os.getpid()}.outdated")
        old.rename(outdated)
        new.rename(old)
        shutil.rmtree(outdated)
    else:
        new.rename(old)


def _run_table(runs: Sequence[Run]) -> Any:
    """Return a line for each run: its state and all that its summary holds."""
    import pandas as pd

    lines = []
    for run in runs:
        known = {name: getattr(run, name) for name in ("state", "reason", "study", "track", "method", "seed")}
        told = {key: value for key, value in run.summary.items() if not isinstance(value, dict)}
        lines.append({"run": run.name} | known | told)
    return pd.DataFrame(lines)


def _facts(report: Report) -> dict[str, Any]:
    facts: dict[str, Any] = {
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
    }
    for name, sections in (("benches", report.benches), ("tunings", report.tunings)):
        if sections:
            facts[name] = [_facts_of(section) for section in sections]
    return facts


def _facts_of(section: RecordSection[Any]) -> dict[str, Any]:
    told = {"title": section.title, "folder": section.subject.path.name, "cautions": list(section.cautions)}
    return told | {"settings": section.subject.record.settings}


def _plain(line: dict[Any, Any]) -> dict[str, Any]:
    """Return the line as JSON can hold it: nan becomes null, infinity "inf"."""
    plain = {}
    for key, value in line.items():
        if isinstance(value, float) and not math.isfinite(value):
            value = None if math.isnan(value) else "inf"
        plain[str(key)] = value.item() if hasattr(value, "item") else value
    return plain
