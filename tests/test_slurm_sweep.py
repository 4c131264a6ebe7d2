"""Sweeps as job arrays on a real Slurm, and what is refused before anything is submitted."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import throw_faults
from negbench.records import RunFolder
from tests import runs, slurm
from tests.slurm import Cluster
from tests.test_slurm_runs import negbench

SWEEP = ["sweep", "--methods", "adco,moco,simclr,byol", "--seeds", "0:2", "--device", "cpu", "--time", "30m"]
EPOCHS = 40  # in a Slurm job SIGTERM only saves: a run must not be over before the kill that follows 5 s later
SETTINGS = [*runs.SHORT, f"epochs={EPOCHS}", "evaluate_every_epochs=20"]
SETTINGS += ["evaluation.linear=false", "checkpoint_every_min=0.02"]
SWEEP += [part for text in SETTINGS for part in ("--set", text)]


def states(cluster: Cluster, output: Path) -> dict[str, str]:
    shown = negbench(cluster, "status", "--output", str(output), "--json").stdout
    return {run["run_id"]: run["state"] for run in json.loads(shown)}


def test_a_sweep_is_one_array_and_its_second_call_makes_what_is_missing(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = [*SWEEP, "--cluster", "slurm", "--output", str(output), "--max-parallel", "2"]
    follow_up = ["--then", f"status --output {output}"]
    submitted = negbench(cluster, *arguments, *follow_up)
    folders = sorted(path for path in output.glob("*-s*"))
    assert len(folders) == 8
    notes = [json.loads((folder / "job.json").read_text()) for folder in folders]
    arrays = {note["job_id"].partition("_")[0] for note in notes}
    assert len(arrays) == 1 and len({note["folder"] for note in notes}) == 1
    array = arrays.pop()
    again = negbench(cluster, *arguments)
    assert "8 of 8 runs are" in again.stderr or "runs are pending" in again.stderr
    end = time.monotonic() + 120
    while list((seen := states(cluster, output)).values()).count("done") < 2:
        assert time.monotonic() < end, submitted.stdout
        time.sleep(0.5)
    active = [str(output / run_id) for run_id, state in seen.items() if state != "done"]
    negbench(cluster, "cancel", *active, check=False)
    cluster.wait_idle(60)
    finished = {folder for folder in folders if RunFolder(folder).done.exists()}
    assert 2 <= len(finished) < 8
    times = {folder: (folder / "done").stat().st_mtime_ns for folder in finished}
    resumed = negbench(cluster, *arguments)
    assert f"{len(finished)} of 8 runs are done" in resumed.stderr
    assert resumed.stdout.count("Slurm job") == 8 - len(finished)
    end = time.monotonic() + 240
    while set(states(cluster, output).values()) != {"done"}:
        assert time.monotonic() < end, states(cluster, output)
        time.sleep(0.5)
    cluster.wait_idle(60)
    assert {folder: (folder / "done").stat().st_mtime_ns for folder in finished} == times
    assert not cluster.orphans() and not list(output.rglob("*.partial"))
    for folder in folders:
        steps = [row["step"] for row in RunFolder(folder).read_metrics() if row["kind"] == "train"]
        assert steps == list(range(2, 4 * EPOCHS + 1, 2))
    assert cluster.run("squeue", "-h", "-r", "-t", "all", "-j", array)
    (follow_up_log,) = output.glob("submissions/*/*_0_log.out")  # after the first array's end
    assert follow_up_log.read_text().count("quickstart") == 8


def test_what_follows_a_sweep_waits_for_the_jobs_of_an_earlier_call(cluster: Cluster, tmp_path: Path) -> None:
    arguments = [*SWEEP, "--cluster", "slurm", "--output", str(tmp_path / "out"), "--slurm", "hold"]
    negbench(cluster, *arguments)
    note = json.loads(next((tmp_path / "out").glob("*/job.json")).read_text())
    array = note["job_id"].partition("_")[0]
    again = negbench(cluster, *arguments, "--then", f"status --output {tmp_path / 'out'}")
    assert "8 of 8 runs are pending" in again.stderr
    follow_up = again.stdout.removeprefix("Slurm job ").partition(":")[0]
    shown = cluster.run("scontrol", "show", "job", follow_up)
    cluster.run("scancel", follow_up, array)
    assert f"Dependency=afterany:{array}" in shown


REFUSED = [
    (["--partition", "gpu"], "--partition gpu: there is no 'gpu'; known: high, main"),
    (["--gpus-per-node", "3"], "GPUs a node: 2"),
    (["--gpus-per-node", "h100:1"], "GPUs a node: 2"),
    (["--nodes", "4"], "has 3"),
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
    assert done.returncode == 2, done.stderr
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
    done = negbench(cluster, *arguments, check=False, PATH=path)
    assert done.returncode == 2 and "local filesystem" in done.stderr and "output_is_shared" in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_slurm_at_all(tmp_path: Path, cluster: Cluster) -> None:
    arguments = ["run", "--method", "moco", "--cluster", "slurm", "--output", str(tmp_path / "out")]
    done = negbench(cluster, *arguments, check=False, PATH=str(tmp_path))
    assert done.returncode == 2 and "sbatch is not on PATH" in done.stderr
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{cluster.env['PATH']}"
    done = negbench(cluster, *arguments, check=False, PATH=path)
    assert done.returncode == 2 and "does not reach Slurm's controller (Unable to contact" in done.stderr


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


@pytest.mark.skipif(slurm.available() is not None, reason=str(slurm.available()))
def test_three_random_faults_change_nothing(tmp_path: Path) -> None:
    with Cluster(num_nodes=3) as own:  # Slurm may take nodes out of service that failed
        assert throw_faults(own, tmp_path, 3, epochs=60, seed=0).total() == 3
