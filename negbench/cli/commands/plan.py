"""`negbench plan`: what a run will cost, before it is started."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negbench.cli import options

if TYPE_CHECKING:
    from negbench.settings.cluster import ClusterConfig
    from negbench.settings.resolve import Resolved


@partial(options.with_cluster_options, options=options.SIZE)
def plan(
    cluster: dict[str, Any],
    method: options.Method = None,
    config: options.Study = "quickstart",
    settings: options.Settings = None,
    device: options.Device = "auto",
    num_images: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Training images of a folder that is not here.")
    ] = None,
    bench: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Steps of this record of `negbench bench`; none is made here.")
    ] = None,
    interconnect: Annotated[
        float, typer.Option(min=1e-3, metavar="GB/S", help="What a process receives from the others a second.")
    ] = 10.0,
    seconds: Annotated[float, typer.Option(min=0, help="Time for steps here; at least two are timed.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Forecast the time, memory, data and disk of a run from a few steps here; starts no run and needs no data."""
    from negbench.settings.resolve import resolve

    options.check_single_process("plan", "measures one process on one device")
    resolved = resolve(method, config, settings or [])
    shape = _shape(resolved, cluster)
    from negbench.cli.progress import interruptible, plan_progress
    from negbench.cost.plan.forecast import forecast
    from negbench.cost.plan.table import show
    from negbench.runtime.device import choose_device

    with interruptible(lambda: "a plan keeps nothing"), plan_progress() as progress:
        facts = forecast(
            resolved,
            shape,
            choose_device(device),
            num_images=num_images,
            bench=bench,
            interconnect_gb_per_second=interconnect,
            seconds=seconds,
            progress=progress,
        )
    if as_json:
        print(json.dumps(facts, indent=1))
    else:
        show(facts)


def _shape(resolved: "Resolved", given: dict[str, Any]) -> "ClusterConfig":
    """How many processes there will be, as `negbench run` has it; several nodes are a job's."""
    asked = resolved.cluster_of_study | resolved.cluster_overrides | given
    job = {"launcher": "slurm"} if asked.get("nodes", 1) != 1 else {}
    return options.cluster_of(resolved, given | job)
