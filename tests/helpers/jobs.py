"""The command line in front of the tests' Slurm, and stories that jobs live through at the same time."""

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import pytest
from typer.testing import CliRunner

from negbench.cli.main import app
from tests.helpers import warm_python
from tests.helpers.slurm import Cluster

Story = Callable[[Cluster, Path], Any]
DEADLINE_SECONDS = 300  # of whatever takes ten on two idle cores
_TOLD = pytest.StashKey[dict[Story, futures.Future[Any]]]()
_ONE_AT_A_TIME = threading.Lock()  # environment, working directory and standard output belong to the whole process

_SLOW_METHOD = '''"""A method of negbench with slow steps.

None
"""
import os, time
from contextlib import suppress
from pathlib import Path
from negbench.methods import {name}
from negbench.methods.{name} import Config

def build(config, encoder, facts):
    method = {name}.build(config, encoder, facts)
    after_step = method.after_step

    def slowly(output, step):
        after_step(output, step)
        with suppress(OSError):
            time.sleep(float(Path(os.environ.get("PACE", "/nowhere")).read_text()))

    method.after_step = slowly
    return method
'''


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


def negbench(
    cluster: Cluster, *arguments: str, check: bool = True, env: Mapping[str, str] = MappingProxyType({})
) -> Done:
    """The command line in this process, outside every checkout. Threads take turns."""
    with _ONE_AT_A_TIME, contextlib.chdir(cluster.folder):
        given = {**cluster.env, "XDG_CONFIG_HOME": warm_python.site(), **env}
        with mock.patch.dict(os.environ, given, clear=True):
            result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert not check or result.exit_code == 0, result.output
    return Done(result.exit_code, result.stdout, result.stderr)


def slow_method(name: str, folder: Path) -> Path:
    """A method file: `name` with steps that take as many seconds as the file says that PACE names, if it is there."""
    path = folder / f"slow_{name}.py"
    path.write_text(_SLOW_METHOD.format(name=name))
    return path


def set_pace(file: Path, step_seconds: float) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(str(step_seconds))
    partial.replace(file)


def together(
    request: pytest.FixtureRequest, cluster: Cluster, folders: pytest.TempPathFactory
) -> dict[Story, futures.Future[Any]]:
    """What the stories have come to that are the parameter `story` of the session's tests.

    All are lived through at once, at the first call: jobs of one wait for Slurm's clocks while those of another train.
    The main thread waits meanwhile: pytest and the command line would both turn standard output aside.
    """
    told = request.config.stash.get(_TOLD, {})
    if not told:
        specs = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
        stories = dict.fromkeys(spec.params["story"] for spec in specs if "story" in spec.params)
        with futures.ThreadPoolExecutor(len(stories)) as pool:
            for story in stories:
                told[story] = pool.submit(story, cluster, folders.mktemp(story.__name__))
            futures.wait(told.values())
        cluster.bring_back()
        request.config.stash[_TOLD] = told
    return told
