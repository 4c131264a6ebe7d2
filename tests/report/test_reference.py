"""The published report is what its records say."""

import json
from pathlib import Path
from typing import Any

import pytest

from negbench.records.tunings import TUNINGS
from negbench.report import build
from negbench.report.page import write
from negbench.report.read.benches import load_benches
from negbench.report.read.runs import find, load
from negbench.report.read.tunings import load_tunings

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


@pytest.mark.parametrize(("name", "count"), [("quickstart", 20), ("diagnostics", 8)])
def test_a_published_report_follows_from_its_records(name: str, count: int) -> None:
    folder = REFERENCE / name
    runs = load(find([str(folder / "runs")], folder))
    assert len(runs) == count and all(run.is_used for run in runs)
    _assert_close(write._facts(build.build(runs)), json.loads((folder / "report" / "report.json").read_text()))


@pytest.mark.parametrize(
    ("name", "folders", "baseline"),
    [
        ("report", ["comparison", "cifar10-small-tuning"], None),
        ("report-why", ["comparison", "why"], "adco (in_batch_negatives=false)"),
        ("report-more", ["comparison", "alone"], None),
    ],
)
def test_the_published_reports_of_the_small_study_follow_from_its_records(
    name: str, folders: list[str], baseline: str | None
) -> None:
    study = REFERENCE / "cifar10-small"
    arguments = [str(study / folder) for folder in folders]
    tunings, unreadable = load_tunings(TUNINGS.find(arguments, study))
    runs = load(find(arguments, study))
    assert not unreadable and all(run.is_used for run in runs)
    made = write._facts(build.build(runs, baseline, (), (), tunings))
    _assert_close(made, json.loads((study / name / "report.json").read_text()))


def test_the_published_bench_follows_from_its_record() -> None:
    benches, unreadable = load_benches([REFERENCE / "bench" / "quickstart-cpu"])
    assert not unreadable
    made = write._facts(build.build([], benches=benches))
    _assert_close(made, json.loads((REFERENCE / "bench" / "report" / "report.json").read_text()))


def _assert_close(ours: Any, published: Any) -> None:
    if isinstance(published, dict):
        assert ours.keys() == published.keys()
        for key, value in published.items():
            _assert_close(ours[key], value)
    elif isinstance(published, list):
        assert len(ours) == len(published)
        for a, b in zip(ours, published, strict=True):
            _assert_close(a, b)
    elif isinstance(published, float):
        assert ours == pytest.approx(published, rel=1e-9, abs=1e-10)  # scipy 1.11's quantiles are right to 2e-11
    else:
        assert ours == published
