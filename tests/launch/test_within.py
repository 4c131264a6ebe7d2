"""Sweeps that end in time: what is expected of a run, what is not started, and what is stopped."""

from pathlib import Path
from typing import Any

import pytest

from negbench.launch.sweep.expectation import START_SECONDS, Expectation
from negbench.records.run_folder import RunFolder
from negbench.settings.cluster import seconds_of
from negbench.settings.resolve import resolve
from tests.helpers import records
from tests.helpers.jobs import set_pace, slow_method
from tests.helpers.processes import ARGUMENTS, finished

SWEEP = ["sweep", "--device", "cpu", "--seeds", "0:3", "--methods", "moco", *ARGUMENTS]


@pytest.mark.parametrize(
    ("time", "seconds"), [("90s", 90), ("9m", 540), ("1.5h", 5400), ("2d", 172800), ("0:00:30", 30), ("0:09:30", 570)]
)
def test_seconds(time: str, seconds: float) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize("time", ["9", "9:30", "0s", "soon", "", "-3m"])
def test_seconds_that_are_none(time: str) -> None:
    with pytest.raises(ValueError, match="must look like 90s, 9m"):
        seconds_of(time)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return records.study(tmp_path)


def test_a_run_is_expected_to_take_what_the_longest_of_its_method_took(tmp_path: Path, study: Path) -> None:
    output = tmp_path / "results"
    eight_epochs = resolve("moco", str(study), ["epochs=8"])
    assert Expectation(output).seconds(eight_epochs) is None
    records.write(output, study, "adco", 0, 0.8, epoch_seconds=50)
    of_others = 8 * 50 + 12 + 4 + START_SECONDS
    assert Expectation(output).seconds(eight_epochs) == of_others
    records.write(output, study, "moco", 0, 0.8, epoch_seconds=10)
    records.write(output, study, "moco", 1, 0.8, epoch_seconds=15, summary={"eval_seconds": 2.0})
    records.write(output, study, "moco", 2, 0.8, epoch_seconds=99, state="failed", error="out of memory")
    known = Expectation(output)
    assert known.seconds(eight_epochs) == 8 * 15 + 12 + 4 + START_SECONDS
    assert known.seconds(resolve("moco", "quickstart")) is None


def test_what_this_call_took_counts_more_than_what_is_on_record(tmp_path: Path, study: Path) -> None:
    output = tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8, epoch_seconds=50)
    known = Expectation(output)
    records.write(output, study, "moco", 1, 0.8, epoch_seconds=10)
    known.learn(resolve("moco", str(study), seed=1), seconds=47)
    assert known.seconds(resolve("moco", str(study), ["epochs=8"])) == 8 * 10 + 7
    records.write(output, study, "adco", 0, 0.8, epoch_seconds=30)
    of_record = 8 * 30 + 12 + 4 + START_SECONDS
    assert Expectation(output).seconds(resolve("adco", str(study), ["epochs=8"])) == of_record
    known = Expectation(output)
    known.learn(resolve("moco", str(study), seed=1), seconds=47)
    assert known.seconds(resolve("adco", str(study), ["epochs=8"])) == of_record  # its own, if only on record


def test_a_resumed_runs_time_is_not_that_of_a_whole_one(tmp_path: Path, study: Path) -> None:
    output = tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8, epoch_seconds=10, summary={"restarts": 1})
    known = Expectation(tmp_path / "elsewhere")
    known._output = output
    known.learn(resolve("moco", str(study)), seconds=5)
    assert known.seconds(resolve("moco", str(study), ["epochs=8"])) == 8 * 10 + 12 + 4 + START_SECONDS


def test_what_is_done_of_a_run_is_not_expected_again(tmp_path: Path, study: Path) -> None:
    output = tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8, epoch_seconds=10)
    begun = records.write(output, study, "moco", 1, 0.8, state="failed", error="interrupted")
    expected = Expectation(output).seconds(resolve("moco", str(study), seed=1))
    assert expected == 4 * 10 + 12 + 4 + START_SECONDS  # without a checkpoint
    begun.checkpoints.mkdir()
    (begun.checkpoints / "step-28.pt").touch()
    rows = begun.metrics.read_text().splitlines()
    begun.metrics.write_text("\n".join(row for row in rows if '"epoch": 4' not in row) + "\n")
    assert Expectation(output).seconds(resolve("moco", str(study), seed=1)) == 1 * 10 + 12 + 4 + START_SECONDS


def test_damaged_summaries_tell_nothing(tmp_path: Path, study: Path) -> None:
    output = tmp_path / "results"
    damages: list[dict[str, Any]] = [{"train_seconds": None}, {"epochs": 0}, {"eval_seconds": "?"}]
    for seed, damage in enumerate(damages):
        records.write(output, study, "moco", seed, 0.8, summary=damage)
    assert Expectation(output).seconds(resolve("moco", str(study))) is None


def test_a_run_that_would_not_end_in_time_is_not_started(tmp_path: Path, study: Path) -> None:
    output = tmp_path / "out"
    records.write(output, study, "moco", 0, 0.8, epoch_seconds=1000)
    before = {path.name for path in output.iterdir()}
    sweep = ["sweep", "--device", "cpu", "--methods", "moco", "--seeds", "0:3", "--config", str(study)]
    code, out, err = finished(*sweep, "--output", str(output), "--within", "20s")
    assert code == 124, out + err
    assert out.count("is left: it takes about 1 h 7 min") == 2 and " starts\n" not in out
    assert "without --within it starts, and can be stopped and resumed" in out
    assert "within 20s: 2 of 3 runs are left; the same command resumes" in out
    assert {path.name for path in output.iterdir()} == before


def test_what_runs_when_the_time_is_over_leaves_a_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "out"
    long = [*SWEEP, "--set", "epochs=100000", "--set", "evaluate_every_epochs=0", "--output", str(output)]
    long += ["--methods", str(slow_method("moco", tmp_path))]
    set_pace(tmp_path / "pace", 0.2)
    code, out, err = finished(*long, "--within", "12s", PACE=str(tmp_path / "pace"))
    assert code == 124, out + err
    assert out.count("starts") == 1 and "ended with exit code 143" in out
    assert "within 12s: 3 of 3 runs are left" in out
    (path,) = output.iterdir()
    run = RunFolder(path)
    assert not run.done.exists() and list(run.checkpoints.iterdir())
    assert run.read_summary()["status"] == "interrupted"


def test_jobs_have_a_limit_of_their_own(tmp_path: Path) -> None:
    code, _, err = finished(*SWEEP, "--output", str(tmp_path / "out"), "--cluster", "local", "--within", "9m")
    assert code == 2 and "--within is for runs here; a job's limit is --time" in err
    assert not (tmp_path / "out").exists()
