"""What the report says in words, and what it warns of."""

from pathlib import Path

import numpy as np

from negbench.report.read.comparisons import compare
from negbench.report.read.runs import find, load
from negbench.report.sentences.findings import _ranking, findings
from negbench.report.tables.accuracy import accuracy
from tests.helpers import records, reports


def test_findings_follow_the_numbers(golden: Path) -> None:
    (comparison,) = compare(load(find([], golden)))
    answers = {finding.question: finding.answer for finding in findings(comparison, "moco")}
    best = answers["Which source is best at equal epochs?"]
    assert "adco (in_batch_negatives=false) has 86.5" in best and "(3 seeds)" in best
    assert "byol, which has none" in answers["Were negatives needed?"]
    assert "The seeds do not tell" in answers["Were negatives needed?"]  # one seed of byol
    assert "1.20" in answers["What does each source cost?"]


def test_negatives_needed_and_not(tmp_path: Path) -> None:
    for number, (moco, adco, verdict) in enumerate(
        (
            (0.70, 0.70, "They helped: adco and moco are beyond chance ahead of byol"),
            (
                0.50,
                0.50,
                "No: no source is ahead of byol, which has none, and adco and moco are beyond chance behind it",
            ),
            (
                0.50,
                0.70,
                "It depends on the source: beyond chance adco is ahead of byol, which has none, and moco is behind",
            ),
            (0.50, None, "Not shown: moco is beyond chance behind byol"),
        )
    ):
        study, output = records.study(tmp_path / str(number)), tmp_path / str(number) / "results"
        for seed, noise in enumerate((0, 0.001, 0.002, -0.001)):
            records.write(output, study, "byol", seed, 0.6 + noise, negatives=0)
            records.write(output, study, "moco", seed, moco)
            unsettled = 0.65 + 0.1 * (-1) ** seed
            records.write(output, study, "adco", seed, unsettled if adco is None else adco + 2 * noise)
        (comparison,) = compare(load(find([], output)))
        answers = {finding.question: finding.answer for finding in findings(comparison, "moco")}
        assert verdict in answers["Were negatives needed?"]


def test_who_does_not_tell_its_negatives_is_in_neither_group(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for seed in range(3):
        records.write(output, study, "moco", seed, 0.7, summary={"negatives_per_query": None})
        records.write(output, study, "adco", seed, 0.8 + seed / 100)
    (comparison,) = compare(load(find([], output)))
    assert "Were negatives needed?" not in {finding.question for finding in findings(comparison, "moco")}


def test_noise_has_no_winner(tmp_path: Path) -> None:
    """Which row is best is not known beforehand: of 200 studies of equal rows at most one in twenty may have a lead."""
    generator = np.random.default_rng(0)
    study = records.study(tmp_path)
    for method in ("adco", "byol", "moco", "simclr"):
        for seed in range(4):
            records.write(tmp_path / "results", study, method, seed, 0.5)
    (comparison,) = compare(load(find([], tmp_path / "results")))
    found = 0
    for _ in range(200):
        figures = {row.label: dict(enumerate(generator.normal(0.5, 0.01, 4))) for row in comparison.rows}
        found += "the lead" in _ranking(comparison.rows, figures, "Then", "kNN")
    assert found <= 14  # five percent of 200, and two standard deviations


def test_equal_curves_are_equal_at_equal_cost(tmp_path: Path) -> None:
    """Epochs that differ by jitter must not lose a whole evaluation."""
    study, output = records.study(tmp_path), tmp_path / "results"
    curve = (0.1, 0.3, 0.5, 0.7, 0.8)
    for seed in range(3):
        records.write(output, study, "moco", seed, 0.8, curve=curve, epoch_seconds=10 + 0.01 * seed)
        records.write(output, study, "adco", seed, 0.8, curve=curve, epoch_seconds=10.05 + 0.01 * seed)
    (comparison,) = compare(load(find([], output)))
    answer = {f.question: f.answer for f in findings(comparison, "moco")}["Which source is best at equal cost?"]
    assert "moco has 80.0 ± 0.1%" in answer and "+0.2 [+0.1, +0.2] over adco" in answer
    assert "may hold them back" not in answer  # all spend as much


def test_views_that_differ_are_told(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    curve = (0.1, 0.3, 0.5, 0.7, 0.8)
    for seed in range(3):
        records.write(output, study, "moco", seed, 0.8, curve=curve, summary={"views_per_step": 100})
        records.write(output, study, "simclr", seed, 0.8, curve=curve)
    report = reports.build(output)
    assert any("equal epochs are not equal views: moco 100 and simclr 200" in c for c in report.sections[0].cautions)
    answers = {finding.question: finding.answer for finding in report.sections[0].findings}
    assert "moco has 80.0" in answers["Which source is best at equal views?"]
    assert "+30.0 [+30.0, +30.0] over simclr" in answers["Which source is best at equal views?"]


def test_recipes_are_compared_at_their_ends(tmp_path: Path) -> None:
    study, output = records.study(tmp_path, "paper", "track: recipe\n"), tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8, "method.num_negatives=256")
    records.write(output, study, "moco", 0, 0.7)
    records.write(output, study, "simclr", 0, 0.9, "epochs=40", "optimizer.name=lars")
    controlled = records.study(tmp_path, "paper2")
    for size in (16, 32):
        records.write(output, controlled, "moco", 0, 0.5, f"method.num_negatives={size}")
    report = reports.build(output)
    (section,) = [section for section in report.sections if section.comparison.track == "recipe"]
    assert section.findings[0].question == "Which row is best at the end?"
    assert section.findings[0].answer.startswith("After 4 to 40 epochs, simclr has 90.0%")
    assert "Recipes differ in more than the method: epochs and optimizer.name." in section.cautions
    assert [table.slug for table, _ in report.swept] == [
        "ablation-paper-recipe-track-num-negatives-kNN",
        "ablation-paper2-num-negatives-kNN",
    ]


def test_mixed_versions_are_told(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8)
    records.write(output, study, "moco", 1, 0.8, environment={"git_revision": "fedcba9876543210+changes"})
    records.write(output, study, "moco", 2, 0.8, summary={"loader_bound": True, "world_sizes": [1, 2]})
    records.write(output, study, "moco", 3, 0.8, environment={"load_average": 9.0, "num_cpus": 2})
    cautions = " ".join(reports.build(output).sections[0].cautions)
    for words in ("Mixed versions", "0123456789", "fedcba9876", "uncommitted changes", "another number of processes"):
        assert words in cautions
    assert "1 run started on a machine with more work than cores" in cautions
    assert "1 run waited for data over 5%" in cautions and "holds one method, moco" in cautions
    assert "loader-bound" in reports.cells(reports.table(reports.build(output), "cost"), "moco")["data wait"]


def test_a_baseline_without_a_result(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    records.write(output, study, "moco", 0, 0, state="failed", error="out of memory: CUDA", kind="out_of_memory")
    for method in ("adco", "byol"):
        records.write(output, study, method, 0, 0.8)
    assert reports.build(output).baseline == "adco"
    cautions = reports.build(output, baseline="moco").sections[0].cautions
    assert "The baseline moco has no finished run, so no differences, ratios or targets are shown." in cautions


def test_accuracy_without_the_baseline(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for seed in range(3):
        records.write(output, study, "adco", seed, 0.8)
        records.write(output, study, "byol", seed, 0.7, "batch_size=50")
        records.write(output, study, "simclr", seed, 0.7, "batch_size=50")
    report = reports.build(output, baseline="adco")
    (section,) = [section for section in report.sections if section.comparison.title == "golden, batch_size=50"]
    assert "It lacks the baseline adco, so no differences to it are shown." in section.cautions
    assert "kNN − adco" not in accuracy(section.comparison, "adco").columns
