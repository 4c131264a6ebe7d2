"""JPEGs to decode: which of a folder's are taken, and some that are made up where none are given."""

from pathlib import Path

import numpy as np
from PIL import Image

NUM_IMAGES = 256
SHORTER, LONGER, QUALITY = 160, (160, 213, 240), 90
_CELLS = (2, 4, 8, 16, 32, 64, 128)  # a side, from smooth fields to texture


def chosen(folder: str) -> list[str]:
    """256 of the folder's JPEGs, evenly spaced in their order. ValueError if there are fewer."""
    found = sorted(str(path) for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if len(found) < NUM_IMAGES:
        raise ValueError(f"--images: {folder} holds {len(found)} JPEGs, and {NUM_IMAGES} are decoded")
    return [found[len(found) * i // NUM_IMAGES] for i in range(NUM_IMAGES)]


def make(folder: Path) -> None:
    """256 pictures with as much detail as photographs: noise of many sizes, the finer the fainter."""
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        sides = (SHORTER, LONGER[number % len(LONGER)])
        width, height = sides if number % 4 == 0 else sides[::-1]
        pixels = np.full((height, width, 3), 128.0)
        for cells in _CELLS:
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            field = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), float) - 127.5
            pixels += field / cells**0.6
        path = folder / f"class{number % 8}" / f"{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)
