"""The report's tables: a study with known answers, and what may stand together."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from negbench.report.page import tables as table_files
from negbench.report.page import write as report_files
from negbench.report.read.comparisons import compare
from negbench.report.read.runs import find, load
from negbench.report.tables.accuracy import main_metric
from negbench.report.tables.cost import first_reached
from tests.helpers import records, reports, runs

GOLDEN = Path(__file__).parent / "golden"


def test_the_golden_study(golden: Path) -> None:
    assert _text(golden) == (GOLDEN / "report.md").read_text()


def test_records_of_earlier_versions_make_the_same_report(golden: Path, tmp_path: Path) -> None:
    older = shutil.copytree(golden, tmp_path / "older")
    for path in (*older.glob("*/summary.json"), *older.glob("*/environment.json")):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in content.items() if key not in ("ending", "changed")}))
    assert _text(older) == (GOLDEN / "report.md").read_text()


def _text(output: Path) -> str:
    report = reports.build(output)
    text = "\n".join(table_files.to_markdown(table) for table in report.tables)
    text += "\n" + "\n".join(f"{f.question}\n{f.answer}\n" for section in report.sections for f in section.findings)
    return text + "\n" + "\n".join(caution for section in report.sections for caution in section.cautions) + "\n"


def test_golden_differences_are_scipys(golden: Path) -> None:
    table = reports.table(reports.build(golden), "accuracy").data.set_index(["row", "metric"])
    moco, without = (np.array(values) for values in ((0.80, 0.82, 0.81), (0.85, 0.88, 0.865)))
    fact: Any = table.loc[("adco (in_batch_negatives=false)", "knn_top1")]
    low, high = stats.t.interval(0.95, 2, (without - moco).mean(), stats.sem(without - moco))
    assert (fact["difference_low"], fact["difference_high"]) == pytest.approx((low, high))
    assert fact["p"] == pytest.approx(stats.ttest_rel(without, moco).pvalue)
    assert fact["p_holm"] == pytest.approx(4 * fact["p"])  # the smallest of four rows' p-values
    low, high = stats.t.interval(0.95, 2, moco.mean(), stats.sem(moco))
    fact = table.loc[("moco", "knn_top1")]
    assert tuple(fact[["mean", "low", "high"]]) == pytest.approx((moco.mean(), low, high))


def test_only_what_is_beyond_chance_is_bold(golden: Path) -> None:
    table = reports.table(reports.build(golden), "accuracy")
    bold = {
        (line[0].text, column) for line in table.rows for c, column in zip(line, table.columns, strict=True) if c.bold
    }
    # adco with in-batch negatives is ahead by the same 4 points in every seed: no spread, no test, not bold
    assert bold == {("adco (in_batch_negatives=false)", "kNN − moco")}


def test_a_row_says_what_is_missing(golden: Path) -> None:
    table = reports.table(reports.build(golden), "accuracy")
    assert reports.cells(table, "byol")["seeds"] == "1 of 3: 1 failed, 1 out of memory"
    assert reports.cells(table, "byol")["kNN, %"] == "70.0"  # one seed, no interval
    assert reports.cells(table, "simclr")["kNN − moco"].startswith("+0.0 [")  # over the two seeds that both have


def test_a_miss_is_infinity(golden: Path) -> None:
    report = reports.build(golden, targets=(0.79, 0.999))
    table = reports.table(report, "targets")
    lines = {(line[0].text, line[1].text): [cell.text for cell in line[2:]] for line in table.rows}
    assert lines["byol", "79.0"] == ["0 of 2, 1 without a result", "∞ [∞, ∞]", "∞ [∞, ∞]", "∞ [∞, ∞]"]
    assert lines["moco", "79.0"][0] == "3 of 3"
    assert all(line[0].startswith("0 of") and "∞" in line[1] for key, line in lines.items() if key[1] == "99.9")
    facts = json.loads(json.dumps(report_files._facts(report)))["tables"]["targets-golden"]
    assert facts[-1]["train_seconds_median"] == "inf"
    reached = [first_reached(run, 0.84, "train_seconds") for run in report.runs if run.method == "adco"]
    assert sorted(set(reached)) == [36.0, math.inf]  # after the third epoch of 12 s


def test_the_cost_of_a_row(golden: Path) -> None:
    cells = reports.cells(reports.table(reports.build(golden), "cost"), "adco (in_batch_negatives=false)")
    assert cells["s an epoch"] == "12.0 [12.0, 12.0]"
    assert cells["time / moco"].startswith("1.20")
    assert cells["end to end, min"] == "1.07"  # four epochs of 12 s, 12 s of evaluation, 4 s of checkpoints
    assert cells["peak memory, MiB"] == "1,024" and cells["their state, MiB"] == "1.00"
    assert "energy, kJ" not in cells  # nobody told it


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
    report = reports.build(output)
    assert reports.cells(reports.table(report, "accuracy"), "moco")["seeds"] == "3"
    costs = [table for table in report.tables if table.slug.startswith("cost")]
    assert [reports.cells(table, "moco")["seeds"] for table in costs] == ["2", "1"]
    assert any("kind of hardware: GPU A, torch 2.14; GPU B" in c for c in report.sections[0].cautions)


def test_a_row_that_diverged_has_missed_the_target(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for seed in range(3):
        records.write(output, study, "moco", seed, 0.8, curve=(0.1, 0.3, 0.5, 0.7, 0.8))
        records.write(output, study, "byol", seed, 0, state="failed", error="out of memory: CUDA", kind="out_of_memory")
    records.write(output, study, "adco", 0, 0.85, curve=(0.1, 0.3, 0.5, 0.7, 0.8))
    for seed in (1, 2):
        records.write(output, study, "adco", seed, 0, state="failed", error="the loss is not finite")
    report = reports.build(output, targets=(0.7,))
    targets = reports.table(report, "targets")
    assert reports.cells(targets, "adco")["reached"] == "1 of 3"
    assert reports.cells(targets, "adco")["training, min"] == "∞ [0.500, ∞]"
    assert reports.cells(targets, "byol")["reached"] == "0 of 0, 3 without a result"
    assert reports.cells(reports.table(report, "cost"), "byol")["seeds"] == "0 of 3: 3 out of memory"
    assert "(1 seed, 2 more without a result)" in report.sections[0].findings[0].answer


def test_the_baselines_row_is_not_chosen_by_its_result(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for temperature, knn in ((0.1, 0.6), (0.2, 0.9), (0.3, 0.7)):
        records.write(output, study, "moco", 0, knn, f"method.temperature={temperature}")
    records.write(output, study, "byol", 0, 0.8)
    report = reports.build(output)
    cell = reports.cells(reports.table(report, "accuracy"), "byol")["kNN − moco"]
    assert cell == "+20.0 to moco (temperature=0.1)"
    assert any("equally near to byol" in caution for caution in report.sections[0].cautions)


def test_lists_and_settings_that_change_together_are_swept(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for policy in ("simclr", "byol"):
        records.write(output, study, "moco", 0, 0.8, f"views={policy}")
    records.write(output, study, "adco", 0, 0.8, "views.second.crop_scale=[0.5,1]")
    records.write(output, study, "adco", 0, 0.8, "views.second.crop_scale=[0.2,1]")
    report = reports.build(output)
    assert [members[0].name for _, members in report.swept] == ["views.policy", "views.second.crop_scale"]
    report_files.write(report, tmp_path / "report", lambda text: None)


def test_settings_that_only_change_together_are_no_ablation_of_the_first(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    together = ("optimizer.lr=0.5", "method.temperature=0.5")
    records.write(output, study, "moco", 0, 0.7)
    records.write(output, study, "moco", 0, 0.8, *together)
    records.write(output, study, "moco", 0, 0.9, *together, "method.num_negatives=16")
    assert [members[0].name for _, members in reports.build(output).swept] == ["num_negatives"]


def test_a_sweep_is_an_ablation(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for size in (16, 256, 4096):
        for seed in range(2):
            records.write(output, study, "moco", seed, 0.5 + size / 1e4, f"method.num_negatives={size}")
            records.write(output, study, "adco", seed, 0.6, f"method.num_negatives={size}")
    records.write(output, study, "moco", 0, 0.4, "epochs=8", "method.num_negatives=16")
    report = reports.build(output)
    by_name = {table.title: table for table, _ in report.swept}
    assert set(by_name) == {"Ablation: golden, num_negatives, kNN", "Ablation: golden, epochs, kNN"}
    data = by_name["Ablation: golden, num_negatives, kNN"].data
    moco = data[(data["method"] == "moco") & (data["others"] == "")]
    assert moco["value"].tolist() == [16, 256, 4096]
    assert moco["mean"].tolist() == pytest.approx([0.5016, 0.5256, 0.9096])
    assert by_name["Ablation: golden, epochs, kNN"].data["value"].tolist() == [4, 8]
    (comparison,) = [c for c in compare(load(find([], output))) if len(c.rows) > 1]
    (row,) = [row for row in comparison.rows if row.label == "adco (num_negatives=256)"]
    other = comparison.baseline_of(row, "moco")
    assert other is not None and other.label == "moco (num_negatives=256)"  # the baseline at the same K


def test_labels_and_ablations_say_what_differs_from_the_studys_own_values(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    alone, frozen, descending = "method.in_batch_negatives=false", "method.update=none", "method.update=descend"
    lost = {(): 0.0, (alone,): 0.1, (alone, frozen): 0.2, (alone, descending): 0.3, ("method.num_negatives=16",): 0.0}
    for seed in range(3):
        for settings, less in lost.items():
            records.write(output, study, "adco", seed, 0.9 - less * (1 + 0.01 * seed), *settings)
        records.write(output, study, "moco", seed, 0.8)
    records.write(output, study, "moco", 0, 0.8, "method.num_negatives=16")
    report = reports.build(output)
    (section,) = report.sections
    labels = {row.label for row in section.comparison.rows}
    assert labels >= {"adco", "adco (in_batch_negatives=false)", "adco (in_batch_negatives=false, update=none)", "moco"}
    assert "adco has num_negatives=4096, in_batch_negatives=true, update=ascend" in section.tables[0].note
    by_name = {table.title.split(", ")[1]: table for table, _ in report.swept}
    lines = {line[1].text: line for line in by_name["update"].rows}
    assert {line[0].text for line in lines.values()} == {"adco (in_batch_negatives=false)"}
    assert lines["ascend"][4].text == "the study's own"
    assert lines["none"][4].text == "−10.1 [−10.3, −9.9]" and lines["none"][4].bold
    assert lines["descend"][4].text == "−20.2 [−20.7, −19.7]"
    own = [line for line in by_name["num_negatives"].rows if line[4].text == "the study's own"]
    assert [(line[0].text, line[1].text) for line in own] == [("adco", "4096"), ("moco", "4096")]


def test_an_ablation_over_comparisons_has_each_difference_once(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for seed in range(3):
        for epochs, better in ((4, 0.0), (8, 0.1), (16, 0.2), (32, 0.3)):
            settings = (f"epochs={epochs}",) if epochs > 4 else ()
            records.write(output, study, "moco", seed, 0.5 + better * (1 + 0.1 * seed), *settings)
    ((table, _),) = reports.build(output).swept
    shown = [line[4].text for line in table.rows]
    assert shown == ["the study's own", "+11.0 [+8.5, +13.5]", "+22.0 [+17.0, +27.0]", "+33.0 [+25.5, +40.5]"]
    assert table.data["p_holm"].notna().sum() == 3
    assert (table.data["p_holm"].dropna() > 2.9 * table.data["p"].dropna()).all()  # over three: all p are equal


def test_the_nearest_baseline_with_the_most_seeds_is_taken(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    for seed in range(3):
        records.write(output, study, "moco", seed, 0.8)
        records.write(output, study, "byol", seed, 0.9)
    records.write(output, study, "moco", 0, 0.7, "method.num_negatives=16")
    (comparison,) = compare(load(find([], output)))
    (byol,) = [row for row in comparison.rows if row.method == "byol"]
    assert [row.label for row in comparison.baselines_of(byol, "moco")] == ["moco"]


def test_a_value_that_changed_in_the_study_is_not_its_own(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8)
    study.write_text(study.read_text() + "per_method: {moco: {method.temperature: 0.3}}\n")
    records.write(output, study, "moco", 0, 0.8)
    (comparison,) = compare(load(find([], output)))
    assert sorted(row.label for row in comparison.rows) == ["moco (temperature=0.2)", "moco (temperature=0.3)"]


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
    table = reports.table(reports.build(output), "accuracy")
    assert reports.cells(table, "moco")["held-out kNN, %"] == "50.0"
    assert "test set was left alone" in table.note


def test_a_figure_chosen_on_the_test_set_says_so_and_decides_nothing(tmp_path: Path) -> None:
    study, output = records.study(tmp_path, "paper", "track: recipe\n"), tmp_path / "results"
    chosen = {"knn_lightly_highest_test_top1": 0.9, "knn_moco_demo_top1": 0.7}
    records.write(output, study, "moco", 0, 0.8, summary=chosen)
    records.write(output, study, "simclr", 0, 0.85, summary=chosen | {"knn_lightly_highest_test_top1": 0.95})
    report = reports.build(output)
    table = reports.table(report, "accuracy")
    cells = reports.cells(table, "moco")
    assert cells["kNN as lightly's (highest of all epochs on the test set), %"] == "90.0"
    assert cells["kNN as in MoCo's demo, %"] == "70.0"
    assert not [column for column in table.columns if "−" in column and not column.startswith("kNN −")]
    assert "Chosen on the test set, and so too high: kNN as lightly's" in table.note and "used once" not in table.note
    assert main_metric(report.sections[0].comparison) == "knn_top1"
    assert not [f for section in report.sections for f in section.findings if "lightly" in f.answer]


def test_a_published_figure_that_is_no_number_is_damage(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8, summary={"knn_moco_demo_top1": "high"})
    (run,) = load(find([], output))
    assert (run.state, run.reason) == ("damaged", "summary.json: knn_moco_demo_top1: Input should be a valid number")


def test_records_of_earlier_versions_stand_beside_todays(tmp_path: Path) -> None:
    """A setting that has been added since is at its default in them."""
    study, output = records.study(tmp_path), tmp_path / "results"
    old = records.write(output, study, "moco", 0, 0.8)
    old.config.write_text(old.config.read_text().replace("  protocols: []\n", ""))
    assert "protocols" not in old.config.read_text()
    records.write(output, study, "simclr", 0, 0.8)
    (comparison,) = compare(load(find([], output)))
    assert [(row.method, row.label) for row in comparison.rows] == [("moco", "moco"), ("simclr", "simclr")]


def test_published_figures_stand_beside_ours_on_their_data_alone(golden: Path, tmp_path: Path) -> None:
    assert not [table for table in reports.build(golden).tables if table.slug.startswith("published")]
    study = records.study(tmp_path, "cifar", "data: {name: cifar10}\n")
    records.write(tmp_path / "results", study, "moco", 0, 0.8)
    table = reports.table(reports.build(tmp_path / "results"), "published")
    assert reports.cells(table, "moco")["by"] == "this report"
    theirs = [line for line in table.rows if line[1].text != "this report"]
    assert theirs and all(line[-1].text.startswith("theirs: ") for line in theirs)
    assert all(line[0].text.startswith("moco") for line in theirs)  # no method that is not ours
    assert "https://github.com/facebookresearch/moco" in table.note
    by = {line[1].text.partition(",")[0]: dict(zip(table.columns, line, strict=True)) for line in theirs}
    lightlys, demos = "kNN as lightly's (highest of all epochs on the test set), %", "kNN as in MoCo's demo, %"
    for source, column in (("lightly", lightlys), ("MoCo's CIFAR-10 demo", demos)):
        known = {name for name in ("kNN, %", lightlys, demos) if by[source][name].text != "–"}
        assert known == {column}  # under the protocol that they are of
    assert reports.cells(table, "moco")[lightlys] == "–"
    assert "Chosen on the test set" in table.note
