"""Several processes on this machine: they end together, and go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from negbench.records.run_folder import RunFolder
from negbench.runtime.distributed import rank
from tests.helpers import runs, warm_python
from tests.helpers.processes import ARGUMENTS, finished, start
from tests.helpers.ranks import on_ranks

pytestmark = pytest.mark.processes
FAULTY = '''"""A method with a defect on one rank."""
import os
from negbench.methods.moco import Config, Method, Queue

class Faulty(Method):
    def after_step(self, output, step):
        super().after_step(output, step)
        if step == 4 and os.environ["RANK"] == "1":
            raise KeyError("a defect")

def build(config, encoder, facts):
    queue = Queue(config.num_negatives, facts.dim, facts.seed)
    return Faulty(encoder, facts.pairs(config.symmetric), [queue], config.temperature, config.momentum(facts.num_steps))
'''


def test_processes_end_together_and_the_failing_one_speaks_once(tmp_path: Path) -> None:
    method = tmp_path / "faulty.py"
    method.write_text(FAULTY)
    out = ["--output", str(tmp_path / "out"), "--device", "cpu"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    arguments = ["run", "--method", str(method), "--processes-per-node", "2", *out, *ARGUMENTS]
    code, _, err = finished(*arguments, TMPDIR=str(temporary))
    assert code == 1
    assert not list(temporary.iterdir())
    assert err.count("Traceback") == 1 and "negbench: rank 1: Traceback" in err and "KeyError: 'a defect'" in err
    (path,) = (tmp_path / "out").iterdir()
    assert RunFolder(path).read_summary()["status"] == "failed"
    assert RunFolder(path).read_summary()["error"] == "KeyError: 'a defect'"


LONG = ["epochs=20", "checkpoint_every_min=0.01", "evaluation.linear=false", "evaluate_every_epochs=20"]


def undisturbed(output: str) -> object:
    resolved = runs.short("moco", *LONG, "log_every_steps=10")
    runs.start(resolved, Path(output))
    return runs.outcome(runs.folder(resolved, Path(output))) if rank() == 0 else None


def test_a_killed_process_or_a_signal_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """kill -9 of rank 1, then SIGINT to the launcher, then to the end: as an undisturbed run with as many ranks."""
    arguments = ["run", "--method", "moco", "--processes-per-node", "2", "--device", "cpu", *ARGUMENTS]
    arguments += [part for text in (*runs.SMALL["moco"], *LONG, "log_every_steps=10") for part in ("--set", text)]
    output = tmp_path / "disturbed"
    output.mkdir()
    for signum, ending, step in ((signal.SIGKILL, 137, 10), (signal.SIGINT, 130, 40)):
        with start(*arguments, "--output", str(output)) as process:
            _wait_for_step(output, step)
            os.kill(_ranks(process.pid)[1] if signum == signal.SIGKILL else process.pid, signum)
            _, err = process.communicate()
        assert process.returncode == ending, err
        assert "the same command resumes" in err
        assert not _ranks(process.pid)
    code, _, err = finished(*arguments, "--output", str(output))
    assert code == 0 and "resumed" in err
    (path,) = output.glob("*-s0-*")
    runs.assert_same(runs.outcome(RunFolder(path)), on_ranks(2, undisturbed, str(tmp_path / "undisturbed"))[0])


def _wait_for_step(output: Path, step: int) -> None:
    end = time.monotonic() + 90
    while max((row["step"] for path in output.iterdir() for row in RunFolder(path).read_metrics()), default=0) < step:
        assert time.monotonic() < end
        time.sleep(0.05)


def _ranks(launcher: int) -> list[int]:
    """Process ids of the launcher's ranks, in the order of their start."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    pids = map(int, children.read_text().split()) if children.exists() else ()
    return [pid for pid in pids if "negbench.cli" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_torchrun_starts_a_run_and_restarts_it_after_a_kill(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    settings = ["epochs=16", "checkpoint_every_min=0.01", "evaluate_every_epochs=16", "evaluation.test=false"]
    arguments = [*ARGUMENTS, *(part for text in settings for part in ("--set", text))]
    command = [
        sys.executable,
        *torchrun,
        "-m",
        "negbench.cli",
        "run",
        "--method",
        "moco",
        "--device",
        "cpu",
        *arguments,
    ]
    (tmp_path / "out").mkdir()
    env = os.environ | {"PYTHON_EXEC": warm_python.executable()}  # of the processes that torchrun starts
    command += ["--output", str(tmp_path / "out")]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        _wait_for_step(tmp_path / "out", 16)
        os.kill(_ranks(process.pid)[1], signal.SIGKILL)
        _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    (path,) = (tmp_path / "out").iterdir()
    summary = RunFolder(path).read_summary()
    assert (summary["status"], summary["world_size"], summary["restarts"]) == ("done", 2, 1)
    steps = [row["step"] for row in RunFolder(path).read_metrics() if row["kind"] == "train"]
    assert steps == list(range(2, 4 * 16 + 1, 2))
