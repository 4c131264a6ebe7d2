"""The steps of one process of many: how long they take, what they hold and what they receive."""

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from negbench.cost.bench.workloads import MethodWorkload, seconds_by_part
from negbench.cost.plan.arithmetic import ring_bytes
from negbench.cost.plan.imagined_ranks import imagined
from negbench.runtime import environment
from negbench.runtime.device import autocast_dtype
from negbench.runtime.distributed import received_bytes
from negbench.runtime.memory import PeakMemory
from negbench.settings.resolve import Resolved

WARMUP_STEPS = {"cpu": 1, "cuda": 3}
STEPS_A_TURN = {"cpu": 1, "cuda": 10}  # timed together: a GPU is not made to wait between them
MIN_TURNS, MAX_TURNS = 2, 50
COUNTING_SIZES = (32, 64)  # pixels

Progress = Callable[[str], None]


@dataclass
class Steps:
    """Times are of this device, the rest is of the run. `received_bytes` are those of a step, by purpose."""

    source: str
    environment: dict[str, Any]
    seconds: list[float]  # a step, by turn
    parts: dict[str, float]  # of a step, medians over turns, seconds
    peak_memory_bytes: int | None
    peak_reserved_bytes: int | None
    memory_source: str
    bench: str | None = None  # the record that times and memory are from; None: from here
    received_bytes: dict[str, int] = field(default_factory=dict)
    state_bytes: int = 0  # of a checkpoint
    save_seconds: float = 0.0  # its serialisation and checksum, not the disk's time


def time_steps(
    workload: MethodWorkload, resolved: Resolved, device: torch.device, budget_seconds: float, progress: Progress
) -> Steps:
    """Time turns until the budget is spent, at least two; what is received is counted in the warm-up."""
    around = environment.describe(device, 1, workload.method.autocast_dtype)  # before its own steps add to the load
    started = time.perf_counter()
    warmup, steps_a_turn = WARMUP_STEPS[device.type], STEPS_A_TURN[device.type]
    peak = PeakMemory(device, resolved.config.execution == "graphs")
    peak.start()
    for number in range(warmup):
        progress(f"warming up: step {number + 1} of {warmup}")
        received = count_step(workload)
    turns: list[dict[str, float]] = []
    while len(turns) < MIN_TURNS or (len(turns) < MAX_TURNS and _time_is_left(started, budget_seconds, turns)):
        last = f", the last in {sum(turns[-1].values()):.3g} s" if turns else ""
        progress(f"timing steps: number {1 + len(turns) * steps_a_turn}{last}")
        turns.append(seconds_by_part(workload, steps_a_turn, device))
    peak.update()
    memory_source = (
        "most that tensors took in these steps; the CUDA context and NCCL come on top"
        if device.type == "cuda"
        else "most that this process took in these steps, Python and libraries included"
    )
    return Steps(
        source=f"median of {len(turns) * steps_a_turn} steps here, after {warmup} of warm-up",
        environment=around,
        seconds=[sum(turn.values()) for turn in turns],
        parts={part: median(turn.get(part, 0.0) for turn in turns) for part in turns[0]},
        peak_memory_bytes=peak.allocated,
        peak_reserved_bytes=peak.reserved,
        memory_source=memory_source,
        received_bytes=received,
    )


def _time_is_left(started: float, budget_seconds: float, turns: list[dict[str, float]]) -> bool:
    now = time.perf_counter()
    return now + (now - started) / (len(turns) + 1) < started + budget_seconds


def count_step(workload: MethodWorkload) -> dict[str, int]:
    """Make a step and return the bytes that it received, by purpose."""
    before = received_bytes.copy()
    workload.step()
    return dict(received_bytes - before)


def count_received(
    resolved: Resolved, device: torch.device, num_processes: int, num_images: int, progress: Progress
) -> tuple[MethodWorkload, dict[str, int]]:
    """Return a workload that has made a step, and what `time_steps` would count, from steps with small images.

    A gather's bytes grow with the images' area, or not at all.
    """
    counts, config = [], resolved.config
    dtype = autocast_dtype(config.precision, device)
    with imagined(num_processes):
        for size in COUNTING_SIZES:
            progress(f"counting bytes: images of {size} pixels")
            data = config.data.model_copy(update={"image_size": size})
            small = config.model_copy(update={"data": data, "execution": "eager"})
            workload = MethodWorkload(replace(resolved, config=small), device, dtype, num_images)
            counts.append(count_step(workload))
    (few, many), (low, high) = counts, (size**2 for size in COUNTING_SIZES)
    area = config.data.image_size**2
    return workload, {
        purpose: round(few[purpose] + (many[purpose] - few[purpose]) * (area - low) / (high - low)) for purpose in few
    }


def gradient_bytes(workload: MethodWorkload, num_processes: int) -> int:
    """Return what a process receives in a step while gradients are averaged."""
    trained = sum(p.nbytes for p in workload.method.parameters() if p.requires_grad)
    return ring_bytes(trained, num_processes)


def save_in_memory(workload: MethodWorkload) -> tuple[int, float]:
    """Return the bytes of a checkpoint's tensors, and the seconds of its serialisation and checksum."""
    started = time.perf_counter()
    buffer = io.BytesIO()
    torch.save({"method": workload.method.state_dict(), "optimizer": workload.optimizer.state_dict()}, buffer)
    content = buffer.getvalue()
    hashlib.sha256(content).hexdigest()
    return len(content), time.perf_counter() - started
