"""Where and with how many processes a run is launched.

Layers: SBATCH_ACCOUNT < the site's `~/.config/negbench/cluster.yaml` < the study's `cluster:` block
< `--set cluster.KEY` < flags. None of it can change a result, so none of it enters a run's settings or its id.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator, model_validator

from negbench.runtime import variables
from negbench.runtime.errors import UserError
from negbench.runtime.words import parts
from negbench.settings.group import SettingsGroup, setting
from negbench.settings.keys import read_yaml, validate

SIZE = ("nodes", "gpus_per_node", "processes_per_node")
GPU = re.compile(r"(?:(?P<type>[A-Za-z][\w.-]*):)?(?P<count>\d+)")


class ClusterConfig(SettingsGroup):
    """One launch. Names are sbatch's, if it has one."""

    launcher: Literal["none", "local", "slurm"] = setting(
        "none", "none: here and now; local: a background job on this machine; slurm: a batch job"
    )
    nodes: int = setting(1, "nodes", ge=1)
    gpus_per_node: str = setting("0", "GPUs, and so processes, a node; with a type as h100:8")
    processes_per_node: int | None = setting(None, "processes a node where there are no GPUs", ge=1)
    time: str = setting("24h", "time limit: 90m, 24h, 2d, H:MM:SS or D-HH:MM:SS")
    partition: str | None = setting(None, "partition, or several with commas")
    account: str | None = setting(None, "account")
    qos: str | None = setting(None, "quality of service")
    constraint: str | None = setting(None, "features of the nodes")
    exclude: str | None = setting(None, "nodes to leave out")
    mem: str | None = setting(None, "memory a node, as 200G", pattern=r"^\d+[KMGT]?$")
    cpus_per_gpu: int | None = setting(None, "CPU cores a process", ge=1)
    slurm: dict[str, str | int | bool] = setting({}, "further sbatch options; true: a bare flag")
    setup: list[str] = setting([], "shell lines before the run: modules, conda, containers")
    environment: dict[str, str | int] = setting({}, "environment variables, as NCCL_SOCKET_IFNAME")
    python: str | None = setting(None, "Python of the job (default: the one that submits)")
    max_requeues: int = setting(10, "requeues after which a job gives up", ge=0)
    signal_before_end_s: int = setting(120, "seconds before the time limit at which a job saves and requeues", ge=10)
    output_is_shared: bool = setting(False, "all nodes see the output folder, although it looks local")

    @field_validator("partition", "exclude")
    @classmethod
    def _names(cls, given: str | None) -> str | None:
        if given is not None and not parts(given):
            raise UserError("names none")
        return given and ",".join(parts(given))

    @model_validator(mode="before")
    @classmethod
    def _count_as_text(cls, raw: Any) -> Any:
        count = raw.get("gpus_per_node") if isinstance(raw, dict) else None
        return raw | {"gpus_per_node": str(count)} if isinstance(count, int) else raw

    @model_validator(mode="after")
    def _consistent(self) -> "ClusterConfig":
        if not GPU.fullmatch(self.gpus_per_node):
            raise UserError(f"gpus_per_node must be a number or TYPE:NUMBER, as h100:8, not {self.gpus_per_node!r}")
        if self.num_gpus and self.processes_per_node not in (None, self.num_gpus):
            raise UserError("set gpus_per_node or processes_per_node, not both: each GPU has one process")
        if self.launcher != "slurm" and self.nodes > 1:
            raise UserError(f"{self.nodes} nodes need --cluster slurm, or torchrun or srun around the command")
        minutes = self.time_min
        if self.launcher != "none" and 60 * minutes <= self.signal_before_end_s:
            raise UserError(
                f"a time limit of {self.time} leaves nothing: a job saves {self.signal_before_end_s} s before its "
                "limit (cluster.signal_before_end_s)"
            )
        return self

    @property
    def num_gpus(self) -> int:
        """Return the number of GPUs a node."""
        match = GPU.fullmatch(self.gpus_per_node)
        assert match is not None
        return int(match["count"])

    @property
    def num_processes(self) -> int:
        """Return the number of processes a node."""
        return self.num_gpus or self.processes_per_node or 1

    @property
    def world_size(self) -> int:
        return self.nodes * self.num_processes

    @property
    def time_min(self) -> int:
        return minutes_of(self.time)


def seconds_of(time: str) -> float:
    """Return the seconds of `90s`, `9m`, `2h`, `1d` or `H:MM:SS`. UserError for anything else."""
    seconds = 0.0
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|min|h|d)", time):
        seconds = float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 24 * 3600}[match[2]]
    elif match := re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", time):
        seconds = 3600.0 * int(match[1]) + 60 * int(match[2]) + int(match[3])
    if not seconds:
        raise UserError(f"a time must look like 90s, 9m, 2h, 1d or H:MM:SS, not {time!r}")
    return seconds


def minutes_of(time: str) -> int:
    """Return the minutes of `90m`, `24h`, `2d`, `H:MM:SS`, `D-HH:MM:SS`, rounded up. UserError for anything else."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)(m|min|h|d)", time):
        factor = {"m": 1, "min": 1, "h": 60, "d": 24 * 60}[match[2]]
        minutes = -(-float(match[1]) * factor // 1)
    elif match := re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d)(?::([0-5]\d))?", time):
        days, hours, mins, seconds = (int(part or 0) for part in match.groups())
        minutes = (24 * days + hours) * 60 + mins + (seconds > 0)
    else:
        minutes = 0
    if minutes < 1:
        raise UserError(f"time must look like 90m, 24h, 2d, H:MM:SS or D-HH:MM:SS, not {time!r}")
    return int(minutes)


def site_file() -> Path:
    home = variables.text("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "negbench" / "cluster.yaml"


def resolve_cluster(study: dict[str, Any], overrides: dict[str, Any], flags: dict[str, Any]) -> ClusterConfig:
    """Join the layers; `flags` that are None were not given. Every mistake of the user is a UserError.

    The groups (`slurm`, `environment`) are joined key by key, `setup` lines one layer after another.
    A run here and now ignores the number of nodes and processes of the site's file, which is for jobs.
    """
    site = read_yaml(site_file()) if site_file().exists() else {}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    given = {key: value for key, value in flags.items() if value is not None}
    if (site | study | overrides | given).get("launcher", "none") == "none":
        site = {key: value for key, value in site.items() if key not in SIZE}
    shell = {"account": account} if (account := variables.text("SBATCH_ACCOUNT")) else {}
    layers = {
        "SBATCH_ACCOUNT": shell,
        str(site_file()): site,
        "study": study,
        "--set": overrides,
        "command line": given,
    }
    for name, layer in layers.items():
        for key, value in layer.items():
            group, _, rest = key.partition(".")
            if rest and group in ("slurm", "environment"):
                key, value = group, {rest: value}
            if isinstance(value, dict) and isinstance(values.get(key), dict):
                value = values[key] | value
            elif isinstance(value, list) and isinstance(values.get(key), list):
                value = values[key] + value
            values[key] = value
            origins[key] = name
    prefixed = {f"cluster.{key}": origin for key, origin in origins.items()}
    return validate(ClusterConfig, values, prefixed, "cluster.")


def cluster_flags(given: dict[str, Any]) -> dict[str, Any]:
    """Return command-line options as settings. UserError for a --slurm without a key."""
    flags = dict(given)
    if "cluster" in flags:
        flags["launcher"] = flags.pop("cluster")
    if "slurm" in flags:
        flags["slurm"] = key_values(flags["slurm"], "--slurm")
    return flags


def key_values(texts: Sequence[str], option: str) -> dict[str, str | bool]:
    """Return the pairs of texts `key=value` or, for a bare flag, `key`. UserError if one has no key."""
    pairs: dict[str, str | bool] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key:
            raise UserError(f"{option} {text} must have the form key=value")
        pairs[key.lstrip("-")] = value if equals else True
    return pairs
