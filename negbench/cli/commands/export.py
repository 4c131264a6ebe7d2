"""`negbench export`: an encoder as others load it."""

from pathlib import Path
from typing import Annotated

import typer

from negbench.cli.options import check_choice, with_late_help


def _help_of_format() -> str:
    from negbench.models.files.formats import FORMATS

    return f"{', '.join(FORMATS)}."


ExportCommand = with_late_help("format", _help_of_format)


def export(
    path: Annotated[Path, typer.Argument(help="Run folder, or a FILE of weights.")],
    format: Annotated[str, typer.Option("--format")],
    output: Annotated[Path | None, typer.Option(help="File to write. Default: in RUN/exports, or beside FILE.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a run's newest encoder, its backbone, for other libraries (docs/encoders.md)."""
    from negbench.models.files.formats import FORMATS

    check_choice("--format", format, tuple(FORMATS))
    from negbench.cli.progress import note
    from negbench.models.files.export import export as write

    written = write(path, format, output, force, note)
    print(f"# written to {written.path}, with its facts in {written.path}.json; to load it:")
    print("\n".join(written.lines))
