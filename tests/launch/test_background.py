"""Background jobs of this machine: told to end, left alone, time limits, and how many run at once."""

import functools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from negbench.launch.jobs.background import BackgroundController
from negbench.records.files import read_json
from negbench.records.jobs import is_controller
from negbench.records.run_folder import RunFolder
from tests.helpers import processes
from tests.helpers.processes import ARGUMENTS, Command

pytestmark = pytest.mark.processes
finished = functools.partial(processes.finished, python=sys.executable)  # controllers tell themselves by number
BROKEN = '''"""BYOL that fails in its first step."""
from negbench.methods.byol import BYOL, Config, build

def fail(self, output, step):
    raise KeyError("a defect")

BYOL.after_step = fail
'''
LONG = [*ARGUMENTS, "--set", "epochs=2000", "--device", "cpu", "--cluster", "local"]


@pytest.fixture
def output(tmp_path: Path, warm_jobs: None) -> Iterator[Path]:
    """A folder for runs; what still runs there at the end is killed."""
    folder = tmp_path / "out"
    yield folder
    for path in folder.glob("*/job.json"):
        job_id = read_json(path)["job_id"]
        if is_controller(job_id):
            os.killpg(int(job_id), signal.SIGKILL)


def wait_until_trained(output: Path, count: int = 1) -> list[Path]:
    """Folders of the runs that have made a step, as soon as there are `count`."""
    end = time.monotonic() + 120
    while len(found := sorted(path for path in output.glob("*-s*") if RunFolder(path).read_metrics())) < count:
        assert time.monotonic() < end, [log.read_text() for log in output.rglob("*_log.out")]
        time.sleep(0.1)
    return found


def wait_until_over(path: Path) -> None:
    end = time.monotonic() + 60
    while is_controller(read_json(path / "job.json")["job_id"]):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_cancel_ends_the_training_behind_set_up_lines(output: Path) -> None:
    code, _, err = finished(
        "run", "--method", "moco", "--output", str(output), *LONG, "--set", "cluster.setup=[export A=1]"
    )
    assert code == 0, err
    (path,) = wait_until_trained(output)
    code, out, _ = finished("cancel", str(path))
    assert code == 0 and "saves and ends" in out
    wait_until_over(path)
    assert RunFolder(path).read_summary()["error"].startswith("interrupted by SIGTERM")
    before = RunFolder(path).read_metrics()
    time.sleep(1)
    assert RunFolder(path).read_metrics() == before
    _, out, _ = finished("status", "--output", str(output), "--json")
    assert json.loads(out)[0]["state"] == "cancelled"


def test_ctrl_c_while_waiting_leaves_the_job_alone(output: Path) -> None:
    with Command("run", "--method", "moco", "--output", str(output), *LONG, "--wait", python=sys.executable) as process:
        (path,) = wait_until_trained(output)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate()
    assert process.returncode == 130
    assert "the job continues" in out and "Traceback" not in out + err
    steps = len(RunFolder(path).read_metrics())
    time.sleep(2)
    assert len(RunFolder(path).read_metrics()) > steps
    assert finished("cancel", str(path))[0] == 0
    wait_until_over(path)


def test_a_time_limit_that_leaves_nothing_is_refused(output: Path) -> None:
    code, _, err = finished("run", "--method", "moco", "--output", str(output), *LONG, "--time", "2m")
    assert code == 2 and "a time limit of 2m leaves nothing" in err
    assert not output.exists()


@pytest.mark.parametrize(("ending", "max_requeues"), [("sys.exit(144)", 8), ("time.sleep(60)", 1)])
def test_a_job_goes_on_as_often_as_max_requeues_says(
    ending: str, max_requeues: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that asks for it, and one whose time is over."""
    task = tmp_path / "task.py"
    task.write_text(f"import sys, time\nprint('a start', flush=True)\n{ending}\n")
    for name, value in {
        "COMMAND": f"{sys.executable} {task}",
        "NTASKS": "1",
        "TIMEOUT_S": "2",
        "SIGNAL_DELAY_S": "3",
        "WITH_SHELL": "",
    }.items():
        monkeypatch.setenv(f"SUBMITIT_LOCAL_{name}", value)
    monkeypatch.setenv("SUBMITIT_STDERR_TO_STDOUT", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    before = signal.getsignal(signal.SIGTERM)
    try:
        (tmp_path / str(os.getpid())).mkdir()  # submitit's, as the shell makes it
        BackgroundController(tmp_path / "%j").control(max_parallel=0, num_gpus=0, max_requeues=max_requeues)
    finally:
        signal.signal(signal.SIGTERM, before)
    (log,) = tmp_path.glob("*/*_log.out")
    assert log.read_text().count("a start") == 1 + max_requeues
    assert f"requeued {max_requeues} times (cluster.max_requeues)" in log.read_text()


def test_a_sweep_in_the_background_keeps_to_max_parallel(output: Path) -> None:
    arguments = ["sweep", "--methods", "moco", "--seeds", "0:3", "--output", str(output), *LONG, "--max-parallel", "1"]
    code, out, err = finished(*arguments)
    assert code == 0 and out.count("background job") == 3, err
    (first,) = wait_until_trained(output)
    time.sleep(2)
    states = {
        run["run_id"]: run["state"] for run in json.loads(finished("status", "--output", str(output), "--json")[1])
    }
    assert sorted(states.values()) == ["pending", "pending", "running"] and states[first.name] == "running"
    waiting = next(output / name for name, state in states.items() if state == "pending")
    assert finished("cancel", str(waiting), str(first))[0] == 0
    wait_until_over(waiting)
    assert len(wait_until_trained(output, 2)) == 2 and not RunFolder(waiting).metrics.exists()
    assert finished("cancel", *(str(path) for path in output.glob("*-s*")))[0] == 2  # those two are over


def test_a_sweep_waits_until_all_its_jobs_have_ended(output: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(BROKEN)
    arguments = ["sweep", "--output", str(output), *LONG, "--set", "epochs=1", "--wait", "--methods"]
    code, out, err = finished(*arguments, "byol")
    assert code == 0, out + err
    assert out.count(": pending") == 1 and out.count(": done") == 1
    code, out, err = finished(*arguments, f"byol,{broken}")
    assert code == 1, out + err
    assert out.count(": done") == 1 and out.count(": failed") == 1 and "1 of 2 runs are not done" in out
