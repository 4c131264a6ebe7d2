"""Runs on a real Slurm, through the command line: what ends a job early, and what is left after it.

A run that was disturbed ends with the weights and records, bit for bit, of one that was not.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from negbench.launch.snapshot import take_snapshot
from negbench.records import RunFolder
from tests import runs
from tests.slurm import Cluster

STEPS = 200
SETTINGS = [*runs.SHORT, "epochs=50", "evaluate_every_epochs=10", "evaluation.linear=false", "batch_norm=sync"]
SETTINGS += ["checkpoint_every_min=0.02", "method.num_negatives=40"]
SLOW_METHOD = '''"""MoCo whose steps last as long as an environment variable says.

None
"""
import os, time
from negbench.methods.moco import Config, Method, Queue

class Slow(Method):
    def after_step(self, output, step):
        super().after_step(output, step)
        time.sleep(float(os.environ.get("SLOW_STEP_S", "0")))

def build(config, encoder, facts):
    queue = Queue(config.num_negatives, facts.dim, facts.seed)
    return Slow(encoder, facts.pairs(config.symmetric), [queue], config.temperature, config.momentum(facts.num_steps))
'''


def negbench(cluster: Cluster, *arguments: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """The command line, outside every checkout."""
    command = [sys.executable, "-m", "negbench.cli", *arguments]
    done = subprocess.run(command, env=cluster.env | env, cwd=cluster.folder, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


class Run:
    """A submitted run of two nodes."""

    def __init__(self, cluster: Cluster, folder: Path, step_s: float, *options: str, **env: str) -> None:
        self.cluster, self.env = cluster, env
        method = folder / "slow.py"
        method.write_text(SLOW_METHOD)
        self.arguments = ["run", "--method", str(method), "--output", str(folder / "out"), "--device", "cpu"]
        self.arguments += [part for text in SETTINGS for part in ("--set", text)]
        self.arguments += ["--cluster", "slurm", "--nodes", "2", "--time", "30m", *options]
        self.step_s = step_s
        self.submit()

    def submit(self) -> None:
        negbench(self.cluster, *self.arguments, SLOW_STEP_S=str(self.step_s), **self.env)
        (path,) = Path(self.arguments[4]).glob("*-s0-*")
        self.folder = RunFolder(path)
        self.job: str = json.loads((path / "job.json").read_text())["job_id"]

    @property
    def log(self) -> str:
        return "\n".join(log.read_text() for log in sorted(self.folder.path.glob("submissions/*/*/*_log.out")))

    def wait_for_step(self, step: int, timeout_s: float = 60) -> None:
        end = time.monotonic() + timeout_s
        while max((row["step"] for row in self.folder.read_metrics()), default=0) < step:
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def finish(self, timeout_s: float = 120) -> None:
        """To its end, which has to be a good one that leaves nothing behind."""
        try:
            self.cluster.wait_for(self.job, "COMPLETED", timeout_s)
        except AssertionError as error:
            raise AssertionError(self.log) from error
        self.cluster.wait_idle(30)
        assert self.folder.done.exists()
        assert self.folder.read_summary()["status"] == "done"
        assert not self.cluster.orphans()
        assert not list(self.folder.path.rglob("*.partial"))

    @property
    def restarts(self) -> int:
        shown = self.cluster.run("scontrol", "show", "job", "-o", self.job)
        return int(shown.partition("Restarts=")[2].split()[0])


def outcome(run: Run) -> Any:
    return runs.outcome(run.folder)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = Run(cluster, tmp_path_factory.mktemp("undisturbed"), 0)
    run.finish()
    assert run.restarts == 0
    return outcome(run)


def requeue(run: Run) -> None:
    run.cluster.run("scontrol", "requeue", run.job)


def node_down(run: Run) -> None:
    run.cluster.down("t1")


def kill_a_rank(run: Run) -> None:
    os.kill(run.cluster.pids(run.job)[1], 9)


def kill_rank_0(run: Run) -> None:
    os.kill(run.cluster.pids(run.job)[0], 9)


def preempt(run: Run) -> None:
    run.cluster.run("sbatch", "-p", "high", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")


@pytest.mark.parametrize("disturb", [requeue, node_down, kill_a_rank, kill_rank_0, preempt])
def test_a_disturbed_run_goes_on_to_the_same_end(
    disturb: Callable[[Run], None], cluster: Cluster, undisturbed: Any, tmp_path: Path
) -> None:
    run = Run(cluster, tmp_path, 0.05)
    run.wait_for_step(20)
    disturb(run)
    run.finish()
    assert run.restarts == 1, run.log
    assert "resumed" in run.log
    runs.assert_same(outcome(run), undisturbed)


def test_a_time_limit_leads_to_a_requeue(cluster: Cluster, undisturbed: Any, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path, 0.25, "--set", "cluster.signal_before_end_s=50")
    run.wait_for_step(20)
    cluster.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=1")  # looked at every 30 s
    end = time.monotonic() + 60
    while run.restarts == 0:
        assert time.monotonic() < end, run.log
        time.sleep(0.1)
    cluster.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=30")
    run.finish()
    assert "time here is over" in run.log
    assert run.folder.read_summary()["lost_seconds"] == 0
    runs.assert_same(outcome(run), undisturbed)


def test_a_run_that_is_requeued_too_often_gives_up_and_says_so(cluster: Cluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path, 0.25, "--set", "cluster.max_requeues=1")
    run.wait_for_step(20)
    for _ in range(2):
        cluster.wait_for(run.job, "RUNNING", 60)
        requeue(run)
    cluster.wait_for(run.job, "FAILED", 90)
    cluster.wait_idle(30)
    (row,) = json.loads(negbench(cluster, "status", "--output", str(run.folder.path.parent), "--json").stdout)
    assert row["state"] == "failed" and "requeued 2 times, more than cluster.max_requeues 1" in row["detail"]


def test_a_job_that_fails_before_training_says_so(cluster: Cluster, tmp_path: Path) -> None:
    run = Run(cluster, tmp_path, 0, "--slurm", "hold")
    (method,) = run.folder.path.glob("submissions/*/code/request/slow.py")
    method.write_text("raise KeyError('of the file')\n")
    cluster.run("scontrol", "release", run.job)
    cluster.wait_for(run.job, "FAILED", 60)
    (row,) = json.loads(negbench(cluster, "status", "--output", str(run.folder.path.parent), "--json").stdout)
    assert row["state"] == "failed" and "of the file" in row["detail"]
    assert (row["study"], row["seed"]) == ("quickstart", 0)


def test_a_cancelled_run_stays_cancelled_until_it_is_submitted_again(
    cluster: Cluster, undisturbed: Any, tmp_path: Path
) -> None:
    run = Run(cluster, tmp_path, 0.05)
    run.wait_for_step(20)
    negbench(cluster, "cancel", str(run.folder.path))
    cluster.wait_for(run.job, "CANCELLED", 30)
    cluster.wait_idle(30)
    assert not run.folder.done.exists() and not cluster.orphans()
    assert cluster.state(run.job) == "CANCELLED" and run.restarts == 0
    first = run.job
    run.submit()
    assert run.job != first
    run.finish()
    runs.assert_same(outcome(run), undisturbed)


def test_two_nodes_train_as_one_process(cluster: Cluster, tmp_path: Path) -> None:
    """adco in fp32 with synchronised BatchNorm: the first 20 losses to 1e-4."""
    settings = [*SETTINGS[:-1], "method.num_negatives=40", "epochs=5", "log_every_steps=1", "optimizer.lr=0.01"]
    common = ["--method", "adco", "--device", "cpu", *(part for text in settings for part in ("--set", text))]
    negbench(cluster, "run", *common, "--output", str(tmp_path / "one"))
    negbench(cluster, "run", *common, "--output", str(tmp_path / "two"), "--cluster", "slurm", "--nodes", "2", "--wait")
    losses = []
    for output in ("one", "two"):
        (path,) = (tmp_path / output).glob("*-s0-*")
        assert RunFolder(path).done.exists()
        losses.append([row["loss"] for row in RunFolder(path).read_metrics() if row["kind"] == "train"])
    assert len(losses[0]) == 20
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_srun_starts_a_run(cluster: Cluster, tmp_path: Path) -> None:
    settings = [part for text in [*runs.SHORT, "evaluation.linear=false"] for part in ("--set", text)]
    command = [sys.executable, "-m", "negbench.cli", "run", "--method", "moco", "--device", "cpu", *settings]
    command = ["srun", "-N2", "-n2", *command, "--output", str(tmp_path)]
    done = subprocess.run(command, env=cluster.env, cwd=cluster.folder, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("records: ") == 1
    (path,) = tmp_path.iterdir()
    assert RunFolder(path).done.exists() and RunFolder(path).read_summary()["world_size"] == 2


def test_a_job_runs_the_code_that_was_submitted(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitted from a copy of the checkout whose trainer, methods and study, and the user's file, break afterwards."""
    checkout = tmp_path / "checkout"
    take_snapshot(checkout)
    telling = "import negbench.methods.moco, negbench.trainer\n"
    telling += "for module in (negbench.trainer, negbench.methods.moco):\n    print('code:', module.__file__)\n"
    monkeypatch.setattr("tests.test_slurm_runs.SLOW_METHOD", SLOW_METHOD + telling)
    run = Run(cluster, tmp_path, 0, "--slurm", "hold", PYTHONPATH=str(checkout))
    package = checkout / "negbench"
    for path in (package / "trainer.py", package / "methods" / "moco.py", tmp_path / "slow.py"):
        path.write_text("raise RuntimeError('edited after submission')\n")
    (package / "configs" / "quickstart.yaml").write_text("edited: after submission\n")
    cluster.run("scontrol", "release", run.job)
    run.finish()
    files = [Path(line.removeprefix("code: ")) for line in run.log.splitlines() if line.startswith("code: ")]
    (snapshot,) = run.folder.path.glob("submissions/*/code/negbench")
    assert set(files) == {snapshot / "trainer.py", snapshot / "methods" / "moco.py"}
