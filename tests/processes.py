"""The command line in a process of its own."""

import os
import subprocess
import sys

from tests import runs

ARGUMENTS = [part for text in runs.SHORT for part in ("--set", text)]


def start(*arguments: str, new_group: bool = False, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "negbench.cli", *arguments]
    pipe = subprocess.PIPE
    group = 0 if new_group else None
    return subprocess.Popen(command, env=os.environ | env, stdout=pipe, stderr=pipe, text=True, process_group=group)


def finished(*arguments: str, **env: str) -> tuple[int, str, str]:
    with start(*arguments, new_group=False, **env) as process:
        out, err = process.communicate(timeout=180)
    return process.returncode, out, err
