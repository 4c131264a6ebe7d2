"""The command line in a process of its own: forked from a server, so that it does not import PyTorch again.

The real start, `python -m negbench.cli`, is tested in test_cli.py and by every launcher, which starts its ranks so.
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
from tests.helpers import forkserver, runs

ARGUMENTS = [part for text in runs.SHORT for part in ("--set", text)]
SECONDS = 300


class Command:
    """A running `negbench ARGUMENTS`, with the methods of subprocess.Popen; its output goes to files.

    `python` is what it starts further processes with.
    """

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        new_group: bool = False,
        log: Path | None = None,
        python: str = sys.executable,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [log or Path(self._folder.name) / name for name in ("out", "err")]
        place = (os.environ | (env or {}), os.getcwd(), new_group, self._outputs, python)
        self._process = forkserver.context().Process(target=_run, args=(arguments, *place))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._folder.cleanup()

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def wait(self, timeout: float = SECONDS) -> None:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired("negbench", timeout, *(path.read_text() for path in self._outputs))

    def communicate(self, timeout: float = SECONDS) -> tuple[str, str]:
        self.wait(timeout)
        return self._outputs[0].read_text(), self._outputs[1].read_text()


def start(*arguments: str, python: str = sys.executable, **env: str) -> Command:
    return Command(*arguments, env=env, python=python)


def finished(*arguments: str, python: str = sys.executable, **env: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    with start(*arguments, python=python, **env) as process:
        out, err = process.communicate()
        assert process.returncode is not None
    return process.returncode, out, err


def fork_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the runs that a sweep or a tuning in this process starts."""

    def popen(command: list[str], *, env: dict[str, str], stdout: IO[bytes], **_: object) -> Command:
        assert command[:3] == [sys.executable, "-m", "negbench.cli"]
        return Command(*command[3:], env=env, new_group=True, log=Path(stdout.name))

    monkeypatch.setattr(pool, "subprocess", SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL))


def _run(
    arguments: tuple[str, ...], environ: dict[str, str], cwd: str, new_group: bool, outputs: list[Path], python: str
) -> None:
    from negbench.cli import main as cli

    if new_group:
        os.setpgid(0, 0)
    forkserver.settle(environ, cwd)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv, sys.executable = [cli.__file__, *arguments], python
    cli.main()
