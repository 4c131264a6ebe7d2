"""A Python that has PyTorch loaded: `executable()` takes `[-u] -m MODULE ARGUMENTS` as sys.executable does, in 0.1 s.

It is a small client of a server that forks. What its starter sees is the client: the client's environment, folder,
output and exit code are those of the module, signals reach the module through the client, and both die together. The
module imports negbench anew from where PYTHONPATH says. What tells a process by its own number or parent needs the
real start.
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
from contextlib import suppress
from typing import Any

STREAMS = (0, 1, 2)
FORWARDED = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGHUP")


@functools.cache
def executable() -> str:
    """A shell script that stands for `python`. The server ends with this process."""
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
    server = f"from tests.helpers import warm_python; warm_python.serve({listener.fileno()})"
    root = Path(__file__).parents[2]
    subprocess.Popen(
        [sys.executable, "-c", server], cwd=root, pass_fds=[listener.fileno()], stdin=subprocess.PIPE, process_group=0
    )
    return str(script)


def site() -> str:
    """Return a user's configuration folder that names it as the Python of jobs."""
    from pathlib import Path

    return str(Path(executable()).parent / "config")


def serve(listener_fd: int) -> None:
    """Fork one process for each client, until the starter of the server is gone."""
    import submitit.core._submit  # noqa: F401
    import torch._dynamo  # noqa: F401

    import negbench.cli.main
    import negbench.train.run

    del negbench
    for name in [name for name in sys.modules if name.partition(".")[0] in ("negbench", "tests")]:
        del sys.modules[name]
    sys.path.remove("")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(fileno=listener_fd)
    while listener.fileno() in select.select([listener.fileno(), sys.stdin.fileno()], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _keep(connection)
        connection.close()


def _keep(connection: socket.socket) -> None:
    """In a process of its own: start the module, pass signals on, report its end."""
    message, streams, *_ = socket.recv_fds(connection, 1 << 20, len(STREAMS))
    request = json.loads(message)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _run(request, streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(pid)
    while ended not in select.select([ended, connection.fileno()], [], [])[0]:
        signals = connection.recv(16)
        for signum in signals or [signal.SIGKILL]:  # nothing: the client is dead
            os.kill(pid, signum)
        if not signals:
            break
    status = os.waitpid(pid, 0)[1]
    with suppress(OSError):
        connection.send(bytes([os.waitstatus_to_exitcode(status) % 256, os.WIFSIGNALED(status)]))
    os._exit(0)


def _run(request: dict[str, Any], streams: list[int]) -> None:
    import multiprocessing.util
    import runpy
    import threading

    os.setpgid(0, 0)
    for stream, number in zip(streams, STREAMS, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
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


def _be_client(path: str, arguments: list[str]) -> None:
    """In the place of the module: nothing but the standard library, since every millisecond counts."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    request = {"argv": arguments, "cwd": os.getcwd(), "environ": dict(os.environ)}
    rights = array.array("i", STREAMS)
    connection.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    for name in FORWARDED:
        signal.signal(getattr(signal, name), lambda signum, _: connection.send(bytes([signum])))
    answer = connection.recv(2)
    if not answer:
        sys.exit("the server of tests/warm_python.py is gone")
    code, was_killed = answer
    if was_killed:
        signum = 256 - code
        signal.signal(signum, signal.SIG_DFL) if signum != signal.SIGKILL else None
        os.kill(os.getpid(), signum)
    os._exit(code)


if __name__ == "__main__":
    _be_client(sys.argv[1], sys.argv[2:])
