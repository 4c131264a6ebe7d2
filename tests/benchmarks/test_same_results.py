"""`benchmarks.same_results` finds every change of a result, and passes over times and texts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import same_results
from benchmarks.same_results import Found, compare

ROWS = [{"kind": "train", "step": step, "loss": 3 / step, "step_seconds": 0.1} for step in (1, 2)]
STATE = {
    "step": 2,
    "seconds": {"train": 0.2},
    "method": {"weight": torch.ones(2, 3), "count": torch.tensor(4), "column": torch.ones(4, 8)[:, :1]},
}
SUMMARY = {"run_id": "same-moco-s0-12345678", "knn_top1": 0.5, "train_seconds": 1.0, "label": "moco"}
MANIFEST = {"findings": {"Which is best?": "moco, by 1 point."}, "tables": {"cost": [{"row": "moco", "mean": 0.25}]}}
CELLS = "row,metric,mean,train_seconds\nmoco,knn_top1,0.5,7.5\n"
PAGE = "| row | mean |\n|---|---|\n| `moco` | 50.0% |\n\nMeans of 3 seeds.\n"


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal trees."""
    return _tree(tmp_path / "old"), _tree(tmp_path / "new")


def _tree(folder: Path) -> Path:
    run, report = folder / "runs" / "same-moco-s0-12345678", folder / "reports" / "quickstart"
    for made in (run / "checkpoints", report / "tables"):
        made.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    (run / "run.lock").write_text("")
    torch.save(STATE, run / "checkpoints" / "step-00000002.pt")
    (report / "report.json").write_text(json.dumps(MANIFEST))
    (report / "tables" / "accuracy.csv").write_text(CELLS)
    (report / "tables" / "accuracy.md").write_text(PAGE)
    (report / "index.html").write_text("<p>Which is best?</p>")
    return folder


def replace(folder: Path, name: str, old: str, new: str) -> None:
    (path,) = folder.rglob(name)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_equal_trees(trees: tuple[Path, Path]) -> None:
    found = compare(*trees)
    assert found.differences == [] and found.texts == {}
    assert (found.counts["runs"], found.counts["rows of metrics"], found.counts["tensors"]) == (1, 2, 3)


def test_times_and_texts_may_differ(trees: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = trees
    replace(new, "metrics.jsonl", "0.1", "0.7")
    replace(new, "summary.json", '"train_seconds": 1.0', '"train_seconds": 2.0')
    replace(new, "summary.json", '"label": "moco"', '"label": "MoCo"')
    replace(new, "report.json", "Which is best?", "Which source is best?")
    replace(new, "accuracy.md", "Means of 3 seeds.", "Means over 3 seeds.")
    replace(new, "index.html", "Which", "What")
    (checkpoint,) = new.rglob("*.pt")
    torch.save({**STATE, "seconds": {"train": 9.0}}, checkpoint)
    found = compare(old, new)
    assert found.differences == [] and len(found.texts) == 4
    found.show()
    shown = capsys.readouterr().out
    assert "'Which is best?' -> 'Which source is best?'" in shown and shown.endswith("nothing differs\n")


def _tensor(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (checkpoint,) = folder.rglob("*.pt")
        state = torch.load(checkpoint, weights_only=True)
        change(state["method"])
        torch.save(state, checkpoint)

    return apply


def _text(name: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: replace(folder, name, old, new)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_text("metrics.jsonl", "1.5", "1.5000000000000002"), "metrics.jsonl: 1.loss: 1.5 -> 1.5000000000000002"),
        (_text("metrics.jsonl", '"step": 1', '"step": 1.0'), "metrics.jsonl: 0.step: 1 -> 1.0"),
        (_text("metrics.jsonl", ', "step_seconds": 0.1', ""), "metrics.jsonl: 0.step_seconds is missing"),
        (_text("summary.json", '"knn_top1"', '"knn_top_1"'), "summary.json: knn_top1 is missing"),
        (_text("summary.json", '"knn_top1"', '"knn_top_1"'), "summary.json: knn_top_1 is new"),
        (_text("summary.json", "12345678", "12345679"), "'same-moco-s0-12345678' -> 'same-moco-s0-12345679'"),
        (_tensor(lambda state: state["weight"][1, 2].add_(1e-7)), "1 of 6 elements, 1.0 -> 1.00000011920"),
        (_tensor(lambda state: state.update(weight=state["weight"].double())), "torch.float32 [2, 3] -> torch.float64"),
        (_tensor(lambda state: state.update(count=torch.tensor(5))), "method.count: 1 of 1 elements, 4 -> 5"),
        (_tensor(lambda state: state.pop("count")), "method.count is missing"),
        (_text("accuracy.csv", ",7.5", ",7.25"), "accuracy.csv: 0.train_seconds: 7.5 -> 7.25"),  # of the same records
        (_text("accuracy.csv", ",0.5", ",0.25"), "accuracy.csv: 0.mean: 0.5 -> 0.25"),
        (_text("accuracy.csv", "row,", "name,"), "accuracy.csv: 0.row is missing"),
        (_text("accuracy.md", "50.0%", "50.1%"), "accuracy.md: 2.1: '50.0' -> '50.1'"),
        (_text("report.json", "0.25", "0.5"), "report.json: tables.cost.0.mean: 0.25 -> 0.5"),
        (lambda folder: next(folder.rglob("summary.json")).unlink(), "summary.json: is missing"),
        (lambda folder: (folder / "runs" / "more.json").write_text("{}"), "runs/more.json: is new"),
    ],
)
def test_a_changed_result_is_found(trees: tuple[Path, Path], change: Callable[[Path], None], told: str) -> None:
    change(trees[1])
    found = compare(*trees)
    assert any(told in line for line in found.differences), found.differences


def test_of_many_differences_in_a_file_the_first_are_told(tmp_path: Path) -> None:
    for name, first in (("old", 0), ("new", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "many.json").write_text(json.dumps(list(range(first, first + 9))))
    assert compare(tmp_path / "old", tmp_path / "new").differences[-1] == "many.json: and 4 more"


def test_nan_equals_itself_and_zeros_have_signs(tmp_path: Path) -> None:
    values = {"old": [float("nan"), 0.0], "new": [float("nan"), -0.0]}
    for name, content in values.items():
        (tmp_path / name).mkdir()
        torch.save(torch.tensor(content), tmp_path / name / "a.pt")
        (tmp_path / name / "a.json").write_text(json.dumps(content))
    told = compare(tmp_path / "old", tmp_path / "new").differences
    assert len(told) == 2 and all("0.0 -> -0.0" in line for line in told)


def test_a_renamed_key(trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    replace(trees[1], "summary.json", "knn_top1", "knn20_top1")
    replace(trees[1], "accuracy.csv", "mean", "average")
    names = {"summary.json:knn_top1": "knn20_top1", "accuracy.csv:mean": "average"}
    monkeypatch.setattr(same_results, "RENAMED", names)
    assert compare(*trees).differences == []


def test_a_key_may_be_added_to_one_file_alone(trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_results, "ADDED", {"summary.json": {"ending"}})
    for name in ("summary.json", "report.json"):
        (path,) = trees[1].rglob(name)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"ending": {"kind": "done", "code": 0}}))
    assert [line.partition(":")[2] for line in compare(*trees).differences] == [
        " ending.kind is new",
        " ending.code is new",
    ]
    assert all("report.json" in line for line in compare(*trees).differences)
    assert any("ending.kind is missing" in line for line in compare(*reversed(trees)).differences)


def test_what_a_bench_measures_is_compared_by_key(tmp_path: Path) -> None:
    for name, content in (("old", {"ms": 1.0}), ("new", {"ms": 2.0, "us": 3})):
        (tmp_path / name / "bench").mkdir(parents=True)
        (tmp_path / name / "bench" / "bench.json").write_text(json.dumps(content))
    found: Found = compare(tmp_path / "old", tmp_path / "new")
    assert found.differences == ["bench/bench.json: us is new"]
