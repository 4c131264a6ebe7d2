"""Means of scalars over steps and ranks, without waiting for the device."""

import torch
from torch import Tensor

from negbench.records.run.checkpoint import MeterState
from negbench.runtime.distributed import all_gather, all_reduce_mean, rank, world_size


class Meter:
    """Means of scalars that stay on the device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        self.count += 1
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value.double() if name in self.sums else value.double()

    def read(self) -> dict[str, float]:
        """Return the means over steps and ranks, and start again. It is the only host sync of the loop."""
        if not self.count:
            return {}
        means = all_reduce_mean(torch.stack(list(self.sums.values())) / self.count).tolist()
        result = dict(zip(self.sums, means, strict=True))
        self.sums, self.count = {}, 0
        return result

    def state_dict(self) -> MeterState:
        """Return the sums of all ranks, [world, number of names]. All ranks call it."""
        sums = all_gather(torch.stack(list(self.sums.values()))[None]) if self.count else None
        return {"names": list(self.sums), "sums": sums, "count": self.count}

    def load_state_dict(self, state: MeterState, device: torch.device) -> None:
        self.count, self.sums = state["count"], {}
        if (sums := state["sums"]) is not None:
            mine = sums[rank()] if len(sums) == world_size() else sums.mean(0)
            self.sums = dict(zip(state["names"], mine.to(device).unbind(), strict=True))
