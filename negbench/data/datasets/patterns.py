"""Procedural texture data set: the label is the pattern family, everything else is a nuisance.

The nuisances (colours, phase, scale, tilt, warp, noise) are the ones that random resized crops, flips, colour
jitter and grayscale remove, so that a contrastive learner can reach the label within minutes on a CPU.

Shape legend: N images, S side in pixels, C = 3 colour channels; u and v are pattern coordinates in periods.
"""

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from negbench.data.sets import Loaded, ResidentSet
from negbench.runtime.errors import UserError
from negbench.settings.plugins.facts import DataSet
from negbench.settings.schema import DataConfig

DATASET = DataSet()

_SPLITS = ("train", "test")
_PATTERNS_TRAIN, _PATTERNS_TEST, _PATTERNS_LARGEST = 5_000, 2_000, 128
_CHUNK = 1024  # images generated at once
_BASE_PERIODS = 5.0  # pattern periods across the image at scale 1
_SCALE_RANGE = (0.8, 1.28)  # factor on the number of periods
_MAX_TILT = 0.4  # rad
_WARP_RANGE = (0.04, 0.07)  # displacement amplitude along each axis, in image sides
_WARP_CYCLES = (0.7, 1.3)  # warp waves across the image
_MAX_SHIFT = 0.45  # in image sides
_DUTY_RANGE = (0.38, 0.5)  # share of the image's area in the foreground
_EDGE_SOFTNESS = 0.04  # width of the foreground edge, as a share of the image's area
_NOISE_STD = 0.03  # in units of the full intensity range
_MAZE_WAVES = 12
# Stripes and checks have few degrees of freedom: at one period per unit the nearest training image in pixel space
# often matches phase and tilt, and raw pixels would give the label away.
_STRIPE_FREQUENCY = 1.4
_CHECK_FREQUENCY = 1.3
_TRIANGLE_FREQUENCY = 0.9
_LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601


def _triad(u_nss: Tensor, v_nss: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the phases of three unit plane waves 120 degrees apart; they sum to zero."""
    half, tall = 0.5 * u_nss, math.sqrt(0.75) * v_nss
    return 2 * math.pi * u_nss, 2 * math.pi * (tall - half), -2 * math.pi * (tall + half)


def _horizontal_stripes(u_nss: Tensor, v_nss: Tensor, generator: torch.Generator) -> Tensor:
    return torch.cos(2 * math.pi * _STRIPE_FREQUENCY * v_nss)


def _vertical_stripes(u_nss: Tensor, v_nss: Tensor, generator: torch.Generator) -> Tensor:
    return torch.cos(2 * math.pi * _STRIPE_FREQUENCY * u_nss)


def _checks(u_nss: Tensor, v_nss: Tensor, generator: torch.Generator) -> Tensor:
    angular = math.pi * _CHECK_FREQUENCY
    return torch.sin(angular * u_nss) * torch.sin(angular * v_nss)


def _dots(u_nss: Tensor, v_nss: Tensor, generator: torch.Generator) -> Tensor:
    a, b, c = _triad(u_nss, v_nss)
    return torch.cos(a) + torch.cos(b) + torch.cos(c)


def _grid(u_nss: Tensor, v_nss: Tensor, generator: torch.Generator) -> Tensor:
    return torch.maximum(torch.cos(2 * math.pi * u_nss), torch.cos(2 * math.pi * v_nss))


def _bricks(u_nss: Tensor, v_nss: Tensor, generator: torch.Generator) -> Tensor:
    row = torch.floor(v_nss)
    along = u_nss / 2 + 0.5 * row
    to_bed = (v_nss - torch.round(v_nss)).abs()
    to_joint = 2 * (along - torch.round(along)).abs()
    return -torch.minimum(to_bed, to_joint)


def _rings(u_nss: Tensor, v_nss: Tensor, generator: torch.Generator) -> Tensor:
    return torch.cos(2 * math.pi * torch.hypot(u_nss, v_nss))


def _triangles(u_nss: Tensor, v_nss: Tensor, generator: torch.Generator) -> Tensor:
    a, b, c = _triad(_TRIANGLE_FREQUENCY * u_nss, _TRIANGLE_FREQUENCY * v_nss)
    return torch.sin(a) + torch.sin(b) + torch.sin(c)


def _zigzag(u_nss: Tensor, v_nss: Tensor, generator: torch.Generator) -> Tensor:
    bend = 2 * (u_nss / 2 - torch.round(u_nss / 2)).abs()
    return torch.cos(2 * math.pi * (0.8 * v_nss + bend))


def _maze(u_nss: Tensor, v_nss: Tensor, generator: torch.Generator) -> Tensor:
    field = torch.zeros_like(u_nss)
    for _ in range(_MAZE_WAVES):
        angle, phase = 2 * math.pi * torch.rand(2, u_nss.shape[0], 1, 1, generator=generator)
        field += torch.cos(2 * math.pi * (torch.cos(angle) * u_nss + torch.sin(angle) * v_nss) + phase)
    return field


_FIELDS: dict[str, Callable[[Tensor, Tensor, torch.Generator], Tensor]] = {
    "horizontal_stripes": _horizontal_stripes,
    "vertical_stripes": _vertical_stripes,
    "checks": _checks,
    "dots": _dots,
    "grid": _grid,
    "bricks": _bricks,
    "rings": _rings,
    "triangles": _triangles,
    "zigzag": _zigzag,
    "maze": _maze,
}

FAMILIES: tuple[str, ...] = tuple(_FIELDS)


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _pattern_coordinates(num: int, image_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return warped, tilted, shifted and scaled pixel coordinates in pattern periods, two of [N, S, S]."""

    def per_image(low: float, high: float) -> Tensor:
        return _uniform(low, high, (num, 1, 1), generator)

    axis = (torch.arange(image_size) + 0.5) / image_size - 0.5
    y_1ss, x_1ss = axis.view(1, -1, 1), axis.view(1, 1, -1)

    def wave() -> Tensor:
        angle = per_image(0, 2 * math.pi)
        cycles = per_image(*_WARP_CYCLES) * (torch.cos(angle) * x_1ss + torch.sin(angle) * y_1ss)
        return per_image(*_WARP_RANGE) * torch.sin(2 * math.pi * (cycles + per_image(0, 1)))

    x_nss = x_1ss + wave() + per_image(-_MAX_SHIFT, _MAX_SHIFT)
    y_nss = y_1ss + wave() + per_image(-_MAX_SHIFT, _MAX_SHIFT)
    tilt, periods = per_image(-_MAX_TILT, _MAX_TILT), _BASE_PERIODS * per_image(*_SCALE_RANGE)
    cos, sin = periods * torch.cos(tilt), periods * torch.sin(tilt)
    return cos * x_nss + sin * y_nss, cos * y_nss - sin * x_nss


def _foreground_share(field_nss: Tensor, generator: torch.Generator) -> Tensor:
    """Return a soft foreground mask in [0, 1] by rank within the image.

    Thresholding ranks instead of values makes the intensity histogram of every family the same.
    """
    num, image_size, _ = field_nss.shape
    order = field_nss.flatten(1).argsort(dim=1, stable=True)
    levels = ((torch.arange(image_size**2) + 0.5) / image_size**2).expand(num, -1)
    rank = torch.empty(num, image_size**2).scatter_(1, order, levels)
    duty = _uniform(*_DUTY_RANGE, (num, 1), generator)
    return torch.sigmoid((rank - (1 - duty)) / _EDGE_SOFTNESS).view_as(field_nss)


def _paint(share_nss: Tensor, generator: torch.Generator) -> Tensor:
    """Colour the mask with a contrasting pair and add noise: uint8 [N, 3, S, S]."""
    num = share_nss.shape[0]
    # Of two candidate colour pairs the one with more luma contrast is kept, so that the pattern survives grayscale.
    background_2nc = torch.rand(2, num, 3, generator=generator)
    foreground_2nc = 0.7 * (1 - background_2nc) + 0.3 * torch.rand(2, num, 3, generator=generator)
    contrast_2n = ((foreground_2nc - background_2nc) @ torch.tensor(_LUMA_WEIGHTS)).abs()
    choice = contrast_2n.argmax(dim=0), torch.arange(num)
    background, foreground = background_2nc[choice].view(num, 3, 1, 1), foreground_2nc[choice].view(num, 3, 1, 1)
    image = background + (foreground - background) * share_nss.unsqueeze(1)
    image = image + _NOISE_STD * torch.randn(image.shape, generator=generator)
    return (255 * image).round().clamp(0, 255).to(torch.uint8)


def make_patterns(num_images: int, seed: int, split: str, image_size: int = 32) -> tuple[Tensor, Tensor]:
    """Return texture images, RGB uint8 [N, 3, S, S], and labels, int64 [N], the index of the family in `FAMILIES`.

    The result depends on the arguments alone. Classes are balanced to within one image and in shuffled order. "train"
    and "test" are independent streams of one distribution. The patterns scale with the side `image_size`, S pixels: a
    period spans about S / 5. UserError if `split` is unknown, or `num_images` or `image_size` is below 1.
    """
    if split not in _SPLITS:
        raise UserError(f"split must be one of {_SPLITS}, got {split!r}")
    if num_images < 1:
        raise UserError(f"num_images must be at least 1, got {num_images}")
    if image_size < 1:
        raise UserError(f"image_size must be at least 1, got {image_size}")
    digest = hashlib.blake2b(repr(("patterns", seed, split)).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    labels = torch.arange(num_images)[torch.randperm(num_images, generator=generator)] % len(FAMILIES)
    images = torch.empty(num_images, 3, image_size, image_size, dtype=torch.uint8)
    for start in range(0, num_images, _CHUNK):
        chunk = labels[start : start + _CHUNK]
        u, v = _pattern_coordinates(len(chunk), image_size, generator)
        field = torch.empty_like(u)
        for label, family in enumerate(FAMILIES):
            rows = (chunk == label).nonzero().squeeze(1)
            if len(rows):
                field[rows] = _FIELDS[family](u[rows], v[rows], generator)
        images[start : start + _CHUNK] = _paint(_foreground_share(field, generator), generator)
    return images, labels


def load(config: DataConfig) -> Loaded:
    if config.image_size > _PATTERNS_LARGEST:
        raise UserError(f"data.image_size of patterns is at most {_PATTERNS_LARGEST}, not {config.image_size}")
    train = ResidentSet(*make_patterns(_PATTERNS_TRAIN, 0, "train", config.image_size))
    test = ResidentSet(*make_patterns(_PATTERNS_TEST, 0, "test", config.image_size))
    return train, test, FAMILIES, 0
