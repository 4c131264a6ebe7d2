"""Runs that a report cannot use."""

import json
import math
from pathlib import Path

from negbench.records.run.outcome import outcome_of
from negbench.report.read.runs import find, load
from negbench.runtime.failure import ending_of
from tests.helpers import records, reports


def _states(output: Path) -> dict[str, tuple[str, str]]:
    return {run.name.split("-")[1] + run.name.split("-")[2]: (run.state, run.reason) for run in load(find([], output))}


def test_damaged_and_unfinished_runs_are_listed_with_the_reason(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    cut = records.write(output, study, "moco", 0, 0.8)
    cut.metrics.write_text(cut.metrics.read_text()[:-30])
    records.write(output, study, "moco", 1, 0.8).summary.write_text("{")
    records.write(output, study, "moco", 2, 0.8).config.write_text("{")
    records.write(output, study, "moco", 3, 0.8, summary={"schema_version": 99})
    records.write(output, study, "moco", 4, 0.8).environment.unlink()
    records.write(output, study, "moco", 5, 0.8).metrics.unlink()
    lacking = records.write(output, study, "moco", 9, 0.8)
    kept = json.loads(lacking.summary.read_text())
    lacking.summary.write_text(json.dumps({key: value for key, value in kept.items() if key != "device_hours"}))
    records.write(output, study, "moco", 10, 0.8, summary={"train_seconds": None})
    records.write(output, study, "moco", 11, math.nan)
    short = records.write(output, study, "moco", 12, 0.8)
    short.metrics.write_text("".join(short.metrics.read_text().splitlines(keepends=True)[:-2]))
    records.write(output, study, "moco", 13, 0.8, curve=(0.1, 0.2, 0.3, math.nan, 0.5))
    records.write(output, study, "moco", 14, 0.8).metrics.write_text("")
    interrupted = records.write(output, study, "moco", 6, 0.8, summary=outcome_of(ending_of(KeyboardInterrupt())))
    interrupted.done.unlink()
    records.write(output, study, "moco", 7, 0.8).done.unlink()
    whole = records.write(output, study, "moco", 8, 0.8)
    place = 'did not find expected node content in "<unicode string>", line 2, column 1'
    states = _states(output)
    assert states == {
        "mocos0": ("damaged", "metrics.jsonl: line 8 is cut or damaged"),
        "mocos1": ("damaged", "summary.json: EOF while parsing an object at line 1 column 1"),
        "mocos2": ("damaged", "config.yaml: it is no YAML of settings: while parsing a flow node " + place),
        "mocos3": ("other version", "its records are of schema 99, this negbench reads 2"),
        "mocos4": ("damaged", "environment.json is missing or empty"),
        "mocos5": ("damaged", "metrics.jsonl is missing or empty"),
        "mocos6": ("interrupted", "SIGINT"),
        "mocos7": ("dead", "its process ended without a record; the same command resumes"),
        "mocos8": ("done", ""),
        "mocos9": ("damaged", "summary.json lacks device_hours"),
        "mocos10": ("damaged", "summary.json: train_seconds is None"),
        "mocos11": ("damaged", "summary.json: knn_top1: Input should be a finite number"),
        "mocos12": ("damaged", "metrics.jsonl ends at epoch 3 of 4"),
        "mocos13": ("damaged", "metrics.jsonl: line 10: knn_top1: Input should be a finite number"),
        "mocos14": ("damaged", "metrics.jsonl is missing or empty"),
    }
    report = reports.build(output)
    assert len(report.unused) == 14
    (row,) = report.sections[0].comparison.rows
    assert [run.path for run in row.runs] == [whole.path]
    assert (
        row.seeds == "1 of 14: 10 damaged, 1 other version, 1 interrupted, 1 dead"
    )  # one had no settings to place it by


def test_a_damaged_copy_is_no_missing_seed(tmp_path: Path) -> None:
    study = records.study(tmp_path)
    damaged, whole = (records.write(tmp_path / name, study, "moco", 0, 0.8).path for name in ("a", "b"))
    (damaged / "metrics.jsonl").write_text('{"kind"')
    report = reports.build(tmp_path)
    assert [run.state for run in report.runs] == ["damaged", "done"]
    assert report.runs[0].reason.endswith(f"; the same run as {whole}, which is counted")
    assert report.sections[0].comparison.rows[0].seeds == "1"
