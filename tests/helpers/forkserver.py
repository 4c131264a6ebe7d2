"""A server that has PyTorch and negbench loaded and forks the processes of tests: 0.1 s each, not 5 s."""

import functools
import os
from contextlib import chdir
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
PRELOADED = [
    "torch._dynamo",
    "pytest",
    "negbench.cli.main",
    "negbench.train.run",
    "tests.helpers.tiny",
    "tests.helpers.runs",
]


@functools.cache
def context() -> ForkServerContext:
    """Start the server at the first call, in the repository's root, from where `tests` can be imported."""
    of_server = get_context("forkserver")
    of_server.set_forkserver_preload(PRELOADED)
    with chdir(ROOT):
        forkserver.ensure_running()
    return of_server


def settle(environ: dict[str, str], cwd: str) -> None:
    """Give a forked process the environment and the folder that its starter has now."""
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(cwd)
    torch.set_num_threads(int(environ.get("OMP_NUM_THREADS", "1")))
