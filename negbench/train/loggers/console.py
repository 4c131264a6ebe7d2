"""What a person sees of a run, on standard error: a progress bar on a terminal, a plain line an epoch elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from negbench.runtime.words import duration, percent
from negbench.settings.plugins.protocols import NAMED
from negbench.train.loggers.base import LoggedRun, Logger, Row

console = Console(stderr=True, highlight=False)


class Plain(Logger):
    """Prints one line an epoch, after the epoch's evaluation."""

    def __init__(self) -> None:
        self.ended_epoch: int | None = None  # one whose line waits for the figures of its evaluation

    def start(self, run: LoggedRun) -> None:
        self.run, self.started = run, time.monotonic()
        self.figures: Row = {}
        self.note(f"{run.run_id}: {run.num_steps:,} steps of {run.config.batch_size} images, in {run.folder}")

    def row(self, row: Row) -> None:
        if row["step"] > self.figures.get("step", 0):
            self._end_epoch()
        if row["kind"] != "diagnostics":
            self.figures |= {name: value for name, value in row.items() if value is not None}
            self.updated = time.monotonic()
        if row["kind"] == "epoch":
            self.ended_epoch = row["epoch"]
            if row["step"] not in self.run.evaluated_steps:
                self._end_epoch()

    def note(self, text: str) -> None:
        self._end_epoch()
        self._print(text)

    def close(self) -> None:
        self._end_epoch()

    def _end_epoch(self) -> None:
        if self.ended_epoch is not None:
            self._print(f"epoch {self.ended_epoch}/{self.run.config.epochs}  {self._figures()}")
            self.ended_epoch = None

    def _print(self, text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    def _figures(self) -> str:
        figures, num_steps = self.figures, self.run.num_steps
        parts = [f"step {figures['step']:,}/{num_steps:,}"]
        if "loss" in figures:
            parts.append(f"loss {figures['loss']:.3f}")
        if "images_per_second" in figures:
            parts.append(f"{figures['images_per_second']:,.0f} images/s")
        if "knn_top1" in figures:
            parts.append(f"kNN {figures['knn_top1']:.3f}")
        if "test_top1" in figures:
            parts.append(f"test top-1 {figures['test_top1']:.3f}")
        taken = figures["step"] - self.run.first_step
        if taken > 0 and figures["step"] < num_steps:
            left = (self.updated - self.started) / taken * (num_steps - figures["step"])
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)


class Quiet(Logger):
    """Prints what to beware of, and nothing else."""

    def note(self, text: str) -> None:
        if text.startswith(("caution:", "left out:")):
            console.print(text, markup=False, soft_wrap=True)


class Live(Plain):
    """Shows a progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"), console=console
        )

    def start(self, run: LoggedRun) -> None:
        super().start(run)
        self.task = self.bar.add_task("starting", total=run.num_steps, completed=run.first_step, figures="")

    def row(self, row: Row) -> None:
        super().row(row)
        step, num_epochs = row["step"], self.run.config.epochs
        epoch = f"epoch {min(step * num_epochs // self.run.num_steps + 1, num_epochs)}/{num_epochs}"
        self.bar.update(self.task, completed=step, description=epoch, figures=self._figures())

    def _end_epoch(self) -> None: ...


@contextmanager
def displayed(quiet: bool) -> Iterator[list[Logger]]:
    """Yield the logger for a person: a bar or lines, and cautions alone if `quiet`."""
    if quiet:
        yield [Quiet()]
    elif console.is_terminal:
        live = Live()
        with live.bar:
            yield [live]
    else:
        yield [Plain()]


def summary_table(summary: dict[str, Any]) -> Table:
    """Return the result of one run for a person."""
    table = Table()
    tested = any(summary.get(name) is not None for name in ("knn_top1", "linear_top1"))
    table.add_column("test set" if tested else "held-out training images")
    for column in ("trained", "untrained"):
        table.add_column(column, justify="right")
    for title, name in (
        ("kNN top-1, k = 20", "knn_top1"),
        ("kNN top-1, k = 200", "knn200_top1"),
        ("linear top-1", "linear_top1"),
    ):
        if summary.get(name) is not None:
            table.add_row(title, percent(summary[name]), percent(summary[f"{name}_untrained"]))
    for protocol in NAMED.values():
        if summary.get(protocol.figure) is not None:
            table.add_row(protocol.title, percent(summary[protocol.figure]), "")
    if not tested and summary.get("knn_top1_validation") is not None:
        table.add_row("kNN top-1, k = 20", percent(summary["knn_top1_validation"]), "")
    for title, name in (("kNN on raw pixels", "knn_top1_pixels"), ("kNN on colour histograms", "knn_top1_histogram")):
        if summary.get(name) is not None:
            table.add_row(title, "", percent(summary[name]), style="dim")
    return table


def cost_line(summary: dict[str, Any]) -> str:
    parts = [f"{duration(summary['train_seconds'])} of training"]
    if summary["images_per_second"]:
        parts.append(f"{summary['images_per_second']:,.0f} images/s")
    if summary["peak_memory_bytes"]:
        parts.append(f"peak memory {summary['peak_memory_bytes'] / 2**30:.2f} GiB")
    parts.append(f"state of the negatives {summary['source_state_bytes'] / 2**20:.2f} MiB")
    skipped = summary.get("skipped_files")
    rest = f"; files skipped because they cannot be decoded: {skipped}" if skipped else ""
    return ", ".join(parts) + f" on {summary['device']}{rest}"
