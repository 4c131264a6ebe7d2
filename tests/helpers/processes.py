"""The command line in a process of its own: forked from a server, so that it does not import PyTorch again.

The real start, `python -m negbench.cli`, is tested in test_cli.py, and in the jobs of copies of the checkout.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Self

import pytest

from negbench.launch.sweep import pool
from tests.helpers import runs, warm_python

ARGUMENTS = [part for text in runs.SHORT for part in ("--set", text)]
SECONDS = 300


class Command:
    """A running `negbench ARGUMENTS`, with the methods of subprocess.Popen; its output goes to files.

    It has a group of its own. The processes that it starts are forked from the server too, or are those of `python`.
    """

    def __init__(
        self, *arguments: str, env: dict[str, str] | None = None, log: Path | None = None, python: str | None = None
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [log or Path(self._folder.name) / name for name in ("out", "err")]
        out, err = (path.open("a") for path in self._outputs)
        with out, err:
            command = ["-m", "negbench.cli", *arguments]
            place = (os.environ | (env or {}), os.getcwd(), out.fileno(), err.fileno(), python)
            self._process = warm_python.Process(command, *place)
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._folder.cleanup()

    def poll(self) -> int | None:
        return self._process.wait(0)

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def wait(self, timeout: float = SECONDS) -> None:
        if self._process.wait(timeout) is None:
            self.send_signal(9)
            raise subprocess.TimeoutExpired("negbench", timeout, *(path.read_text() for path in self._outputs))

    def communicate(self, timeout: float = SECONDS) -> tuple[str, str]:
        self.wait(timeout)
        return self._outputs[0].read_text(), self._outputs[1].read_text()


def start(*arguments: str, python: str | None = None, **env: str) -> Command:
    return Command(*arguments, env=env, python=python)


def finished(*arguments: str, python: str | None = None, **env: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    with start(*arguments, python=python, **env) as process:
        out, err = process.communicate()
        assert process.returncode is not None
    return process.returncode, out, err


def fork_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the runs that a sweep or a tuning in this process starts."""

    def popen(command: list[str], *, env: dict[str, str], stdout: IO[bytes], **_: object) -> Command:
        assert command[:3] == [sys.executable, "-m", "negbench.cli"]
        return Command(*command[3:], env=env, log=Path(stdout.name))

    monkeypatch.setattr(pool, "subprocess", SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL))
