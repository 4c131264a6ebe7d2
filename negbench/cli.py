"""The command line. torch is imported only by the commands that compute."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

import negbench

app = typer.Typer(
    help="Where should the negatives of contrastive learning come from, what does each source buy, and at what cost?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Method = Annotated[str | None, typer.Option(help="Name from `negbench methods`, or your own FILE.py.")]
Study = Annotated[str, typer.Option("--config", help="Study in configs/, or a FILE.yaml.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; repeatable.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, order and views.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Output = Annotated[Path, typer.Option(help="Parent folder of run folders.")]
RunPath = Annotated[Path, typer.Argument(help="Run folder.", show_default=False)]


def version(show: bool) -> None:
    if show:
        print(f"negbench {negbench.__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    show_version: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Show it.")] = False,
) -> None: ...


@app.command()
def run(
    method: Method = None,
    config: Study = "quickstart",
    settings: Settings = None,
    seed: Seed = None,
    device: Device = "auto",
    output: Output = Path("results"),
    fresh: Annotated[bool, typer.Option(help="Delete the run's folder and start again.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, result only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Train one method, evaluate it, and record it. The same command resumes, or reports a finished run."""
    with mistakes_of_the_user():
        from negbench.study import resolve

        resolved = resolve(method, config, settings or [], seed)
        from negbench.display import Quiet, cost_line, displayed, summary_table
        from negbench.distributed import process_group, rank
        from negbench.environment import choose_device
        from negbench.run import execute

        _check_choice("--device", device, ("auto", "cpu", "cuda"))
        chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
        with process_group(chosen), displayed(quiet or rank() > 0) as display:
            summary = execute(resolved, output, chosen, display if rank() == 0 else Quiet(), fresh)
            main_process = rank() == 0
    if main_process and as_json:
        print(json.dumps(summary, indent=1))
    elif main_process:
        console = Console()
        console.print(
            f"{summary['label']}, study {summary['study']}, seed {summary['seed']}", highlight=False, soft_wrap=True
        )
        console.print(summary_table(summary))
        console.print(cost_line(summary), highlight=False, soft_wrap=True)
        console.print(f"records: {output / resolved.run_id}", highlight=False, soft_wrap=True)


@app.command()
def methods() -> None:
    """List the methods, and where each takes its negatives from."""
    from negbench.registry import list_methods

    table = _table("method", "where its negatives come from", "paper")
    with mistakes_of_the_user():
        for file in list_methods().values():
            summary, _, rest = file.docstring.partition("\n\n")
            _, _, source = summary.partition(": ")
            table.add_row(file.name, " ".join(source.split()).rstrip("."), " ".join(rest.partition("\n\n")[0].split()))
    _print_table(table)


@app.command("config")
def show_config(
    method: Method = None,
    config: Study = "quickstart",
    settings: Settings = None,
    seed: Seed = None,
    describe: Annotated[bool, typer.Option(help="Say what each key means.")] = False,
) -> None:
    """Show every setting of a run, and the layer that set it."""
    from negbench.study import flatten, leaves, resolve

    with mistakes_of_the_user():
        resolved = resolve(method, config, settings or [], seed)
    fields = dict(leaves(type(resolved.config)))
    table = _table("key", "value", "set by", *(["meaning"] if describe else []))
    for key, value in flatten(resolved.config).items():
        origin = resolved.origin(key)
        cells = [key, json.dumps(value), origin, *([fields[key].description or ""] if describe else [])]
        table.add_row(*cells, style="dim" if origin == "default" else None)
    print(f"run id {resolved.run_id}")
    _print_table(table)


@app.command()
def evaluate(
    path: RunPath,
    protocol: Annotated[list[str] | None, typer.Option(help="knn or linear; repeatable. Default: both.")] = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Evaluate a run's newest checkpoint on the test set and write evaluations/PROTOCOL.json."""
    protocols = protocol or ["knn", "linear"]
    with mistakes_of_the_user():
        for name in protocols:
            _check_choice("--protocol", name, ("knn", "linear"))
        _check_choice("--device", device, ("auto", "cpu", "cuda"))
        from negbench.display import console
        from negbench.environment import choose_device
        from negbench.evaluate.test_set import evaluate_run
        from negbench.summary import top1_figures

        evaluations = evaluate_run(path, protocols, choose_device(device), console.print)
    figures = {name: value for name, value in top1_figures(evaluations).items() if value is not None}
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        print(f"{name:24}{value:.4f}")
    print(f"written to {path / 'evaluations'}")


@app.command()
def views(
    method: Method = "moco",
    config: Study = "quickstart",
    settings: Settings = None,
    seed: Seed = None,
    num_pairs: Annotated[int, typer.Option(min=1, max=256, help="Images whose two views are drawn.")] = 24,
    output: Annotated[Path, typer.Option(help="PNG to write.")] = Path("views.png"),
) -> None:
    """Draw the pairs of views that training sees."""
    with mistakes_of_the_user():
        from negbench.study import resolve

        resolved = resolve(method, config, settings or [], seed)
        from negbench.view_grid import write_view_grid

        write_view_grid(resolved.config, num_pairs, output)
    print(f"written to {output}: {num_pairs} pairs of views, those of each image side by side")


def main() -> None:
    """Exit codes: 0 done, 2 the user's mistake, 130 or 143 interrupted, 1 anything else."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def mistakes_of_the_user() -> Iterator[None]:
    """ValueError becomes one sentence and exit code 2; an interrupted run exits with 128 + its signal."""
    try:
        yield
    except ValueError as error:
        _fail(str(error), 2, by_every_rank=type(error).__name__ == "BadImageError")
    except FloatingPointError as error:
        _fail(str(error), 1)
    except Exception as error:
        signum = getattr(error, "signum", None)
        if type(error).__name__ != "Interrupted" or signum is None:
            raise
        _fail(
            f"interrupted by {signal.Signals(signum).name}; the same command goes on from the checkpoint", 128 + signum
        )


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, not {value!r}")


def _fail(message: str, code: int, by_every_rank: bool = False) -> NoReturn:
    """Other mistakes than a bad file, which one rank meets, are the same on all ranks."""
    if by_every_rank or os.environ.get("RANK", "0") == "0":
        Console(stderr=True).print(f"negbench: {message}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def _table(*columns: str) -> Table:
    """Columns without lines; the first one is never folded."""
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table


def _print_table(table: Table) -> None:
    """As wide as the terminal; elsewhere a row is a line."""
    console = Console()
    (console if console.is_terminal else Console(width=1000)).print(table)


if __name__ == "__main__":
    main()
