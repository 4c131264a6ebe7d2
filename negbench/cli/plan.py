"""`negbench plan`: what a run will cost, before it is started."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negbench.cli.errors import mistakes_of_the_user
from negbench.cli.options import DEVICES, Device, Settings, Study, check_choice, with_size_options
from negbench.runtime.errors import UserError

if TYPE_CHECKING:
    from negbench.cost.plan.steps import Progress as Report
    from negbench.settings.cluster import ClusterConfig
    from negbench.settings.resolve import Resolved


def register(app: typer.Typer) -> None:
    app.command()(plan)


@with_size_options
def plan(
    cluster: dict[str, Any],
    method: Annotated[str | None, typer.Option(help="Name from `negbench methods`, or your own FILE.py.")] = None,
    config: Study = "quickstart",
    settings: Settings = None,
    device: Device = "auto",
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
    """Report the time, memory, data and disk of a run from a few steps here; starts no run and needs no data."""
    with mistakes_of_the_user():
        from negbench.runtime.place import find_place
        from negbench.settings.resolve import resolve

        if find_place().world_size > 1:
            raise UserError("negbench plan measures one process on one device; start it without torchrun or srun")
        check_choice("--device", device, DEVICES)
        resolved = resolve(method, config, settings or [])
        shape = _shape(resolved, cluster)
        from negbench.cost.plan.forecast import forecast
        from negbench.cost.plan.table import show
        from negbench.runtime.device import choose_device

        try:
            with _progress() as progress:
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
        except KeyboardInterrupt:
            typer.echo("interrupted; a plan keeps nothing", err=True)
            raise typer.Exit(130) from None
        if as_json:
            print(json.dumps(facts, indent=1))
        else:
            show(facts)


def _shape(resolved: "Resolved", given: dict[str, Any]) -> "ClusterConfig":
    """How many processes there will be, as `negbench run` has it; several nodes are a job's."""
    from negbench.settings.cluster import resolve_cluster

    asked = resolved.cluster_of_study | resolved.cluster_overrides | given
    job = {"launcher": "slurm"} if asked.get("nodes", 1) != 1 else {}
    return resolve_cluster(resolved.cluster_of_study, resolved.cluster_overrides, given | job)


@contextmanager
def _progress() -> "Iterator[Report]":
    """What is done now: in place on a terminal, elsewhere a line each (WHAT: WHICH, a line for WHAT)."""
    from negbench.train.loggers.console import console

    told = ""

    def note(text: str) -> None:
        nonlocal told
        title = text.partition(":")[0]
        if title != told:
            console.print(title, markup=False, soft_wrap=True)
        told = title

    if not console.is_terminal:
        yield note
        return
    with console.status("") as status:
        yield status.update
