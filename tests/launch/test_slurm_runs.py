"""Runs on a real Slurm, through the command line: what ends a job early, and what is left after it.

A run that was disturbed ends with the weights and records, bit for bit, of one that was not.
"""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from negbench.launch.jobs.snapshot import take_snapshot
from negbench.records.run import checkpoint
from negbench.records.run_folder import RunFolder
from negbench.settings.resolve import resolve
from negbench.train.run import execute
from tests.helpers import runs, warm_python
from tests.helpers.jobs import DEADLINE_SECONDS, Story, negbench, set_pace, slow_method, together
from tests.helpers.ranks import on_ranks
from tests.helpers.slurm import Cluster

pytestmark = pytest.mark.slurm

SETTINGS = [*runs.SHORT, "epochs=20", "evaluate_every_epochs=5", "evaluation.linear=false", "batch_norm=sync"]
SETTINGS += ["checkpoint_every_min=0.01", "method.num_negatives=40"]
ON_TWO_NODES = ["--cluster", "slurm", "--nodes", "2", "--time", "30m"]
SLOW_STEP_SECONDS = 0.4  # a disturbed run goes on for KillWait, and must not be over then
TELLING_METHOD = '''"""AdCo in float64 that tells which files it is made of.

None
"""
import negbench.train.trainer
from negbench.methods import adco
from negbench.methods.adco import Config

for module in (negbench.train.trainer, adco):
    print("code:", module.__file__)

def build(config, encoder, facts):
    method = adco.build(config, encoder, facts)
    to = method.to

    def in_float64(*args, **options):  # the last that is done to it
        for encoder in (method.query_encoder, method.key_encoder):
            for part in encoder.children():
                part.forward = lambda inputs, forward=part.forward: forward(inputs.double())
        return to(*args, **options).double()

    method.to = in_float64
    return method
'''
TELLING_SETTINGS = [*SETTINGS, "epochs=2", "log_every_steps=1"]


def options(settings: list[str]) -> list[str]:
    return [part for text in settings for part in ("--set", text)]


class Run:
    """A submitted run of two nodes that nothing else runs on."""

    def __init__(self, cluster: Cluster, folder: Path, *further: str) -> None:
        self.cluster, self.further = cluster, further
        method = slow_method("moco", folder)
        self.command = ["run", "--method", str(method), "--output", str(folder / "out"), "--device", "cpu"]
        self.command += options(SETTINGS)
        self.pace = folder / "pace"
        set_pace(self.pace, SLOW_STEP_SECONDS)
        self.submit()

    def submit(self) -> None:
        submission = [*self.command, *ON_TWO_NODES, "--slurm", "exclusive", *self.further]
        negbench(self.cluster, *submission, env={"PACE": str(self.pace)})
        (path,) = Path(self.command[4]).glob("*-s0-*")
        self.folder = RunFolder(path)
        self.job: str = json.loads((path / "job.json").read_text())["job_id"]
        self.submitted = time.monotonic()

    @property
    def log(self) -> str:
        return log_of(self.folder)

    @property
    def resumed_at(self) -> list[int]:
        """The steps at which jobs have gone on with the run."""
        return [int(step) for step in re.findall(r"resumed \S+ at step (\d+)", self.log)]

    @property
    def restarts(self) -> int:
        shown = self.cluster.run("scontrol", "show", "job", "-o", self.job)
        return int(shown.partition("Restarts=")[2].split()[0])

    def train(self, num_resumes: int = 0) -> None:
        """Until it has been resumed that many times, each time further on, and has saved since then."""
        end = time.monotonic() + DEADLINE_SECONDS
        while len(steps := [0, *self.resumed_at]) <= num_resumes or self.saved_step <= steps[-1]:
            self.cluster.wait_for(self.job, {"RUNNING", "PENDING"}, DEADLINE_SECONDS)  # and not at an end
            assert time.monotonic() < end, self.log
            time.sleep(0.4)
        assert steps == sorted(set(steps)) and len(steps) == num_resumes + 1, self.log

    @property
    def saved_step(self) -> int:
        return max((int(path.stem.rpartition("-")[2]) for path in checkpoint.find(self.folder.checkpoints)), default=0)

    def finish(self) -> None:
        """To its end, which has to be a good one that leaves nothing behind."""
        self.pace.unlink()
        try:
            self.cluster.wait_for(self.job, "COMPLETED", DEADLINE_SECONDS)
        except AssertionError as error:
            raise AssertionError(self.log) from error
        self.cluster.wait_until_gone(self.job, DEADLINE_SECONDS)
        self.check_done()

    def check_done(self) -> None:
        assert self.folder.done.exists()
        assert self.folder.read_summary()["status"] == "done"
        assert not list(self.folder.path.rglob("*.partial"))

    def status(self) -> dict[str, Any]:
        """What the command line says of it when its job has ended."""
        self.cluster.wait_until_gone(self.job, DEADLINE_SECONDS)
        shown = negbench(self.cluster, "status", "--output", str(self.folder.path.parent), "--json").stdout
        (row,) = json.loads(shown)
        return dict(row)


def log_of(folder: RunFolder) -> str:
    return "\n".join(log.read_text() for log in sorted(folder.path.glob("submissions/*/*/*_log.out")))


def requeue(run: Run) -> None:
    run.cluster.run("scontrol", "requeue", run.job)


def node_down(run: Run) -> None:
    run.cluster.down(run.cluster.nodes_of(run.job)[0])


def kill_rank_1(run: Run) -> None:
    os.kill(run.cluster.pids(run.job)[1], 9)


def kill_rank_0(run: Run) -> None:
    os.kill(run.cluster.pids(run.job)[0], 9)


def preempt(run: Run) -> None:
    nodes = ",".join(run.cluster.nodes_of(run.job))
    run.cluster.run("sbatch", "-p", "high", "-w", nodes, "--exclusive", "-o", "/dev/null", "--wrap", "true")


def reach_the_time_limit(run: Run) -> None:
    """With room for the first look of Slurm, every 30 s, at a job that has come near its limit."""
    set_pace(run.pace, 1.5)
    minutes = (time.monotonic() - run.submitted) // 60 + 2
    run.cluster.run("scontrol", "update", f"JobId={run.job}", f"TimeLimit={minutes:.0f}")
    end = time.monotonic() + DEADLINE_SECONDS
    while run.restarts == 0:
        assert time.monotonic() < end, run.log
        time.sleep(0.2)
    run.cluster.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=30")
    set_pace(run.pace, SLOW_STEP_SECONDS)


def a_run_that_is_sent_away_and_loses_rank_0_and_a_node(cluster: Cluster, folder: Path) -> RunFolder:
    """Away at its time limit, and for a job of a higher partition: it saves first, so that nothing is lost."""
    run = Run(cluster, folder, "--set", "cluster.signal_before_end_s=110")
    for count, disturb in enumerate((reach_the_time_limit, preempt)):
        run.train(count)
        disturb(run)
    run.train(2)
    assert run.log.count("time here is over") == 2
    assert checkpoint.load(checkpoint.find(run.folder.checkpoints)[0])["lost_seconds"] == 0
    for count, disturb in enumerate((kill_rank_0, node_down), start=2):
        run.train(count)
        disturb(run)
    run.train(4)
    run.finish()
    assert run.restarts == 4, run.log
    return run.folder


def a_run_that_loses_rank_1_then_is_cancelled_then_requeued_too_often(cluster: Cluster, folder: Path) -> RunFolder:
    """Submitted again when it was cancelled; ended by srun, without a job of negbench's own, when it gave up."""
    run = Run(cluster, folder, "--set", "cluster.max_requeues=1")
    run.train()
    kill_rank_1(run)
    run.train(1)
    assert run.restarts == 1, run.log
    negbench(cluster, "cancel", str(run.folder.path))
    cluster.wait_for(run.job, "CANCELLED", DEADLINE_SECONDS)
    cluster.wait_until_gone(run.job, DEADLINE_SECONDS)
    assert not run.folder.done.exists()
    assert cluster.state(run.job) == "CANCELLED" and run.restarts == 1
    first = run.job
    run.submit()
    assert run.job != first
    run.train(2)
    assert run.restarts == 0
    requeue(run)
    run.train(3)
    assert run.restarts == 1, run.log
    requeue(run)
    cluster.wait_for(run.job, "FAILED", DEADLINE_SECONDS)
    row = run.status()
    assert row["state"] == "failed" and "requeued 2 times, more than cluster.max_requeues 1" in row["detail"]
    run.pace.unlink()
    command = ["srun", "-N2", "-n2", "--exclusive", warm_python.executable(), "-m", "negbench.cli", *run.command]
    one_thread = cluster.env | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=one_thread, cwd=cluster.folder, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("records: ") == 1 and "resumed" in done.stderr
    run.check_done()
    assert run.folder.read_summary()["world_size"] == 2
    return run.folder


def a_job_that_fails_before_training(cluster: Cluster, folder: Path) -> dict[str, Any]:
    run = Run(cluster, folder, "--slurm", "hold")
    (method,) = run.folder.path.glob("submissions/*/code/request/slow_moco.py")
    method.write_text("raise KeyError('of the file')\n")
    cluster.run("scontrol", "release", run.job)
    cluster.wait_for(run.job, "FAILED", DEADLINE_SECONDS)
    return run.status()


def a_job_of_code_that_breaks_after_its_submission(cluster: Cluster, folder: Path) -> RunFolder:
    """Submitted, and waited for, from a copy of the checkout; trainer, methods, study and the user's file break."""
    checkout, method, output = folder / "checkout", folder / "telling.py", folder / "out"
    take_snapshot(checkout)
    method.write_text(TELLING_METHOD)
    command = [sys.executable, "-u", "-m", "negbench.cli", "run", "--method", str(method), "--device", "cpu"]
    command += [*options(TELLING_SETTINGS), "--output", str(output), *ON_TWO_NODES, "--slurm", "hold", "--wait"]
    pipe, env = subprocess.PIPE, cluster.env | {"PYTHONPATH": f"{checkout}:{cluster.env['PYTHONPATH']}"}
    with subprocess.Popen(command, env=env, cwd=cluster.folder, stdout=pipe, stderr=pipe, text=True) as waiting:
        assert waiting.stdout is not None and waiting.stderr is not None
        said = iter(waiting.stdout.readline, "")
        assert any(line.startswith("watch: ") for line in said), waiting.stderr.read()
        package = checkout / "negbench"
        for path in (package / "train" / "trainer.py", package / "methods" / "adco.py", method):
            path.write_text("raise RuntimeError('edited after submission')\n")
        (package / "configs" / "quickstart.yaml").write_text("edited: after submission\n")
        (note,) = output.glob("*-s0-*/job.json")
        job = json.loads(note.read_text())["job_id"]
        cluster.run("scontrol", "release", job)
        cluster.wait_for(job, "COMPLETED", DEADLINE_SECONDS)
        out, err = waiting.communicate(timeout=DEADLINE_SECONDS)
        assert waiting.returncode == 0, out + err
    run = RunFolder(note.parent)
    assert run.done.exists()
    return run


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> dict[Story, Future[Any]]:
    return together(request, cluster, tmp_path_factory)


def train_undisturbed(method: str, output: str) -> Any:
    """On each of two ranks: the run of the stories without Slurm and without a pause."""
    resolved = resolve(method, "quickstart", SETTINGS)
    execute(resolved, Path(output), runs.CPU)
    return runs.outcome(runs.folder(resolved, Path(output)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("undisturbed")
    return on_ranks(2, train_undisturbed, str(slow_method("moco", folder)), str(folder / "out"))[0]


@pytest.mark.parametrize(
    "story",
    [
        a_run_that_is_sent_away_and_loses_rank_0_and_a_node,
        a_run_that_loses_rank_1_then_is_cancelled_then_requeued_too_often,
    ],
)
def test_a_disturbed_run_goes_on_to_the_same_end(
    story: Story, told: dict[Story, Future[RunFolder]], undisturbed: Any
) -> None:
    runs.assert_same(runs.outcome(told[story].result()), undisturbed)


@pytest.mark.parametrize("story", [a_job_that_fails_before_training])
def test_a_job_that_fails_before_training_says_so(story: Story, told: dict[Story, Future[dict[str, Any]]]) -> None:
    row = told[story].result()
    assert row["state"] == "failed" and "of the file" in row["detail"]
    assert (row["study"], row["seed"]) == ("quickstart", 0)


@pytest.mark.parametrize("story", [a_job_of_code_that_breaks_after_its_submission])
def test_a_job_runs_the_code_that_was_submitted(story: Story, told: dict[Story, Future[RunFolder]]) -> None:
    run = told[story].result()
    files = [Path(line.removeprefix("code: ")) for line in log_of(run).splitlines() if line.startswith("code: ")]
    (snapshot,) = run.path.glob("submissions/*/code/negbench")
    assert set(files) == {snapshot / "train" / "trainer.py", snapshot / "methods" / "adco.py"}


@pytest.mark.parametrize("story", [a_job_of_code_that_breaks_after_its_submission])
def test_two_nodes_train_as_one_process(story: Story, told: dict[Story, Future[RunFolder]], tmp_path: Path) -> None:
    """With synchronised BatchNorm, and in float64: AdCo amplifies rounding, in fp32 to 1e-2 within these steps."""
    run = told[story].result()
    (tmp_path / "telling.py").write_text(TELLING_METHOD)
    one = resolve(str(tmp_path / "telling.py"), "quickstart", TELLING_SETTINGS)
    runs.start(one, tmp_path)
    losses, of_one = (
        [row["loss"] for row in folder.read_metrics() if row["kind"] == "train"]
        for folder in (run, runs.folder(one, tmp_path))
    )
    assert len(losses) == 8
    assert losses == pytest.approx(of_one, rel=1e-9)
