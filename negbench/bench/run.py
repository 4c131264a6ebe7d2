"""A whole bench: its groups one after another, recorded as they are done."""

from collections.abc import Callable

import torch

from negbench import environment
from negbench.bench.measure import Machine, examined, timed
from negbench.bench.plan import Plan
from negbench.bench.record import BenchFolder
from negbench.bench.space import limited_to_free_memory
from negbench.span import PARTS, REST

STEPS = {"cpu": 2, "cuda": 10}  # timed ones a turn
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
LARGEST_NUM_NEGATIVES = {"cpu": 65_536, "cuda": 1_048_576}  # of the sweep that nobody asked for

Tell = Callable[[int | None, str], None]  # the number of the group that is timed, and what is done


def execute(plan: Plan, device: torch.device, rounds: int, folder: BenchFolder, tell: Tell) -> None:
    """Every subject alone for its memory, then the groups' times; the record is written after each group.

    ValueError for the user's mistakes; KeyboardInterrupt leaves the groups that are done.
    """
    config = plan.config
    dtype = environment.autocast_dtype(config.precision, device)
    environment.set_backends(config.precision, config.deterministic)
    folder.check_writable()
    machine = Machine(device, dtype, rounds, STEPS[device.type], MATRIX_SIZE[device.type])
    facts = {
        "study": config.study,
        "rounds": rounds,
        "steps_per_turn": machine.steps,
        "parts": [*PARTS, REST],
        "num_groups": len(plan.groups),
        "settings": plan.shared,
        "environment": environment.describe(device, 1, dtype),
    }
    done = []
    with limited_to_free_memory(device):
        groups = [examined(group, machine, lambda text: tell(None, text)) for group in plan.groups]
        for number, (group, entries) in enumerate(zip(plan.groups, groups, strict=True)):
            subjects = timed(entries, machine, lambda text, number=number: tell(number, text))  # type: ignore[misc]
            done.append({"kind": group.kind, "value": group.value, "subjects": subjects})
            folder.write(facts, done, complete=len(done) == len(plan.groups))
