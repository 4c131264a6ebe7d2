"""The command line. torch is imported only by the commands that compute."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import negbench
from negbench.cli_bench import register as register_bench
from negbench.cli_data import register as register_data
from negbench.cli_evaluate import register as register_evaluate
from negbench.cli_export import register as register_export
from negbench.cli_jobs import register as register_jobs
from negbench.cli_options import (
    DEVICES,
    Device,
    DryRun,
    Output,
    Settings,
    Study,
    Wait,
    check_choice,
    with_cluster_options,
)
from negbench.cli_plan import register as register_plan
from negbench.cli_report import register as register_report
from negbench.cli_sweep import register as register_sweep
from negbench.cli_tune import register as register_tune
from negbench.registry import nearest

app = typer.Typer(
    help="Where should the negatives of contrastive learning come from, what does each source buy, and at what cost?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

UsageError: Any = typer.BadParameter.__base__  # typer gives it no name of its own
Method = Annotated[str | None, typer.Option(help="Name from `negbench methods`, or your own FILE.py.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, order and views.")]


def version(show: bool) -> None:
    if show:
        print(f"negbench {negbench.__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    show_version: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Show it.")] = False,
) -> None: ...


@app.command()
@with_cluster_options
def run(
    cluster: dict[str, Any],
    method: Method = None,
    config: Study = "quickstart",
    settings: Settings = None,
    seed: Seed = None,
    device: Device = "auto",
    output: Output = Path("results"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run's folder and start again.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, result only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="First 20 steps, a save, a resume and evaluations.")] = False,
    dry_run: DryRun = False,
    wait: Wait = False,
) -> None:
    """Train one method, evaluate it, and record it. The same command resumes, or reports a finished run."""
    with mistakes_of_the_user():
        from negbench.launch.cluster import cluster_flags, resolve_cluster
        from negbench.launch.place import was_launched
        from negbench.study import resolve

        resolved = resolve(method, config, settings or [], seed)
        check_choice("--device", device, DEVICES)
        where = resolve_cluster(resolved.cluster_of_study, resolved.cluster_overrides, cluster_flags(cluster))
        if where.launcher != "none" and not was_launched():
            from negbench.launch.command import submit_runs

            if quiet or as_json:
                option = "--json" if as_json else "--quiet"
                raise ValueError(f"{option} belongs to a run here; a job's result is in its folder's summary.json")
            runs = [(resolved, settings or [])]
            submit_runs(runs, where, output, device, fresh=fresh, smoke=smoke, dry_run=dry_run, wait=wait)
            return
        if dry_run or wait:
            raise ValueError(f"{'--dry-run' if dry_run else '--wait'} belongs to a job; add --cluster slurm or local")
        if where.num_processes > 1 and not was_launched():
            from negbench.launch.local import check_gpus, launch

            check_gpus(where)
            raise typer.Exit(launch(where.num_processes, sys.argv[1:]))
        from negbench.launch.here import run_here

        run_here(resolved, output, device, fresh=fresh, smoke=smoke, quiet=quiet, as_json=as_json)


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
def views(
    method: Method = None,
    config: Study = "quickstart",
    settings: Settings = None,
    seed: Seed = None,
    num_images: Annotated[int, typer.Option(min=1, max=256, help="Images whose views are drawn.")] = 24,
    output: Annotated[Path, typer.Option(help="PNG to write.")] = Path("views.png"),
) -> None:
    """Draw the views that training sees."""
    with mistakes_of_the_user():
        from negbench.study import resolve

        resolved = resolve(method, config, settings or [], seed, otherwise="moco")
        from negbench.view_grid import write_view_grid

        write_view_grid(resolved.config, num_images, output)
    print(f"written to {output}: the views of {num_images} images, those of each side by side")


register_evaluate(app)
register_export(app)
register_sweep(app)
register_tune(app)
register_plan(app)
register_bench(app)
register_data(app)
register_jobs(app)
register_report(app)


def main() -> None:
    """Exit codes: 0 done, 2 the user's mistake, 130 or 143 interrupted, 1 anything else."""
    try:
        sys.exit(app(standalone_mode=False))
    except KeyboardInterrupt:
        sys.exit(130)
    except UsageError as error:
        if mistake := _mistake_in_options(error):
            print(f"negbench: {mistake}", file=sys.stderr)
        sys.exit(2)


def _mistake_in_options(error: Any) -> str:
    """One sentence, with the option's nearest name; nothing where the help has been shown instead."""
    if possible := getattr(error, "possibilities", None):
        text = error.message + nearest(error.option_name, possible)
    else:
        text = error.format_message().strip()
    return text[:1].lower() + text[1:]


@contextmanager
def mistakes_of_the_user() -> Iterator[None]:
    """An exception becomes a message and the exit code of `ending_of`: ValueError is the user's mistake."""
    try:
        yield
    except Exception as error:
        from negbench.failure import ending_of
        from negbench.launch.place import find_place

        if not isinstance(error, typer.Exit):
            ending = ending_of(error)
            if find_place().rank == 0:  # these mistakes are the same on all ranks
                ending.show()
            raise typer.Exit(ending.code) from None
        raise


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
