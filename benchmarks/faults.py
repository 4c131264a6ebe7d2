"""Throw random faults at a sweep on a throwaway Slurm, and see that nothing is lost.

    python -m benchmarks.faults --faults 20 --epochs 400

Four short runs of two processes each. A fault kills a process with SIGKILL, requeues a job from outside, or declares a
node down. At the end every run has to be done, its records have every row once, and its weights are bit for bit those
of the same run undisturbed. Needs Slurm's daemons and munge; starts and stops a cluster of its own.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from negbench.records import RunFolder
from tests import runs
from tests.slurm import Cluster

METHODS = ("adco", "moco", "simclr", "byol")
SETTINGS = [*runs.SHORT, "evaluation.linear=false", "evaluate_every_epochs=20", "checkpoint_every_min=0.03"]
PAUSE_SECONDS = (1.0, 8.0)


def throw_faults(cluster: Cluster, folder: Path, num_faults: int, epochs: int, seed: int) -> Counter[str]:
    """The faults by kind. AssertionError if a run is not what it would have been without them."""
    undisturbed = _sweep(cluster, folder / "undisturbed", epochs)
    _wait(cluster, undisturbed, 600)
    disturbed = _sweep(cluster, folder / "disturbed", epochs)
    jobs = _jobs(disturbed)
    rng = random.Random(seed)
    thrown: Counter[str] = Counter()
    while thrown.total() < num_faults:
        time.sleep(rng.uniform(*PAUSE_SECONDS))
        running = [job for job in jobs if cluster.state(job) == "RUNNING"]
        if running:
            kind = _throw(cluster, rng.choice(running), rng)
            if kind:
                thrown[kind] += 1
                print(f"fault {thrown.total()} of {num_faults}: {kind}", flush=True)
        assert not all(_is_done(path) for path in disturbed), f"all done after {thrown}: choose more epochs"
    time.sleep(10)  # of jobs that a launch failed for, because its node went down, Slurm holds some
    _sweep(cluster, folder / "disturbed", epochs)  # a second call releases them, and submits none again
    assert _jobs(disturbed) == jobs
    _wait(cluster, disturbed, 900)
    _wait_for_the_end(cluster)
    for one, other in zip(undisturbed, disturbed, strict=True):
        assert not list(other.rglob("*.partial"))
        runs.assert_same(runs.outcome(RunFolder(other)), runs.outcome(RunFolder(one)), one.name)
    return thrown


def _throw(cluster: Cluster, job: str, rng: random.Random) -> str | None:
    """Its kind; None if the job had ended meanwhile."""
    kind = rng.choice(("kill", "requeue", "node down"))
    if kind == "kill":
        pids = list(cluster.pids(_raw_id(cluster, job)).values())
        if not pids:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(pids), 9)
    elif kind == "requeue":
        cluster.run("scontrol", "requeue", job, check=False)
    else:
        cluster.down(rng.choice(cluster.nodes))
    return kind


def _sweep(cluster: Cluster, output: Path, epochs: int) -> list[Path]:
    """Run folders of a submitted sweep."""
    settings = [*SETTINGS, f"epochs={epochs}", "cluster.max_requeues=50"]
    command = [sys.executable, "-m", "negbench.cli", "sweep", "--methods", ",".join(METHODS), "--device", "cpu"]
    command += ["--cluster", "slurm", "--processes-per-node", "2", "--time", "30m", "--output", str(output)]
    command += [part for text in settings for part in ("--set", text)]
    done = subprocess.run(command, env=cluster.env, cwd=cluster.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(path.parent for path in output.glob("*/job.json"))


def _wait(cluster: Cluster, paths: list[Path], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not all(_is_done(path) for path in paths):
        if time.monotonic() > end:
            logs = "\n".join(log.read_text()[-3000:] for log in paths[0].parent.glob("submissions/*/*/*_log.out"))
            raise AssertionError(f"not all runs are done:\n{cluster.run('squeue', '-r', '-t', 'all')}\n{logs}")
        time.sleep(0.5)


def _wait_for_the_end(cluster: Cluster) -> None:
    """Until nothing of a job is left; nodes that Slurm has taken out of service may stay so."""
    end = time.monotonic() + 60
    while cluster.run("squeue", "-h", "-t", "R,CG") or cluster.orphans():
        assert time.monotonic() < end, (cluster.run("squeue"), cluster.orphans())
        time.sleep(0.5)


def _is_done(path: Path) -> bool:
    return RunFolder(path).done.exists()


def _jobs(paths: list[Path]) -> list[str]:
    notes: list[dict[str, Any]] = [json.loads((path / "job.json").read_text()) for path in paths]
    return [str(note["job_id"]) for note in notes]


def _raw_id(cluster: Cluster, job: str) -> str:
    return cluster.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-O", "JobID:|").partition("|")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=400, help="4 steps each; enough that the runs outlast the faults")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Cluster(num_nodes=3) as cluster:  # removed when no job writes there
        thrown = throw_faults(cluster, Path(folder), arguments.faults, arguments.epochs, arguments.seed)
    kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(thrown.items()))
    print(f"{kinds}: all {len(METHODS)} runs as undisturbed, in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
