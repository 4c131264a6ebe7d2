"""`negbench bench`: what a step of each method costs."""

from pathlib import Path
from typing import Annotated

import typer

from negbench.cli.options import Device, Settings, Study, check_single_process, names_in
from negbench.cli.tables import show_and_write


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
    check_single_process("bench", "measures one process on one device")
    from negbench.cli.progress import bench_progress, interruptible
    from negbench.cost.bench import groups, run
    from negbench.records.benches import BenchFolder
    from negbench.runtime.device import choose_device
    from negbench.settings.plugins.find import list_methods

    where = choose_device(device)
    chosen = groups.make_groups(
        list(list_methods()) if methods is None else names_in("--methods", methods),
        config,
        [*(settings or []), *([f"model.name={model}"] if model else [])],
        groups.parse_sizes("--num-negatives", num_negatives, groups.NUM_NEGATIVES_FACTOR),
        groups.parse_sizes("--batch-size", batch_size, groups.BATCH_SIZE_FACTOR),
        groups.LARGEST_NUM_NEGATIVES[where.type],
    )
    folder = BenchFolder(output, chosen[0].config.study, where.type)

    def kept() -> str:
        if not folder.num_groups:
            return "no group was done, so nothing is kept"
        return f"{folder.kept}, of {len(chosen)}, are kept in {folder.path}"

    titles = [group.title for group in chosen]
    with interruptible(kept), bench_progress(titles) as progress:
        run.execute(chosen, where, rounds, folder, progress, trace)
    show_and_write([], [folder.path], folder.path / "report")
