"""How all ranks stop at the same step."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from negbench.runtime.distributed import is_distributed


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
