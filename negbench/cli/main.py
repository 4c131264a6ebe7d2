"""The command line. torch is imported only by the commands that compute."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import negbench
from negbench.cli.commands.bench import bench
from negbench.cli.commands.data import data
from negbench.cli.commands.evaluate import EvaluateCommand, evaluate
from negbench.cli.commands.export import ExportCommand, export
from negbench.cli.commands.jobs import cancel, logs, status
from negbench.cli.commands.plan import plan
from negbench.cli.commands.repeat import bundle, rerun, verify
from negbench.cli.commands.report import report
from negbench.cli.commands.run import run
from negbench.cli.commands.show import methods, show_config, views
from negbench.cli.commands.sweep import sweep
from negbench.cli.commands.tune import tune
from negbench.cli.errors import UsageError, mistakes_of_the_user
from negbench.runtime.words import did_you_mean


class Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        with mistakes_of_the_user():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    help="Where should the negatives of contrastive learning come from, what does each source buy, and at what cost?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def version(show: bool) -> None:
    if show:
        print(f"negbench {negbench.__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    show_version: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Show it.")] = False,
) -> None: ...


app.command()(run)
app.command()(methods)
app.command("config")(show_config)
app.command()(views)
app.command(cls=EvaluateCommand)(evaluate)
app.command(cls=ExportCommand)(export)
app.command()(sweep)
app.command()(tune)
app.command()(plan)
app.command()(bench)
app.add_typer(data, name="data")
app.command()(status)
app.command()(logs)
app.command()(cancel)
app.command()(report)
app.command()(verify)
app.command()(bundle)
app.command()(rerun)


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
    """One sentence, with the closest option; nothing where the help has been shown instead."""
    if possible := getattr(error, "possibilities", None):
        text = error.message + did_you_mean(error.option_name, possible)
    else:
        text = error.format_message().strip()
    return text[:1].lower() + text[1:]
