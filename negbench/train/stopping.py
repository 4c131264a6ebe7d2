"""How a run stops: what signals ask for, and how all ranks agree on the step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from negbench.runtime.distributed import is_distributed
from negbench.runtime.failure import LAUNCHER_VARIABLE, Interrupted, end_requested


class Agreement:
    """All ranks act on a request at the same step: the largest request of step t is known to all at t + 1.

    The reduction runs beside the step, on a group of its own.
    """

    NOTHING, SAVE, STOP = 0, 1, 2  # a stop for signal s is STOP + s, so that all ranks learn which it was

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo") if is_distributed() else None
        self._pending: tuple[Tensor, Any] | None = None

    def settle(self, request: int) -> int:
        """Post this rank's request and return what all agreed on a step ago; with one process, the request itself."""
        if self._group is None:
            return request
        agreed = self.NOTHING
        if self._pending is not None:
            value, work = self._pending
            work.wait()
            agreed = int(value)  # a CPU tensor: no device is waited for
        value = torch.tensor(request)
        self._pending = (value, dist.all_reduce(value, dist.ReduceOp.MAX, group=self._group, async_op=True))
        return agreed

    def at_the_end(self, request: int) -> int:
        """The largest request of all ranks, those of the last step included; waits for them."""
        if self._group is None:
            return request
        self.settle(request)
        return self.settle(request)


class Stoppable(Protocol):
    """What a signal's request is put down in."""

    request: int
    stops_at_once: bool


@contextmanager
def signals(trainer: Stoppable) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGUSR2 ask for a checkpoint and an end, SIGTERM in a Slurm job for a checkpoint alone.

    A second SIGINT or SIGTERM ends at once.
    """
    in_slurm_job = os.environ.get(LAUNCHER_VARIABLE) == "slurm"

    def handle(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM and in_slurm_job:  # scancel, requeue and preemption alike; SIGUSR2 asks for an end
            trainer.request = max(trainer.request, Agreement.SAVE)
        elif trainer.stops_at_once:
            raise Interrupted(signum)
        elif trainer.request < Agreement.STOP:
            trainer.request = Agreement.STOP + signum
        elif signum != signal.SIGUSR2:
            raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    except BaseException:
        if is_distributed() and before[signal.SIGTERM] == signal.SIG_DFL:
            before[signal.SIGTERM] = lambda *_: end_requested.set()
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
