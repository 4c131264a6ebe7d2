"""Runs that are stopped at an awkward moment, and what of a run is the first rank's alone."""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import negbench
from negbench.evaluate.curve import PeriodicEvaluation
from negbench.evaluate.source import run_source
from negbench.records.checks.same import check_code, check_data
from negbench.records.run import checkpoint
from negbench.records.run_folder import RunFolder
from negbench.runtime.distributed import rank
from negbench.runtime.errors import UserError
from negbench.runtime.failure import Interrupted
from negbench.settings.plugins.find import find_method
from negbench.settings.resolve import Resolved
from negbench.train import run, trainer
from negbench.train.loggers.base import Loggers
from negbench.train.run import execute
from negbench.train.setup import set_up
from negbench.train.stopping import NOTHING, SAVE, Kind, RankAgreement, Stop
from tests.helpers import runs
from tests.helpers.ranks import on_ranks

LEAN = ("batch_norm=process", "epochs=1", "evaluate_every_epochs=0", "evaluation.test=false")


def assert_a_stop_after(step: int, resolved: Resolved, folder: Path) -> checkpoint.State:
    """Changes nothing of the run's outcome. Returns the state at the stop."""
    runs.start(resolved, folder / "undisturbed")
    with pytest.raises(Interrupted):
        execute(resolved, folder, runs.CPU, stop_after=step)
    run = runs.folder(resolved, folder)
    state = checkpoint.load(checkpoint.find(run.checkpoints)[0])
    assert state["step"] == step
    runs.start(resolved, folder)
    runs.assert_same(runs.outcome(run), runs.outcome(runs.folder(resolved, folder / "undisturbed")))
    return state


def test_the_means_of_a_log_count_the_steps_before_a_stop(tmp_path: Path) -> None:
    state = assert_a_stop_after(3, runs.short("simclr", *LEAN, "log_every_steps=4"), tmp_path)
    assert state["step_meter"]["count"] == state["epoch_meter"]["count"] == 3


def test_a_checkpoint_of_the_version_before_resumes_bitwise(tmp_path: Path) -> None:
    resolved = runs.short("simclr", *LEAN)
    runs.start(resolved, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        execute(resolved, tmp_path, runs.CPU, stop_after=2)
    run = runs.folder(resolved, tmp_path)
    (path,) = checkpoint.find(run.checkpoints)
    old = torch.load(path, weights_only=True)
    assert (old.pop("version"), old.pop("negbench_version")) == (3, negbench.__version__)
    for name in ("world_sizes", "curve", "run_id", "metrics_sha256"):  # which the first ones lacked
        del old[name]
    torch.save(old, path)
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    runs.start(resolved, tmp_path)
    runs.assert_same(runs.outcome(run), runs.outcome(runs.folder(resolved, tmp_path / "undisturbed")))


def test_the_scale_of_the_loss_survives_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = torch.amp.GradScaler
    on_a_cpu_too = lambda device, enabled: scaler(device, init_scale=2.0, growth_interval=2)  # noqa: E731
    monkeypatch.setattr(torch.amp, "GradScaler", on_a_cpu_too)
    state = assert_a_stop_after(3, runs.short("simclr", *LEAN), tmp_path)
    assert (state["scaler"]["scale"], state["scaler"]["_growth_tracker"]) == (4.0, 1)


def test_a_signal_in_an_evaluation_ends_it_at_once_where_there_is_nothing_to_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = runs.short("simclr", "batch_norm=process")
    went_on: list[int] = []

    def rows(evaluation: PeriodicEvaluation, step: int) -> dict[str, dict[str, Any]]:
        os.kill(os.getpid(), signal.SIGTERM)
        went_on.append(step)
        return {}

    monkeypatch.setattr(PeriodicEvaluation, "rows", rows)
    with pytest.raises(Interrupted):
        runs.start(resolved, tmp_path)
    assert went_on == []
    assert checkpoint.find(runs.folder(resolved, tmp_path).checkpoints) == []


def test_a_run_that_was_stopped_in_its_test_repeats_no_evaluation_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    resolved = runs.short("simclr", "batch_norm=process", "epochs=1")
    monkeypatch.setattr(run, "evaluate_on_test", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            runs.start(resolved, tmp_path)
    rows = runs.folder(resolved, tmp_path).read_metrics()
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == [0, 4]


def test_a_request_to_stop_wins_over_one_to_save_and_is_posted_as_one_number() -> None:
    assert on_ranks(2, agreed_on) == [[SAVE, Stop(Kind.STOP, signal.SIGTERM), Stop(Kind.STOP)]] * 2


def agreed_on() -> list[Stop]:
    requests = [(NOTHING, SAVE), (Stop(Kind.STOP, signal.SIGTERM), SAVE), (NOTHING, Stop(Kind.STOP))]
    return [RankAgreement().at_the_end(of_ranks[rank()]) for of_ranks in requests]


def test_what_was_trained_after_the_last_checkpoint_counts_as_lost(tmp_path: Path) -> None:
    resolved = runs.short("simclr", *LEAN)
    with pytest.raises(Interrupted):
        execute(resolved, tmp_path, runs.CPU, stop_after=2)
    folder = runs.folder(resolved, tmp_path)
    spent = checkpoint.load(checkpoint.find(folder.checkpoints)[0])["seconds"]["train"]
    with open(folder.metrics, "a") as file:
        for further in (8.0, 16.0):
            file.write(json.dumps({"kind": "train", "step": 3, "train_seconds": spent + further}) + "\n")
    assert runs.start(resolved, tmp_path)["lost_seconds"] == pytest.approx(16)


def test_a_checkpoint_has_the_statistics_that_the_first_rank_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(statistics: list[torch.Tensor]) -> None:
        for statistic in statistics:
            statistic.fill_(7)

    monkeypatch.setattr(trainer, "broadcast", sent)
    resolved = runs.short("simclr", *LEAN)
    runs.start(resolved, tmp_path)
    state = checkpoint.load(checkpoint.find(runs.folder(resolved, tmp_path).checkpoints)[0])["method"]
    sevens = {name for name, value in state.items() if value.is_floating_point() and (value == 7).all()}
    assert sevens == {name for name in state if name.endswith(("running_mean", "running_var"))} != set()


def test_the_first_rank_alone_marks_a_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = runs.short("simclr", *LEAN)
    folder = runs.folder(resolved, tmp_path)
    for number, mark in ((0, folder.path / "stalled"), (1, None)):
        monkeypatch.setattr(trainer, "rank", lambda number=number: number)
        assert run._trainer(set_up(resolved, runs.CPU), folder, Loggers()).monitor.mark == mark


def stopped(resolved: Resolved, output: Path, step: int = 2) -> RunFolder:
    """A run that was stopped at a step."""
    with pytest.raises(Interrupted):
        execute(resolved, output, runs.CPU, stop_after=step)
    return runs.folder(resolved, output)


def rewrite(path: Path, changes: dict[str, Any], *removed: str) -> None:
    """Change the state in a checkpoint, as another version or another run would have written it."""
    state = torch.load(path, weights_only=True) | changes
    for name in removed:
        del state[name]
    torch.save(state, path)
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def test_a_queue_that_remembers_images_that_are_gone_is_refused(tmp_path: Path) -> None:
    """As where a run of a version without data.json resumes on fewer images."""
    resolved = runs.short("moco", *LEAN)
    folder = stopped(resolved, tmp_path)
    (path, *_) = checkpoint.find(folder.checkpoints)
    method = checkpoint.load(path)["method"]
    (name,) = [name for name in method if name.endswith("index_K")]
    method[name][0] = 10**6
    rewrite(path, {"method": method})
    with pytest.raises(UserError, match="remembers image number 1,000,001, and there are"):
        runs.start(resolved, tmp_path)


@pytest.mark.parametrize(
    ("damage", "with_digest", "without_digest"),
    [
        (lambda rows: None, "it has 0 bytes and not the ", "it has 0 bytes and not the "),
        (lambda rows: b"", "it has 0 bytes and not the ", "it has 0 bytes and not the "),
        (lambda rows: rows[:-40], "bytes and not the ", "bytes and not the "),
        (lambda rows: rows[:60] + bytes(40) + rows[100:], "its rows were changed", "line 1 is cut or damaged"),
        (lambda rows: rows + rows[:-20], None, None),
        (lambda rows: rows[30:] + rows, "its rows were changed", "line 1 is cut or damaged"),
        (lambda rows: rows.replace(b'"step": 2', b'"step": 1'), "its rows were changed", None),
        (lambda rows: rows.replace(b'"kind"', b'"kin1"'), "its rows were changed", "line 1: kind: Field required"),
    ],
    ids=["deleted", "emptied", "cut", "zeros", "a cut row after", "other rows before", "edited", "no rows"],
)
def test_a_run_resumes_where_the_rows_before_are_whole_alone(
    damage: Callable[[bytes], bytes | None],
    with_digest: str | None,
    without_digest: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = stopped(runs.short("simclr", *LEAN, "log_every_steps=1"), tmp_path)
    state = checkpoint.load(checkpoint.find(folder.checkpoints)[0])
    content = damage(folder.metrics.read_bytes())
    folder.metrics.unlink() if content is None else folder.metrics.write_bytes(content)
    for digest, reason in ((state["metrics_sha256"], with_digest), (None, without_digest)):
        if reason is None:
            folder.check_metrics(state["metrics_bytes"], digest)
            continue
        with pytest.raises(UserError, match=f"{folder.metrics} is not as the newest .*: .*{reason}.*; put the file"):
            folder.check_metrics(state["metrics_bytes"], digest)


def test_a_run_whose_rows_are_lost_is_refused_before_it_trains(tmp_path: Path) -> None:
    resolved = runs.short("simclr", *LEAN)
    folder = stopped(resolved, tmp_path)
    folder.metrics.write_text("")
    with pytest.raises(UserError, match="put the file back, or start the run again with --fresh"):
        runs.start(resolved, tmp_path)
    assert not folder.done.exists() and checkpoint.load(checkpoint.find(folder.checkpoints)[0])["step"] == 2


def test_a_pipe_in_place_of_the_rows_is_not_waited_for(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    os.mkfifo(folder.metrics)
    assert folder.read_metrics() == []
    with pytest.raises(UserError, match="it has 0 bytes and not the 5 that there were"):
        folder.check_metrics(5, None)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    resolved, other = runs.short("simclr", *LEAN), runs.short("simclr", *LEAN, "seed=5")
    folder, of_other = stopped(resolved, tmp_path), stopped(other, tmp_path)
    shutil.rmtree(folder.checkpoints)
    shutil.copytree(of_other.checkpoints, folder.checkpoints)
    (path,) = checkpoint.find(folder.checkpoints)
    for use in (lambda: runs.start(resolved, tmp_path), lambda: run_source(folder.path)):
        with pytest.raises(UserError) as error:
            use()
        assert f"checkpoint {path} is of another run, {of_other.path.name}" in str(error.value)
    late = path.rename(path.with_name("step-00000009.pt"))
    rewrite(late, {"version": 2, "step": 9}, "run_id", "metrics_sha256")
    with pytest.raises(UserError, match="is of step 9, and the run ends at step 4, so it is of another run"):
        runs.start(resolved, tmp_path)


@pytest.mark.parametrize("content", ["null", "5", "[1]", '{"attempt": "x", "attempts": 5}', ""])
def test_a_run_resumes_beside_records_that_it_writes_anew(content: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for name in ("run.lock", "environment.json", "job.json"):
        (tmp_path / name).write_text(content)
    folder.open()
    assert folder.is_ours() and folder.attempt == 1 and "attempts" not in folder.read_environment()
    folder.close()


def test_what_a_run_was_made_of_is_compared_or_refused(tmp_path: Path) -> None:
    folder, method = RunFolder(tmp_path), find_method("moco")
    check_code(folder, method)
    check_data(folder, None)
    for path, check in (
        (folder.environment, lambda note: check_code(folder, method, note=note)),
        (folder.data, lambda note: check_data(folder, None, note=note)),
    ):
        path.write_text('{"classes": 5, "method_code": 5}')
        with pytest.raises(UserError, match=f"{path} is damaged: .*; delete the file to use the run without comparing"):
            check(None)
        notes: list[str] = []
        check(notes.append)
        assert [note.partition("; ")[2] for note in notes] == ["it is written anew, and the run not compared with it"]
