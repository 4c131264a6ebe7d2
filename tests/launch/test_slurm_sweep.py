"""Sweeps as job arrays on a real Slurm, and what is refused before anything is submitted."""

import json
import os
import re
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import KINDS, DisturbedSweep
from negbench.records.run_folder import RunFolder
from tests.helpers import runs
from tests.helpers.jobs import DEADLINE_SECONDS, Story, negbench, set_pace, slow_method, together
from tests.helpers.slurm import Cluster

pytestmark = pytest.mark.slurm

SWEEP = ["sweep", "--methods", "adco,simclr", "--seeds", "0:2", "--device", "cpu", "--time", "30m"]
EPOCHS = 6
SETTINGS = [*runs.SHORT, f"epochs={EPOCHS}", "evaluate_every_epochs=3"]
SETTINGS += ["evaluation.linear=false", "checkpoint_every_min=0.02"]
SWEEP += [part for text in SETTINGS for part in ("--set", text)]
# as in a requeued job with GPUs: none of it may reach the jobs, where srun would refuse it
ALLOCATION = {"MEM_PER_CPU": "1000", "CPUS_PER_TASK": "2", "NTASKS": "4", "GPUS": "2", "RESTART_COUNT": "12"}
ALLOCATION = {f"SLURM_{name}": value for name, value in ALLOCATION.items()} | {"SLURM_JOB_ID": "5", "RANK": "0"}


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> dict[Story, Future[Any]]:
    return together(request, cluster, tmp_path_factory)


def states(cluster: Cluster, output: Path) -> dict[str, str]:
    shown = negbench(cluster, "status", "--output", str(output), "--json").stdout
    return {run["run_id"]: run["state"] for run in json.loads(shown)}


def wait_for_done(folders: list[Path], number: int) -> list[Path]:
    end = time.monotonic() + DEADLINE_SECONDS
    while len(done := [folder for folder in folders if RunFolder(folder).done.exists()]) < number:
        assert time.monotonic() < end, done
        time.sleep(0.2)
    return done


def a_sweep_that_is_cancelled_and_called_again(cluster: Cluster, folder: Path) -> None:
    output = folder / "out"
    arguments = [*SWEEP, "--cluster", "slurm", "--output", str(output), "--max-parallel", "2"]
    further = ["--mem", "500M", "--then", f"status --output {output}"]
    submitted = negbench(cluster, *arguments, *further, env=ALLOCATION)
    folders = sorted(path for path in output.glob("*-s*"))
    assert len(folders) == 4
    notes = [json.loads((folder / "job.json").read_text()) for folder in folders]
    arrays = {note["job_id"].partition("_")[0] for note in notes}
    assert len(arrays) == 1 and len({note["folder"] for note in notes}) == 1
    array = arrays.pop()
    again = negbench(cluster, *arguments)
    assert "4 of 4 runs are" in again.stderr or "runs are pending" in again.stderr
    first = wait_for_done(folders, 1)
    active = [str(folder) for folder in folders if folder not in first]
    negbench(cluster, "cancel", *active, check=False)
    cluster.wait_until_gone(array, DEADLINE_SECONDS)
    finished = wait_for_done(folders, 1)
    assert len(finished) < 4
    times = {folder: (folder / "done").stat().st_mtime_ns for folder in finished}
    resumed = negbench(cluster, *arguments)
    assert f"{len(finished)} of 4 runs are done" in resumed.stderr
    assert resumed.stdout.count("Slurm job") == 4 - len(finished)
    wait_for_done(folders, 4)
    assert set(states(cluster, output).values()) == {"done"}
    for note in [json.loads((folder / "job.json").read_text()) for folder in folders]:
        cluster.wait_until_gone(note["job_id"], DEADLINE_SECONDS)
    assert {folder: (folder / "done").stat().st_mtime_ns for folder in finished} == times
    assert not list(output.rglob("*.partial"))
    for folder in folders:
        steps = [row["step"] for row in RunFolder(folder).read_metrics() if row["kind"] == "train"]
        assert steps == list(range(2, 4 * EPOCHS + 1, 2))
    assert cluster.run("squeue", "-h", "-r", "-t", "all", "-j", array)
    follow_up = re.search(r"Slurm job (\d+): negbench status", submitted.stdout)
    assert follow_up is not None
    cluster.wait_for(follow_up[1], "COMPLETED", DEADLINE_SECONDS)
    (follow_up_log,) = output.glob("submissions/*/*_0_log.out")  # after the first array's end
    assert follow_up_log.read_text().count("quickstart") == 4


def a_sweep_with_a_random_fault_of_each_kind(cluster: Cluster, folder: Path) -> tuple[DisturbedSweep, Counter[str]]:
    methods = [str(slow_method(name, folder)) for name in ("adco", "byol")]
    pace = folder / "pace"
    set_pace(pace, 0.3)
    exclusive = ["--slurm", "exclusive"]  # the faults of a node are no faults of other tests' jobs
    sweep = DisturbedSweep(cluster, folder / "disturbed", methods, 20, *exclusive, env={"PACE": str(pace)})
    thrown = sweep.throw(len(KINDS), seed=0, pause=(0.0, 3.0))
    pace.unlink()
    sweep.finish(DEADLINE_SECONDS)
    return sweep, thrown


@pytest.mark.parametrize("story", [a_sweep_that_is_cancelled_and_called_again])
def test_a_sweep_is_one_array_and_its_second_call_makes_what_is_missing(
    story: Story, told: dict[Story, Future[None]]
) -> None:
    told[story].result()


@pytest.mark.parametrize("story", [a_sweep_with_a_random_fault_of_each_kind])
def test_random_faults_change_nothing(
    story: Story, told: dict[Story, Future[tuple[DisturbedSweep, Counter[str]]]], tmp_path: Path
) -> None:
    sweep, thrown = told[story].result()
    assert thrown == Counter(KINDS)
    sweep.compare(tmp_path)


def test_nothing_is_left_of_the_jobs(told: dict[Story, Future[Any]], cluster: Cluster) -> None:
    cluster.wait_idle(60)
    assert not cluster.orphans()


def test_what_follows_a_sweep_waits_for_the_jobs_of_an_earlier_call(cluster: Cluster, tmp_path: Path) -> None:
    arguments = [*SWEEP, "--cluster", "slurm", "--output", str(tmp_path / "out"), "--slurm", "hold"]
    negbench(cluster, *arguments)
    note = json.loads(next((tmp_path / "out").glob("*/job.json")).read_text())
    array = note["job_id"].partition("_")[0]
    again = negbench(cluster, *arguments, "--then", f"status --output {tmp_path / 'out'}")
    assert "4 of 4 runs are pending" in again.stderr
    follow_up = again.stdout.removeprefix("Slurm job ").partition(":")[0]
    shown = cluster.run("scontrol", "show", "job", follow_up)
    cluster.run("scancel", follow_up, array)
    assert f"Dependency=afterany:{array}" in shown


REFUSED = [
    (["--partition", "gpu"], "--partition gpu: there is no 'gpu'; known: high, main"),
    (["--gpus-per-node", "3"], "GPUs a node: 2"),
    (["--gpus-per-node", "h100:1"], "GPUs a node: 2"),
    (["--nodes", "11"], "has 10"),
    (["--time", "1 day"], "time must look like"),
    (["--time", "1m"], "leaves nothing"),
    (["--nodes", "3"], "batch_size 16 is not divisible by the 3 processes"),
    (["--set", "data.name=imagefolder", "--set", "data.root=/nowhere"], "/nowhere"),
    (["--slurm", "no-such-option=1"], "Slurm refuses the job"),
    (["--constraint", "no-such-feature"], "Slurm refuses the job"),
    (["--mem", "lots"], "cluster.mem"),
    (["--output", "/proc/nowhere"], "/proc"),
    (["--gpus-per-node", "2", "--processes-per-node", "3"], "not both"),
    (["--set", "cluster.partitoin=main"], "did you mean"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED, ids=[" ".join(options) for options, _ in REFUSED])
def test_refused_before_submission(options: list[str], sentence: str, cluster: Cluster, tmp_path: Path) -> None:
    before = cluster.run("squeue", "-h", "-t", "all", "-o", "%i")
    arguments = ["run", "--method", "moco", "--cluster", "slurm", "--output", str(tmp_path / "out"), "--device", "cpu"]
    arguments += [part for text in runs.SHORT for part in ("--set", text)]
    done = negbench(cluster, *arguments, *options, check=False)
    assert done.code == 2, done.stderr
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert cluster.run("squeue", "-h", "-t", "all", "-o", "%i") == before
    assert not (tmp_path / "out").exists()


def test_an_output_that_other_nodes_do_not_see_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """The nodes claim to be other machines; the output is on this one's disk."""
    shim = tmp_path / "bin" / "scontrol"
    shim.parent.mkdir()
    shim.write_text(
        f'#!/bin/sh\nPATH={cluster.env["PATH"]} scontrol "$@" | '
        "sed 's/NodeHostName=localhost/NodeHostName=far/;s/127.0.0.1/10.0.0.9/'\n"
    )
    shim.chmod(0o755)
    path = f"{shim.parent}{os.pathsep}{cluster.env['PATH']}"
    arguments = ["run", "--method", "moco", "--cluster", "slurm", "--output", str(tmp_path / "out"), "--device", "cpu"]
    arguments += [part for text in runs.SHORT for part in ("--set", text)]
    done = negbench(cluster, *arguments, check=False, env={"PATH": path})
    assert done.code == 2 and "local filesystem" in done.stderr and "output_is_shared" in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_slurm_at_all(tmp_path: Path, cluster: Cluster) -> None:
    arguments = ["run", "--method", "moco", "--cluster", "slurm", "--output", str(tmp_path / "out")]
    done = negbench(cluster, *arguments, check=False, env={"PATH": str(tmp_path)})
    assert done.code == 2 and "sbatch is not on PATH" in done.stderr
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{cluster.env['PATH']}"
    done = negbench(cluster, *arguments, check=False, env={"PATH": path})
    assert done.code == 2 and "does not reach Slurm's controller (Unable to contact" in done.stderr


def test_the_dry_run_is_what_is_submitted(cluster: Cluster, tmp_path: Path) -> None:
    arguments = ["run", "--method", "moco", "--cluster", "slurm", "--output", str(tmp_path / "out"), "--device", "cpu"]
    arguments += [part for text in runs.SHORT for part in ("--set", text)]
    arguments += ["--nodes", "2", "--time", "1-02:00:00", "--slurm", "hold", "--slurm", "comment=a b"]
    shown = negbench(cluster, *arguments, "--dry-run").stdout
    assert not (tmp_path / "out").exists()
    negbench(cluster, *arguments)
    (script,) = (tmp_path / "out").glob("*/submissions/*/*/*_submission.sh")
    stamps = [text.split("/submissions/")[1].split("/")[0] for text in (shown, str(script))]
    assert shown.replace(stamps[0], stamps[1]).rstrip() == script.read_text().rstrip()
    note: dict[str, Any] = json.loads(next((tmp_path / "out").glob("*/job.json")).read_text())
    cluster.run("scancel", note["job_id"])
