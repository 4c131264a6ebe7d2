"""The report of a study with known answers, and of runs that went wrong."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from negbench.report import build, write
from negbench.report.accuracy import accuracy
from negbench.report.build import Report
from negbench.report.comparisons import Row, compare
from negbench.report.cost import first_reached
from negbench.report.figures import POINTS, Style, _along, drawings, pareto_front
from negbench.report.figures import write as draw
from negbench.report.findings import _ranking, findings
from negbench.report.runs import Run, find, load
from negbench.report.table import Cell, Table
from tests import records, runs

GOLDEN = Path(__file__).parent / "golden"


def _report(output: Path, baseline: str | None = None, targets: tuple[float, ...] = ()) -> Report:
    return build.build(load(find([], output)), baseline, targets)


def _cells(table: Table, row: str) -> dict[str, str]:
    (line,) = [line for line in table.rows if line[0].text == row]
    return {column: cell.text for column, cell in zip(table.columns, line, strict=True)}


def _table(report: Report, start: str) -> Table:
    (table,) = [table for table in report.tables if table.slug.startswith(start)]
    return table


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ties, a missing seed, one seed only, a failed run, one out of memory, a target that is never reached."""
    folder = tmp_path_factory.mktemp("golden")
    study, output = records.study(folder), folder / "results"
    for seed, knn in enumerate((0.80, 0.82, 0.81)):
        curve = (0.2, 0.5, 0.7, 0.78, knn - 0.01)
        records.write(output, study, "moco", seed, knn, linear=knn + 0.05, curve=curve)
        without = ("method.in_batch_negatives=false",)
        better = knn + (0.05, 0.06, 0.055)[seed]
        records.write(output, study, "adco", seed, knn + 0.04, linear=knn + 0.04, curve=curve, epoch_seconds=11)
        curve = (0.2, 0.6, 0.82, 0.84, better - 0.01)
        records.write(output, study, "adco", seed, better, *without, linear=knn + 0.07, curve=curve, epoch_seconds=12)
        if seed < 2:
            records.write(output, study, "simclr", seed, knn, linear=knn, curve=(0.2, 0.6, 0.7, 0.75, 0.795))
    records.write(output, study, "byol", 0, 0.70, linear=0.72, curve=(0.2, 0.3, 0.5, 0.6, 0.69), negatives=0)
    records.write(output, study, "byol", 1, 0, state="failed", error="the loss is not finite from step 3 on")
    records.write(output, study, "byol", 2, 0, state="failed", error="out of memory: CUDA out of memory; choose ...")
    return output


def test_the_golden_study(golden: Path) -> None:
    report = _report(golden)
    text = "\n".join(write.to_markdown(table) for table in report.tables)
    text += "\n" + "\n".join(f"{f.question}\n{f.answer}\n" for section in report.sections for f in section.findings)
    text += "\n" + "\n".join(caution for section in report.sections for caution in section.cautions) + "\n"
    assert text == (GOLDEN / "report.md").read_text()


def test_golden_differences_are_scipys(golden: Path) -> None:
    table = _table(_report(golden), "accuracy").data.set_index(["row", "metric"])
    moco, without = (np.array(values) for values in ((0.80, 0.82, 0.81), (0.85, 0.88, 0.865)))
    fact = table.loc[("adco (in_batch_negatives=false)", "knn_top1")]
    low, high = stats.t.interval(0.95, 2, (without - moco).mean(), stats.sem(without - moco))
    assert (fact["difference_low"], fact["difference_high"]) == pytest.approx((low, high))
    assert fact["p"] == pytest.approx(stats.ttest_rel(without, moco).pvalue)
    assert fact["p_holm"] == pytest.approx(4 * fact["p"])  # the smallest of four rows' p-values
    low, high = stats.t.interval(0.95, 2, moco.mean(), stats.sem(moco))
    assert tuple(table.loc[("moco", "knn_top1")][["mean", "low", "high"]]) == pytest.approx((moco.mean(), low, high))


def test_only_what_is_beyond_chance_is_bold(golden: Path) -> None:
    table = _table(_report(golden), "accuracy")
    bold = {
        (line[0].text, column) for line in table.rows for c, column in zip(line, table.columns, strict=True) if c.bold
    }
    # adco with in-batch negatives is ahead by the same 4 points in every seed: no spread, no test, not bold
    assert bold == {("adco (in_batch_negatives=false)", "kNN − moco")}


def test_a_row_says_what_is_missing(golden: Path) -> None:
    table = _table(_report(golden), "accuracy")
    assert _cells(table, "byol")["seeds"] == "1 of 3: 1 failed, 1 out of memory"
    assert _cells(table, "byol")["kNN, %"] == "70.0"  # one seed, no interval
    assert _cells(table, "simclr")["kNN − moco"].startswith("+0.0 [")  # over the two seeds that both have


def test_a_miss_is_infinity(golden: Path) -> None:
    report = _report(golden, targets=(0.79, 0.999))
    table = _table(report, "targets")
    lines = {(line[0].text, line[1].text): [cell.text for cell in line[2:]] for line in table.rows}
    assert lines["byol", "79.0"] == ["0 of 2, 1 without a result", "∞ [∞, ∞]", "∞ [∞, ∞]", "∞ [∞, ∞]"]
    assert lines["moco", "79.0"][0] == "3 of 3"
    assert all(line[0].startswith("0 of") and "∞" in line[1] for key, line in lines.items() if key[1] == "99.9")
    facts = json.loads(json.dumps(build._facts(report)))["tables"]["targets-golden"]
    assert facts[-1]["train_seconds_median"] == "inf"
    reached = [first_reached(run, 0.84, "train_seconds") for run in report.runs if run.method == "adco"]
    assert sorted(set(reached)) == [36.0, math.inf]  # after the third epoch of 12 s


def test_the_cost_of_a_row(golden: Path) -> None:
    cells = _cells(_table(_report(golden), "cost"), "adco (in_batch_negatives=false)")
    assert cells["s an epoch"] == "12.0 [12.0, 12.0]"
    assert cells["time / moco"].startswith("1.20")
    assert cells["end to end, min"] == "1.07"  # four epochs of 12 s, 12 s of evaluation, 4 s of checkpoints
    assert cells["peak memory, MiB"] == "1,024" and cells["their state, MiB"] == "1.00"
    assert "energy, kJ" not in cells  # nobody told it


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


def test_tracks_batches_and_precisions_have_tables_of_their_own(tmp_path: Path) -> None:
    output = tmp_path / "results"
    study, recipe = records.study(tmp_path), records.study(tmp_path, "paper", "track: recipe\n")
    records.write(output, study, "moco", 0, 0.8)
    records.write(output, study, "adco", 0, 0.8, "optimizer.lr=0.01")  # the method's own
    records.write(output, study, "adco", 0, 0.8, "batch_size=50")
    records.write(output, study, "byol", 0, 0.8, environment={"precision": "float32"})
    records.write(output, recipe, "moco", 0, 0.8)
    records.write(output, recipe, "simclr", 0, 0.8, "optimizer.name=lars", "views=simclr")
    comparisons = {comparison.title: comparison for comparison in compare(load(find([], output)))}
    assert {title: [row.method for row in c.rows] for title, c in comparisons.items()} == {
        "golden, batch_size=100, precision=bfloat16": ["adco", "moco"],
        "golden, batch_size=50, precision=bfloat16": ["adco"],
        "golden, batch_size=100, precision=float32": ["byol"],
        "paper, recipe track": ["moco", "simclr"],
    }


def test_hardware_has_cost_tables_of_its_own(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for seed, device in enumerate(("GPU A", "GPU A", "GPU B")):
        records.write(output, study, "moco", seed, 0.8, curve=(0.1, 0.2, 0.3, 0.4, 0.5), environment={"device": device})
    report = _report(output)
    assert _cells(_table(report, "accuracy"), "moco")["seeds"] == "3"
    costs = [table for table in report.tables if table.slug.startswith("cost")]
    assert [_cells(table, "moco")["seeds"] for table in costs] == ["2", "1"]
    assert any("kind of hardware: GPU A, torch 2.14; GPU B" in c for c in report.sections[0].cautions)


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
    report = _report(output)
    assert any("equal epochs are not equal views: moco 100 and simclr 200" in c for c in report.sections[0].cautions)
    answers = {finding.question: finding.answer for finding in report.sections[0].findings}
    assert "moco has 80.0" in answers["Which source is best at equal views?"]
    assert "+30.0 [+30.0, +30.0] over simclr" in answers["Which source is best at equal views?"]


def test_a_row_that_diverged_has_missed_the_target(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for seed in range(3):
        records.write(output, study, "moco", seed, 0.8, curve=(0.1, 0.3, 0.5, 0.7, 0.8))
        records.write(output, study, "byol", seed, 0, state="failed", error="out of memory: CUDA")
    records.write(output, study, "adco", 0, 0.85, curve=(0.1, 0.3, 0.5, 0.7, 0.8))
    for seed in (1, 2):
        records.write(output, study, "adco", seed, 0, state="failed", error="the loss is not finite")
    report = _report(output, targets=(0.7,))
    targets = _table(report, "targets")
    assert _cells(targets, "adco")["reached"] == "1 of 3"
    assert _cells(targets, "adco")["training, min"] == "∞ [0.500, ∞]"
    assert _cells(targets, "byol")["reached"] == "0 of 0, 3 without a result"
    assert _cells(_table(report, "cost"), "byol")["seeds"] == "0 of 3: 3 out of memory"
    assert "(1 seed, 2 more without a result)" in report.sections[0].findings[0].answer


def test_the_baselines_row_is_not_chosen_by_its_result(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for temperature, knn in ((0.1, 0.6), (0.2, 0.9), (0.3, 0.7)):
        records.write(output, study, "moco", 0, knn, f"method.temperature={temperature}")
    records.write(output, study, "byol", 0, 0.8)
    report = _report(output)
    cell = _cells(_table(report, "accuracy"), "byol")["kNN − moco"]
    assert cell == "+20.0 to moco (temperature=0.1)"
    assert any("equally near to byol" in caution for caution in report.sections[0].cautions)


def test_a_baseline_without_a_result(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    records.write(output, study, "moco", 0, 0, state="failed", error="out of memory: CUDA")
    for method in ("adco", "byol"):
        records.write(output, study, method, 0, 0.8)
    assert _report(output).baseline == "adco"
    cautions = _report(output, baseline="moco").sections[0].cautions
    assert "The baseline moco has no finished run, so no differences, ratios or targets are shown." in cautions


def test_recipes_are_compared_at_their_ends(tmp_path: Path) -> None:
    study, output = records.study(tmp_path, "paper", "track: recipe\n"), tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8, "method.num_negatives=256")
    records.write(output, study, "moco", 0, 0.7)
    records.write(output, study, "simclr", 0, 0.9, "epochs=40", "optimizer.name=lars")
    controlled = records.study(tmp_path, "paper2")
    for size in (16, 32):
        records.write(output, controlled, "moco", 0, 0.5, f"method.num_negatives={size}")
    report = _report(output)
    (section,) = [section for section in report.sections if section.comparison.track == "recipe"]
    assert section.findings[0].question == "Which row is best at the end?"
    assert section.findings[0].answer.startswith("After 4 to 40 epochs, simclr has 90.0%")
    assert "Recipes differ in more than the method: epochs and optimizer.name." in section.cautions
    assert [table.slug for table, _ in report.swept] == [
        "ablation-paper-recipe-track-num-negatives-kNN",
        "ablation-paper2-num-negatives-kNN",
    ]


def test_lists_and_settings_that_change_together_are_swept(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for policy in ("simclr", "byol"):
        records.write(output, study, "moco", 0, 0.8, f"views={policy}")
    records.write(output, study, "adco", 0, 0.8, "views.second.crop_scale=[0.5,1]")
    records.write(output, study, "adco", 0, 0.8, "views.second.crop_scale=[0.2,1]")
    report = _report(output)
    assert [members[0].name for _, members in report.swept] == ["views.policy", "views.second.crop_scale"]
    build.write(report, tmp_path / "report", lambda text: None)


def test_a_sweep_is_an_ablation(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for size in (16, 256, 4096):
        for seed in range(2):
            records.write(output, study, "moco", seed, 0.5 + size / 1e4, f"method.num_negatives={size}")
            records.write(output, study, "adco", seed, 0.6, f"method.num_negatives={size}")
    records.write(output, study, "moco", 0, 0.4, "epochs=8", "method.num_negatives=16")
    report = _report(output)
    by_name = {table.title: table for table, _ in report.swept}
    assert set(by_name) == {"Ablation: golden, num_negatives, kNN", "Ablation: golden, epochs, kNN"}
    data = by_name["Ablation: golden, num_negatives, kNN"].data
    moco = data[(data["method"] == "moco") & (data["others"] == "epochs=4")]
    assert moco["value"].tolist() == [16, 256, 4096]
    assert moco["mean"].tolist() == pytest.approx([0.5016, 0.5256, 0.9096])
    assert by_name["Ablation: golden, epochs, kNN"].data["value"].tolist() == [4, 8]
    (comparison,) = [c for c in compare(load(find([], output))) if len(c.rows) > 1]
    (row,) = [row for row in comparison.rows if row.label == "adco (num_negatives=256)"]
    other = comparison.baseline_of(row, "moco")
    assert other is not None and other.label == "moco (num_negatives=256)"  # the baseline at the same K


def test_equal_names_with_other_files_are_two_rows(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    source = Path(runs.short("moco").method_file.path).read_text()
    for number in range(2):
        file = tmp_path / str(number) / "mine.py"
        file.parent.mkdir()
        file.write_text(source + f"\n# {number}\n")
        records.write(output, study, str(file), 0, 0.5)
    (comparison,) = compare(load(find([], output)))
    assert len({row.label for row in comparison.rows}) == 2


def test_held_out_figures_stand_in_for_a_test_set_left_alone(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    curve = (0.1, 0.2, 0.3, 0.4, 0.5)
    records.write(output, study, "moco", 0, 0, curve=curve, summary={"knn_top1": None, "knn_top1_untrained": None})
    table = _table(_report(output), "accuracy")
    assert _cells(table, "moco")["held-out kNN, %"] == "50.0"
    assert "test set was left alone" in table.note


def test_published_figures_stand_beside_ours_on_their_data_alone(golden: Path, tmp_path: Path) -> None:
    assert not [table for table in _report(golden).tables if table.slug.startswith("published")]
    study = records.study(tmp_path, "cifar", "data: {name: cifar10}\n")
    records.write(tmp_path / "results", study, "moco", 0, 0.8)
    table = _table(_report(tmp_path / "results"), "published")
    assert _cells(table, "moco")["by"] == "this report"
    theirs = [line for line in table.rows if line[1].text != "this report"]
    assert theirs and all(line[-1].text.startswith("theirs: ") for line in theirs)
    assert all(line[0].text.startswith("moco") for line in theirs)  # no method that is not ours
    assert "https://github.com/facebookresearch/moco" in table.note


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
    interrupted = records.write(output, study, "moco", 6, 0.8, summary={"status": "interrupted", "error": "by SIGINT"})
    interrupted.done.unlink()
    records.write(output, study, "moco", 7, 0.8).done.unlink()
    whole = records.write(output, study, "moco", 8, 0.8)
    states = _states(output)
    assert states == {
        "mocos0": ("damaged", "metrics.jsonl is cut or damaged in line 8"),
        "mocos1": ("damaged", "it is marked done, but summary.json cannot be read"),
        "mocos2": ("damaged", "config.yaml cannot be read"),
        "mocos3": ("other version", "its records are of schema 99, this negbench reads 2"),
        "mocos4": ("damaged", "environment.json cannot be read"),
        "mocos5": ("damaged", "metrics.jsonl cannot be read"),
        "mocos6": ("interrupted", "by SIGINT"),
        "mocos7": ("dead", "ended without a word; the same command goes on"),
        "mocos8": ("done", ""),
        "mocos9": ("damaged", "summary.json lacks device_hours"),
        "mocos10": ("damaged", "summary.json: train_seconds is None"),
        "mocos11": ("damaged", "summary.json: knn_top1 is nan"),
        "mocos12": ("damaged", "metrics.jsonl ends at epoch 3 of 4"),
        "mocos13": ("damaged", "metrics.jsonl: a record holds a number that is not finite"),
        "mocos14": ("damaged", "metrics.jsonl ends at epoch 0 of 4"),
    }
    report = _report(output)
    assert len(report.unused) == 14
    (row,) = report.sections[0].comparison.rows
    assert [run.path for run in row.runs] == [whole.path]
    assert (
        row.seeds == "1 of 14: 10 damaged, 1 other version, 1 interrupted, 1 dead"
    )  # one had no settings to place it by


def test_the_same_run_twice_counts_once(golden: Path, tmp_path: Path) -> None:
    study = records.study(tmp_path)
    for name in ("a", "b"):
        records.write(tmp_path / name, study, "moco", 0, 0.8)
    paths = [*find([str(tmp_path / "a")], tmp_path), *find([str(tmp_path / "b")], tmp_path)]
    loaded = load(paths)
    assert [run.state for run in loaded] == ["done", "damaged"]
    assert loaded[1].reason == f"the same run as {paths[0]}, which stands for both"
    (paths[0] / "metrics.jsonl").write_text('{"kind"')
    assert [run.state for run in load(paths)] == ["damaged", "done"]  # the whole one


def test_mixed_versions_are_told(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8)
    records.write(output, study, "moco", 1, 0.8, environment={"git_revision": "fedcba9876543210+changes"})
    records.write(output, study, "moco", 2, 0.8, summary={"loader_bound": True, "world_sizes": [1, 2]})
    records.write(output, study, "moco", 3, 0.8, environment={"load_average": 9.0, "num_cpus": 2})
    cautions = " ".join(_report(output).sections[0].cautions)
    for words in ("Mixed versions", "0123456789", "fedcba9876", "uncommitted changes", "another number of processes"):
        assert words in cautions
    assert "1 run started on a machine with more work than cores" in cautions
    assert "1 run waited for data over 5%" in cautions and "holds one method, moco" in cautions
    assert "loader-bound" in _cells(_table(_report(output), "cost"), "moco")["data wait"]


def test_a_real_run_has_all_that_a_report_reads(tmp_path: Path) -> None:
    for method in ("adco", "byol"):
        runs.start(runs.short(method), tmp_path)
    report = _report(tmp_path)
    assert not report.unused and len(report.sections) == 1
    table = _table(report, "cost")
    assert _cells(table, "byol")["negatives a query"] == "0" and _cells(table, "adco")["negatives a query"] == "55.0"
    assert set(_table(report, "targets").data["row"]) == {"adco", "byol"}
    page = build.write(report, tmp_path / "report", lambda text: None)
    assert "Were negatives needed?" in page.read_text()


def test_what_is_written(golden: Path, tmp_path: Path) -> None:
    report = _report(golden)
    told: list[str] = []
    page = build.write(report, tmp_path / "report", told.append)
    assert told[-1] == "figure 4 of 4"
    names = {str(path.relative_to(page.parent)) for path in page.parent.rglob("*") if path.is_file()}
    assert names >= {"index.html", "report.json", "runs.csv"}
    for table in ("accuracy-golden", "cost-golden", "targets-golden", "ablation-golden-in-batch-negatives-kNN"):
        assert names >= {f"tables/{table}.{kind}" for kind in ("csv", "md", "tex")}
    for figure in ("accuracy-golden", "curves-golden", "pareto-golden", "ablation-golden-in-batch-negatives-kNN"):
        assert names >= {f"figures/{figure}.{kind}" for kind in ("png", "svg", "pdf")}
    lines = pd.read_csv(page.parent / "runs.csv")
    assert len(lines) == 14 and set(lines["state"]) == {"done", "failed", "out of memory"}
    assert not [path for path in tmp_path.iterdir() if path.name != "report"]
    html = page.read_text()
    assert "http" not in html.replace("http://www.w3.org", "") and "src=" in html  # needs no network
    assert "negbench run --method byol" in html and "out of memory" in html
    (page.parent / "stale").touch()
    build.write(report, tmp_path / "report", told.append)  # replaces the earlier one whole
    assert not (page.parent / "stale").exists()


def test_the_same_records_give_the_same_bytes(golden: Path, tmp_path: Path) -> None:
    pages = [build.write(_report(golden), tmp_path / name, lambda text: None).parent for name in ("a", "b")]
    for path in pages[0].rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (pages[1] / path.relative_to(pages[0])).read_bytes(), path


def test_odd_names_can_be_drawn_and_written(tmp_path: Path) -> None:
    method = tmp_path / "a&b_$x^{<i>}%#~.py"
    method.write_text(Path(runs.short("moco").method_file.path).read_text())
    study, output = records.study(tmp_path), tmp_path / "results"
    for value in (0.1, 0.2):
        records.write(
            output, study, str(method), 0, 0.8, f"method.temperature={value}", curve=(0.1, 0.2, 0.3, 0.4, 0.5)
        )
    page = build.write(_report(output), tmp_path / "report", lambda text: None)
    assert "a&amp;b_$x^{&lt;i&gt;}%#~" in page.read_text() and "<i>" not in page.read_text()
    picture = (page.parent / "figures" / "accuracy-golden.svg").read_text()
    assert "<!-- a&amp;b_$x^{&lt;i&gt;}%#~ (temperature=0.1) -->" in picture  # drawn as it stands, not as mathematics
    latex = (page.parent / "tables" / "accuracy-golden.tex").read_text()
    assert r"a\&b\_\$x\textasciicircum \{<i>\}\%\#\textasciitilde" in latex


def test_names_are_escaped(tmp_path: Path) -> None:
    text = 'note: "<script>alert(1)</script> 50% & {x_y} $5 #1 | [link](x)"\n'
    study, output = records.study(tmp_path, text=text), tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8, "views=byol", "data.root=/a_b/<b>&50%")
    failed = records.write(output, study, "moco", 1, 0, state="failed", error="<img src=x> 50% & more")
    report = _report(output)
    page = build.write(report, tmp_path / "report", lambda text: None).read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "<img src=x>" not in page and failed.path.name in page and "<b>&50" not in page
    odd = Table("t", "50% & <b>", "a_b #1 $x {y} ~ ^ \\", ["a_b", "x|y"], [[Cell("<i>_&%"), Cell("−1 ± ∞", bold=True)]])
    markdown, latex = write.to_markdown(odd), write.to_latex(odd)
    assert r"\<i\>_" in markdown
    assert r"x\|y" in markdown and "**−1 ± ∞**" in markdown
    assert r"\textbf{$-$1 $\pm$ $\infty$}" in latex and r"<i>\_\&\%" in latex
    assert r"\caption{50\% \& <b>}" in latex
    assert r"\footnotesize a\_b \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}" in latex
    assert "\\toprule" in latex and "\\bottomrule" in latex


def test_the_pareto_front() -> None:
    points = [(1.0, 0.5), (2.0, 0.4), (3.0, 0.7), (3.0, 0.6), (4.0, 0.7), (5.0, 0.9)]
    assert pareto_front(points) == [(1.0, 0.5), (3.0, 0.7), (5.0, 0.9)]


def test_a_method_has_one_colour_and_rows_differ_in_more_than_that() -> None:
    style = Style(["moco", "adco", "a method of my own"])
    assert Style(["adco"]).colours["moco"] == style.colours["moco"]
    rows = [Row("adco", "adco (a)", {}, ()), Row("adco", "adco (b)", {}, ())]
    first, second = [look for _, *look in style.of(rows)]
    assert first[0] == second[0] and first[1] != second[1] and first[2] != second[2]


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    run = Run(tmp_path, "done", curve={"knn_top1": np.linspace(0, 1, 10_000)})
    drawn = _along(run, "knn_top1")
    assert len(drawn) <= POINTS == 500 and drawn[0] == 0 and drawn[-1] == 1


def test_one_seed_and_one_row_can_be_drawn(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8, curve=(0.1, 0.2, 0.3, 0.4, 0.5))
    (comparison,) = compare(load(find([], output)))
    figures = drawings(comparison, Style(["moco"]))
    assert [drawing.slug for drawing in figures] == ["accuracy-golden", "curves-golden", "pareto-golden"]
    for drawing in figures:
        assert all(path.stat().st_size > 1000 for path in draw(drawing, tmp_path).values())
    answer = findings(comparison, "moco")[0].answer
    assert answer.endswith("it is the only row, so there is nothing to compare it with.")


def test_a_study_without_a_finished_run(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    records.write(output, study, "moco", 0, 0, state="failed", error="the loss is not finite")
    report = _report(output)
    assert "nothing can be said" in report.sections[0].findings[0].answer
    assert _cells(_table(report, "accuracy"), "moco")["seeds"] == "0 of 1: 1 failed"
    assert build.write(report, tmp_path / "report", lambda text: None).exists()


def test_accuracy_without_the_baseline(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for seed in range(3):
        records.write(output, study, "adco", seed, 0.8)
        records.write(output, study, "byol", seed, 0.7, "batch_size=50")
        records.write(output, study, "simclr", seed, 0.7, "batch_size=50")
    report = _report(output, baseline="adco")
    (section,) = [section for section in report.sections if section.comparison.title == "golden, batch_size=50"]
    assert "It lacks the baseline adco, so no differences to it are shown." in section.cautions
    assert "kNN − adco" not in accuracy(section.comparison, "adco").columns
