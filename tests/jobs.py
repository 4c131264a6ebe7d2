"""The command line in front of the tests' Slurm, and stories that jobs live through at the same time."""

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from typer.testing import CliRunner

from negbench.cli import app
from tests.slurm import Cluster

Story = Callable[[Cluster, Path], Any]
_ONE_AT_A_TIME = threading.Lock()  # environment, working directory and standard output belong to the whole process


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


def negbench(cluster: Cluster, *arguments: str, check: bool = True, **env: str) -> Done:
    """The command line in this process, outside every checkout. Threads take turns."""
    environment = mock.patch.dict(os.environ, cluster.env | env, clear=True)
    with _ONE_AT_A_TIME, contextlib.chdir(cluster.folder), environment:
        result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert not check or result.exit_code == 0, result.output
    return Done(result.exit_code, result.stdout, result.stderr)


def together(
    request: pytest.FixtureRequest, cluster: Cluster, folders: pytest.TempPathFactory
) -> dict[Story, futures.Future[Any]]:
    """The stories of the module's selected tests, their parameters `story`, lived through at once to their ends.

    Their jobs wait for Slurm's clocks while others train. The main thread waits: pytest and the command line would both
    turn standard output aside.
    """
    module = request.node.path
    specs = [getattr(item, "callspec", None) for item in request.session.items if item.path == module]
    stories = dict.fromkeys(spec.params["story"] for spec in specs if spec is not None and "story" in spec.params)
    pool = futures.ThreadPoolExecutor(max_workers=len(stories))
    told = {story: pool.submit(story, cluster, folders.mktemp(story.__name__)) for story in stories}
    futures.wait(told.values())
    pool.shutdown()
    return told
