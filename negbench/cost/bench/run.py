"""A whole bench: one group after another, each recorded when it is done."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from negbench.cost.bench.groups import BenchGroup
from negbench.cost.bench.measure import Entry, Machine, examined, timed
from negbench.cost.bench.space import limited_to_free_memory, release
from negbench.cost.bench.trace import write_traces
from negbench.records.benches import BenchFolder
from negbench.runtime import environment
from negbench.runtime.compiling import check_compiler
from negbench.runtime.device import autocast_dtype, set_backends
from negbench.runtime.span import PARTS, REST
from negbench.settings.keys import flatten, is_own

STEPS = {"cpu": 2, "cuda": 10}  # timed ones a turn
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}

Progress = Callable[[int | None, str], None]  # the group that is timed (else None), and what is done


def execute(
    groups: Sequence[BenchGroup],
    device: torch.device,
    rounds: int,
    folder: BenchFolder,
    progress: Progress,
    traced: bool = False,
) -> None:
    """Measure each workload's memory alone, then time the groups, and if `traced` profile the study's own setting.

    The record is written after each group. UserError for the user's mistakes.
    """
    config = groups[0].config
    dtype = autocast_dtype(config.precision, device)
    set_backends(config.precision, config.deterministic, device)
    check_compiler(config.execution, device)
    folder.check_writable()
    machine = Machine(device, dtype, rounds, STEPS[device.type], MATRIX_SIZE[device.type])
    facts = {
        "study": config.study,
        "rounds": rounds,
        "steps_per_turn": machine.steps,
        "parts": [*PARTS, REST],
        "num_groups": len(groups),
        "settings": {key: value for key, value in flatten(config).items() if not is_own(key)},
        "environment": environment.describe(device, 1, dtype),
    }
    examinations: list[list[Entry]] = []
    records: list[dict[str, Any]] = []
    with limited_to_free_memory(device):
        for group in groups:
            entries = examined(group, machine, lambda text: progress(None, f"memory: {text}"))
            examinations.append(entries)
            measurements = [entry.measurement for entry in entries]
            records.append({"kind": group.kind, "value": group.value, "subjects": measurements})
            folder.write(facts, records, num_timed=0)
        for number, entries in enumerate(examinations):
            records[number]["subjects"] = timed(entries, machine, lambda text, number=number: progress(number, text))  # type: ignore[misc]
            folder.write(facts, records, num_timed=number + 1)
            release(device)
        if traced:
            write_traces(examinations[0], device, folder.path, lambda text: progress(None, f"profiles: {text}"))
