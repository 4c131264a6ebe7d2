"""Run a function on several gloo processes."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from tests.helpers import forkserver


def on_ranks(world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(*args)`, defined in a module, returns on each rank (anything that torch.save takes)."""
    forkserver.context()
    with tempfile.TemporaryDirectory() as folder:
        entry = (dict(os.environ), os.getcwd(), world_size, folder, function, args)
        start_processes(_rank, entry, nprocs=world_size, start_method="forkserver")
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(world_size)]


def _rank(
    rank: int,
    environ: dict[str, str],
    cwd: str,
    world_size: int,
    folder: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    forkserver.settle(environ | {"GLOO_SOCKET_IFNAME": "lo"}, cwd)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save(function(*args), Path(folder) / str(rank))
    dist.destroy_process_group()
