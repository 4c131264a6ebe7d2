"""Progress of the commands that take long, on standard error: a bar on a terminal, lines elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from negbench.runtime.words import duration
from negbench.train.loggers.console import console

_LINE_EVERY_SECONDS = 30.0  # of an evaluation, where no bar can be shown
_DESCRIPTION = TextColumn("{task.description}", markup=False)


def note(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


@contextmanager
def interruptible(kept: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C inside prints what is `kept`, and exits with 130."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"interrupted; {kept()}")
        raise typer.Exit(130) from None


@contextmanager
def plan_progress() -> Iterator[Callable[[str], None]]:
    """Show what is measured now: in place on a terminal, elsewhere a line for each WHAT of `WHAT: WHICH`."""
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        print_new = _titles()
        yield lambda text: print_new(text.partition(":")[0])


@contextmanager
def bench_progress(titles: Sequence[str]) -> Iterator[Callable[[int | None, str], None]]:
    """Show a bar over the groups with these `titles`; elsewhere a line a group."""
    print_new = _titles()
    with _bar(_DESCRIPTION, BarColumn(), TimeElapsedColumn()) as bar:
        task = bar.add_task("", total=len(titles))

        def progress(number: int | None, text: str) -> None:
            if number is not None:
                text = f"group {number + 1} of {len(titles)}, {titles[number]}: {text}"
            bar.update(task, completed=number, description=text)
            if not console.is_terminal:
                print_new(text.rpartition(": ")[0])

        yield progress


@contextmanager
def evaluation_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each part of the work; elsewhere a line of long work every half minute."""
    printed, shown = time.monotonic(), ""
    with _bar(_DESCRIPTION, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=None)

        def progress(what: str, done: int, of: int) -> None:
            nonlocal printed, shown
            if what != shown:
                bar.reset(task, description=what, total=of)
                shown = what
            bar.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - printed > _LINE_EVERY_SECONDS:
                note(f"{what}: {done:,} of {of:,}")
                printed = time.monotonic()

        yield progress


@contextmanager
def pack_progress(doing: str) -> Iterator[Callable[[int], Callable[[int, int], None]]]:
    """Show a bar over a pack's images; elsewhere a line at the start. Print the speed at the end."""
    started, done, size, total = time.monotonic(), 0, 0, 0

    def figures() -> str:
        seconds = time.monotonic() - started
        rate = f"{done / seconds:,.0f} images/s, {decimal(round(size / seconds))}/s"
        return f"{done:,} of {total:,} images, {decimal(size)}, {rate}"

    columns = (TextColumn(doing), BarColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
    with _bar(*columns, transient=True) as bar:
        task = bar.add_task("", total=None, figures="")

        def begin(num_images: int) -> Callable[[int, int], None]:
            nonlocal started, total
            started, total = time.monotonic(), num_images
            bar.update(task, total=num_images)
            if not console.is_terminal:
                note(f"{doing} {num_images:,} images")
            return progress

        def progress(images: int, num_bytes: int) -> None:
            nonlocal done, size
            done, size = done + images, size + num_bytes
            bar.update(task, completed=done, figures=figures())

        yield begin
    note(f"{figures()} in {duration(time.monotonic() - started)}")


def _bar(*columns: ProgressColumn, transient: bool = False) -> Progress:
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=transient)


def _titles() -> Callable[[str], None]:
    """Return a function that prints a title if it is not the last one again."""
    last = ""

    def print_new(title: str) -> None:
        nonlocal last
        if title != last:
            note(title)
        last = title

    return print_new
