"""Runs as jobs, through submitit: a batch job or a job array on Slurm, background processes on this machine."""

import itertools
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm.slurm import _make_sbatch_string

from negbench.launch import processes
from negbench.launch.jobs.background import BackgroundExecutor
from negbench.launch.jobs.job import RunJob
from negbench.launch.jobs.snapshot import copy_request, take_snapshot
from negbench.records.jobs import write_note
from negbench.runtime.errors import UserError
from negbench.runtime.failure import AGAIN
from negbench.runtime.variables import GPUS, outside
from negbench.settings.cluster import ClusterConfig
from negbench.settings.resolve import Resolved

FOLLOW_UP_MINUTES = 60
Runs = Sequence[tuple[Resolved, Sequence[str]]]  # each with its --set texts


@dataclass(frozen=True)
class Submission:
    """Runs that are submitted together; more than one become a job array."""

    runs: Runs
    cluster: ClusterConfig
    output: Path
    device: str
    study: str | None = None  # of a sweep, whose files are in `output/submissions`; a single run's are in its folder
    max_parallel: int | None = None
    smoke: bool = False

    @property
    def name(self) -> str:
        return self.study or self.runs[0][0].run_id

    def new_folder(self) -> Path:
        """Return `submissions/STAMP`, which is not there yet."""
        parent = self.output if self.study else self.output / self.name
        stamp = time.strftime("%Y%m%d-%H%M%S")
        names = itertools.chain([stamp], (f"{stamp}-{number}" for number in itertools.count(2)))
        folders = ((parent / "submissions" / name).absolute() for name in names)
        return next(folder for folder in folders if not folder.exists())

    def script(self, folder: Path) -> str:
        """Return the script for sbatch. Needs no Slurm."""
        python = self.cluster.python or shlex.quote(sys.executable)
        count = len(self.runs) if len(self.runs) > 1 else None
        command = f"{python} -u -m submitit.core._submit {shlex.quote(str(folder / '%j'))}"
        return _make_sbatch_string(command=command, folder=folder / "%j", map_count=count, **self.parameters(folder))

    def submit(self, folder: Path) -> list[str]:
        """Submit, note each job in its run's `job.json`, and return the jobs' ids. UserError if sbatch refuses."""
        code = folder / "code"
        take_snapshot(code)
        jobs = [self._job(run, overrides, code) for run, overrides in self.runs]
        if self.cluster.launcher == "slurm":
            executor: Any = submitit.SlurmExecutor(
                folder / "%j", max_num_timeout=self.cluster.max_requeues, python=self.cluster.python
            )
            executor.update_parameters(**self.parameters(folder))
            try:
                with outside(*GPUS), executor.batch():
                    submitted = [executor.submit(job) for job in jobs]
            except submitit.core.utils.FailedJobError as error:
                shutil.rmtree(folder)
                raise UserError(f"sbatch refused the job: {' '.join(str(error).split())}") from None
        else:
            threads = processes.threads((self.max_parallel or 1) * self.cluster.num_processes)
            variables = self._variables(folder) | threads
            executor = BackgroundExecutor(folder / "%j", self.cluster, self.max_parallel, variables)
            submitted = [executor.submit(job) for job in jobs]
        job_ids = [str(job.job_id) for job in submitted]
        for (run, _), job_id in zip(self.runs, job_ids, strict=True):
            self._note(run, job_id, folder)
        return job_ids

    def follow_up(self, folder: Path, arguments: Sequence[str], after: Sequence[str]) -> str:
        """Return a script for `negbench ARGUMENTS` on one node after the end, good or bad, of the jobs `after`."""
        python = self.cluster.python or shlex.quote(sys.executable)
        whole = self.parameters(folder)
        kept = ("partition", "account", "qos", "setup", "job_name", "wckey", "stderr_to_stdout")
        ids = ":".join(dict.fromkeys(job_id.partition("_")[0] for job_id in after))
        return _make_sbatch_string(
            command=f"{python} -u -m negbench.cli {shlex.join(arguments)}",
            folder=folder,
            time=FOLLOW_UP_MINUTES,
            dependency=f"afterany:{ids}" if ids else None,
            use_srun=False,
            **{name: whole[name] for name in kept},
        )

    def parameters(self, folder: Path) -> dict[str, Any]:
        """Return the parameters of submitit's SlurmExecutor."""
        cluster = self.cluster
        options = {key.replace("-", "_"): value for key, value in cluster.slurm.items()}
        further = {"requeue": True, "mem": cluster.mem} | options
        exports = [f"export {name}={shlex.quote(value)}" for name, value in self._variables(folder).items()]
        exports += ["export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"]
        return {
            "job_name": f"negbench-{self.name}",
            "time": cluster.time_min,
            "nodes": cluster.nodes,
            "ntasks_per_node": cluster.num_processes,
            "cpus_per_task": cluster.cpus_per_gpu,
            "gpus_per_node": cluster.gpus_per_node if cluster.num_gpus else None,
            **cluster.model_dump(include={"partition", "account", "qos", "constraint", "exclude"}),
            "signal_delay_s": cluster.signal_before_end_s,
            "array_parallelism": self.max_parallel or len(self.runs),
            "wckey": None,
            "stderr_to_stdout": True,
            "setup": [*cluster.setup, *exports],
            "teardown": _requeue(cluster.max_requeues),
            "srun_args": [
                "--kill-on-bad-exit=1",
                *([f"--cpus-per-task={cluster.cpus_per_gpu}"] if cluster.cpus_per_gpu else []),
            ],
            "additional_parameters": {key: value for key, value in further.items() if value is not None},
        }

    def _variables(self, folder: Path) -> dict[str, str]:
        """Return the job's environment: Python finds the snapshot first, and nothing in the working folder."""
        given = {name: str(value) for name, value in self.cluster.environment.items()}
        path = os.pathsep.join(filter(None, (str(folder / "code"), os.environ.get("PYTHONPATH"))))
        return given | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}

    def _job(self, run: Resolved, overrides: Sequence[str], code: Path) -> RunJob:
        method, study = copy_request(run, code / "request")
        output = str(self.output.absolute())
        # a job that was given GPUs fails rather than train without them
        device = "cuda" if self.device == "auto" and self.cluster.num_gpus else self.device
        requeues = self.cluster.max_requeues
        launcher, seed = self.cluster.launcher, run.config.seed
        return RunJob(launcher, method, study, tuple(overrides), seed, output, device, run.run_id, requeues, self.smoke)

    def _note(self, run: Resolved, job_id: str, folder: Path) -> None:
        path = self.output / run.run_id
        path.mkdir(parents=True, exist_ok=True)
        write_note(
            path,
            {
                "launcher": self.cluster.launcher,
                "job_id": job_id,
                "folder": str(folder),
                "num_ranks": self.cluster.world_size,
                "submitted": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": ["negbench", *sys.argv[1:]],
                "settings": run.description,
            },
        )


def _requeue(max_requeues: int) -> list[str]:
    """Return the lines after srun: a run that asks to resume, or was killed, is requeued unless its job was ended."""
    return [
        "rc=$?",
        f"if [ $rc -eq {AGAIN} ] || [ $rc -ge 128 ]; then",
        f'  if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {max_requeues} ]; then',
        f'    echo "negbench: requeued {max_requeues} times (cluster.max_requeues), not finished; submit again"',
        '  elif scontrol show job "$SLURM_JOB_ID" | grep -q JobState=RUNNING; then',
        '    scontrol requeue "$SLURM_JOB_ID"',
        "  fi",
        "fi",
        "exit $rc",
    ]
