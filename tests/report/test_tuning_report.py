"""What a report tells of a tuning, and what it takes for damaged."""

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.records.tunings import load
from negbench.report import build as building
from negbench.report.figures.common.style import Style
from negbench.report.figures.tuning import drawing, expected_best
from negbench.report.page import write as report_files
from negbench.report.tables.tunings import tuning_cautions
from negbench.settings.space import draw
from tests.helpers import records, reports, tunings


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tunings.study_file(
        tmp_path, "  optimizer.lr: [0.1, 0.2, 0.4, 0.8]\n", "per_method: {moco: {method.temperature: 0.3}}\n"
    )


@pytest.mark.parametrize("scores", [[0.3], [0.3, 0.1, 0.2], [0.5, 0.0, 0.5, 0.7, 0.6]])
def test_the_best_of_some_trials_is_the_mean_over_all_choices_of_them(scores: Sequence[float]) -> None:
    for size in range(1, len(scores) + 1):
        by_hand = statistics.mean(max(chosen) for chosen in itertools.combinations(scores, size))
        assert math.isclose(expected_best(scores, size), by_hand)


def test_a_report_tells_every_trial_and_what_to_doubt(tmp_path: Path, study: Path) -> None:
    folder = tunings.finished(tmp_path / "results", study, {"moco": [0.5, 0.7, None], "byol": [0.4, 0.3]})
    tuning = load(folder)
    made = building.build([], None, (), (), [tuning])
    (section,) = made.tunings
    table = reports.table(made, "tuning-tuned-trials")
    assert [line[2].text for line in table.rows] == ["50.0", "70.0", "–", "40.0", "30.0"]
    assert [line[2].bold for line in table.rows] == [False, True, False, True, False]
    assert table.rows[2][4].text == "failed: the loss is not finite"
    assert reports.cells(section.tables[0], "moco") | {"best, %": "70.0", "median, %": "60.0"} == reports.cells(
        section.tables[0], "moco"
    )
    assert "These are 5,000, so that a score has a standard error of 0.7 points." in section.tables[0].note
    assert any("different numbers of trials (moco 3 and byol 2)" in text for text in section.cautions)
    assert any("1 of 3 trials of moco failed (the loss is not finite). They count" in text for text in section.cautions)
    page = report_files.write(made, tmp_path / "report", lambda _: None).read_text()
    assert "Tuning: tuned, 4 epochs, seed 0" in page and "the loss is not finite" in page
    assert (tmp_path / "report" / "figures" / "tuning-tuned.svg").exists()
    facts = json.loads((tmp_path / "report" / "report.json").read_text())
    assert facts["tunings"][0]["cautions"] == list(section.cautions)


def test_a_choice_at_an_edge_is_pointed_out(tmp_path: Path, study: Path) -> None:
    folder = tunings.finished(tmp_path / "results", study, {"moco": [0.1, 0.2, 0.3, 0.4]})
    tuning = load(folder)
    best = tuning.methods[0].best
    assert best is not None
    values = draw({"optimizer.lr": [0.1, 0.2, 0.4, 0.8]}, 4, 0, "moco")
    assert best.values == values[3]
    which = {0.1: "lowest", 0.8: "highest"}.get(values[3]["optimizer.lr"])
    expected = [f"moco chose the {which} optimizer.lr on offer: beyond it may lie better."] if which else []
    assert tuning_cautions(tuning) == expected


def test_trials_are_no_rows_of_a_comparison(tmp_path: Path, study: Path) -> None:
    output = tmp_path / "results"
    folder = tunings.finished(output, study, {"moco": [0.5, 0.7]})
    records.write(output, study, "moco", 0, 0.8, linear=0.8, curve=[0.8] * 5)
    for arguments in ([output], [folder], [folder, output]):
        shown = CliRunner().invoke(app, ["report", *map(str, arguments), "--tables-only"])
        assert shown.exit_code == 0, shown.output
        assert shown.output.count("Tuning: tuned") == 2  # heading and table
        assert ("which source" in shown.output.lower()) == (output in arguments)
        assert "1 of 1 runs" not in shown.output


def test_a_damaged_record_is_listed_and_hurts_nothing_else(tmp_path: Path, study: Path) -> None:
    folder = tunings.finished(tmp_path / "results", study, {"moco": [0.5]})
    (folder / "tuning.json").write_text('{"schema_version": 1}')
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "results"), "--tables-only"])
    assert shown.exit_code == 0
    assert "tuning.json is damaged (study: Field required); delete it, and the call" in shown.output


def test_a_trial_whose_summary_is_damaged_has_not_ended(tmp_path: Path, study: Path) -> None:
    folder = tunings.finished(tmp_path, study, {"moco": [0.5, 0.7]})
    (folder / load(folder).methods[0].trials[1].run_id / "summary.json").write_text("{")
    (method,) = load(folder).methods
    assert [trial.state for trial in method.trials] == ["done", "damaged"] and not method.has_ended
    assert "delete" in method.trials[1].reason and method.best is method.trials[0]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is damaged (Invalid JSON"),
        ('{"schema_version": 9', "is damaged"),
        ("{}", "schema_version: Field required"),
    ],
)
def test_a_damaged_record_says_what_to_do(tmp_path: Path, study: Path, content: str, sentence: str) -> None:
    folder = tunings.finished(tmp_path, study, {"moco": [0.5]})
    (folder / "tuning.json").write_text(content)
    with pytest.raises(ValueError, match="delete it, and the call of `negbench tune` that made it") as raised:
        load(folder)
    assert sentence in str(raised.value) and str(folder) in str(raised.value)


def test_values_outside_of_their_space_are_a_damaged_record(tmp_path: Path, study: Path) -> None:
    folder = tunings.finished(tmp_path, study, {"moco": [0.5]})
    record = json.loads((folder / "tuning.json").read_text())
    for values in ({}, {"optimizer.lr": "fast"}):
        record["methods"]["moco"]["trials"][0]["values"] = values
        (folder / "tuning.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match="are not of its space"):
            load(folder)


def test_without_learning_rates_for_all_trials_are_drawn_in_order(tmp_path: Path, study: Path) -> None:
    folder = tunings.finished(tmp_path / "results", study, {"moco": [0.5, 0.7], "byol": [0.4, 0.3]})
    record = json.loads((folder / "tuning.json").read_text())
    byol = record["methods"]["byol"]
    byol["space"] = {"method.key_momentum": [0.9, 0.99]}
    for trial, value in zip(byol["trials"], (0.9, 0.99), strict=True):
        trial["values"] = {"method.key_momentum": value}
    (folder / "tuning.json").write_text(json.dumps(record))
    drawn = drawing(load(folder), Style([]))
    assert drawn is not None and drawn.caption.startswith("Left: every trial in the order of the draw")
    left = drawn.draw().axes[0]
    assert left.get_xlabel() == "trial" and left.get_xscale() == "linear"
    assert {round(float(x)) for line in left.lines for x in np.asarray(line.get_xdata())} == {1, 2}
