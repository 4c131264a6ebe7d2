"""`negbench data`: image folders in a form for slow file systems."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from negbench.cli.errors import mistakes_of_the_user

if TYPE_CHECKING:
    from negbench.data.files.packing import Progress as Report


def register(app: typer.Typer) -> None:
    data = typer.Typer(no_args_is_help=True, help="Pack an image folder into a few large files, and verify them.")
    for command in (pack, verify):
        data.command()(command)
    app.add_typer(data, name="data")


def pack(
    root: Annotated[Path, typer.Argument(help="Image folder, as data.root.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to make, the new data.root.", show_default=False)],
    shard_size: Annotated[int, typer.Option(metavar="MIB", min=1, help="Largest size of a shard, MiB.")] = 1024,
) -> None:
    """Copy an image folder's files into a few large ones; runs on either are the same, bit for bit."""
    with mistakes_of_the_user():
        from negbench.data.files.packing import make_pack

        with _progress("packing", "interrupted; nothing is kept") as begin:
            make_pack(root, out, shard_size * 2**20, begin)
    print(f"written to {out}; data.root={out} reads it")


def verify(root: Annotated[Path, typer.Argument(help="Folder of the pack.", show_default=False)]) -> None:
    """Read all of a pack and compare its checksums."""
    with mistakes_of_the_user():
        from negbench.data.files.packing import verify_pack

        with _progress("verifying", "interrupted") as begin:
            verify_pack(root, begin)
    print(f"{root} is as it was packed")


@contextmanager
def _progress(doing: str, interrupted: str) -> Iterator[Callable[[int], "Report"]]:
    """A bar on a terminal; elsewhere a line at the start and one at the end."""
    import time

    from rich.filesize import decimal
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from negbench.runtime.words import duration
    from negbench.train.loggers.console import console

    started, done, size, total = time.monotonic(), 0, 0, 0

    def facts() -> str:
        seconds = time.monotonic() - started
        rate = f"{done / seconds:,.0f} images/s, {decimal(round(size / seconds))}/s"
        return f"{done:,} of {total:,} images, {decimal(size)}, {rate}"

    columns = (TextColumn(doing), BarColumn(), TextColumn("{task.fields[facts]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None, facts="")

        def begin(num_images: int) -> "Report":
            nonlocal started, total
            started, total = time.monotonic(), num_images
            bar.update(task, total=num_images)
            if not console.is_terminal:
                console.print(f"{doing} {num_images:,} images")
            return progress

        def progress(images: int, num_bytes: int) -> None:
            nonlocal done, size
            done, size = done + images, size + num_bytes
            bar.update(task, completed=done, facts=facts())

        try:
            yield begin
        except KeyboardInterrupt:
            console.print(interrupted)
            raise typer.Exit(130) from None
    console.print(f"{facts()} in {duration(time.monotonic() - started)}")
