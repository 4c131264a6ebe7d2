"""A picture of the training images' views, side by side.

Shape suffixes: N images, V views, S pixels of the largest view.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid, save_image

from negbench.data.batches import training_batches
from negbench.data.load import load_splits
from negbench.runtime.errors import UserError
from negbench.settings.schema import RunConfig
from negbench.settings.views import ViewConfig

_VIEWS_A_ROW = 8
_LEAST_PIXELS = 64


def write_view_grid(config: RunConfig[Any], num_images: int, path: Path) -> None:
    """Write a PNG of the first training images' views, normalisation undone, multi-crop's small ones in their size.

    UserError if it cannot be written.
    """
    train = load_splits(config.data).train
    config = config.model_copy(update={"batch_size": min(num_images, len(train))})
    views, _ = next(training_batches(train, config, torch.device("cpu"), 0, 1))
    sizes = config.views.sizes(config.data.image_size)
    scale = max(1, _LEAST_PIXELS // max(sizes))
    images_NV3SS = torch.stack(
        [_shown(view, kind, max(sizes), scale) for view, kind in zip(views, config.views.all, strict=True)], dim=1
    )
    grids = [make_grid(of_image, nrow=len(sizes), padding=1) for of_image in images_NV3SS]
    try:
        a_row = max(1, _VIEWS_A_ROW // len(sizes))
        save_image(make_grid(grids, nrow=a_row, padding=4, pad_value=1), path, format="png")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _shown(view_N3SS: Tensor, kind: ViewConfig, size: int, scale: int) -> Tensor:
    """Return pixels in [0, 1], `scale` times as large; a view smaller than `size` is padded with black."""
    images = (_channels(kind.std) * view_N3SS + _channels(kind.mean)).clamp(0, 1)
    margin = size - images.shape[-1]
    return F.interpolate(F.pad(images, (0, margin, 0, margin)), scale_factor=scale, mode="nearest")


def _channels(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)
