"""`negbench evaluate`: a run's newest checkpoint on the test set, or on other data, by protocols by name."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from negbench.cli_options import DEVICES, Device, check_choice
from negbench.evaluate.registry import PROTOCOLS, STANDARD, find_protocol, of_every_epoch

if TYPE_CHECKING:
    from negbench.evaluate.subject import Tell

_HELP = f"{', '.join(PROTOCOLS)}; repeatable. Default: {' and '.join(STANDARD)}."
_LINE_EVERY_SECONDS = 30.0  # where no bar can be shown


def register(app: typer.Typer) -> None:
    app.command()(evaluate)


def evaluate(
    path: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    protocol: Annotated[list[str] | None, typer.Option(help=_HELP)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One of the protocol's own settings; repeatable."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Another data set: transfer, voc07, places205.")
    ] = None,
    labels_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of the labelled images, one a line: semi-1, semi-10.")
    ] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Evaluate a run's newest checkpoint and write evaluations/PROTOCOL.json (docs/evaluation.md)."""
    from negbench.cli import mistakes_of_the_user

    protocols = list(dict.fromkeys(protocol or STANDARD))
    with mistakes_of_the_user():
        for name in protocols:
            find_protocol(name)
        check_choice("--device", device, DEVICES)
        from negbench.evaluate.request import make_requests

        requests = make_requests(protocols, settings or [], data, labels_file)
        from negbench.display import console
        from negbench.environment import choose_device
        from negbench.evaluate.test_set import evaluate_run, stem_of
        from negbench.summary import top1_figures

        try:
            with _progress() as tell:
                evaluations = evaluate_run(path, protocols, choose_device(device), console.print, requests, tell)
        except KeyboardInterrupt:
            console.print(f"interrupted; {path / 'evaluations'} is as it was", markup=False, soft_wrap=True)
            raise typer.Exit(130) from None
    figures = {name: value for name, value in top1_figures(evaluations).items() if value is not None}
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        print(f"{name:32}{value:.4f}")
    for selecting in of_every_epoch(protocols):
        print(f"{selecting.name}: {evaluations[selecting.name]['trained']['selection']}")
    files = ", ".join(f"{stem_of(name, evaluations[name], requests)}.json" for name in protocols)
    print(f"written to {path / 'evaluations'}: {files}")


@contextmanager
def _progress() -> "Iterator[Tell]":
    """A bar on a terminal for each part of the work; elsewhere a line now and then of what takes long."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from negbench.display import console

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    told = time.monotonic()

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        shown = ""

        def tell(what: str, done: int, of: int) -> None:
            nonlocal told, shown
            if what != shown:
                bar.reset(task, description=what, total=of)
                shown = what
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - told > _LINE_EVERY_SECONDS:
                console.print(f"{what}: {done:,} of {of:,}", markup=False, soft_wrap=True)
                told = time.monotonic()

        yield tell
