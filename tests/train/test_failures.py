"""Failures before, in and beside a run, and what is recorded of them."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from negbench.evaluate.protocols import linear
from negbench.evaluate.subject import Subject
from negbench.launch.here import run_here
from negbench.launch.smoke import smoke
from negbench.launch.sweep.missing import missing
from negbench.records.run_folder import RunFolder
from negbench.records.status import find_runs, status_of
from negbench.report.read.runs import find, load
from negbench.runtime import failure
from negbench.runtime.errors import UserError
from negbench.settings.grid import Planned
from negbench.settings.resolve import Resolved
from negbench.train.monitor import Monitor
from negbench.train.stopping import Stopping, signals
from tests.helpers import runs
from tests.helpers.processes import ARGUMENTS, finished
from tests.helpers.ranks import on_ranks

NO_BUILD = '''"""A method that one rank cannot build."""
import os
from negbench.methods import moco

Config = moco.Config

def build(config, encoder, facts):
    if os.environ.get("RANK", "1") == "1":
        raise KeyError("not built")
    return moco.build(config, encoder, facts)
'''


@pytest.fixture
def unbuildable(tmp_path: Path) -> Resolved:
    (tmp_path / "faulty.py").write_text(NO_BUILD)
    return runs.short(str(tmp_path / "faulty.py"))


def test_what_fails_before_the_first_write_is_recorded_where_there_is_a_folder(
    unbuildable: Resolved, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with pytest.raises(KeyError):
        run_here(unbuildable, output, "cpu", quiet=True)
    assert not output.exists()
    path = output / unbuildable.run_id
    for with_smoke in (False, True):
        path.mkdir(parents=True)
        (path / "run.log").touch()
        with pytest.raises(KeyError):
            run_here(unbuildable, output, "cpu", quiet=True, smoke=with_smoke)
        assert find_runs(output) == [path]
        run = status_of(path, {})
        assert (run.state, run.detail) == ("failed", "KeyError: 'not built'")
        assert (run.study, run.method, run.seed) == ("quickstart", "faulty", 0)
        assert run.changed == unbuildable.changed
        planned = [Planned(unbuildable, "", "", ())]
        assert missing(planned, output, retry_failed=False) == ([], {"failed": 1})
        assert missing(planned, output, retry_failed=True)[0] == planned
        (read,) = load(find([], output))
        assert (read.state, read.study, read.seed) == ("failed", "quickstart", 0)
        assert {entry.name for entry in path.iterdir()} == {"run.log", "summary.json"}
        shutil.rmtree(output)


def test_a_failure_on_another_rank_before_the_first_write_is_recorded(unbuildable: Resolved, tmp_path: Path) -> None:
    path = tmp_path / "out" / unbuildable.run_id
    path.mkdir(parents=True)
    method = str(unbuildable.method_file.path)
    out = ["--output", str(path.parent), "--device", "cpu"]
    two = ["--processes-per-node", "2"]
    code, _, err = finished("run", "--method", method, *two, *out, *ARGUMENTS)
    assert code == 1 and "rank 1" in err
    summary = RunFolder(path).read_summary()
    assert summary["error"] == "KeyError: 'not built'"
    assert summary["ending"] == {"kind": "defect", "code": 1, "signal": None}


FAILS_LATER = """
class Faulty(moco.Method):
    def after_step(self, output, step):
        if step == 12 and os.environ.get("RANK", "1") == "1":
            raise KeyError("in the second half")
        super().after_step(output, step)

def build(config, encoder, facts):
    queue = moco.Queue(config.num_negatives, facts.dim, facts.seed)
    return Faulty(encoder, facts.pairs(config.symmetric), [queue], config.temperature, config.momentum(facts.num_steps))
"""


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_smoke_test_that_fails_leaves_its_error_alone(num_ranks: int, tmp_path: Path) -> None:
    method = tmp_path / "faulty.py"
    method.write_text(NO_BUILD + FAILS_LATER)
    settings = ["epochs=6", "checkpoint_every_min=0.001"]
    resolved = runs.short(str(method), *settings)
    path = tmp_path / "out" / resolved.run_id
    path.mkdir(parents=True)
    arguments = ["--method", str(method), "--output", str(path.parent), "--device", "cpu", *ARGUMENTS]
    arguments += ["--processes-per-node", str(num_ranks), *(part for text in settings for part in ("--set", text))]
    code, _, err = finished("run", "--smoke", *arguments)
    assert code == 1 and "in the second half" in err
    assert [entry.name for entry in path.iterdir()] == ["summary.json"]
    assert RunFolder(path).read_summary()["error"] == "KeyError: 'in the second half'"


@pytest.mark.parametrize("validation", ["data.validation=0", "data.validation=0.1"])
def test_a_smoke_test_evaluates_as_the_end_of_the_run_does(
    validation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(subject: Subject) -> None:
        raise KeyError(f"{len(subject.features('train').labels_N)} training images")

    monkeypatch.setattr(linear, "evaluate", fail)
    resolved = runs.short("simclr", validation, "data.num_images=600", "epochs=20")
    with pytest.raises(KeyError, match="512 training images"):
        smoke(resolved, tmp_path, runs.CPU)


def test_a_smoke_test_of_a_run_without_a_test_makes_none(tmp_path: Path) -> None:
    notes = runs.Notes()
    smoke(runs.short("simclr", "evaluation.test=false"), tmp_path, runs.CPU, [notes])
    assert "smoke test passed" in notes.texts[-1]


def test_a_failure_does_not_touch_a_run_that_is_done_or_held_by_another_process(tmp_path: Path) -> None:
    resolved = runs.short()
    folder = runs.folder(resolved, tmp_path)
    folder.open()
    with pytest.raises(ValueError, match="in use by process"):
        run_here(resolved, tmp_path, "cpu", quiet=True)
    assert not folder.summary.exists()
    folder.close()
    folder.done.touch()
    with pytest.raises(ValueError, match="is damaged"):
        run_here(resolved, tmp_path, "cpu", quiet=True)
    assert not folder.summary.exists()


def test_a_stall_is_told_with_its_stack(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path / "stalled", shortest_stall_s=0.2, poll_s=0.05)
    with monitor.running():
        for _ in range(30):
            monitor.step_done()
        with monitor.paused():
            time.sleep(0.5)  # more than would be a stall
        assert not (tmp_path / "stalled").exists()
        end = time.monotonic() + 20
        while not (tmp_path / "stalled").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "no step since" in (tmp_path / "stalled").read_text()
        monitor.shortest_stall_s = 60
        while (tmp_path / "stalled").exists():
            assert time.monotonic() < end
            monitor.step_done()
            time.sleep(0.05)
    assert "test_a_stall_is_told_with_its_stack" in capfd.readouterr().err


def told_to_end_while_it_fails() -> str:
    with pytest.raises(KeyError), signals(Stopping(10, print)):
        raise KeyError("a rank is gone")
    os.kill(os.getpid(), signal.SIGTERM)
    return "says why it ends"


def test_a_launcher_that_has_lost_a_rank_does_not_silence_the_others() -> None:
    assert on_ranks(2, told_to_end_while_it_fails) == ["says why it ends"] * 2


def test_endings() -> None:
    for error, code in (
        (failure.Interrupted(signal.SIGTERM), 143),
        (failure.Interrupted(signal.SIGUSR2), 75),
        (KeyboardInterrupt(), 130),
        (SystemExit(3), 3),
        (UserError("x"), 2),
        (ValueError("x"), 1),
        (failure.StorageError("x"), 1),
        (FloatingPointError("x"), 1),
        (RuntimeError("[pair.cc] gloo: Connection closed by peer"), 75),
        (KeyError("x"), 1),
    ):
        assert failure.ending_of(error).code == code
    assert failure.ending_of(KeyError("x")).reason == "KeyError: 'x'"


def test_an_earlier_incarnation_of_a_slurm_job_loses_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that Slurm has given up may still write: its job, requeued elsewhere, takes the run from it."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    old = RunFolder(tmp_path / "run")
    old.open()
    with pytest.raises(ValueError, match="in use by process"):
        RunFolder(tmp_path / "run").open()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    new = RunFolder(tmp_path / "run")
    new.open()
    new.append({"kind": "train", "step": 1})
    assert new.attempt == old.attempt + 1 and not old.is_ours()
    with pytest.raises(RuntimeError, match="was taken over by attempt 2"):
        old.append({"kind": "train", "step": 2})
    assert [row["step"] for row in new.read_metrics()] == [1]
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    with pytest.raises(ValueError, match="in use by process"):
        RunFolder(tmp_path / "run").open()
    new.close()
    old.close()
