"""Stepping a group: each workload alone for its memory and operations, then all of them in turns for their times.

A turn is one step untimed and then some timed ones of one workload; a round is one turn of each workload, in order.
What disturbs the machine for longer than a round meets all workloads alike, and ratios are taken within rounds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from negbench.cost.bench.groups import BenchGroup
from negbench.cost.bench.space import AddedMemory, release, unless_out_of_memory, without_reuse
from negbench.cost.bench.workloads import BareWorkload, MatrixWorkload, MethodWorkload, Workload, seconds_by_part
from negbench.runtime.errors import UserError
from negbench.settings.keys import flatten, is_own
from negbench.settings.resolve import size_of

WARMUP_STEPS, PEAK_STEPS = 2, 2  # of a workload alone
WARMUP_ROUNDS = 1
Measurement = dict[str, Any]
T = TypeVar("T")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Machine:
    """What all groups of a bench are measured on, and how often."""

    device: torch.device
    dtype: torch.dtype | None  # of the encoder's autocast
    rounds: int
    steps: int  # timed ones a turn
    matrix_size: int


@dataclass
class Entry:
    """A workload and what is known of it."""

    build: Callable[[], Workload]
    measurement: Measurement


def examined(group: BenchGroup, machine: Machine, progress: Progress) -> list[Entry]:
    """Return a group's workloads with their memory: methods, bare steps with their passes, and for the study matrices.

    Call it for all groups before any is timed: what glibc keeps then would be counted here.
    """
    entries = _methods(group, machine)
    graphs = group.config.execution == "graphs"
    if group.kind == "study":
        _examine(entries[0], machine.device, graphs)  # and again below: no workload pays for what a process takes once
    for entry in entries:
        progress(f"{entry.measurement['name']} alone")
        _examine(entry, machine.device, graphs)
    for entry in _bares(group, entries, machine):
        progress(f"{entry.measurement['name']} step alone")
        _examine(entry, machine.device, graphs)
        entries.append(entry)
    if group.kind == "study":
        entries.append(_matrices(group, machine))
    return entries


def _methods(group: BenchGroup, machine: Machine) -> list[Entry]:
    entries = []
    for resolved in group.methods:
        settings = {key: value for key, value in flatten(resolved.config).items() if is_own(key)}
        measurement = {"kind": "method", "name": resolved.config.method.name, "settings": settings}
        build = partial(MethodWorkload, resolved, machine.device, machine.dtype)
        entries.append(Entry(build, measurement | _sizes(resolved.config.batch_size, size_of(resolved))))
    return entries


def _bares(group: BenchGroup, methods: list[Entry], machine: Machine) -> list[Entry]:
    """Return a bare step for each number of passes that a method of the group makes."""
    config = group.config
    entries = []
    for passes in dict.fromkeys(entry.measurement["passes"] for entry in methods if "passes" in entry.measurement):
        measurement = {"kind": "bare", "name": f"bare {passes[0]}+{passes[1]}", "passes": passes}
        build = partial(BareWorkload, config, passes, machine.device, machine.dtype)
        entries.append(Entry(build, measurement | _sizes(config.batch_size, None)))
    return entries


def _matrices(group: BenchGroup, machine: Machine) -> Entry:
    tf32, size = group.config.precision == "tf32", machine.matrix_size
    build = partial(MatrixWorkload, size, machine.device, machine.dtype, tf32)
    return Entry(build, {"kind": "matrices", "name": "matrices", "flops": 2 * size**3})


def _sizes(batch_size: int, num_negatives: int | None) -> Measurement:
    return {"batch_size": batch_size, "num_negatives": num_negatives, "out_of_memory": None}


def _examine(entry: Entry, device: torch.device, graphs: bool = False) -> None:
    """Measure memory and operations of a step, with nothing else of the bench on the device."""
    release(device)
    with without_reuse(device):
        found, reason = attempt(entry, lambda: examine(entry.build, device, graphs))
    entry.measurement |= {"out_of_memory": reason} | (found or {})
    release(device)


def attempt(entry: Entry, work: Callable[[], T]) -> tuple[T | None, str | None]:
    """Return what `unless_out_of_memory` does. Other errors name the workload and its sizes."""
    try:
        return unless_out_of_memory(work)
    except Exception as error:
        sizes = (
            f"{key} {entry.measurement[key]}" for key in ("num_negatives", "batch_size") if entry.measurement.get(key)
        )
        who = ", ".join([entry.measurement["name"], *sizes])
        if isinstance(error, UserError):
            raise UserError(f"{who}: {error}") from error
        error.add_note(f"in the bench: {who}")
        raise


def examine(build: Callable[[], Workload], device: torch.device, graphs: bool = False) -> Measurement:
    """Return memory over what was held before, floating-point operations of a step, and the workload's facts."""
    memory = AddedMemory(device, graphs)
    workload = build()
    for _ in range(WARMUP_STEPS):
        workload.step()
    memory.start()
    for _ in range(PEAK_STEPS):
        workload.step()
    found: Measurement = memory.read()
    with FlopCounterMode(display=False) as counter:
        workload.step()
    return found | {"flops": counter.get_total_flops()} | workload.facts()


def timed(entries: list[Entry], machine: Machine, progress: Progress) -> list[Measurement]:
    """Return a group's measurements after rounds of turns. A workload that runs out of memory beside the others has no
    times.
    """
    workloads: dict[int, Workload] = {}
    turns: dict[int, list[dict[str, float]]] = {}
    for number, entry in enumerate(entries):
        if not entry.measurement.get("out_of_memory"):
            workload, reason = attempt(entry, entry.build)
            if workload is None:
                entry.measurement["out_of_memory"] = f"beside the others of its group: {reason}"
            else:
                workloads[number], turns[number] = workload, []
    for completed in range(-WARMUP_ROUNDS, machine.rounds):
        progress(f"round {completed + 1} of {machine.rounds}" if completed >= 0 else "warm-up")
        for number in list(workloads):
            turn, reason = attempt(entries[number], partial(_take_turn, workloads[number], machine))
            if turn is None:
                entries[number].measurement["out_of_memory"] = f"beside the others of its group: {reason}"
                del workloads[number], turns[number]
                release(machine.device)
            elif completed >= 0:
                turns[number].append(turn)
    for number, taken in turns.items():
        parts = sorted({part for turn in taken for part in turn})
        entries[number].measurement |= {
            "seconds": [sum(turn.values()) for turn in taken],
            "parts": {part: [turn.get(part, 0.0) for turn in taken] for part in parts},
        }
    return [entry.measurement for entry in entries]


def _take_turn(workload: Workload, machine: Machine) -> dict[str, float]:
    workload.step()
    return seconds_by_part(workload, machine.steps, machine.device)
