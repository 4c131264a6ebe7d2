"""Where the rows of a run go: the console, the run's records, and loggers of other packages."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from negbench.launch.smoke import smoke
from negbench.records.run_folder import RunFolder
from negbench.runtime.distributed import rank
from negbench.runtime.errors import UserError
from negbench.runtime.failure import Interrupted, StorageError
from negbench.settings.plugins import find
from negbench.settings.resolve import restore
from negbench.train.loggers.base import LoggedRun, Logger, Loggers, Row
from negbench.train.loggers.console import Plain
from tests.helpers import runs
from tests.helpers.ranks import on_ranks

TOY = """
import json
from negbench.runtime.distributed import rank
from negbench.train.loggers.base import Logger

class Toy(Logger):
    def start(self, run):
        self.file = open(run.folder / f"toy-{rank()}.jsonl", "a")
        self.row({"start": run.run_id, "first_step": run.first_step, "of": run.num_steps, "epochs": run.config.epochs})

    def row(self, row):
        self.file.write(json.dumps(row) + "\\n")

    def close(self):
        self.row({"closed": True})
        self.file.close()

build = Toy
"""
FAILS = """
from negbench.train.loggers.base import Logger

class Failing(Logger):
    def row(self, row):
        raise OSError("the server is gone")

    def close(self):
        raise AssertionError("it was left out")

build = Failing
"""
FEW = ("batch_norm=process", "epochs=2", "evaluation.test=false")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that offers loggers by entry points."""
    root = tmp_path / "site"
    points = {"toy": "toy_logger", "failing": "failing_logger", "empty": "empty_logger"}
    points |= {"broken": "broken_logger", "missing": "no_such_module"}
    (root / "toy-1.0.dist-info").mkdir(parents=True)
    (root / "toy-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    lines = [f"{name} = {module}" for name, module in points.items()]
    (root / "toy-1.0.dist-info" / "entry_points.txt").write_text("\n".join(["[negbench.loggers]", *lines, ""]))
    broken = "import no_such_client\n"
    for name, code in zip(points.values(), (TOY, FAILS, "", broken), strict=False):
        (root / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(root)
    find._found.cache_clear()
    yield root
    find._found.cache_clear()


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("package")
def test_a_logger_of_another_package_receives_the_rows_of_the_records(tmp_path: Path) -> None:
    """And those that a resumed run makes again, after a start that names the checkpoint's step."""
    resolved = runs.short("simclr", *FEW, "loggers=toy")
    assert resolved.run_id == runs.short("simclr", *FEW).run_id
    with pytest.raises(Interrupted):
        runs.start(resolved, tmp_path, runs.StopAt(2))
    run = runs.folder(resolved, tmp_path)
    before = run.read_metrics()
    runs.start(resolved, tmp_path)
    start = {"start": resolved.run_id, "first_step": 0, "of": 8, "epochs": 2}
    after = run.read_metrics()[len(before) :]
    closed = {"closed": True}
    assert lines_of(run.path / "toy-0.jsonl") == [start, *before, closed, start | {"first_step": 2}, *after, closed]
    assert [row["step"] for row in before if row["kind"] == "train"] == [2]
    assert [row["step"] for row in after if row["kind"] == "train"] == [4, 6, 8]
    assert restore(run.path).config.loggers == ("toy",)


def run_with_toy(output: str) -> int:
    runs.start(runs.short("simclr", *FEW, "loggers=[toy]"), Path(output))
    return rank()


@pytest.mark.usefixtures("package")
def test_the_first_rank_alone_has_loggers(tmp_path: Path) -> None:
    assert on_ranks(2, run_with_toy, str(tmp_path)) == [0, 1]
    (written,) = tmp_path.glob("*/toy-*.jsonl")
    assert written.name == "toy-0.jsonl"


@pytest.mark.usefixtures("package")
def test_a_logger_that_fails_is_noted_once_and_left_out(tmp_path: Path) -> None:
    resolved, notes = runs.short("simclr", *FEW, "loggers=[failing,toy]"), runs.Notes()
    summary = runs.start(resolved, tmp_path, notes)
    assert [text for text in notes.texts if "failing" in text] == [
        "logger failing has failed and is left out from here on (OSError: the server is gone)"
    ]
    run = runs.folder(resolved, tmp_path)
    assert summary["status"] == "done"
    assert lines_of(run.path / "toy-0.jsonl")[1:-1] == run.read_metrics()


def test_records_that_cannot_be_written_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: RunFolder, row: Row) -> None:
        raise StorageError("cannot write metrics.jsonl")

    monkeypatch.setattr(RunFolder, "append", fail)
    resolved = runs.short("simclr", *FEW)
    with pytest.raises(StorageError):
        runs.start(resolved, tmp_path)
    assert runs.folder(resolved, tmp_path).read_summary()["error"] == "cannot write metrics.jsonl"


@pytest.mark.usefixtures("package")
def test_a_logger_that_cannot_be_had_is_the_users_mistake(tmp_path: Path) -> None:
    assert find.list_plugins(find.LOGGER).keys() >= {"toy", "failing", "empty", "broken"}
    with pytest.raises(UserError, match=r"unknown logger 'tox', did you mean 'toy'\?; known: .*toy"):
        runs.short("simclr", "loggers=tox")
    with pytest.raises(UserError, match="logger 'missing' of the package toy cannot be used: there is no module"):
        runs.short("simclr", "loggers=missing")
    for name, sentence in (
        ("empty", "logger file .*empty_logger.py lacks build"),
        ("broken", "logger 'broken' of the package toy cannot be used: No module named 'no_such_client'"),
    ):
        resolved = runs.short("simclr", *FEW, f"loggers={name}")
        with pytest.raises(UserError, match=sentence):
            runs.start(resolved, tmp_path)
        assert not runs.folder(resolved, tmp_path).path.exists()


def test_without_any_logger_to_name_the_sentence_says_so() -> None:
    with pytest.raises(UserError, match=r"unknown logger 'toy'; known: none"):
        runs.short("simclr", "loggers=toy")


@pytest.mark.usefixtures("package")
def test_a_smoke_test_gives_its_rows_to_no_logger_of_the_settings(tmp_path: Path) -> None:
    notes = runs.Notes()
    smoke(runs.short("simclr", *FEW, "loggers=failing"), tmp_path, runs.CPU, [notes])
    assert not any("failing" in text for text in notes.texts)


def row(kind: str, step: int, epoch: float, **figures: Any) -> Row:
    return {"kind": kind, "step": step, "epoch": epoch} | figures


def test_the_line_of_an_epoch_has_the_figures_of_its_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    config = runs.short("simclr", "epochs=3").config
    lines = Loggers([Plain()])
    run = LoggedRun("run", Path("folder"), config, num_steps=12, first_step=0, evaluated_steps=frozenset({8, 12}))
    lines.note("resumed")
    lines.start(run)
    shown = ["resumed", "run: 12 steps of 16 images, in folder"]
    lines.row(row("train", 2, 0.5, loss=3.0, images_per_second=None))
    lines.row(row("epoch", 4, 1, loss=2.0, images_per_second=1234.5))
    shown.append("epoch 1/3  step 4/12  loss 2.000  1,234 images/s  0 s left")
    assert capsys.readouterr().err.splitlines() == shown
    lines.row(row("epoch", 8, 2, loss=1.0))
    lines.row(row("evaluation", 8, 2, knn_top1=0.25, knn200_top1=0.5))
    lines.row(row("diagnostics", 8, 2, loss=7.0))
    lines.row(row("knn-lightly", 8, 2, test_top1=0.75))
    lines.row(row("train", 10, 2.5, loss=0.5))
    shown = ["epoch 2/3  step 8/12  loss 1.000  1,234 images/s  kNN 0.250  test top-1 0.750  0 s left"]
    assert capsys.readouterr().err.splitlines() == shown
    lines.row(row("epoch", 12, 3, loss=0.25))
    lines.row(row("evaluation", 12, 3, knn_top1=1.0))
    lines.close()
    lines.close()
    shown = ["epoch 3/3  step 12/12  loss 0.250  1,234 images/s  kNN 1.000  test top-1 0.750"]
    assert capsys.readouterr().err.splitlines() == shown


def test_an_error_of_the_console_is_no_secret() -> None:
    class Broken(Logger):
        def note(self, text: str) -> None:
            raise KeyError(text)

    with pytest.raises(KeyError, match="resumed"):
        Loggers([Broken()]).note("resumed")
