"""A side's process: started, frozen (SIGSTOP) while another has its turn, its data workers too, and killed."""

import os
import signal
import subprocess
import tempfile
from pathlib import Path

from benchmarks.peers.worker import ANSWER

ROOT = Path(__file__).resolve().parent.parent.parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class SideDied(Exception):
    """A side ended; the message is the last line that it wrote on standard error, or the signal that killed it."""


class RunningSide:
    """A process that leads a group of its own: signals to it meet its children too, and Ctrl-C meets neither."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            start_new_session=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "LIGHTLY_DID_VERSION_CHECK": "True"} | environment,
        )

    def wait_until_ready(self) -> None:
        self._answer()
        self._signal(signal.SIGSTOP)

    def take_turn(self, untimed: int, timed: int) -> float:
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            print(untimed, timed, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise SideDied(self._last_words()) from None
        value = float(self._answer())
        self._signal(signal.SIGSTOP)
        return value

    def kill(self) -> None:
        if self.process.poll() is None:
            self._signal(signal.SIGKILL)
        self.process.wait()
        self.errors.close()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                return line.removeprefix(ANSWER).strip()
        raise SideDied(self._last_words())

    def _last_words(self) -> str:
        code = self.process.wait()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        return lines[-1] if lines else f"exit code {code}"

    def _signal(self, signum: int) -> None:
        os.killpg(self.process.pid, signum)
