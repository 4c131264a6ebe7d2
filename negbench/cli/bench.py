"""`negbench bench`: what a step of each method costs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from negbench.cli.errors import mistakes_of_the_user
from negbench.cli.options import DEVICES, Device, Settings, Study, check_choice
from negbench.cli.tables import show_and_write
from negbench.runtime.errors import UserError

if TYPE_CHECKING:
    from negbench.cost.bench.groups import Plan
    from negbench.cost.bench.run import Progress as Report


def register(app: typer.Typer) -> None:
    app.command()(bench)


def bench(
    methods: Annotated[
        str | None, typer.Option(help="Methods, with commas: names or FILE.py.", show_default="all")
    ] = None,
    config: Study = "quickstart",
    settings: Settings = None,
    num_negatives: Annotated[
        str | None,
        typer.Option(metavar="N|LOW:HIGH", help="K of the methods that have it, or a sweep by factors of 4."),
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(metavar="N|LOW:HIGH", help="Images a step, or a sweep by factors of 2.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Backbone, as --set model.name.")] = None,
    device: Device = "auto",
    rounds: Annotated[int, typer.Option(min=2, max=10_000, help="Turns of each method.")] = 9,
    trace: Annotated[
        bool, typer.Option("--trace", help="Write torch.profiler's traces and tables of single steps too.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Parent folder of the bench's folder.")] = Path("results"),
) -> None:
    """Time a step of each method, its parts and its memory, in turns; no data is needed."""
    with mistakes_of_the_user():
        from negbench.runtime.place import find_place

        if find_place().world_size > 1:
            raise UserError("negbench bench measures one process on one device; start it without torchrun or srun")
        check_choice("--device", device, DEVICES)
        from negbench.cost.bench import groups as plan
        from negbench.cost.bench import run
        from negbench.records.benches import BenchFolder
        from negbench.runtime.device import choose_device

        where = choose_device(device)
        chosen = plan.make_plan(
            plan.parse_methods(methods),
            config,
            [*(settings or []), *([f"model.name={model}"] if model else [])],
            plan.parse_num_negatives(num_negatives, run.LARGEST_NUM_NEGATIVES[where.type]),
            plan.parse_batch_size(batch_size),
        )
        folder = BenchFolder(output, chosen.config.study, where.type)
        try:
            with _progress(chosen) as progress:
                run.execute(chosen, where, rounds, folder, progress, trace)
        except KeyboardInterrupt:
            kept = f"{folder.kept}, of {len(chosen.groups)}, are kept in {folder.path}"
            _note(f"interrupted; {kept if folder.num_groups else 'no group was done, so nothing is kept'}")
            raise typer.Exit(130) from None
        _show(folder.path)


def _note(text: str) -> None:
    from negbench.train.loggers.console import console

    console.print(text, markup=False, soft_wrap=True)


@contextmanager
def _progress(plan: "Plan") -> "Iterator[Report]":
    """A bar on a terminal; elsewhere a line a group."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from negbench.train.loggers.console import console

    num_groups = len(plan.groups)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    told = ""

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=num_groups)

        def progress(number: int | None, text: str) -> None:
            nonlocal told
            if number is not None:
                text = f"group {number + 1} of {num_groups}, {plan.groups[number].title}: {text}"
            title = text.rpartition(": ")[0]
            bar.update(task, completed=number, description=text)
            if title != told and not console.is_terminal:
                _note(title)
            told = title

        yield progress


def _show(folder: Path) -> None:
    """The tables, and the page in `report/`."""
    show_and_write([], [folder], folder / "report")
