"""`negbench report`: tables, figures and a page from run records. Imports no torch."""

from pathlib import Path
from typing import Annotated

import typer

from negbench.cli.tables import show_and_write
from negbench.runtime.errors import UserError

RESULTS = Path("results")


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run folders, folders with runs at any depth, or studies in results/. Default: results."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write. Default: `report` beside the runs.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Method or row that differences are to. Default: moco, if it is there.")
    ] = None,
    target: Annotated[
        list[float] | None, typer.Option(help="Accuracy to reach, a fraction; repeatable. Default: the baseline's.")
    ] = None,
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Show the tables, write nothing.")] = False,
) -> None:
    """Compare runs: tables here, and with figures in a page for a browser."""
    from negbench.records.benches import BENCHES
    from negbench.records.tunings import TUNINGS
    from negbench.report.page import write
    from negbench.report.read.runs import find

    for value in target or []:
        if not 0 < value <= 1:
            raise UserError(f"--target {value:g}: an accuracy is a fraction above 0 and at most 1, as 0.8")
    paths, benches = find(runs or [], RESULTS), BENCHES.find(runs or [], RESULTS)
    tunings = TUNINGS.find(runs or [], RESULTS)
    folder = output or _beside(paths, [*benches, *tunings], [Path(name) for name in runs or []]) / "report"
    write.check_output(folder)
    show_and_write(paths, benches, folder, baseline, target or [], tables_only, tunings)


def _beside(paths: list[Path], others: list[Path], named: list[Path]) -> Path:
    """Where a report goes by default: into the folder whose runs are named, beside a run that is named itself.

    Benches and tunings that alone are named hold it in the first of them.
    """
    if others and others == named:
        return others[0]
    first = [*paths, *others][0]
    searched = [] if first in named else [folder for folder in (*named, RESULTS) if first.is_relative_to(folder)]
    return searched[0] if searched else first.parent
