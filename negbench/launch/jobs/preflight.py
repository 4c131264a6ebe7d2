"""Checks before submitting of what would otherwise fail in the queue or an hour later, one sentence each."""

import math
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from negbench.records import locks
from negbench.records.files import filesystem
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from negbench.runtime.variables import GPUS, outside
from negbench.settings.cluster import GPU, ClusterConfig, minutes_of
from negbench.settings.resolve import Resolved

TIMEOUT_SECONDS = 60
SHARED_FILESYSTEMS = re.compile(r"nfs|lustre|gpfs|beegfs|ceph|cifs|smb|pvfs|orangefs|panfs|wekafs|afs|9p|virtiofs|fuse")


@dataclass(frozen=True)
class Node:
    name: str
    host: str
    address: str
    partitions: frozenset[str]
    gpus: dict[str, int]  # by type; "" if Slurm knows none

    @property
    def is_here(self) -> bool:
        names = {"localhost", "127.0.0.1", "::1", socket.gethostname(), socket.gethostname().partition(".")[0]}
        return self.host in names or self.address in names


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """UserError if the block cannot write to `folder`, which is in --output."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to {folder}: {reason}; choose another folder with --output") from None


def check_runs(runs: Sequence[Resolved], cluster: ClusterConfig, output: Path) -> None:
    """UserError if a run's output takes no files or locks, its data is missing, or its batch cannot be shared."""
    from negbench.data.load import load_for_run
    from negbench.settings.steps import check_batch, steps_per_epoch

    with writing_to(output), tempfile.TemporaryDirectory(dir=_existing(output)) as folder:
        locks.check(Path(folder), output)  # for root, permissions alone say nothing
    checked: dict[str, int] = {}
    for run in runs:
        RunFolder(output / run.run_id).check_writable()
        check_batch(run.config, cluster.world_size)
        config = run.config
        data = f"{config.data.model_dump_json()} {config.evaluation.test} {config.evaluate_every_epochs}"
        if data not in checked:
            checked[data] = len(load_for_run(config).train)  # downloads here, not in every job
        steps_per_epoch(checked[data], config.batch_size)


def check_path(output: Path) -> None:
    """UserError for a folder in whose path Slurm and submitit would read a pattern, and lose the jobs' logs."""
    if wrong := next((sign for sign in "%\\" if sign in str(output.absolute())), None):
        raise UserError(
            f"--output {output}: Slurm takes {wrong} in the path {output.absolute()} for a pattern, as %j, and writes "
            f"the log elsewhere; choose a folder without {wrong} for jobs"
        )


def _existing(output: Path) -> Path:
    return next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())


def check_cluster(cluster: ClusterConfig, output: Path) -> None:
    """UserError if Slurm cannot be reached or can never run such a job."""
    for program in ("sbatch", "srun", "scontrol", "squeue", "scancel"):
        if shutil.which(program) is None:
            raise UserError(
                f"--cluster slurm: {program} is not on PATH; submit from a login node, or use --cluster local"
            )
    limits = {entry["PartitionName"]: entry for entry in _show("partition")}
    wanted = _partitions(cluster, limits)
    nodes = [node for node in _nodes() if node.partitions & wanted]
    where = f"partition {','.join(sorted(wanted))}"
    if cluster.nodes > len(nodes):
        raise UserError(f"--nodes {cluster.nodes}: {where} has {len(nodes)}")
    _check_gpus(cluster, nodes, where)
    most = [limits[name]["MaxTime"] for name in wanted]
    longest = max(math.inf if time == "UNLIMITED" else minutes_of(time) for time in most)
    if cluster.time_min > longest:
        raise UserError(f"--time {cluster.time}: {where} allows at most {longest:.0f} minutes")
    if not cluster.output_is_shared and not all(node.is_here for node in nodes):
        _check_shared(output)


def check_script(script: str) -> None:
    """UserError with Slurm's own words if sbatch would refuse the script. Submits nothing."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        done = _run("sbatch", "--test-only", file.name)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["sbatch gave no reason"]
        raise UserError(f"Slurm refuses the job: {said[-1].removeprefix('allocation failure: ')}")


def _partitions(cluster: ClusterConfig, limits: dict[str, dict[str, str]]) -> set[str]:
    known = ", ".join(sorted(limits)) or "none"
    if cluster.partition is None:
        default = {name for name, entry in limits.items() if entry.get("Default") == "YES"}
        if not default:
            raise UserError(f"this cluster has no default partition; choose one with --partition: {known}")
        return default
    wanted = set(cluster.partition.split(","))
    if unknown := wanted - limits.keys():
        raise UserError(f"--partition {cluster.partition}: there is no {min(unknown)!r}; known: {known}")
    return wanted


def _check_gpus(cluster: ClusterConfig, nodes: Sequence[Node], where: str) -> None:
    wanted = GPU.fullmatch(cluster.gpus_per_node)
    assert wanted is not None
    kind, count = wanted["type"], cluster.num_gpus
    fitting = [node for node in nodes if count <= (node.gpus.get(kind, 0) if kind else sum(node.gpus.values()))]
    if len(fitting) >= cluster.nodes:
        return
    present = {f"{kind}:{number}" if kind else str(number) for node in nodes for kind, number in node.gpus.items()}
    raise UserError(
        f"--gpus-per-node {cluster.gpus_per_node}: {len(fitting)} of {where}'s {len(nodes)} nodes have as many, "
        f"{cluster.nodes} needed; GPUs a node: {', '.join(sorted(present)) or 'none'}"
    )


def _check_shared(output: Path) -> None:
    existing = _existing(output)
    kind = filesystem(existing) or "unknown"
    if not SHARED_FILESYSTEMS.match(kind):
        raise UserError(
            f"--output {output}: {existing} is on a local filesystem ({kind}) that the other nodes do not see; choose "
            "a shared folder, or --set cluster.output_is_shared=true if they do see it"
        )


def _nodes() -> list[Node]:
    nodes = []
    for entry in _show("node"):
        gpus: dict[str, int] = {}
        for kind, count in re.findall(r"gpu:(?:([A-Za-z][\w.-]*):)?(\d+)", entry.get("Gres", "")):
            gpus[kind] = gpus.get(kind, 0) + int(count)
        partitions = frozenset(entry.get("Partitions", "").split(","))
        name = entry["NodeName"]
        nodes.append(Node(name, entry.get("NodeHostName", name), entry.get("NodeAddr", name), partitions, gpus))
    return nodes


def _show(what: str) -> list[dict[str, str]]:
    """Return what `scontrol show WHAT` prints, a dictionary a line."""
    done = _run("scontrol", "show", what, "-o")
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise UserError(f"--cluster slurm: scontrol does not reach Slurm's controller ({said[0]})")
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in done.stdout.splitlines() if "=" in line]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        with outside(*GPUS):
            return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"--cluster slurm: {command[0]} has not answered for {TIMEOUT_SECONDS} s") from None
