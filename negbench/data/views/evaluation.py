"""The view for evaluations.

Shape legend: N images, S side of a view in pixels, H x W pixels of a file.
"""

import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from negbench.data.views.colors import mean_std, normalize_
from negbench.data.views.crops import check_uint8
from negbench.settings.views import ViewConfig


def center_crop(image_3HW: Tensor, size: int) -> Tensor:
    """Return the evaluation view, uint8 [3, S, S]: the shorter side resized to 256/224 of S, then the centre cropped.

    An image whose shorter side is between the two is not enlarged, and a smaller one only to S.
    """
    shorter = min(image_3HW.shape[-2:])
    target = min(max(shorter, size), round(size * 256 / 224))
    if target != shorter:
        image_3HW = transforms.resize(image_3HW, [target], antialias=True)
    center_3SS: Tensor = transforms.center_crop(image_3HW, [size, size])
    return center_3SS


def squeezed(image_3HW: Tensor, size: int) -> Tensor:
    """Return the whole image squeezed to uint8 [3, S, S]."""
    image_3SS: Tensor = transforms.resize(image_3HW, [size, size], antialias=True)
    return image_3SS


def eval_view(images_BCHW: Tensor, config: ViewConfig, size: int) -> Tensor:
    """Return the centre [B, 3, S, S] of uint8 images, shorter side resized (antialiased) to `size`, normalised."""
    check_uint8(images_BCHW)
    images = images_BCHW / 255
    height, width = images.shape[2:]
    if min(height, width) != size:
        shorter = min(height, width)
        height, width = size * height // shorter, size * width // shorter
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    top, left = round((height - size) / 2), round((width - size) / 2)
    center = images[:, :, top : top + size, left : left + size].contiguous()
    return normalize_(center, mean_std(config, center.device))
