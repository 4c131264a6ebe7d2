"""A study's runs: which there are, which are missing, and a pool that makes them on this machine."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import yaml

from negbench.display import duration
from negbench.launch.cluster import ClusterConfig
from negbench.launch.local import check_gpus, devices, threads
from negbench.launch.logs import RUN_LOG
from negbench.launch.preflight import check_runs
from negbench.launch.scheduler import is_active, jobs_of, release_held
from negbench.records import read_json
from negbench.status import status_of
from negbench.study import Resolved, resolve

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Planned:
    """One run of a sweep, with what `negbench run` needs to make it."""

    resolved: Resolved
    method: str
    study: str
    overrides: tuple[str, ...]

    def command(self, cluster: ClusterConfig, output: Path, device: str, smoke: bool) -> list[str]:
        processes = [f"--gpus-per-node={cluster.num_gpus}"]
        if not cluster.num_gpus:
            processes.append(f"--processes-per-node={cluster.num_processes}")
        return [
            *(sys.executable, "-m", "negbench.cli", "run", "--cluster=none", *processes),
            *("--method", self.method, "--config", self.study, "--seed", str(self.resolved.config.seed)),
            *(part for text in self.overrides for part in ("--set", text)),
            *("--device", device, "--output", str(output), *(["--smoke"] if smoke else [])),
        ]


def plan(
    methods: Sequence[str], study: str, settings: Sequence[str], grid: Sequence[str], seeds: Sequence[int]
) -> list[Planned]:
    """Every combination, all methods of a seed before the next seed. ValueError if a run would appear twice."""
    planned: dict[str, Planned] = {}
    for combination, seed, method in itertools.product(combinations(grid), seeds, methods):
        overrides = (*settings, *combination)
        run = Planned(resolve(method, study, overrides, seed), method, study, overrides)
        if run.resolved.run_id in planned:
            raise ValueError(f"the sweep holds {run.resolved.label} with seed {seed} twice; see --methods and --grid")
        planned[run.resolved.run_id] = run
    return list(planned.values())


def missing(runs: Sequence[Planned], output: Path, retry_failed: bool) -> tuple[list[Planned], Counter[str]]:
    """Those to make now, and how many of the others stand where: done, waiting or running, failed.

    Jobs that Slurm holds after a failed launch are released.
    """
    notes = [read_json(output / run.resolved.run_id / "job.json") for run in runs]
    known = jobs_of(notes)
    release_held(notes, known)
    states = [status_of(output / run.resolved.run_id, known).state for run in runs]
    left_alone = {"done", "pending", "running", "stalled"} | (set() if retry_failed else {"failed"})
    chosen = [run for run, state in zip(runs, states, strict=True) if state not in left_alone]
    return chosen, Counter(state for state in states if state in left_alone)


def active_jobs(runs: Sequence[Planned], output: Path) -> list[str]:
    """Ids of the jobs of these runs that wait or run, whichever call submitted them."""
    notes = [read_json(output / run.resolved.run_id / "job.json") for run in runs]
    known = jobs_of(notes)
    return [note["job_id"] for note in notes if is_active(note, known)]


def combinations(grid: Sequence[str]) -> list[tuple[str, ...]]:
    """`key=value` texts of every point of the grid. ValueError if an axis is not KEY=VALUE,VALUE..."""
    axes = []
    for text in grid:
        key, _, rest = text.partition("=")
        try:
            values = yaml.safe_load(f"[{rest}]") if key else None
        except yaml.YAMLError:
            values = None
        if not values:
            raise ValueError(f"--grid {text} must have the form KEY=VALUE,VALUE, as optimizer.lr=0.03,0.06")
        axes.append([f"{key}={value if isinstance(value, str) else json.dumps(value)}" for value in values])
    return list(itertools.product(*axes))


def parse_seeds(text: str) -> list[int]:
    """`0:3` (0, 1, 2), `0,2,5`, or one number. ValueError for anything else, or for none."""
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, colon, last = part.partition(":")
            seeds += range(int(first or 0), int(last)) if colon else [int(part)]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise ValueError(f"--seeds must look like 0:3 (0, 1 and 2) or 0,2,5, not {text!r}")
    return list(dict.fromkeys(seeds))


class Active(NamedTuple):
    process: subprocess.Popen[bytes]
    title: str
    since: float  # time.monotonic


@dataclass
class Pool:
    """Runs `negbench run` for each planned run, at most `max_parallel` at once, output to the run's `run.log`."""

    cluster: ClusterConfig
    output: Path
    device: str
    smoke: bool
    max_parallel: int
    tell: Callable[[str], None]
    _stopped_by: int | None = field(default=None, init=False)
    _active: dict[int, Active] = field(default_factory=dict, init=False)  # by slot

    def check(self, runs: Sequence[Planned]) -> None:
        """ValueError if one of them could not start here: before the first starts, and with nothing written."""
        check_gpus(self.cluster)
        if self.device == "cuda":
            from negbench.environment import choose_device

            choose_device(self.device)
        check_runs([run.resolved for run in runs], self.cluster, self.output)

    def make(self, runs: Sequence[Planned]) -> int | None:
        """Make all; the signal that stopped it, or None. A run that fails does not stop the others."""
        titles = [f"[{number}/{len(runs)}] {run.resolved.run_id}" for number, run in enumerate(runs, 1)]
        waiting = deque(zip(runs, titles, strict=True))
        with self._signals():
            while self._active or (waiting and self._stopped_by is None):
                for slot in sorted(set(range(self.max_parallel)) - set(self._active)):
                    if waiting and self._stopped_by is None:
                        run, title = waiting.popleft()
                        self.tell(f"{title} starts")
                        self._active[slot] = Active(self._start(run, slot), title, time.monotonic())
                time.sleep(POLL_SECONDS)
                for slot, active in list(self._active.items()):
                    if (code := active.process.poll()) is not None:
                        del self._active[slot]
                        ending = "done" if code == 0 else f"ended with exit code {code}"
                        self.tell(f"{active.title} {ending} after {duration(time.monotonic() - active.since)}")
        return self._stopped_by

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
        """GPUs of its own for each of the runs beside each other, as long as there are enough."""
        if self.device == "cpu" or self.max_parallel == 1:
            return {}
        chosen = devices(slot, max(1, self.cluster.num_gpus))
        return {"CUDA_VISIBLE_DEVICES": ",".join(chosen)} if chosen else {}

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def handle(signum: int, frame: FrameType | None) -> None:
            self._stopped_by = signum
            for active in list(self._active.values()):
                active.process.send_signal(signum)

        before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
