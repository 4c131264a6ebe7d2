"""Environment variables: how they are read, and those of an outer launcher or allocation. Imports no torch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from negbench.runtime.errors import UserError

# Slurm's clients read most of what an allocation sets as options, and above those of a batch script.
_PREFIXES = (
    "SLURM_",
    "SLURMD_",
    "SBATCH_",
    "SRUN_",
    "SALLOC_",
    "SQUEUE_",
    "SCANCEL_",
    "SCONTROL_",
    "SUBMITIT_",
    "TORCHELASTIC_",
)
_TO_REACH_SLURM = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SBATCH_CLUSTERS"}
_OF_A_RANK = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "ROLE_NAME"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "NEGBENCH_JOB", "NEGBENCH_AGAIN"),
}
GPUS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK")  # set by Slurm


def text(name: str, default: str = "") -> str:
    """Return a variable; one that is empty is as unset."""
    return os.environ.get(name, "").strip() or default


def number(name: str, default: int = 0, largest: int = 2**32) -> int:
    """Return a variable that must be a whole number from 0 to `largest`, else UserError; an empty one is as unset."""
    value = text(name, str(default))
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and int(value) <= largest):
        raise UserError(
            f"the environment variable {name} must be a whole number from 0 to {largest}, not {value[:40]!r}; "
            f"unset {name} if nothing needs it"
        )
    return int(value)


@contextmanager
def outside(*names: str) -> Iterator[None]:
    """Hide in the block what an outer allocation, step or launcher has set, and `names`: what is started is its own."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name in _OF_A_RANK or name in names or (name.startswith(_PREFIXES) and name not in _TO_REACH_SLURM)
    }
    try:
        yield
    finally:
        os.environ |= hidden
