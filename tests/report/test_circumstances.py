"""Runs of other data, code, versions and machines: what is compared with what, and what the report says of it."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from negbench.records.run.data import DataRecord, PartRecord
from negbench.records.run_folder import RunFolder
from negbench.report import build as building
from negbench.report.read.runs import find, load
from negbench.report.sections import Report
from tests.helpers import records, reports

A100, H100 = {"device": "A100"}, {"device": "H100"}
FASTER = {"torch_version": "2.15", "git_revision": "fedcba9876543210"}
LACKING = (
    "Unknown, since not on record: data, method code and results version of {} runs; comparisons assume it to be equal."
)


def data(images: int = 100, classes: str = "ab", contents: str = "0") -> DataRecord:
    train, test = (PartRecord(images=n, names="n", contents=contents, num_compared=n) for n in (images, 20))
    return DataRecord(classes=tuple(classes), train=train, test=test)


def write(output: Path, method: str, seed: int, knn: float, *settings: str, **known: Any) -> RunFolder:
    """A run with what today's versions have on record, but for what is given as None."""
    environment = {"method_code": method * 4, "results_version": 2} | known.pop("environment", {})
    environment = {key: value for key, value in environment.items() if value is not None}
    of = known.pop("of", data())
    study = records.study(output.parent)
    folder = records.write(output, study, method, seed, knn, *settings, environment=environment, **known)
    if of is not None:
        folder.data.write_text(of.model_dump_json())
    return folder


def build(*folders: Path, baseline: str | None = None) -> Report:
    return building.build(load(find([str(folder) for folder in folders], folders[0])), baseline)


def rows(report: Report) -> list[dict[str, list[float]]]:
    """Of each comparison the accuracies by row's label."""
    return [
        {row.label: sorted(row.by_seed("knn_top1").values()) for row in section.comparison.rows}
        for section in report.sections
    ]


def said(report: Report) -> str:
    """All sentences of the report."""
    answers = [finding.answer for section in report.sections for finding in section.findings]
    return "\n".join([*answers, *(caution for section in report.sections for caution in section.cautions)])


def states(report: Report) -> list[tuple[str, str]]:
    return [(run.state, run.reason) for run in report.runs if not run.is_used]


OTHER_DATA = [
    (data(90), "it has 90 images to train instead of 100"),
    (data(classes="abc"), "it has 3 classes instead of 2, class 'c' is new"),
    (data(contents="1"), "its images to train have another content (100 were compared)"),
]


@pytest.mark.parametrize(("other", "difference"), OTHER_DATA)
def test_methods_on_other_data_are_not_compared(other: DataRecord, difference: str, tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / "results", "moco", seed, 0.6 + seed / 100)
        write(tmp_path / "results", "adco", seed, 0.7 + seed / 100, of=other)
    report = build(tmp_path / "results")
    assert sorted(map(list, rows(report))) == [["adco"], ["moco"]]
    assert "paired by seed" not in said(report) and "over moco" not in said(report)
    assert f"Not compared with these: adco (3 runs), since they are of other data: {difference}." in said(report)
    assert "Not compared with these: moco (3 runs), since they are of other data" in said(report)
    assert not [cell for table in report.tables for row in table.rows for cell in row if "+10" in cell.text]
    assert all("data=" in section.comparison.title for section in report.sections)


def test_seeds_on_other_data_are_not_pooled(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / "results", "moco", seed, 0.6, of=data(90 + seed))
    assert [row["moco"] for row in rows(build(tmp_path / "results"))] == [[0.6]] * 3


def test_no_ablation_goes_over_other_data_or_code(tmp_path: Path) -> None:
    write(tmp_path / "results", "moco", 0, 0.6)
    write(tmp_path / "results", "moco", 0, 0.7, "epochs=8", of=data(90))
    write(tmp_path / "results", "moco", 0, 0.8, "method.num_negatives=64", environment={"method_code": "new"})
    report = build(tmp_path / "results")
    assert not report.swept and "paired" not in said(report).replace("can be paired", "")


def test_what_is_not_on_record_is_taken_for_equal_in_one_sentence(tmp_path: Path) -> None:
    unknown: Any = {"of": None, "environment": {"method_code": None, "results_version": None}}
    for seed in range(2):
        write(tmp_path / "results", "moco", seed, 0.6, **unknown)
        write(tmp_path / "results", "adco", seed, 0.7, **({} if seed else unknown))
    report = build(tmp_path / "results")
    assert rows(report) == [{"adco": [0.7, 0.7], "moco": [0.6, 0.6]}]
    lacking = LACKING.format(3)
    assert [caution for caution in report.sections[0].cautions if "on record" in caution] == [lacking]


def test_what_is_not_on_record_equals_none_of_several(tmp_path: Path) -> None:
    write(tmp_path / "results", "moco", 0, 0.6)
    write(tmp_path / "results", "moco", 1, 0.7, of=data(90))
    write(tmp_path / "results", "adco", 2, 0.8, of=None)
    report = build(tmp_path / "results")
    assert sorted(map(str, rows(report))) == ["{'adco': [0.8]}", "{'moco': [0.6]}", "{'moco': [0.7]}"]
    assert "since it is not on record whether they are of equal data" in said(report)


def test_other_code_of_a_method_is_another_row_that_is_not_paired_with_it(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / "results", "moco", seed, 0.6 + seed / 50)
        code = {"method_code": "newer" if seed else "older"}
        write(tmp_path / "results", "adco", seed, 0.7 + seed / 100, environment=code)
    report = build(tmp_path / "results")
    assert rows(report) == [{"adco (code=newer)": [0.71, 0.72], "adco (code=older)": [0.7], "moco": [0.6, 0.62, 0.64]}]
    assert "over adco" not in said(report) and "over moco" in said(report)
    assert "Runs of adco are of different code of its file (newer and older)" in said(report)
    against = build(tmp_path / "results", baseline="adco (code=older)")
    cells = reports.cells(reports.table(against, "accuracy"), "adco (code=newer)")
    assert cells["kNN − adco (code=older)"] == "–"


def test_results_versions_are_not_compared(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path / "results", "moco", seed, 0.6, environment={"results_version": 1})
        write(tmp_path / "results", "adco", seed, 0.7)
        write(tmp_path / "results", "byol", seed, 0.5)
    report = build(tmp_path / "results")
    assert sorted(map(list, rows(report))) == [["adco", "byol"], ["moco"]]
    assert "moco (2 runs), since their results version of negbench is 1 and not 2 (CHANGELOG.md)" in said(report)


def test_precision_that_goes_along_with_the_method_is_named(tmp_path: Path) -> None:
    write(tmp_path / "results", "moco", 0, 0.6)
    write(tmp_path / "results", "adco", 0, 0.7, environment={"precision": "float32"})
    assert "adco (1 run), since they have precision=float32 instead of bfloat16" in said(build(tmp_path / "results"))


@pytest.mark.parametrize("turned", [False, True])
def test_copies_on_other_machines_are_rows_of_their_own(turned: bool, tmp_path: Path) -> None:
    for seed in range(2):
        for name, where, better in (("a", A100, 0.0), ("b", H100 | FASTER, 0.01)):
            write(tmp_path / name, "moco", seed, 0.6 + better, environment=where)
            write(tmp_path / name, "adco", seed, 0.7 + better, environment=where)
    folders = [tmp_path / "a", tmp_path / "b"]
    report = build(*folders[:: -1 if turned else 1])
    old = "device=A100, torch_version=2.14, git_revision=0123456789"
    new = "device=H100, torch_version=2.15, git_revision=fedcba9876"
    assert {label: knn[0] for label, knn in rows(report)[0].items()} == {
        f"adco ({new})": 0.71,
        f"adco ({old})": 0.7,
        f"moco ({new})": 0.61,
        f"moco ({old})": 0.6,
    }
    assert not report.unused and "Confounded" not in said(report)
    cells = reports.cells(reports.table(report, "accuracy"), f"adco ({old})")
    assert cells["kNN − moco"] == f"+10.0 [+10.0, +10.0] to moco ({old})"


def test_the_baseline_of_a_row_is_the_one_of_its_machine(tmp_path: Path) -> None:
    for name, where in (("a", A100), ("b", H100)):
        write(tmp_path / name, "moco", 0, 0.6, environment=where)
    write(tmp_path / "b", "adco", 0, 0.7, environment=H100)
    table = reports.table(build(tmp_path / "a", tmp_path / "b"), "accuracy")
    assert reports.cells(table, "adco")["kNN − moco"] == "+10.0 to moco (device=H100)"


def test_copies_in_other_precision_are_comparisons_of_their_own(tmp_path: Path) -> None:
    for name, precision in (("a", "bfloat16"), ("b", "float32")):
        write(tmp_path / name, "moco", 0, 0.6, environment={"precision": precision})
    assert rows(build(tmp_path / "a", tmp_path / "b")) == [{"moco": [0.6]}] * 2


def test_equal_copies_count_once(tmp_path: Path) -> None:
    first = write(tmp_path / "a", "moco", 0, 0.6).path
    second = Path(shutil.copytree(first, tmp_path / "b" / first.name))
    renamed = Path(shutil.copytree(first, tmp_path / "a" / "saved"))
    for folders in ((tmp_path / "a", tmp_path / "b"), (tmp_path / "b", tmp_path / "a")):
        report = build(*folders)
        assert rows(report) == [{"moco": [0.6]}]
        assert states(report) == [("copy", f"the same run as {first}, which is counted")] * 2
        assert {run.path for run in report.unused} == {second, renamed}


@pytest.mark.parametrize("turned", [False, True])
def test_copies_that_conflict_are_both_shown_with_their_folders(turned: bool, tmp_path: Path) -> None:
    for name, knn in (("a", 0.71), ("b", 0.76)):
        for seed in range(2):
            write(tmp_path / name, "adco", seed, knn if seed else 0.7)
            write(tmp_path / name, "moco", seed, 0.6)
    report = build(*[tmp_path / "a", tmp_path / "b"][:: -1 if turned else 1])
    folder = tmp_path.name
    assert rows(report) == [
        {f"adco (folder={folder}/b)": [0.7, 0.76], f"adco (folder={folder}/a)": [0.7, 0.71], "moco": [0.6, 0.6]}
    ]
    runs = [next(tmp_path.glob(f"{name}/golden-adco-s1-*")) for name in "ab"]
    assert "1 run has other figures in another folder though all that is on record is equal" in said(report)
    assert f"adco, seed 1, kNN 71.0% in {runs[0]} and 76.0% in {runs[1]}" in said(report)
    assert [state for state, _ in states(report)] == ["copy"] * 2  # of moco, which are equal


def test_a_copy_under_another_name_in_one_folder_is_told_apart_too(tmp_path: Path) -> None:
    run = write(tmp_path / "a", "moco", 0, 0.6)
    saved = Path(shutil.copytree(run.path, tmp_path / "a" / "saved"))
    summary = json.loads((saved / "summary.json").read_text())
    (saved / "summary.json").write_text(json.dumps(summary | {"knn_top1": 0.9}))
    report = build(tmp_path / "a")
    assert sorted(rows(report)[0].values()) == [[0.6], [0.9]]
    assert f"60.0% in {run.path} and 90.0% in {saved}" in said(report)


def test_an_unfinished_copy_is_no_missing_seed(tmp_path: Path) -> None:
    done = write(tmp_path / "a", "moco", 0, 0.6)
    write(tmp_path / "b", "moco", 0, 0, state="failed", error="the loss is not finite")
    report = build(tmp_path / "b", tmp_path / "a")
    assert report.sections[0].comparison.rows[0].seeds == "1"
    assert states(report) == [("failed", f"the loss is not finite; the same run as {done.path}, which is counted")]
    write(tmp_path / "c", "moco", 0, 0, state="failed", error="out", environment=H100)
    shown = {row.label: row.seeds for row in build(tmp_path / "a", tmp_path / "c").sections[0].comparison.rows}
    assert shown == {"moco (device=Test GPU)": "1", "moco (device=H100)": "0 of 1: 1 failed"}


def test_published_records_without_fingerprints_stand_beside_a_rerun(tmp_path: Path) -> None:
    unknown: Any = {"of": None, "environment": A100 | {"method_code": None, "results_version": None}}
    for seed in range(2):
        write(tmp_path / "published", "moco", seed, 0.6, **unknown)
        write(tmp_path / "published", "adco", seed, 0.7, **unknown)
        write(tmp_path / "mine", "moco", seed, 0.61, environment=H100)
        write(tmp_path / "mine", "adco", seed, 0.69, environment=H100)
    report = build(tmp_path / "published", tmp_path / "mine")
    assert rows(report) == [
        {
            "adco (device=A100)": [0.7] * 2,
            "adco (device=H100)": [0.69] * 2,
            "moco (device=H100)": [0.61] * 2,
            "moco (device=A100)": [0.6] * 2,
        }
    ]
    assert LACKING.format(4) in said(report)


def test_what_goes_along_with_the_method_is_named_row_by_row(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path / "results", "moco", seed, 0.6, environment=H100 | {"decoders": "Pillow 1"})
        write(tmp_path / "results", "adco", seed, 0.7, environment=A100 | FASTER | {"decoders": "Pillow 2"})
        write(tmp_path / "results", "byol", seed, 0.5, environment=(A100 if seed else H100) | {"decoders": "Pillow 1"})
    report = build(tmp_path / "results")
    (sentence,) = [caution for caution in report.sections[0].cautions if caution.startswith("Confounded")]
    assert "byol" not in sentence  # half of its runs are as moco's
    for part in ("hardware A100, where moco has H100", "torch 2.15, where moco has 2.14", "image decoders Pillow 2"):
        assert f"adco with {part}" in sentence
    table = reports.table(report, "accuracy")
    told = reports.cells(table, "adco")["kNN − moco"]
    assert told.endswith(", confounded with hardware, torch, revision and image decoders")
    assert "confounded" not in reports.cells(table, "byol")["kNN − moco"]


def test_another_encoder_than_the_studys_is_named(tmp_path: Path) -> None:
    write(tmp_path / "results", "moco", 0, 0.6, summary={"parameters": 94_000})
    write(tmp_path / "results", "adco", 0, 0.7, summary={"parameters": 5_390_000, "encoder_replaced": True})
    told = "The encoder of adco is not the study's, since its method made another (5,390,000 trainable parameters, "
    assert f"{told}where other rows have 94,000)." in said(build(tmp_path / "results"))


def test_an_encoder_with_constant_features_is_named(tmp_path: Path) -> None:
    write(tmp_path / "results", "moco", 0, 0.6)
    write(tmp_path / "results", "byol", 0, 0.1, summary={"constant_features": True})
    told = said(build(tmp_path / "results"))
    assert "In 1 run of byol the encoder gives all images the same features" in told and "run of moco" not in told


ODD: Sequence[tuple[str, str]] = (
    (
        "schedule.warmup_epochs=10",
        "the warm-up of 10 epochs (schedule.warmup_epochs) does not end within the run of 4 ep",
    ),
    ("method.num_negatives=45000", "method.num_negatives is 45,000, not less than the 45,000 training images"),
)


@pytest.mark.parametrize(("setting", "sentence"), ODD)
def test_odd_settings_are_named(setting: str, sentence: str, tmp_path: Path) -> None:
    write(tmp_path / "results", "moco", 0, 0.6, setting)
    assert f"moco: {sentence}" in said(build(tmp_path / "results"))


def test_a_schedule_that_a_resume_stretched_is_named(tmp_path: Path) -> None:
    run = write(tmp_path / "results", "moco", 0, 0.6)
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    lines = [row | {"step": row["step"] + 4 * max(0, row["epoch"] - 2)} for row in lines]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in lines))
    assert "moco: epochs had 7, 8.33333 and 9 steps, since the run was resumed with another" in said(
        build(tmp_path / "results")
    )
