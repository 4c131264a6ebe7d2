"""Reports in the terminal: tables, findings and cautions."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from negbench.report.sections import Report
    from negbench.report.tables.base import Table


def show_and_write(
    paths: list[Path],
    benches: list[Path],
    folder: Path,
    baseline: str | None = None,
    targets: Sequence[float] = (),
    tables_only: bool = False,
    tunings: Sequence[Path] = (),
) -> None:
    """Print tables of run folders, benches and tunings; unless `tables_only`, write the report in `folder`."""
    from rich.console import Console

    from negbench.report import build
    from negbench.report.page.write import MANIFEST, write
    from negbench.report.read.benches import load_benches
    from negbench.report.read.runs import load
    from negbench.report.read.tunings import load_tunings

    used, unused = load_benches(benches)
    tuned, unread = load_tunings(tunings)
    made = build.build([*load(paths), *unused, *unread], baseline, targets, used, tuned)
    wide = wide_console()
    _show(made, wide)
    if tables_only:
        return
    errors = Console(stderr=True, soft_wrap=True)
    with errors.status("figures") as status:
        page = write(made, folder, status.update, lambda problem: errors.print(f"! {problem}", markup=False))
    wide.print(f"written to {folder}: {page.name}, {MANIFEST}, runs.csv, tables/, figures/", markup=False)


def wide_console() -> "Console":
    """Return a console as wide as the terminal; elsewhere a table's row is one line."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=1000, highlight=False)


def _show(made: "Report", console: "Console") -> None:
    for section in made.sections:
        console.print(f"\n{section.comparison.title}\n", style="bold underline", markup=False)
        print_cautions(console, section.cautions)
        for finding in section.findings:
            console.print(finding.question, style="bold", markup=False)
            console.print(f"{finding.answer}\n", markup=False)
        for table in (*section.tables, *section.diagnostics):
            print_table(console, table)
    for table, _ in made.swept:
        print_table(console, table)
    for other in made.others:
        console.print(f"\n{other.title}\n", style="bold underline", markup=False)
        print_cautions(console, other.cautions)
        for table in other.tables:
            print_table(console, table)
    if made.unused:
        console.print(f"{len(made.unused)} of {len(made.runs)} runs are not used:", markup=False)
        for run in made.unused:
            reason = f": {run.reason}" if run.reason else ""
            console.print(f"  {run.name} ({run.state}{reason})", markup=False)


def print_cautions(console: "Console", cautions: Sequence[str]) -> None:
    for caution in cautions:
        console.print(f"! {caution}", style="yellow", markup=False)


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
