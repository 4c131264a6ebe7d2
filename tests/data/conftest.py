"""An image folder, and a pack of it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from negbench.data.files.packing import make_pack
from tests.helpers.packs import LARGE, SHARD_BYTES, untold


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of twelve training and four test images, some in folders below, and one larger than a shard."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name in ("ant", "bee"):
            (tmp_path / "images" / split / name / "sub").mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(generator.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8))
                image.save(tmp_path / "images" / split / name / ("sub" if number == 3 else "") / f"{number}.jpg")
    Image.fromarray(generator.integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(tmp_path / "images" / LARGE)
    return tmp_path / "images"


@pytest.fixture
def packed(root: Path) -> Path:
    make_pack(root, root.parent / "pack", SHARD_BYTES, untold)
    return root.parent / "pack"
