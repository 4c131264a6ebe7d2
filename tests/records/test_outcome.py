"""How runs ended and what their commands set: as recorded, and as earlier versions recorded it."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from negbench.records.run import earlier
from negbench.records.run.outcome import DONE, ending_in, outcome_of, recorded
from negbench.records.run_folder import RunFolder
from negbench.records.status import status_of
from negbench.report.read.runs import load
from negbench.runtime.errors import UserError
from negbench.runtime.failure import Interrupted, StorageError, ending_of

AS_BEFORE = "; the same command goes on from the checkpoint"
KINDS = [
    (UserError("batch_size is too large"), "failed", "user_error", 2, None, "batch_size is too large"),
    (KeyError("x"), "failed", "defect", 1, None, "KeyError: 'x'"),
    (MemoryError(), "failed", "out_of_memory", 1, None, "out of memory: the process could not get more"),
    (torch.OutOfMemoryError("CUDA"), "failed", "out_of_memory", 1, None, "out of memory: CUDA"),
    (FloatingPointError("the loss is not finite"), "failed", "not_finite", 1, None, "the loss is not finite"),
    (StorageError("cannot write x"), "failed", "storage", 1, None, "cannot write x"),
    (RuntimeError("gloo: closed"), "interrupted", "lost_process", 75, None, "another process of this run is gone"),
    (Interrupted(signal.SIGTERM), "interrupted", "interrupted", 143, "SIGTERM", "SIGTERM"),
    (Interrupted(0), "interrupted", "interrupted", 128, None, "interrupted by stop_after"),
    (KeyboardInterrupt(), "interrupted", "interrupted", 130, "SIGINT", "SIGINT"),
    (SystemExit(143), "interrupted", "interrupted", 143, "SIGTERM", "SIGTERM"),
    (SystemExit(1), "failed", "defect", 1, None, "exit code 1"),
    (Interrupted(signal.SIGUSR2), "interrupted", "requeued", 75, "SIGUSR2", "the job's time here is over"),
]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "quick-moco-s0-12345678"
    path.mkdir()
    return RunFolder(path)


@pytest.mark.parametrize(("error", "state", "kind", "code", "signum", "detail"), KINDS, ids=lambda value: str(value))
def test_an_ending_of_each_kind_is_recorded_and_read(
    folder: RunFolder, error: BaseException, state: str, kind: str, code: int, signum: str | None, detail: str
) -> None:
    with pytest.raises(type(error)), recorded(folder, lambda: {"seed": 3}):
        raise error
    summary = folder.read_summary()
    assert summary["ending"] == {"kind": kind, "code": code, "signal": signum}
    assert (summary["status"], summary["seed"]) == (state, 3)
    run = status_of(folder.path, {})
    assert (run.state, run.ending) == (state, kind)
    assert run.detail.startswith(detail)


def test_a_run_that_is_done_has_an_ending() -> None:
    ending = {"kind": "done", "code": 0, "signal": None}
    assert outcome_of(DONE) == {"status": "done", "error": None, "ending": ending}


@pytest.mark.parametrize("text", ["out of memory: no room for this in a sentence", "Traceback\nof a user's mistake"])
def test_how_an_error_starts_does_not_make_its_kind(
    text: str, folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError), recorded(folder, dict):
        raise UserError(text)
    run = status_of(folder.path, {})
    assert (run.state, run.ending, run.detail) == ("failed", "user_error", text.partition("\n")[0])
    (read,) = load([folder.path])
    assert (read.state, read.reason) == ("failed", text.partition("\n")[0])
    ending_of(UserError(text)).show(rank=1)
    assert capsys.readouterr().err == f"negbench: {text}\n"


@pytest.mark.parametrize(
    ("status", "error", "kind", "detail", "state"),
    [
        ("failed", "out of memory: CUDA", "out_of_memory", "out of memory: CUDA", "out of memory"),
        ("failed", "KeyError: 'x'\nmore", "", "KeyError: 'x'", "failed"),
        ("interrupted", f"interrupted by SIGINT{AS_BEFORE}", "interrupted", "SIGINT", "interrupted"),
        ("interrupted", "interrupted", "", "interrupted", "interrupted"),
        ("interrupted", "exit code 143", "", "exit code 143", "interrupted"),
        (
            "interrupted",
            "the job's time here is over; the requeued job goes on from the checkpoint",
            "requeued",
            "the job's time here is over",
            "interrupted",
        ),
        (
            "interrupted",
            "another process of this run is gone; the same command goes on (gloo; closed)",
            "lost_process",
            "another process of this run is gone",
            "interrupted",
        ),
    ],
)
def test_the_summary_of_an_earlier_version_is_read_as_before(
    folder: RunFolder, status: str, error: str, kind: str, detail: str, state: str
) -> None:
    folder.summary.write_text(json.dumps({"status": status, "error": error}))
    run = status_of(folder.path, {})
    assert (run.state, run.ending, run.detail) == (status, kind, detail)
    (read,) = load([folder.path])
    assert (read.state, read.reason) == (state, detail.removeprefix("out of memory: "))


def test_a_damaged_ending_counts_as_absent() -> None:
    assert ending_in({"status": "done", "ending": "well"}) == {"kind": "done"}
    assert ending_in({}) == {}


@pytest.mark.parametrize(
    ("summary", "changed"),
    [
        ({"changed": {"method.num_negatives": 64}, "label": "moco (num_negatives=64)"}, {"method.num_negatives": 64}),
        ({"changed": {}, "label": "moco"}, {}),
        (
            {"label": "moco (num_negatives=64, views.first.crop_scale=[0.5, 1.0], lr=0.1)"},
            {"num_negatives": "64", "views.first.crop_scale": "[0.5, 1.0]", "lr": "0.1"},
        ),
        ({"label": "moco"}, {}),
        ({}, {}),
    ],
)
def test_what_a_command_set_is_read_from_its_record_or_from_an_earlier_label(
    folder: RunFolder, summary: dict[str, Any], changed: dict[str, Any]
) -> None:
    folder.summary.write_text(json.dumps({"method": "moco"} | summary))
    run = status_of(folder.path, {})
    assert (run.method, run.changed) == ("moco", changed)


def test_what_a_command_of_an_earlier_version_set() -> None:
    command = ["negbench", "run", "--method", "moco", "--set", "views.first.hue=0.3", "--set", "epochs=2"]
    assert earlier.changed_by_command({"reproduce": command}) == {"views.first.hue": "0.3", "epochs": "2"}
    assert earlier.changed_by_command({"reproduce": ["negbench", "run"]}) == {}
    assert earlier.changed_by_command({}) is None
