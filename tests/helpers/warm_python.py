"""A Python that has PyTorch and negbench loaded: processes of tests are forked from it, in 0.1 s and not in 5 s.

One server serves all workers of a session. `Process` starts a module in a fork of it. `executable()` is a script that
takes `[-u] -m MODULE ARGUMENTS` as sys.executable does: a small client of the server, whose environment, folder, output
and exit code are those of the module; signals reach the module through the client, and both die together. Where
PYTHONPATH is not the server's, the module imports negbench anew, from where that says. Processes that the module starts
by sys.executable are forked from the server too. What tells a process by its own number or parent needs the real start.
"""

import array
import atexit
import functools
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

STREAMS = (0, 1, 2)
FORWARDED = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGHUP")


@functools.cache
def executable() -> str:
    """Return the script that stands for `python`. The server ends with the process that made it."""
    return os.environ.get("NEGBENCH_TESTS_WARM_PYTHON") or _start_server()


def share() -> None:
    """Let processes that are started from now on use this process's server, which loads PyTorch when it is needed."""
    os.environ["NEGBENCH_TESTS_WARM_PYTHON"] = executable()


def _start_server() -> str:
    import shutil
    import subprocess
    import tempfile
    from pathlib import Path

    folder = Path(tempfile.mkdtemp(prefix="warm-", dir="/tmp"))  # short: a socket's path has 107 bytes
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E -s "{__file__}" "{folder / "socket"}" "$@"\n')
    script.chmod(0o755)
    (folder / "config" / "negbench").mkdir(parents=True)
    (folder / "config" / "negbench" / "cluster.yaml").write_text(f"python: {script}\n")
    server = f"from tests.helpers import warm_python; warm_python.serve({listener.fileno()}, {str(script)!r})"
    root = Path(__file__).parents[2]
    subprocess.Popen(
        [sys.executable, "-c", server], cwd=root, pass_fds=[listener.fileno()], stdin=subprocess.PIPE, process_group=0
    )
    return str(script)


class Process:
    """A module that runs in a fork of the server, in a group of its own; it dies with this process.

    `returncode` is that of subprocess.Popen; None until `wait` has seen the end.
    """

    def __init__(
        self, arguments: list[str], environ: Mapping[str, str], cwd: str, out: int, err: int, python: str | None = None
    ) -> None:
        path = os.path.join(os.path.dirname(executable()), "socket")
        with open(os.devnull) as nothing:
            self._connection = _ask(path, arguments, environ, cwd, (nothing.fileno(), out, err), python)
        self.pid = int.from_bytes(self._connection.recv(4))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit code, or None after `timeout` seconds."""
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            answer = self._connection.recv(2)
            assert answer, "the server of tests/helpers/warm_python.py is gone"
            self.returncode = int.from_bytes(answer, signed=True)
            self._connection.close()
        return self.returncode


def site() -> str:
    """Return a user's configuration folder that names it as the Python of jobs."""
    from pathlib import Path

    return str(Path(executable()).parent / "config")


def serve(listener_fd: int, script: str) -> None:
    """Fork a process for each client, pass signals on to it and report its end, until the server's starter is gone."""
    import gc

    listener = socket.socket(fileno=listener_fd)
    running: dict[int, tuple[int, socket.socket]] = {}  # process number and client, by the descriptor of the process
    while True:
        clients = {connection: pid for pid, connection in running.values() if connection.fileno() >= 0}
        ready = select.select([sys.stdin.fileno(), listener, *running, *clients], [], [])[0]
        if sys.stdin.fileno() in ready:
            break
        if listener in ready:
            if "torch" not in sys.modules:
                _load()
                sys.executable = script
                gc.freeze()
            connection, _ = listener.accept()
            pid = _fork(connection, (listener, *clients))
            running[os.pidfd_open(pid)] = pid, connection
        for connection in clients.keys() & set(ready):
            _pass_on(connection, clients[connection])
        for ended in running.keys() & set(ready):
            pid, connection = running.pop(ended)
            os.close(ended)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with suppress(OSError), connection:
                connection.send(code.to_bytes(2, signed=True))


def _load() -> None:

    import tests.helpers.runs
    import tests.helpers.tiny  # noqa: F401

    sys.path[:] = [*(path for path in sys.path if path), os.getcwd()]


def _fork(connection: socket.socket, others: tuple[socket.socket, ...]) -> int:
    """Start the module that a client asks for, and send the client the number of its process."""
    message, streams, *_ = socket.recv_fds(connection, 1 << 20, len(STREAMS))
    pid = os.fork()
    if pid == 0:
        for inherited in (connection, *others):
            inherited.close()
        _run(json.loads(message), streams)
    for stream in streams:
        os.close(stream)
    with suppress(OSError):  # the client may be dead already, which is seen when it is read from
        connection.send(pid.to_bytes(4))
    return pid


def _pass_on(connection: socket.socket, pid: int) -> None:
    """Send a module the signals that its client got; kill it if the client is dead."""
    signals = connection.recv(16)
    for signum in signals or [signal.SIGKILL]:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)
    if not signals:
        connection.close()


def _run(request: dict[str, Any], streams: list[int]) -> None:
    import multiprocessing.util
    import runpy
    import threading

    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal, also where the tests are in background
    for stream, number in zip(streams, STREAMS, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    loaded_from = os.environ.get("PYTHONPATH", "")
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.executable = request["python"] or sys.executable
    if (asked := os.environ.get("PYTHONPATH", "")) != loaded_from:
        sys.path[:0] = filter(None, asked.split(os.pathsep))
        for name in [name for name in sys.modules if name.partition(".")[0] in ("negbench", "tests")]:
            del sys.modules[name]
    if not os.environ.get("PYTHONSAFEPATH"):
        sys.path.insert(0, os.getcwd())
    arguments = [argument for argument in request["argv"] if argument != "-u"]
    assert arguments[0] == "-m"
    sys.argv = arguments[1:]
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, 1) for number, mode in zip(STREAMS, "rww", strict=True)
    )
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    code = 0
    try:
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        multiprocessing.util._exit_function()  # type: ignore[attr-defined]
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code % 256)


def _ask(
    path: str, arguments: list[str], environ: Mapping[str, str], cwd: str, streams: tuple[int, ...], python: str | None
) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    request = {"argv": arguments, "cwd": cwd, "environ": dict(environ), "python": python}
    rights = array.array("i", streams)
    connection.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    return connection


def _be_client(path: str, arguments: list[str]) -> None:
    """In the place of the module: nothing but the standard library, since every millisecond counts."""
    connection = _ask(path, arguments, os.environ, os.getcwd(), STREAMS, None)
    connection.recv(4)
    for name in FORWARDED:
        signal.signal(getattr(signal, name), lambda signum, _: connection.send(bytes([signum])))
    answer = connection.recv(2)
    if not answer:
        sys.exit("the server of tests/warm_python.py is gone")
    code = int.from_bytes(answer, signed=True)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if code != -signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    _be_client(sys.argv[1], sys.argv[2:])
