"""Other processes that are not there: one process makes a step as one of many does, but for the network's time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def imagined(num_processes: int) -> Iterator[None]:
    """Inside, this is rank 0 of so many processes, and nothing is sent.

    What is gathered is this process's own tensor once for each, a sum is this process's part: the shapes, the memory
    and the bytes that are counted are a run's, the values are not.
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
