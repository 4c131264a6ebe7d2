"""The steps of one process of many: how long they take, what they hold and what they receive."""

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from negbench.cost.bench.workloads import MethodWorkload
from negbench.cost.plan.arithmetic import ring_bytes
from negbench.cost.plan.imagined_ranks import imagined
from negbench.runtime import environment
from negbench.runtime.device import autocast_dtype
from negbench.runtime.distributed import received_bytes
from negbench.runtime.memory import PeakMemory
from negbench.runtime.span import Spans
from negbench.settings.resolve import Resolved

WARMUP_STEPS = {"cpu": 1, "cuda": 3}
STEPS_A_TURN = {"cpu": 1, "cuda": 10}  # timed together: a GPU is not made to wait between them
MIN_TURNS, MAX_TURNS = 2, 50
COUNTING_SIZES = (32, 64)  # pixels

Progress = Callable[[str], None]


@dataclass
class Steps:
    """Times are of this device, the rest is of the run. `received_bytes` a step, by what for."""

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
    """Turns until the budget is spent, at least two; what is received is counted in the warm-up."""
    around = environment.describe(device, 1, workload.method.autocast_dtype)  # its load is that of others
    started = time.perf_counter()
    peak = PeakMemory(device, resolved.config.execution == "graphs")
    peak.start()
    for number in range(WARMUP_STEPS[device.type]):
        progress(f"warming up: step {number + 1} of {WARMUP_STEPS[device.type]}")
        received = count_step(workload)
    turns: list[dict[str, float]] = []
    while len(turns) < MIN_TURNS or (len(turns) < MAX_TURNS and _time_is_left(started, budget_seconds, turns)):
        last = f", the last in {sum(turns[-1].values()):.3g} s" if turns else ""
        progress(f"timing steps: number {1 + len(turns) * STEPS_A_TURN[device.type]}{last}")
        turns.append(_take_turn(workload, device))
    peak.update()
    memory_source = (
        "most that tensors took in these steps; the CUDA context and NCCL come on top"
        if device.type == "cuda"
        else "most that this process took in these steps, Python and libraries included"
    )
    warmup, timed = WARMUP_STEPS[device.type], len(turns) * STEPS_A_TURN[device.type]
    return Steps(
        source=f"median of {timed} steps here, after {warmup} of warm-up",
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


def _take_turn(workload: MethodWorkload, device: torch.device) -> dict[str, float]:
    """Mean seconds a step by part, which add up to the step."""
    spans, number = Spans(device), STEPS_A_TURN[device.type]
    with spans.recording():
        for _ in range(number):
            workload.step()
    return {part: seconds / number for part, seconds in spans.seconds().items()}


def count_step(workload: MethodWorkload) -> dict[str, int]:
    """Makes a step; the bytes that it received."""
    before = received_bytes.copy()
    workload.step()
    return dict(received_bytes - before)


def count_received(
    resolved: Resolved, device: torch.device, num_processes: int, num_images: int, progress: Progress
) -> tuple[MethodWorkload, dict[str, int]]:
    """What `time_steps` would count, from steps with small images: a gather's bytes grow with the images' area, or
    not at all. Beside it a workload that has made a step.
    """
    counts = []
    with imagined(num_processes):
        for size in COUNTING_SIZES:
            progress(f"counting bytes: images of {size} pixels")
            config = resolved.config
            data = config.data.model_copy(update={"image_size": size})
            small = config.model_copy(update={"data": data, "execution": "eager"})
            dtype = autocast_dtype(config.precision, device)
            workload = MethodWorkload(replace(resolved, config=small), device, dtype, num_images)
            counts.append(count_step(workload))
    (few, many), (low, high) = counts, (size**2 for size in COUNTING_SIZES)
    area = resolved.config.data.image_size**2
    return workload, {
        purpose: round(few[purpose] + (many[purpose] - few[purpose]) * (area - low) / (high - low)) for purpose in few
    }


def gradient_bytes(workload: MethodWorkload, num_processes: int) -> int:
    """What a process receives a step while gradients are averaged."""
    trained = sum(p.nbytes for p in workload.method.parameters() if p.requires_grad)
    return ring_bytes(trained, num_processes)


def save_in_memory(workload: MethodWorkload) -> tuple[int, float]:
    """Bytes of a checkpoint's tensors, and the seconds of its serialisation and checksum."""
    started = time.perf_counter()
    buffer = io.BytesIO()
    torch.save({"method": workload.method.state_dict(), "optimizer": workload.optimizer.state_dict()}, buffer)
    content = buffer.getvalue()
    hashlib.sha256(content).hexdigest()
    return len(content), time.perf_counter() - started
