"""Which of the run's processes this one is, by the variables of torchrun, srun or submitit's local executor.

Imports no torch.
"""

import os
import re
import socket
import subprocess
import zlib
from dataclasses import asdict, dataclass

from negbench.runtime.errors import UserError

LOOPBACK = "127.0.0.1"
_PORTS = range(10_000, 32_768)  # below the range from which the kernel takes ports for outgoing connections


@dataclass(frozen=True)
class Place:
    rank: int
    local_rank: int
    world_size: int
    master_addr: str
    master_port: int

    def export(self) -> None:
        """Set the variables that torch's env:// rendezvous reads: RANK, LOCAL_RANK and so on."""
        os.environ |= {name.upper(): str(value) for name, value in asdict(self).items()}


def was_launched() -> bool:
    """Whether torchrun, srun or a job has started this process, so that it is one rank and starts no others."""
    return "RANK" in os.environ or find_place().world_size > 1


def find_place() -> Place:
    """Return this process's place; that of a single process if nothing started others."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        address, port = env.get("MASTER_ADDR", LOOPBACK), int(env.get("MASTER_PORT", 29500))
        return Place(int(env["RANK"]), int(env.get("LOCAL_RANK", 0)), int(env["WORLD_SIZE"]), address, port)
    if "SUBMITIT_LOCAL_NTASKS" in env and env.get("SUBMITIT_EXECUTOR") == "local":
        rank, size = int(env["SUBMITIT_LOCAL_GLOBALID"]), int(env["SUBMITIT_LOCAL_NTASKS"])
        return Place(rank, rank, size, LOOPBACK, _port("local", env["SUBMITIT_LOCAL_JOB_ID"]))
    if "SLURM_PROCID" in env and int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # the latter is there only below srun
        rank, size = int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"])
        nodes = env.get("SLURM_STEP_NODELIST") or env["SLURM_JOB_NODELIST"]
        port = _port(env["SLURM_JOB_ID"], env.get("SLURM_STEP_ID", "0"), env.get("SLURM_RESTART_COUNT", "0"))
        return Place(rank, int(env["SLURM_LOCALID"]), size, _address(_first_node(nodes)), port)
    return Place(0, 0, 1, LOOPBACK, 0)


def _port(*key: str) -> int:
    """Return a port that is the same on all ranks, and another for each job, step and attempt."""
    return _PORTS[zlib.crc32("/".join(key).encode()) % len(_PORTS)]


def _first_node(nodes: str) -> str:
    """Return `gpu3` of `gpu[3-5,8],cpu1`."""
    match = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    assert match is not None, nodes
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
        raise UserError(f"the address of node {node} is unknown; set MASTER_ADDR, or make its name resolve")
    return match[1]
