"""Options that several commands share, and checks of them."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from negbench.runtime.errors import UserError
from negbench.runtime.words import parts

if TYPE_CHECKING:
    from negbench.settings.cluster import ClusterConfig
    from negbench.settings.resolve import Resolved


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """UserError if `value` is none of `choices`."""
    if value not in choices:
        raise UserError(f"{option} must be one of {', '.join(choices)}, not {value!r}")


def _known_device(value: str) -> str:
    check_choice("--device", value, ("auto", "cpu", "cuda"))
    return value


Method = Annotated[str | None, typer.Option(help="Name from `negbench methods`, or your own FILE.py.")]
Methods = Annotated[str, typer.Option(help="Methods, with commas: names or FILE.py.")]
Study = Annotated[str, typer.Option("--config", help="Study in configs/, or a FILE.yaml.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; repeatable.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, order and views.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", callback=_known_device)]
Output = Annotated[Path, typer.Option(help="Parent folder of run folders.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the batch script, submit nothing.")]
Wait = Annotated[bool, typer.Option("--wait", help="Follow the job's log to its end.")]
MaxParallel = Annotated[int | None, typer.Option(min=1, help="Runs at once. Default: 1; on Slurm all.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Also runs that ended with an error.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="A smoke test before each run's start.")]
WaitForAll = Annotated[bool, typer.Option("--wait", help="Print the jobs' states until all have ended.")]
Within = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="End after 9m, 2h, ...; start only runs that are expected to end in time."),
]

OF_PLACE = ("data.root", "data.workers", "data.fingerprint")  # settings of a run of where and how its data is read
_PANEL = "Where it runs"


def names_in(option: str, given: str) -> list[str]:
    """Return the names in an option's `a, b`. UserError if there is none."""
    names = parts(given)
    if not names:
        raise UserError(f"{option} {given!r} names none; give names with commas between them, as moco,byol")
    return names


def cluster_of(resolved: "Resolved", given: dict[str, Any]) -> "ClusterConfig":
    """Return where a run is launched, by its study, its `--set cluster.KEY` and the options that were given."""
    from negbench.settings.cluster import cluster_flags, resolve_cluster

    return resolve_cluster(resolved.cluster_of_study, resolved.cluster_overrides, cluster_flags(given))


def cluster_of_many(command: str, first: "Resolved", given: dict[str, Any], wait: bool) -> "ClusterConfig":
    """Return where the runs of a sweep or a tuning are launched, by the first. UserError if they cannot be."""
    cluster = cluster_of(first, given)
    check_submits_alone(cluster)
    check_single_process(command, "starts the processes of each run itself")
    if wait and cluster.launcher == "none":
        raise UserError("--wait belongs to jobs; add --cluster slurm or local")
    return cluster


def check_submits_alone(cluster: "ClusterConfig") -> None:
    """UserError for jobs if this is one process of several: each would submit them."""
    from negbench.runtime.place import find_place

    place = find_place()
    if cluster.launcher != "none" and place.world_size > 1:
        raise UserError(
            f"--cluster {cluster.launcher}: one process submits, and this is process {place.rank} of "
            f"{place.world_size} ({place.sources}): {place.how_to_run_alone}, or run here with --cluster none"
        )


def check_single_process(command: str, reason: str) -> None:
    """UserError, with the reason, if this is one process of several."""
    from negbench.runtime.place import find_place

    place = find_place()
    if place.world_size > 1:
        raise UserError(
            f"negbench {command} {reason}; start it without torchrun or srun, of which {place.sources} tells: "
            f"{place.how_to_run_alone}"
        )


def with_late_help(option: str, text: Callable[[], str]) -> type[TyperCommand]:
    """Return a class of commands that ask for an option's help when it is shown: `negbench --help` does without it."""

    class Command(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            for parameter in self.params:
                if parameter.name == option:
                    parameter.help = text()  # type: ignore[attr-defined]
            super().format_help(ctx, formatter)

    return Command


def _option(name: str, kind: Any, text: str, metavar: str | None = None) -> inspect.Parameter:
    option = typer.Option("--" + name.replace("_", "-"), help=text, metavar=metavar, rich_help_panel=_PANEL)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


SIZE = [
    _option("nodes", int | None, "Nodes.", "N"),
    _option("gpus_per_node", str | None, "GPUs, and so processes, a node; with a type as h100:8.", "[TYPE:]N"),
    _option("processes_per_node", int | None, "Processes a node, on CPUs.", "N"),
]
_CLUSTER = [
    _option("cluster", str | None, "none: here and now; local: in the background; slurm: a batch job.", "NAME"),
    *SIZE,
    _option("time", str | None, "Time limit: 90m, 24h, 2d, H:MM:SS, D-HH:MM:SS.", "TIME"),
    _option("partition", str | None, "Partition.", "P"),
    _option("account", str | None, "Account.", "A"),
    _option("qos", str | None, "Quality of service.", "Q"),
    _option("constraint", str | None, "Features of the nodes.", "C"),
    _option("exclude", str | None, "Nodes to leave out.", "NODES"),
    _option("mem", str | None, "Memory a node, as 200G.", "SIZE"),
    _option("cpus_per_gpu", int | None, "CPU cores a process.", "N"),
    _option("slurm", list[str] | None, "Any other option of sbatch; repeatable.", "KEY[=VALUE]"),
]


def with_cluster_options(
    command: Callable[..., None], options: Sequence[inspect.Parameter] = _CLUSTER
) -> Callable[..., None]:
    """Return `command` with `options`; it gets those that were given as the dictionary `cluster`."""
    names = [parameter.name for parameter in options]

    def wrapped(**options: Any) -> None:
        given = {name: options.pop(name) for name in names}
        command(**options, cluster={name: value for name, value in given.items() if value is not None})

    signature = inspect.signature(command)
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p.name != "cluster"]
    wrapped.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in [*own, *options]}
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    return wrapped
