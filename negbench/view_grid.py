"""A picture of what training sees: pairs of views.

Shape suffixes: N pairs, V the two views, S pixels.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid, save_image

from negbench.config import RunConfig
from negbench.data.batches import training_batches
from negbench.data.sets import load_splits

_PAIRS_A_ROW = 4
_LEAST_PIXELS = 64


def write_view_grid(config: RunConfig[Any], num_pairs: int, path: Path) -> None:
    """A PNG of the first training images' pairs of views, normalisation undone. ValueError if it cannot be written."""
    train = load_splits(config.data).train
    config = config.model_copy(update={"batch_size": min(num_pairs, len(train))})
    pair, _ = next(training_batches(train, config, torch.device("cpu"), 0, 1))
    views = (config.views.first, config.views.second)
    images_NV3SS = torch.stack(
        [_channels(v.std) * batch + _channels(v.mean) for batch, v in zip(pair, views, strict=True)], dim=1
    )
    images = images_NV3SS.flatten(0, 1).clamp(0, 1)
    if config.data.image_size < _LEAST_PIXELS:
        images = F.interpolate(images, scale_factor=_LEAST_PIXELS // config.data.image_size, mode="nearest")
    pairs = [make_grid(two, nrow=2, padding=1) for two in images.split(2)]
    try:
        save_image(make_grid(pairs, nrow=_PAIRS_A_ROW, padding=4, pad_value=1), path, format="png")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None


def _channels(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)
