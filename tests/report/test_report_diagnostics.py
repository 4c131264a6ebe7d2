"""What a report says of diagnostics: figures by source at the end and over training."""

import json
from pathlib import Path
from typing import Any

import pytest

from negbench.report import build
from negbench.report import sections as report_sections
from negbench.report.page import write as report_files
from negbench.report.page.tables import to_markdown
from negbench.report.read.comparisons import compare
from negbench.report.read.runs import find, load
from negbench.report.tables.diagnostics import at_the_end, common_epochs
from tests.helpers import records


def of_epoch(epoch: int, shift: float = 0.0, spread: float = 0.9) -> dict[str, Any]:
    """As a run of AdCo writes it; figures fall or rise evenly over epochs."""
    in_batch = {
        "negatives": 99.0,
        "effective_negatives": 50.0 - 10 * epoch + shift,
        "mass_share": 0.25,
        "mean_cosine": 0.1,
        "top1_cosine": 0.9,
        "top10_cosine": 0.8,
        "false_negative_rate": 0.1,
        "false_negative_mass": 0.2 + 0.1 * epoch,
        "own_image_share": 0.0,
        "tracking": 1.0,
    }
    learned = in_batch | {"mass_share": 0.75, "own_image_share": None, "duplicates": 0.5}
    learned |= {"angle_degrees": 2.0 + shift} if epoch else {}
    sources = {"InBatch": in_batch, "Adversaries": learned, "all": in_batch | {"mass_share": 1.0}}
    representation = {"alignment": 0.3, "uniformity": -2.0, "spread": spread, "effective_rank": 20.0 + epoch}
    return representation | {"sources": sources}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    study = records.study(tmp_path)
    output = tmp_path / "results"
    for seed, shift in enumerate((-1.0, 0.0, 1.0)):
        described = [of_epoch(epoch, shift) for epoch in range(5)]
        records.write(output, study, "adco", seed, 0.8, curve=[0.2] * 5, diagnostics=described)
        records.write(output, study, "moco", seed, 0.7, curve=[0.2] * 5)
    return output


def made(output: Path) -> report_sections.Report:
    return build.build(load(find([str(output)], output)))


def test_the_end_is_the_mean_over_seeds_of_the_last_evaluation(runs: Path) -> None:
    row = next(row for row in compare(load(find([str(runs)], runs)))[0].rows if row.method == "adco")
    effective = at_the_end(row, "effective_negatives", "InBatch")
    assert (effective.centre, effective.n) == (10.0, 3)
    assert effective.half_width == pytest.approx(4.3027 / 3**0.5, rel=1e-4)  # t with 2 degrees, spread 1
    assert at_the_end(row, "effective_rank").centre == 24
    assert at_the_end(row, "staleness", "InBatch").n == 0


def test_a_table_has_a_line_a_source_and_only_what_is_known(runs: Path) -> None:
    negatives, representation = made(runs).sections[0].diagnostics
    lines = {tuple(cell.text for cell in row[:2]): row for row in negatives.rows}
    assert set(lines) == {("adco", "InBatch"), ("adco", "Adversaries"), ("adco", "all")}
    assert "staleness, cosine" not in negatives.columns
    shown = dict(zip(negatives.columns, (cell.text for cell in lines["adco", "Adversaries"]), strict=True))
    assert (shown["softmax share, %"], shown["angle a step, °"], shown["own image, %"]) == ("75.0", "2.00", "–")
    assert shown["own class, % of softmax"] == "60.0"
    assert [row[0].text for row in representation.rows] == ["adco"]
    assert "| adco" in to_markdown(negatives)


def test_a_finding_says_how_many_negatives_count(runs: Path) -> None:
    answers = {finding.question: finding.answer for finding in made(runs).sections[0].findings}
    told = answers["What are the negatives like at the end?"]
    assert "adco, Adversaries: 99.0 negatives count as 10.0 and hold 75% of the softmax over all negatives" in told
    assert "60% of their softmax is on the query's own class" in told


def test_a_collapse_is_pointed_out(tmp_path: Path) -> None:
    study = records.study(tmp_path)
    described = [of_epoch(epoch, spread=0.9 if epoch < 4 else 0.01) for epoch in range(5)]
    records.write(tmp_path / "results", study, "adco", 0, 0.1, curve=[0.2] * 5, diagnostics=described)
    cautions = made(tmp_path / "results").sections[0].cautions
    assert any(caution.startswith("1 run ended with nearly equal embeddings") for caution in cautions)


def test_lines_over_training_have_the_epochs_that_all_seeds_know(runs: Path) -> None:
    row = next(row for row in compare(load(find([str(runs)], runs)))[0].rows if row.method == "adco")
    epochs, by_seed = common_epochs(row.runs, "angle_degrees", "Adversaries")
    assert epochs == [1, 2, 3, 4]
    assert by_seed == [[1.0] * 4, [2.0] * 4, [3.0] * 4]
    assert common_epochs(row.runs, "staleness", "InBatch") == ([], [])


def test_the_page_shows_tables_and_figures_over_training(runs: Path) -> None:
    report = made(runs)
    folder = runs / "report"
    page = report_files.write(report, folder, lambda _: None).read_text()
    for title in ("Negatives: golden", "Representation: golden"):
        assert title in page
    for name in ("negatives-golden", "representation-golden"):
        assert (folder / "figures" / f"{name}.pdf").stat().st_size > 5000
        assert (folder / "tables" / f"{name}.csv").exists()
    assert json.loads((folder / "report.json").read_text())["tables"]["negatives-golden"][0]["source"] == "InBatch"


def test_runs_without_diagnostics_have_no_such_section(tmp_path: Path) -> None:
    records.write(tmp_path / "results", records.study(tmp_path), "moco", 0, 0.7)
    section = made(tmp_path / "results").sections[0]
    assert not section.diagnostics
    assert "What are the negatives like at the end?" not in {finding.question for finding in section.findings}
