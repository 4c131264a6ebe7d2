"""The command line. torch is imported only by the commands that compute."""

import sys
from typing import Annotated, Any

import typer

import negbench
from negbench.cli.bench import register as register_bench
from negbench.cli.data import register as register_data
from negbench.cli.evaluate import register as register_evaluate
from negbench.cli.export import register as register_export
from negbench.cli.jobs import register as register_jobs
from negbench.cli.plan import register as register_plan
from negbench.cli.report import register as register_report
from negbench.cli.run import register as register_run
from negbench.cli.show import register as register_show
from negbench.cli.sweep import register as register_sweep
from negbench.cli.tune import register as register_tune
from negbench.settings.plugins import nearest

app = typer.Typer(
    help="Where should the negatives of contrastive learning come from, what does each source buy, and at what cost?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

UsageError: Any = typer.BadParameter.__base__  # typer gives it no name of its own


def version(show: bool) -> None:
    if show:
        print(f"negbench {negbench.__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    show_version: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Show it.")] = False,
) -> None: ...


register_run(app)
register_show(app)
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
