"""Run a function on several gloo processes, which are forked from a server."""

import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.helpers import warm_python

SECONDS = 300


def on_ranks(world_size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(*args)`, defined in a module, returns on each rank (anything that torch.save takes)."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "path").write_text(json.dumps(sys.path))
        (folder / "call").write_bytes(pickle.dumps((function, args)))
        environ = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
        ranks = []
        for rank in range(world_size):
            with (folder / f"{rank}.log").open("w") as log:
                command = ["-m", __name__, str(folder), str(rank), str(world_size)]
                ranks.append(warm_python.Process(command, environ, os.getcwd(), log.fileno(), log.fileno()))
        end = time.monotonic() + SECONDS
        while any(process.wait(0.02) is None for process in ranks):
            if any(process.returncode for process in ranks) or time.monotonic() > end:
                break
        failed = [rank for rank, process in enumerate(ranks) if process.wait(0) != 0]
        for process in ranks:
            if process.returncode is None:
                os.kill(process.pid, 9)
        if failed:
            raise AssertionError("\n".join(f"rank {rank}: {(folder / f'{rank}.log').read_text()}" for rank in failed))
        return [torch.load(folder / str(rank), weights_only=False) for rank in range(world_size)]


def _be_rank(folder: Path, rank: int, world_size: int) -> None:
    sys.path[:] = json.loads((folder / "path").read_text())
    function, args = pickle.loads((folder / "call").read_bytes())
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save(function(*args), folder / str(rank))
    dist.barrier()  # a rank that leaves early would fail another that still connects to it
    dist.destroy_process_group()


if __name__ == "__main__":
    _be_rank(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
