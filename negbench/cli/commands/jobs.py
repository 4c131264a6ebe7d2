"""`negbench status`, `negbench logs`, `negbench cancel`: runs after their start."""

import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from negbench.cli.errors import mistakes_of_the_user
from negbench.cli.options import Output
from negbench.cli.tables import wide_console
from negbench.runtime.errors import UserError

if TYPE_CHECKING:
    from negbench.records.status import RunStatus

STYLES = {"done": "green", "running": "cyan", "pending": "yellow"}
STYLES |= dict.fromkeys(("failed", "stalled", "dead", "damaged"), "red")


def status(
    output: Output = Path("results"),
    study: Annotated[str | None, typer.Option(help="Only this study's runs.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Repeat until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks, with --watch.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Show the state of every run."""
    from rich.live import Live

    statuses = _look(output, study)
    if as_json:
        print(json.dumps([asdict(run) for run in statuses], indent=1))
        return
    console = wide_console()
    if not watch:
        console.print(table(statuses) if statuses else f"no runs in {output}")
        return
    say = partial(console.print, markup=False, soft_wrap=True)
    with Live(table(statuses), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            live.update(table(_look(output, study, say)), refresh=True)


def logs(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    rank: Annotated[int, typer.Option(min=0, help="Which process's log.")] = 0,
    lines: Annotated[int | None, typer.Option("--lines", "-n", min=0, help="Only the last lines.")] = None,
) -> None:
    """Print the log of a run's job, or of its process in a sweep."""
    from negbench.launch.jobs.logs import follow_log, log_of

    path = log_of(run, rank)
    if follow:
        follow_log(run, path, lines)
    elif path.exists():
        with open(path, errors="replace") as file:
            sys.stdout.writelines(file if lines is None else deque(file, lines))
    else:
        raise UserError(f"{path} is not there yet: the job has not started; --follow waits for it")


def cancel(runs: Annotated[list[Path], typer.Argument(help="Run folders.")]) -> None:
    """End runs' jobs. Submitting a run again resumes it."""
    mistakes = 0
    for run in runs:
        try:
            with mistakes_of_the_user():
                print(f"{run}: {_cancel(run)}")
        except typer.Exit:
            mistakes += 1
    raise typer.Exit(2 if mistakes else 0)


def _look(output: Path, study: str | None, say: Callable[[str], None] | None = None) -> "list[RunStatus]":
    """Return the runs' states; with `say` it is one look of many, and releases what Slurm holds."""
    from negbench.records.jobs import jobs_if_asked, read_note, watched_jobs
    from negbench.records.status import find_runs, status_of

    paths = find_runs(output)
    notes = [read_note(path) for path in paths]
    known = watched_jobs(notes, say) if say else jobs_if_asked(notes)
    return [run for run in (status_of(path, known) for path in paths) if study in (None, run.study)]


def _cancel(run: Path) -> str:
    """End a run and return what was done, as a sentence. UserError if there is nothing to end."""
    from negbench.records import jobs
    from negbench.records.run_folder import RunFolder, is_locked
    from negbench.records.status import status_of

    note, lock = jobs.read_note(run), RunFolder(run).read_lock()
    if not note and not lock:
        raise UserError(f"{run} is not a run folder")
    known = jobs.jobs_of([note])
    if jobs.is_active(note, known):
        jobs.write_note(run, note | {"cancelled": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        if note["launcher"] == "slurm":
            jobs.cancel([note["job_id"]])
            return f"Slurm job {note['job_id']} is cancelled"
        os.kill(int(note["job_id"]), signal.SIGTERM)  # the controller passes it to the job's processes
        return f"background job {note['job_id']} saves and ends"
    if is_locked(run) and lock.get("host") == os.uname().nodename:
        os.kill(lock["pid"], signal.SIGTERM)
        return f"process {lock['pid']} saves and ends"
    raise UserError(f"{run} is {status_of(run, known).state}: there is nothing to cancel")


def table(statuses: "Sequence[RunStatus]") -> Table:
    from negbench.runtime.words import duration, percent

    columns = ("study", "method", "seed", "state", "epoch", "loss", "kNN", "images/s", "left", "node")
    grid = Table(box=None, pad_edge=False)
    for column in columns:
        right = column in ("seed", "epoch", "loss", "kNN", "images/s", "left")
        grid.add_column(column, justify="right" if right else "left", overflow="fold")
    for run, label in zip(statuses, short_labels(statuses), strict=True):
        times = "once" if run.requeued == 1 else f"{run.requeued} times"
        further = [part for part in (run.detail, f"restarted {times}" if run.requeued else "") if part]
        epoch = "" if run.epoch is None else f"{run.epoch:.4g}"
        state = Text.assemble((run.state, STYLES.get(run.state, "dim")), f" ({'; '.join(further)})" if further else "")
        cells = (
            run.study,
            label,
            "" if run.seed is None else str(run.seed),
            state,
            f"{epoch}/{run.epochs}" if run.epochs else epoch,
            "" if run.loss is None else f"{run.loss:.3f}",
            percent(run.knn_top1),
            f"{run.images_per_second:,.0f}" if run.images_per_second and run.state in ("running", "done") else "",
            "" if run.seconds_left is None else duration(run.seconds_left),
            run.node,
        )
        grid.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    return grid


def short_labels(statuses: "Sequence[RunStatus]") -> list[str]:
    """Return each run's method and settings, without the settings that all runs of its study share."""
    from negbench.runtime import words

    settings = [[words.setting(*item) for item in run.changed.items()] for run in statuses]
    shared: dict[str, set[str]] = {}
    for run, own in zip(statuses, settings, strict=True):
        shared[run.study] = shared.get(run.study, set(own)) & set(own)
    return [
        words.label(run.method, [setting for setting in own if setting not in shared[run.study]])
        for run, own in zip(statuses, settings, strict=True)
    ]
