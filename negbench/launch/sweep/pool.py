"""A study's runs on this machine, some at a time, until all are made or a time is over."""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from negbench.launch.jobs.logs import RUN_LOG
from negbench.launch.jobs.preflight import check_runs
from negbench.launch.processes import check_gpus, devices, threads
from negbench.launch.sweep.expectation import Expectation
from negbench.runtime.words import duration
from negbench.settings.cluster import ClusterConfig
from negbench.settings.grid import Planned

POLL_SECONDS = 0.2


class Active(NamedTuple):
    process: subprocess.Popen[bytes]
    run: Planned
    title: str
    since: float  # time.monotonic


@dataclass
class Pool:
    """Runs `negbench run` for each planned run, at most `max_parallel` at once, output to the run's `run.log`.

    It starts only runs that are expected to end within `seconds`. Those that still run then get SIGTERM, and leave a
    checkpoint.
    """

    cluster: ClusterConfig
    output: Path
    device: str
    smoke: bool
    max_parallel: int
    seconds: float | None = None
    is_out_of_time: bool = field(default=False, init=False)  # after `make`: whether runs are left
    _stopped_by: int | None = field(default=None, init=False)
    _active: dict[int, Active] = field(default_factory=dict, init=False)  # by slot

    def check(self, runs: Sequence[Planned]) -> None:
        """UserError if one of `runs` cannot start here, before the first starts and anything is written."""
        check_gpus(self.cluster)
        if self.device == "cuda":
            from negbench.runtime.device import choose_device

            choose_device(self.device)
        check_runs([run.resolved for run in runs], self.cluster, self.output)

    def make(self, runs: Sequence[Planned]) -> int | None:
        """Make all, and return the signal that stopped it, or None. A run that fails does not stop the others."""
        titles = [f"[{number}/{len(runs)}] {run.resolved.run_id}" for number, run in enumerate(runs, 1)]
        waiting = deque(zip(runs, titles, strict=True))
        end = None if self.seconds is None else time.monotonic() + self.seconds
        expectation = Expectation(self.output)
        with self._signals():
            while self._active or waiting:
                for slot in sorted(set(range(self.max_parallel)) - set(self._active)):
                    while waiting and slot not in self._active and self._stopped_by is None:
                        run, title = waiting.popleft()
                        if end is None or self._fits(run, title, end, expectation):
                            print(f"{title} starts")
                            self._active[slot] = Active(self._start(run, slot), run, title, time.monotonic())
                time.sleep(POLL_SECONDS)
                self._collect(expectation)
                if end is not None and time.monotonic() >= end:
                    self.is_out_of_time |= bool(self._active or waiting)
                    self._send(signal.SIGTERM)
                    waiting.clear()
                    end = None
                if self._stopped_by is not None:
                    waiting.clear()
        return self._stopped_by

    def _collect(self, expectation: Expectation) -> None:
        for slot, active in list(self._active.items()):
            if (code := active.process.poll()) is None:
                continue
            del self._active[slot]
            took = time.monotonic() - active.since
            ending = "done" if code == 0 else f"ended with exit code {code}"
            print(f"{active.title} {ending} after {duration(took)}")
            if code == 0:
                expectation.learn(active.run.resolved, took)

    def _fits(self, run: Planned, title: str, end: float, expectation: Expectation) -> bool:
        left = end - time.monotonic()
        expected = expectation.seconds(run.resolved)
        if expected is None or expected <= left:
            return True
        self.is_out_of_time = True
        never = self.seconds is not None and expected > self.seconds
        hint = "; without --within it starts, and can be stopped and resumed" if never else ""
        print(f"{title} is left: it takes about {duration(expected)}, and {duration(max(left, 0))} are left{hint}")
        return False

    def _start(self, run: Planned, slot: int) -> subprocess.Popen[bytes]:
        folder = self.output / run.resolved.run_id
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / RUN_LOG, "ab") as log:
            return subprocess.Popen(
                run.command(self.cluster, self.output, self.device, self.smoke),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | threads(self.max_parallel * self.cluster.num_processes) | self._devices(slot),
                start_new_session=True,  # a Ctrl-C reaches it once, through this process
            )

    def _devices(self, slot: int) -> dict[str, str]:
        """Give each of the runs beside each other GPUs of its own, as long as there are enough."""
        if self.device == "cpu" or self.max_parallel == 1:
            return {}
        chosen = devices(slot, max(1, self.cluster.num_gpus))
        return {"CUDA_VISIBLE_DEVICES": ",".join(chosen)} if chosen else {}

    def _send(self, signum: int) -> None:
        for active in list(self._active.values()):
            active.process.send_signal(signum)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def handle(signum: int, frame: FrameType | None) -> None:
            self._stopped_by = signum
            self._send(signum)

        before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
