"""How a run saves and stops: what signals and the clock ask for, and how all ranks agree on the step."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from negbench.runtime.distributed import is_distributed, rank
from negbench.runtime.failure import LAUNCHER_VARIABLE, Interrupted, end_requested

CHECKPOINT_SHARE = 50  # between checkpoints, training takes at least this many times as long as the last one took


class Kind(IntEnum):
    NOTHING, SAVE, STOP = range(3)


class Stop(NamedTuple):
    """What is asked of a run: nothing, a checkpoint, or a checkpoint and the end. The largest request wins."""

    kind: Kind
    signal: int = 0  # that asked for the end; 0 is `stop_after`


NOTHING, SAVE = Stop(Kind.NOTHING), Stop(Kind.SAVE)


class RankAgreement:
    """Lets all ranks act on a request at the same step: all know the largest request of step t at t + 1.

    The reduction runs beside the step, on a group of its own.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo") if is_distributed() else None
        self._pending: tuple[Tensor, Any] | None = None

    def settle(self, request: Stop) -> Stop:
        """Post this rank's request and return the agreement of the step before; of one process the request itself."""
        if self._group is None:
            return request
        agreed = NOTHING
        if self._pending is not None:
            value, work = self._pending
            work.wait()
            kind, signum = divmod(int(value), signal.NSIG)  # a CPU tensor: no device is waited for
            agreed = Stop(Kind(kind), signum)
        value = torch.tensor(request.kind * signal.NSIG + request.signal)
        self._pending = (value, dist.all_reduce(value, dist.ReduceOp.MAX, group=self._group, async_op=True))
        return agreed

    def at_the_end(self, request: Stop) -> Stop:
        """Wait for the requests of all ranks, those of the last step included, and return the largest."""
        if self._group is None:
            return request
        self.settle(request)
        return self.settle(request)


class Stopping:
    """Decides when a run saves and stops: by signals, the step `stop_after` and the clock, together on all ranks."""

    def __init__(self, checkpoint_every_min: float, note: Callable[[str], None]) -> None:
        self.checkpoint_every_min, self.note = checkpoint_every_min, note
        self.request = NOTHING  # set by a signal handler, acted on after the step
        self.stop_after: int | None = None  # the step to stop after, though it is not the last
        self.stops_at_once = False  # while nothing would be lost
        self.agreement = RankAgreement()
        self.restart_clock()

    def restart_clock(self, save_seconds: float = 0.0) -> None:
        """Count the time to the next checkpoint from now; the last one took `save_seconds`."""
        self._saved_at, self._save_seconds = time.monotonic(), save_seconds

    def settle(self, step: int, save: Callable[[], None], at_the_end: bool = False) -> None:
        """Save, and stop by raising `Interrupted`, if the ranks agree; `at_the_end` on this step's own requests."""
        request = self._request(step)
        agreed = self.agreement.at_the_end(request) if at_the_end else self.agreement.settle(request)
        if agreed.signal:
            self.note("stopping: a checkpoint is written; once more quits at once")
        if agreed.kind >= Kind.SAVE:
            save()
        if agreed.kind == Kind.STOP:
            raise Interrupted(agreed.signal)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal end what is inside at once: it needs no checkpoint."""
        self.stops_at_once = True
        if self.request.kind == Kind.STOP:
            raise Interrupted(self.request.signal)
        yield
        self.stops_at_once = False

    def _request(self, step: int) -> Stop:
        if self.request.kind == Kind.STOP:
            return self.request
        if self.stop_after is not None and step >= self.stop_after:
            return Stop(Kind.STOP)
        if self.request == NOTHING and not self._checkpoint_is_due():
            return NOTHING
        self.request = NOTHING
        self._saved_at = time.monotonic()  # asked for once, though the others learn of it a step later
        return SAVE

    def _checkpoint_is_due(self) -> bool:
        """Return what the clock of rank 0 says, which alone writes and knows what a checkpoint costs."""
        interval = max(60 * self.checkpoint_every_min, CHECKPOINT_SHARE * self._save_seconds)
        return rank() == 0 and time.monotonic() - self._saved_at >= interval


@contextmanager
def signals(stopping: Stopping) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGUSR2 ask for a checkpoint and an end, SIGTERM in a Slurm job for a checkpoint alone.

    A second SIGINT or SIGTERM ends the process at once.
    """
    in_slurm_job = os.environ.get(LAUNCHER_VARIABLE) == "slurm"

    def handle(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM and in_slurm_job:  # scancel, requeue and preemption alike; SIGUSR2 asks for an end
            stopping.request = max(stopping.request, SAVE)
        elif stopping.stops_at_once:
            raise Interrupted(signum)
        elif stopping.request.kind < Kind.STOP:
            stopping.request = Stop(Kind.STOP, signum)
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
