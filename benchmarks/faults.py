"""Throw random faults at a sweep on a throwaway Slurm, and see that nothing is lost.

    python -m benchmarks.faults --faults 20 --epochs 400

Four short runs of two processes each. A fault kills a process with SIGKILL, requeues a job from outside, or declares a
node down. At the end every run has to be done, its records have every row once, and its weights are bit for bit those
of the same run undisturbed, trained without Slurm. Needs Slurm's daemons and munge; starts and stops a cluster of its
own.
"""

import argparse
import contextlib
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from negbench.records.run_folder import RunFolder
from negbench.settings.resolve import resolve
from negbench.train.run import execute
from tests.helpers import runs
from tests.helpers.jobs import negbench
from tests.helpers.ranks import on_ranks
from tests.helpers.slurm import Cluster

METHODS = ("adco", "moco", "simclr", "byol")
KINDS = ("kill", "requeue", "node down")
SETTINGS = [*runs.SHORT, "evaluation.linear=false", "evaluate_every_epochs=20", "checkpoint_every_min=0.03"]
PAUSE_SECONDS = (1.0, 8.0)
POLL_SECONDS = 0.5


class DisturbedSweep:
    """One run of each method, submitted to Slurm. Further options are the command line's; `env` goes into the jobs."""

    def __init__(
        self,
        cluster: Cluster,
        output: Path,
        methods: Sequence[str],
        epochs: int,
        *options: str,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.cluster, self.methods, self.env = cluster, methods, env
        self.settings = [*SETTINGS, f"epochs={epochs}"]
        self.command = ["sweep", "--methods", ",".join(methods), "--device", "cpu", "--output", str(output)]
        self.command += ["--cluster", "slurm", "--processes-per-node", "2", "--time", "30m", *options]
        self.command += [part for text in [*self.settings, "cluster.max_requeues=50"] for part in ("--set", text)]
        self.call()
        self.folders = [RunFolder(path.parent) for path in sorted(output.glob("*/job.json"))]
        self.jobs = self.noted_jobs()

    def call(self) -> None:
        """The command; a second time it submits what is missing, and releases the jobs that Slurm holds."""
        negbench(self.cluster, *self.command, env=self.env)

    def noted_jobs(self) -> list[str]:
        return [str(json.loads((folder.path / "job.json").read_text())["job_id"]) for folder in self.folders]

    def throw(self, num_faults: int, seed: int, pause: tuple[float, float]) -> Counter[str]:
        """The faults by kind, each kind once before one comes again, with a random number of seconds before each."""
        rng = random.Random(seed)
        thrown: Counter[str] = Counter()
        kinds: list[str] = []
        while thrown.total() < num_faults:
            kinds = kinds or rng.sample(KINDS, len(KINDS))
            time.sleep(rng.uniform(*pause))
            running = [job for job in self.jobs if self.cluster.state(job) == "RUNNING"]
            if running and self._throw(kinds[-1], rng.choice(running), rng):
                thrown[kinds.pop()] += 1
                print(f"fault {thrown.total()} of {num_faults}: {thrown}", flush=True)
            assert not self._are_done(), f"all done after {thrown}: choose more epochs"
        return thrown

    def finish(self, timeout_s: float) -> None:
        """To the end of all runs, by the jobs that were submitted at the start. A second call submits none again."""
        end = time.monotonic() + timeout_s
        self.call()
        while not self._are_done():
            if self._held():  # after a launch that failed because its node went down
                self.call()
            if time.monotonic() > end:
                logs = "\n".join(log.read_text()[-3000:] for log in self.folders[0].path.parent.rglob("*_log.out"))
                raise AssertionError(f"not all are done:\n{self.cluster.run('squeue', '-r', '-t', 'all')}\n{logs}")
            time.sleep(POLL_SECONDS)
        assert self.noted_jobs() == self.jobs
        for job in self.jobs:
            self.cluster.wait_until_gone(self._raw_id(job), timeout_s)

    def compare(self, folder: Path) -> None:
        """With runs in `folder` that nothing disturbs. AssertionError if one is not the same."""
        undisturbed = on_ranks(2, _train, str(folder), self.methods, self.settings)[0]
        assert undisturbed == [disturbed.path.name for disturbed in self.folders]
        for disturbed in self.folders:
            assert not list(disturbed.path.rglob("*.partial"))
            other = RunFolder(folder / disturbed.path.name)
            runs.assert_same(runs.outcome(disturbed), runs.outcome(other), disturbed.path.name)

    def _throw(self, kind: str, job: str, rng: random.Random) -> bool:
        """Whether there still was something to throw it at."""
        if kind == "kill":
            pids = list(self.cluster.pids(self._raw_id(job)).values())
            if not pids:
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(pids), 9)
        elif kind == "requeue":
            self.cluster.run("scontrol", "requeue", job, check=False)
        else:
            nodes = self.cluster.nodes_of(job)
            if not nodes:
                return False
            self.cluster.down(rng.choice(nodes))
        return True

    def _are_done(self) -> bool:
        return all(folder.done.exists() for folder in self.folders)

    def _held(self) -> bool:
        reasons = self.cluster.run("squeue", "-h", "-r", "-t", "PD", "-j", ",".join(self.jobs), "-o", "%r")
        return "requeued held" in reasons.replace("_", " ")

    def _raw_id(self, job: str) -> str:
        return self.cluster.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-O", "JobID:|").partition("|")[0]


def _train(output: str, methods: Sequence[str], settings: Sequence[str]) -> list[str]:
    """On each rank: the run of every method; names of their folders, sorted."""
    resolved = [resolve(method, "quickstart", settings) for method in methods]
    for run in resolved:
        execute(run, Path(output), runs.CPU)
    return sorted(run.run_id for run in resolved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=400, help="4 steps each; enough that the runs outlast the faults")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Cluster(num_nodes=3) as cluster:  # removed when no job writes there
        sweep = DisturbedSweep(cluster, Path(folder) / "disturbed", METHODS, arguments.epochs)
        thrown = sweep.throw(arguments.faults, arguments.seed, PAUSE_SECONDS)
        sweep.finish(900)
        sweep.compare(Path(folder) / "undisturbed")
    kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(thrown.items()))
    print(f"{kinds}: all {len(METHODS)} runs as undisturbed, in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
