"""`negbench report`: tables, figures and a page from run records. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from negbench.report.build import Report
    from negbench.report.table import Table

RESULTS = Path("results")
Arguments = Annotated[
    list[str] | None,
    typer.Argument(help="Run folders, folders of runs, or studies in results/. Default: results.", show_default=False),
]
Output = Annotated[
    Path | None,
    typer.Option(help="Folder to write. Default: `report` beside the runs.", show_default=False),
]
Baseline = Annotated[
    str | None,
    typer.Option(help="Method or row that differences are to. Default: moco, if it is there.", show_default=False),
]
Targets = Annotated[
    list[float] | None,
    typer.Option(
        "--target", help="Accuracy to reach, a fraction; repeatable. Default: the baseline's.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(report)


def report(
    runs: Arguments = None,
    output: Output = None,
    baseline: Baseline = None,
    target: Targets = None,
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Show the tables, write nothing.")] = False,
) -> None:
    """Compare runs: tables here, and with figures in a page for a browser."""
    from negbench.cli import mistakes_of_the_user

    with mistakes_of_the_user():
        from negbench.report import build
        from negbench.report.benches import find_benches
        from negbench.report.runs import find
        from negbench.report.tunings import find_tunings

        for value in target or []:
            if not 0 < value <= 1:
                raise ValueError(f"--target {value:g}: an accuracy is a fraction above 0 and at most 1, as 0.8")
        paths, benches = find(runs or [], RESULTS), find_benches(runs or [], RESULTS)
        tunings = find_tunings(runs or [], RESULTS)
        folder = output or _beside(paths, [*benches, *tunings], runs or []) / "report"
        build.check_output(folder)
        show_and_write(paths, benches, folder, baseline, target or [], tables_only, tunings)


def _beside(paths: list[Path], others: list[Path], arguments: list[str]) -> Path:
    """Where a report goes by default: beside the runs, and into the folder of a bench or tuning that alone is named."""
    if others and others == [Path(argument) for argument in arguments]:
        return others[0]
    return [*paths, *others][0].parent


def show_and_write(
    paths: list[Path],
    benches: list[Path],
    folder: Path,
    baseline: str | None = None,
    targets: Sequence[float] = (),
    tables_only: bool = False,
    tunings: Sequence[Path] = (),
) -> None:
    """Tables of run folders, benches and tunings in the terminal, and unless `tables_only` the report in `folder`."""
    from rich.console import Console

    from negbench.report import build
    from negbench.report.benches import load_benches
    from negbench.report.runs import load
    from negbench.report.tunings import load_tunings

    used, unused = load_benches(benches)
    tuned, unread = load_tunings(tunings)
    made = build.build([*load(paths), *unused, *unread], baseline, targets, used, tuned)
    wide = wide_console()
    _show(made, wide)
    if tables_only:
        return
    with Console(stderr=True).status("figures") as status:
        page = build.write(made, folder, status.update)
    wide.print(f"written to {folder}: {page.name}, {build.MANIFEST}, runs.csv, tables/, figures/", markup=False)


def wide_console() -> "Console":
    """As wide as the terminal; elsewhere a row is a line."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=1000, highlight=False)


def _show(made: "Report", console: "Console") -> None:
    for section in made.sections:
        console.print(f"\n{section.comparison.title}\n", style="bold underline", markup=False)
        for caution in section.cautions:
            console.print(f"! {caution}", style="yellow", markup=False)
        for finding in section.findings:
            console.print(finding.question, style="bold", markup=False)
            console.print(f"{finding.answer}\n", markup=False)
        for table in (*section.tables, *section.diagnostics):
            print_table(console, table)
    for table, _ in made.swept:
        print_table(console, table)
    for other in made.others:
        console.print(f"\n{other.title}\n", style="bold underline", markup=False)
        for caution in other.cautions:
            console.print(f"! {caution}", style="yellow", markup=False)
        for table in other.tables:
            print_table(console, table)
    if made.unused:
        console.print(f"{len(made.unused)} of {len(made.runs)} runs are without a result:", markup=False)
        for run in made.unused:
            reason = f": {run.reason}" if run.reason else ""
            console.print(f"  {run.name} ({run.state}{reason})", markup=False)


def print_table(console: "Console", table: "Table") -> None:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(title=Text(table.title), box=box.SIMPLE_HEAD, title_justify="left")
    for number, column in enumerate(table.columns):
        is_number = number > 0 and any(row[number].value is not None for row in table.rows)
        grid.add_column(Text(column), justify="right" if is_number else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(cell.text, style="bold" if cell.bold else "") for cell in row))
    console.print(grid)
    console.print(f"{table.note}\n", style="dim", markup=False)
