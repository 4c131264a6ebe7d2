"""Background jobs of this machine: submitit's local executor, with a controller of our own for each job.

submitit's controller dies with the terminal, runs behind a shell that passes no signal, and starts everything at once.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import JobPaths
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE, Controller, LocalJob

from negbench.launch.processes import devices
from negbench.records import locks
from negbench.records.jobs import STARTED
from negbench.runtime.variables import outside
from negbench.settings.cluster import ClusterConfig

POLL_SECONDS = 0.5


class BackgroundExecutor(submitit.LocalExecutor):
    """At most `max_parallel` of its jobs train at once; the others wait. Jobs have the environment `variables` too."""

    def __init__(
        self, folder: Path, cluster: ClusterConfig, max_parallel: int | None, variables: dict[str, str]
    ) -> None:
        super().__init__(folder, python=cluster.python)
        self.cluster, self.max_parallel, self.variables = cluster, max_parallel, variables
        self.update_parameters(timeout_min=cluster.time_min, tasks_per_node=cluster.num_processes)

    def _submit_command(self, command: str) -> LocalJob[Any]:
        cluster = self.cluster
        numbers = [str(number) for number in (self.max_parallel or 0, cluster.num_gpus, cluster.max_requeues)]
        controller = shlex.join([sys.executable, "-m", __name__, str(self.folder), *numbers])
        variables = self.variables | {
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_NTASKS": str(cluster.num_processes),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(cluster.signal_before_end_s),
            "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * cluster.time_min),
            "SUBMITIT_LOCAL_WITH_SHELL": "",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
        }
        job = f"{shlex.quote(str(self.folder.parent))}/$$"
        log = f"mkdir -p {job} && exec >>{job}/$$_0_log.out 2>&1"  # holds what the set-up lines print, too
        with outside():
            process = subprocess.Popen(
                " && ".join([log, *cluster.setup, f"exec {controller}"]),  # exec: the job's id is the controller's
                shell=True,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C of the submitter and the end of its terminal do not reach it
            )
        return LocalJob(self.folder, str(process.pid), list(range(cluster.num_processes)), process)


class BackgroundController(Controller):
    """Starts a job's processes, signals the end of their time, and starts again those that ask to resume."""

    cancelled = False

    def _forward_signal(self, signum: Any, *args: Any) -> None:
        self.cancelled |= signum == signal.SIGTERM
        super()._forward_signal(signum)

    def control(self, max_parallel: int, num_gpus: int, max_requeues: int) -> None:
        slot = self._take_slot(max_parallel) if max_parallel else 0
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices(slot, num_gpus)) if num_gpus else ""
        paths = JobPaths(self.folder, self.pid, 0)
        (paths.folder / STARTED).touch()
        for _ in range(max_requeues + 1):
            if self.cancelled:
                return
            try:
                self.start_tasks()
                codes = self.wait()
            finally:
                self.kill_tasks()
            is_time_over = None in codes  # the signal may have come too early for the processes to handle it
            if not is_time_over and LOCAL_REQUEUE_RETURN_CODE not in codes:
                return
        with open(paths.stdout, "a") as log:
            log.write(f"negbench: requeued {max_requeues} times (cluster.max_requeues), not finished; submit again\n")

    def _take_slot(self, max_parallel: int) -> int:
        """Return the number of a lock that is held to this process's end, when one of the submission's is free."""
        while not self.cancelled:
            for slot in range(max_parallel):
                lock = os.open(self.folder.parent / f"slot-{slot}.lock", os.O_RDWR | os.O_CREAT)
                if locks.take(lock, self.folder.parent):
                    return slot
                os.close(lock)
            time.sleep(POLL_SECONDS)
        return 0


if __name__ == "__main__":
    BackgroundController(Path(sys.argv[1])).control(*map(int, sys.argv[2:]))
