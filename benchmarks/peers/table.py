"""Two tables: the comparisons with their goals, and what each side took."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.peers.plan import Comparison, Measured
from benchmarks.peers.record import Record
from negbench.report import text
from negbench.report.read.statistics import Interval, median_interval
from negbench.runtime import words

GIB = 2**30


def compared(measured: Measured, comparison: Comparison) -> Interval:
    """Median of the ratios within rounds and its bootstrap interval; of bytes the difference in GiB."""
    above, below = (measured.values.get(name, []) for name in (comparison.above, comparison.below))
    pairs = list(zip(above, below, strict=bool(above and below)))
    if measured.group.unit == "bytes":
        return median_interval([(a - b) / GIB for a, b in pairs])
    return median_interval([a / b for a, b in pairs])


def show(record: Record, console: Console) -> None:
    console.print(_comparisons(record))
    console.print(_sides(record))
    for measured in record.groups:
        for side, reason in measured.left_out.items():
            console.print(f"{measured.group.name}: {side} was left out: {reason}", markup=False, soft_wrap=True)


def _comparisons(record: Record) -> Table:
    table = _table(_title(record), "group", "comparison", right=("ratio", "goal", "reached"))
    for measured in record.groups:
        name = measured.group.name
        for comparison in measured.group.comparisons:
            interval, goal = compared(measured, comparison), comparison.goal
            reached = "" if goal is None else "yes" if goal.reached_by(interval.centre) else "no"
            cells = (text.ratio(interval), str(goal or ""), reached if interval.n else "not measured")
            table.add_row(escape(name), escape(comparison.label), *map(escape, cells))
            name = ""
        table.add_section()
    return table


def _sides(record: Record) -> Table:
    table = _table("Medians of the rounds", "group", "side", right=("step, s", "images/s", "peak, GiB"))
    for measured in record.groups:
        table.add_row(escape(measured.group.name), escape(measured.group.title), style="bold")
        for side in measured.group.sides:
            value = median_interval(measured.values.get(side.name, []) or [float("nan")]).centre
            if measured.group.unit == "bytes":
                cells = ("", "", words.number(value / GIB))
            else:
                cells = (words.number(value), words.number(side.images / value), "")
            table.add_row("", escape(side.name), *cells)
        table.add_section()
    return table


def _title(record: Record) -> str:
    here = record.environment
    peers = ", ".join(f"{name} {number}" for name, number in (record.peers or {}).items())
    parts = [here["device"], f"torch {here['torch_version']}", here["precision"], words.count(record.rounds, "round")]
    parts += [f"load average {here['load_average']:.1f} at the start", f"peers: {peers or 'absent'}"]
    if record.images:
        parts.append(f"images: {record.images}")
    return escape("; ".join(parts))


def _table(title: str, *left: str, right: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for column in left:
        table.add_column(column)
    for column in right:
        table.add_column(column, justify="right")
    return table
