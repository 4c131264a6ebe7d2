"""Which of the run's processes this one is, by the variables of torchrun, srun or submitit's local executor.

Imports no torch.
"""

import os
import re
import socket
import subprocess
import zlib
from dataclasses import dataclass
from functools import cached_property

from negbench.runtime.errors import UserError
from negbench.runtime.variables import number, text
from negbench.runtime.words import count

LOOPBACK = "127.0.0.1"
_PORTS = range(10_000, 32_768)  # below the range from which the kernel takes ports for outgoing connections
_OF_TORCHRUN = ("RANK", "WORLD_SIZE")
_OF_SUBMITIT = ("SUBMITIT_LOCAL_NTASKS",)
_OF_SRUN = ("SLURM_STEP_NUM_TASKS",)


@dataclass(frozen=True)
class Place:
    """One process of a run; `told_by` are the variables that say so, none where nothing has launched it."""

    rank: int
    local_rank: int
    world_size: int
    master: str  # an address, or a node of Slurm
    master_port: int
    told_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank >= self.world_size:
            raise UserError(f"{self.sources}: there is no such rank; {self.how_to_run_alone} to run alone")

    @cached_property
    def master_addr(self) -> str:
        """UserError if the node's address is unknown."""
        return _address(self.master) if self.told_by == _OF_SRUN else self.master

    @property
    def sources(self) -> str:
        """The variables that make this one process of several, as `RANK=0 and WORLD_SIZE=2`."""
        return " and ".join(f"{name}={text(name)}" for name in self.told_by)

    @property
    def how_to_run_alone(self) -> str:
        """What to do if it is not meant to be one of several."""
        return f"unset {' '.join(self.told_by)}" + (" or use srun -n1" if self.told_by == _OF_SRUN else "")

    @property
    def waiting(self) -> str:
        """What this process waits for at the start, and why, as a sentence."""
        others = f"{count(self.world_size - 1, 'other')} at {self.master_addr}:{self.master_port}"
        shell = "started by srun --pty? " if self.told_by == _OF_SRUN else ""
        return (
            f"rank {self.rank} of {self.world_size} waits for {others}, since {self.sources}; "
            f"{shell}{self.how_to_run_alone} to run alone"
        )

    def export(self) -> None:
        """Set the variables that torch's env:// rendezvous reads: RANK, LOCAL_RANK and so on."""
        for name in ("rank", "local_rank", "world_size", "master_addr", "master_port"):
            os.environ[name.upper()] = str(getattr(self, name))
        if self.told_by != _OF_TORCHRUN:
            os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # of an outer torchrun, which keeps no store for us


def was_launched() -> bool:
    """Whether torchrun, srun or a job has started several processes, so that this one starts no others."""
    return find_place().world_size > 1


def find_place() -> Place:
    """Return this process's place; that of a single process if nothing started others. UserError for odd variables."""
    if text("RANK") and text("WORLD_SIZE"):
        address, port = text("MASTER_ADDR", LOOPBACK), number("MASTER_PORT", 29500, largest=65_535)
        return Place(number("RANK"), number("LOCAL_RANK"), number("WORLD_SIZE"), address, port, _OF_TORCHRUN)
    if text("SUBMITIT_EXECUTOR") == "local" and (size := number("SUBMITIT_LOCAL_NTASKS")) > 1:
        _check_set(_OF_SUBMITIT, "SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_JOB_ID")
        rank, port = number("SUBMITIT_LOCAL_GLOBALID"), _port("local", text("SUBMITIT_LOCAL_JOB_ID"))
        return Place(rank, rank, size, LOOPBACK, port, _OF_SUBMITIT)
    if text("SLURM_PROCID") and (size := number("SLURM_STEP_NUM_TASKS", 1)) > 1:  # the latter is there only below srun
        nodes = text("SLURM_STEP_NODELIST") or text("SLURM_JOB_NODELIST")
        _check_set(_OF_SRUN, "SLURM_JOB_ID", "SLURM_LOCALID", *(() if nodes else ("SLURM_STEP_NODELIST",)))
        port = _port(text("SLURM_JOB_ID"), text("SLURM_STEP_ID", "0"), text("SLURM_RESTART_COUNT", "0"))
        rank, local_rank = number("SLURM_PROCID"), number("SLURM_LOCALID")
        return Place(rank, local_rank, size, _first_node(nodes), port, _OF_SRUN)
    return Place(0, 0, 1, LOOPBACK, 0)


def _check_set(told_by: tuple[str, ...], *names: str) -> None:
    """UserError if one of the variables is not set that a launcher sets beside `told_by`."""
    if missing := [name for name in names if not text(name)]:
        said = " and ".join(f"{name}={text(name)}" for name in told_by)
        raise UserError(f"{said}, but {missing[0]} is not set; unset {' '.join(told_by)} to run alone")


def _port(*key: str) -> int:
    """Return a port that is the same on all ranks, and another for each job, step and attempt."""
    return _PORTS[zlib.crc32("/".join(key).encode()) % len(_PORTS)]


def _first_node(nodes: str) -> str:
    """Return `gpu3` of `gpu[3-5,8],cpu1`."""
    match = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    if match is None:
        raise UserError(f"the environment variable SLURM_STEP_NODELIST must be a list of nodes, not {nodes!r}")
    return match[1] + (match[2] or "")


def _address(node: str) -> str:
    """Return a name that resolves: the node's own, or the address that Slurm knows it by."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        pass
    try:
        shown = subprocess.run(["scontrol", "show", "node", "-o", node], capture_output=True, text=True, timeout=20)
        match = re.search(r"NodeAddr=(\S+)", shown.stdout)
    except (OSError, subprocess.TimeoutExpired):
        match = None
    if match is None:
        raise UserError(f"the address of node {node} is unknown: make its name resolve")
    return match[1]
