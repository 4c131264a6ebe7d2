"""`negbench methods`, `negbench config`, `negbench views`: what there is, before anything runs."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from negbench.cli import options
from negbench.cli.tables import wide_console


def methods() -> None:
    """List the methods, and where each takes its negatives from."""
    from negbench.settings.plugins.find import list_methods

    table = _table("method", "where its negatives come from", "paper")
    for file in list_methods().values():
        summary, _, rest = file.docstring.partition("\n\n")
        _, _, source = summary.partition(": ")
        table.add_row(file.name, " ".join(source.split()).rstrip("."), " ".join(rest.partition("\n\n")[0].split()))
    wide_console().print(table)


def show_config(
    method: options.Method = None,
    config: options.Study = "quickstart",
    settings: options.Settings = None,
    seed: options.Seed = None,
    describe: Annotated[bool, typer.Option(help="Say what each key means.")] = False,
) -> None:
    """Show every setting of a run, and the layer that set it."""
    from negbench.settings.keys import flatten, leaves
    from negbench.settings.resolve import resolve

    resolved = resolve(method, config, settings or [], seed)
    fields = dict(leaves(type(resolved.config)))
    table = _table("key", "value", "set by", *(["meaning"] if describe else []))
    for key, value in flatten(resolved.config).items():
        origin = resolved.origin(key)
        cells = [key, json.dumps(value), origin, *([fields[key].description or ""] if describe else [])]
        table.add_row(*cells, style="dim" if origin == "default" else None)
    print(f"run id {resolved.run_id}")
    wide_console().print(table)


def views(
    method: options.Method = None,
    config: options.Study = "quickstart",
    settings: options.Settings = None,
    seed: options.Seed = None,
    num_images: Annotated[int, typer.Option(min=1, max=256, help="Images whose views are drawn.")] = 24,
    output: Annotated[Path, typer.Option(help="PNG to write.")] = Path("views.png"),
) -> None:
    """Draw the views that training sees."""
    from negbench.settings.resolve import resolve

    resolved = resolve(method, config, settings or [], seed, otherwise="moco")
    from negbench.data.picture import write_view_grid

    write_view_grid(resolved.config, num_images, output)
    print(f"written to {output}: the views of {num_images} images, those of each side by side")


def _table(*columns: str) -> Table:
    """Return a table without lines, whose first column is never folded."""
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table
