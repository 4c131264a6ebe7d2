"""What a job runs: one rank's share of a run, resolved again from the snapshot."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import submitit
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from negbench.records.jobs import read_note
from negbench.records.run.outcome import recorded
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from negbench.runtime.failure import AGAIN_VARIABLE, LAUNCHER_VARIABLE, Interrupted, ending_of
from negbench.runtime.variables import number


@dataclass(frozen=True)
class RunJob:
    """A submitit job. It holds the request alone, so that a requeued job is the job that was submitted."""

    launcher: str
    method: str
    study: str
    overrides: tuple[str, ...]
    seed: int
    output: str
    device: str
    run_id: str
    max_requeues: int
    smoke: bool = False

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return the same job again, for a signal that comes before `__call__` has set its own handlers."""
        return submitit.helpers.DelayedSubmission(self)

    def __call__(self) -> None:
        """Train, evaluate and record. An error ends the process with the exit code of `ending_of`."""
        self._take_signals()
        try:
            folder = RunFolder(Path(self.output) / self.run_id)
            noted = read_note(folder.path).get("settings", {})
            with recorded(folder, lambda: {"run_id": self.run_id, "seed": self.seed} | noted):
                environment = submitit.JobEnvironment()
                environment.paths.result_pickle.unlink(missing_ok=True)  # an earlier attempt's error is no result
                self._run()
        except BaseException as error:
            ending = ending_of(error)
            ending.show()
            sys.stdout.flush()
            sys.exit(ending.code)

    def _take_signals(self) -> None:
        os.environ[LAUNCHER_VARIABLE] = self.launcher
        if self.launcher == "local":
            os.environ[AGAIN_VARIABLE] = str(LOCAL_REQUEUE_RETURN_CODE)
            signal.signal(signal.SIGTERM, _interrupt)  # of `negbench cancel`; submitit's handler would ignore it
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until training, which saves
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, _interrupt)

    def _run(self) -> None:
        restarts = number("SLURM_RESTART_COUNT")
        if restarts > self.max_requeues:
            raise UserError(f"requeued {restarts} times, more than cluster.max_requeues {self.max_requeues}")
        from negbench.launch.here import run_here
        from negbench.settings.resolve import resolve

        resolved = resolve(self.method, self.study, self.overrides, self.seed)
        if resolved.run_id != self.run_id:
            raise RuntimeError(f"the job was submitted as {self.run_id} and resolves to {resolved.run_id}")
        run_here(resolved, Path(self.output), self.device, smoke=self.smoke)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(signum)
