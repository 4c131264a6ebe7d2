"""Small packs and what reads them."""

from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.settings.schema import DataConfig

SHARD_BYTES = 4000  # some of the images below


LARGE = "train/bee/large.png"


def untold(num_images: int) -> Callable[[int, int], None]:
    return lambda images, num_bytes: None


def config(root: Path, **settings: object) -> DataConfig:
    return DataConfig.model_validate({"name": "imagefolder", "root": str(root), "image_size": 16} | settings)


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def flip(path: Path, position: int) -> None:
    """Change the byte at `position`."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
