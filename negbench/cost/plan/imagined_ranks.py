"""One process that makes a step as one of many does, except for the network's time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def imagined(num_processes: int) -> Iterator[None]:
    """Be rank 0 of so many processes inside, and send nothing.

    A gather returns this process's own tensor once for each process, a sum its own part: shapes, memory and counted
    bytes are a run's, values are not.
    """
    if num_processes == 1:
        yield
        return
    import torch.testing._internal.distributed.fake_pg  # noqa: F401  # makes the backend known

    dist.init_process_group("fake", store=dist.HashStore(), rank=0, world_size=num_processes)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        dist.destroy_process_group()
