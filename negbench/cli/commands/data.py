"""`negbench data`: image folders in a form for slow file systems, and what a data set is."""

from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(
    no_args_is_help=True, help="Pack an image folder into a few large files, verify them, and print a fingerprint."
)


@data.command()
def pack(
    root: Annotated[Path, typer.Argument(help="Image folder, as data.root.")],
    out: Annotated[Path, typer.Argument(help="Folder to make, the new data.root.")],
    shard_size: Annotated[int, typer.Option(metavar="MIB", min=1, help="Largest size of a shard, MiB.")] = 1024,
) -> None:
    """Copy an image folder's files into a few large ones; runs on either are the same, bit for bit."""
    from negbench.cli.progress import interruptible, note, pack_progress
    from negbench.data.files.packing import make_pack

    with interruptible(lambda: "nothing is kept"), pack_progress("packing") as begin:
        lacks = make_pack(root, out, shard_size * 2**20, begin)
    for text in lacks:
        note(text)
    print(f"written to {out}; data.root={out} reads it")


@data.command()
def verify(root: Annotated[Path, typer.Argument(help="Folder of the pack.")]) -> None:
    """Read all of a pack and compare its checksums."""
    from negbench.cli.progress import interruptible, pack_progress
    from negbench.data.files.packing import verify_pack

    with interruptible(lambda: "the pack is as it was"), pack_progress("verifying") as begin:
        verify_pack(root, begin)
    print(f"{root} is as it was packed")


@data.command()
def fingerprint(
    root: Annotated[Path, typer.Argument(help="Image folder or pack, as data.root.")],
    full: Annotated[bool, typer.Option("--full", help="Read all files, and not 256 a part.")] = False,
) -> None:
    """Print what data.json of a run on this data says: two data sets are equal if they print the same."""
    from negbench.cli.progress import interruptible
    from negbench.data.fingerprint import describe
    from negbench.data.load import load_whole
    from negbench.settings.schema import DataConfig

    with interruptible(lambda: "nothing was written"):
        record = describe(load_whole(DataConfig(name="imagefolder", root=str(root), download=False)), full)
    print(record.model_dump_json(indent=1))
