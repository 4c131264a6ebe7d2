"""Where the time goes: separate clocks for training, evaluation, checkpoints and waiting for data.

On a GPU the host runs ahead of the device: the training clock is read after a synchronisation, and single steps are
timed by CUDA events, which are read only for a row. The GPU's energy is counted with the training clock.
"""

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from negbench.records.run.checkpoint import ClockState
from negbench.runtime.distributed import gather_objects, world_size
from negbench.runtime.nvml import Gpu
from negbench.runtime.span import Mark, mark, seconds_between

WARMUP_STEPS = 20
KINDS = ("train", "device", "eval", "checkpoint", "data_wait")


class Clock:
    """Seconds by kind. Training runs from `start()`; the time inside `paused(kind)` counts as that kind.

    `device` is training times `num_devices`; `joules` is the energy of this process's GPU in training, None if unknown.
    """

    def __init__(self, device: torch.device, num_devices: int = 1) -> None:
        self.device, self.num_devices = device, num_devices
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.joules: float | None = None
        self._gpu = Gpu(device)
        self._joules_at_start: float | None = None
        self._running_since: float | None = None
        self._marks: list[Mark] = []
        self._durations: list[float] = []
        self._warmup_left = WARMUP_STEPS

    def start(self) -> None:
        self._running_since = time.perf_counter()
        self._joules_at_start = self._gpu.energy_joules()
        self._marks = [mark(self.device)]

    def read(self) -> float:
        """Return the training seconds until now."""
        self._collect()
        if self._running_since is not None:
            now, joules = time.perf_counter(), self._gpu.energy_joules()
            self.seconds["train"] += now - self._running_since
            self.seconds["device"] += (now - self._running_since) * self.num_devices
            if joules is not None and self._joules_at_start is not None:
                self.joules = (self.joules or 0.0) + joules - self._joules_at_start
            self._running_since, self._joules_at_start = now, joules
        return self.seconds["train"]

    @contextmanager
    def paused(self, kind: str) -> Iterator[None]:
        running = self._running_since is not None
        self.read()
        self._running_since = None
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._synchronize()
            self.seconds[kind] += time.perf_counter() - begin
            if running:
                self.start()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the host time inside as waiting, and as training too."""
        begin = time.perf_counter()
        yield
        self.seconds["data_wait"] += time.perf_counter() - begin

    def step_done(self) -> None:
        self._marks.append(mark(self.device))

    def step_seconds(self) -> float | None:
        """Return the median seconds of the steps since the last call, without the process's first 20; None if none."""
        self._collect()
        durations, self._durations = self._durations, []
        return statistics.median(durations) if durations else None

    def joules_of_all_ranks(self) -> float | None:
        """Return the energy of all ranks' GPUs in training, None if one is unknown. All ranks call it."""
        joules = [rank_joules for rank_joules in gather_objects(self.joules) if rank_joules is not None]
        return sum(joules) if len(joules) == world_size() else None

    def state_dict(self) -> ClockState:
        """Return the seconds, and the joules by rank. All ranks call it."""
        return {"seconds": dict(self.seconds), "joules": gather_objects(self.joules)}

    def load_state_dict(self, state: ClockState) -> None:
        """Continue from `state`, also of another number of ranks: each has an equal share of the joules."""
        self.seconds = dict(state["seconds"])
        known = [rank_joules for rank_joules in state["joules"] if rank_joules is not None]
        self.joules = sum(known) / world_size() if len(known) == len(state["joules"]) else None

    def _collect(self) -> None:
        """Turn the marks between steps into durations."""
        self._synchronize()
        durations = [seconds_between(a, b) for a, b in itertools.pairwise(self._marks)]
        self._marks = self._marks[-1:]
        self._durations += durations[self._warmup_left :]
        self._warmup_left = max(0, self._warmup_left - len(durations))

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
