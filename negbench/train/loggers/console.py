"""What a person sees of a run, on standard error: a progress bar on a terminal, a plain line an epoch elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from negbench.runtime.words import duration, percent
from negbench.settings.protocols import NAMED

console = Console(stderr=True, highlight=False)


class Quiet:
    """Shows nothing."""

    def start(self, title: str, num_steps: int, num_epochs: int, first_step: int) -> None: ...
    def progress(self, step: int, **facts: Any) -> None: ...
    def epoch(self, row: dict[str, Any]) -> None: ...
    def note(self, text: str) -> None: ...


class Plain(Quiet):
    """One line an epoch."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    def start(self, title: str, num_steps: int, num_epochs: int, first_step: int) -> None:
        self.num_steps, self.num_epochs = num_steps, num_epochs
        self.first_step, self.started = first_step, time.monotonic()
        self.note(title)

    def progress(self, step: int, **facts: Any) -> None:
        self.facts |= {"step": step, **{name: value for name, value in facts.items() if value is not None}}

    def epoch(self, row: dict[str, Any]) -> None:
        console.print(f"epoch {row['epoch']}/{self.num_epochs}  {self._facts()}", markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    def _facts(self) -> str:
        facts = self.facts
        parts = [f"step {facts.get('step', 0):,}/{self.num_steps:,}"]
        if "loss" in facts:
            parts.append(f"loss {facts['loss']:.3f}")
        if "images_per_second" in facts:
            parts.append(f"{facts['images_per_second']:,.0f} images/s")
        if "knn_top1" in facts:
            parts.append(f"kNN {facts['knn_top1']:.3f}")
        if "test_top1" in facts:
            parts.append(f"test top-1 {facts['test_top1']:.3f}")
        taken = facts.get("step", 0) - self.first_step
        if taken > 0 and facts["step"] < self.num_steps:
            left = (time.monotonic() - self.started) / taken * (self.num_steps - facts["step"])
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)


class Live(Plain):
    """A progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"), console=console
        )

    def start(self, title: str, num_steps: int, num_epochs: int, first_step: int) -> None:
        super().start(title, num_steps, num_epochs, first_step)
        self.task = self.bar.add_task("starting", total=num_steps, completed=first_step, facts="")

    def progress(self, step: int, **facts: Any) -> None:
        super().progress(step, **facts)
        epoch = min(step * self.num_epochs // self.num_steps + 1, self.num_epochs)
        self.bar.update(self.task, completed=step, description=f"epoch {epoch}/{self.num_epochs}", facts=self._facts())

    def epoch(self, row: dict[str, Any]) -> None: ...


@contextmanager
def displayed(quiet: bool) -> Iterator[Quiet]:
    if quiet:
        yield Quiet()
    elif console.is_terminal:
        live = Live()
        with live.bar:
            yield live
    else:
        yield Plain()


def summary_table(summary: dict[str, Any]) -> Table:
    """The result of one run for a person."""
    table = Table()
    tested = summary.get("knn_top1") is not None
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
