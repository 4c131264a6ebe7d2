"""Views: random crops and colours per sample, in batch, on the images' device, equal to torchvision's operations.

Every random number comes from one seeded stream on the CPU (`uniforms`), so that views are the same on every device and
for every method and world size. Since the CPU knows all parameters, rare operations run on just the rows that drew them
and nothing waits for the device. Matrix products are fp32: call outside autocast.

Shape suffixes: V views, B images, P numbers a view needs, A attempts to crop, C three channels, H and W height and
width, S size of a view, N numbers of a drawn view.
"""

from itertools import permutations

import torch
from torch import Tensor

from negbench.data.views.colors import NUM_PLACES, Appearance, recolor, recolor_all
from negbench.runtime.device import to_device
from negbench.runtime.errors import UserError
from negbench.runtime.seeding import stream
from negbench.settings.views import ViewConfig

_ATTEMPTS = 10
_CROP_UNIFORMS = 2 * _ATTEMPTS + 2  # areas, ratios, top, left
_APPEARANCE_UNIFORMS = 11
NUM_UNIFORMS = _CROP_UNIFORMS + _APPEARANCE_UNIFORMS

_ORDERS = torch.tensor(list(permutations(range(NUM_PLACES))))


def uniforms(seed: int, step: int, batch_size: int, num_views: int = 2) -> Tensor:
    """Return the numbers [V, B, P] in [0, 1), float64 on the CPU, that define the views of the global batch of `step`.

    A rank takes its rows of dimension B. A view's numbers do not depend on how many views follow it.
    """
    return torch.rand(num_views, batch_size, NUM_UNIFORMS, dtype=torch.float64, generator=stream(seed, "views", step))


def crop_boxes(config: ViewConfig, uniforms_BP: Tensor, heights_B: Tensor, widths_B: Tensor) -> Tensor:
    """Return crops [B, 4] (top, left, height, width; int64 pixels) of images `heights_B` by `widths_B`, all on the CPU.

    The distribution is torchvision's RandomResizedCrop: ten attempts of a uniform area and a log-uniform ratio, the
    first that fits, else the largest centred crop within `crop_ratio`.
    """
    u_BP = uniforms_BP.double()
    heights_B1, widths_B1 = heights_B.double()[:, None], widths_B.double()[:, None]
    area_BA = heights_B1 * widths_B1 * _between(config.crop_scale, u_BP[:, :_ATTEMPTS])
    log_low, log_high = torch.tensor(config.crop_ratio, dtype=torch.float64).log().tolist()
    ratio_BA = _between((log_low, log_high), u_BP[:, _ATTEMPTS : 2 * _ATTEMPTS]).exp()
    tries_B2A = torch.stack([(area_BA / ratio_BA).sqrt(), (area_BA * ratio_BA).sqrt()], dim=1).round()
    limits_B2 = torch.cat([heights_B1, widths_B1], dim=1)
    fits_BA = ((tries_B2A > 0) & (tries_B2A <= limits_B2[:, :, None])).all(dim=1)
    first_B = fits_BA.int().argmax(dim=1)
    drawn_B2 = tries_B2A[torch.arange(len(u_BP)), :, first_B]

    low, high = config.crop_ratio
    fallback_B2 = torch.minimum(limits_B2, torch.cat([widths_B1 / low, heights_B1 * high], dim=1).round())
    found_B1 = fits_BA.any(dim=1, keepdim=True)
    sides_B2 = torch.where(found_B1, drawn_B2, fallback_B2.clamp(min=1))
    room_B2 = limits_B2 - sides_B2
    offsets_B2 = torch.where(found_B1, u_BP[:, 2 * _ATTEMPTS : _CROP_UNIFORMS] * (room_B2 + 1), room_B2 / 2).floor()
    return torch.cat([offsets_B2, sides_B2], dim=1).long()


def appearance(config: ViewConfig, uniforms_BP: Tensor) -> Appearance:
    """Return a view's switches and factors, which do not depend on the numbers that `crop_boxes` reads."""
    flip, jitter, order, *factors, grayscale, blur, sigma, solarize = uniforms_BP[:, _CROP_UNIFORMS:].unbind(dim=1)
    ranges = [(max(0.0, 1 - b), 1 + b) for b in (config.brightness, config.contrast, config.saturation)]
    ranges.append((-config.hue, config.hue))
    return Appearance(
        flip_B=flip < config.flip_probability,
        jitter_B=jitter < config.jitter_probability,
        order_B4=_ORDERS[(order * len(_ORDERS)).long()],
        factors_B4=torch.stack([_between(span, u) for span, u in zip(ranges, factors, strict=True)], dim=1).float(),
        grayscale_B=grayscale < config.grayscale_probability,
        blur_B=blur < config.blur_probability,
        sigma_B=_between(config.blur_sigma, sigma).float(),
        solarize_B=solarize < config.solarize_probability,
    )


def drawn_numbers(config: ViewConfig, uniforms_BP: Tensor, height: int, width: int) -> Tensor:
    """Return a view's crop box, flip and `Appearance.numbers` as float32 [B, N]: all that `augment_all` needs."""
    drawn = appearance(config, uniforms_BP)
    boxes_B4 = _boxes_of_equal(config, uniforms_BP, height, width)
    return torch.cat([boxes_B4.float(), drawn.flip_B[:, None].float(), drawn.numbers()], dim=1)


def augment(images_BCHW: Tensor, config: ViewConfig, uniforms_BP: Tensor, size: int) -> Tensor:
    """Return one view [B, 3, S, S] (normalised float32) of each uint8 image, from one view's rows of `uniforms`."""
    drawn = appearance(config, uniforms_BP)
    boxes_B4 = _boxes_of_equal(config, uniforms_BP, *images_BCHW.shape[2:])
    return recolor(crop(images_BCHW, boxes_B4, drawn.flip_B, size), drawn, config)


def augment_all(
    images_BCHW: Tensor, numbers_BN: Tensor, mean_std_2C11: Tensor, config: ViewConfig, size: int
) -> Tensor:
    """Return views as `augment`, from `drawn_numbers` on the images' device, in shapes that do not depend on them."""
    images_BCSS = crop(images_BCHW, numbers_BN[:, :4], numbers_BN[:, 4] > 0, size)
    return recolor_all(images_BCSS, numbers_BN[:, 5:], mean_std_2C11, config)


def finish(images_BCSS: Tensor, config: ViewConfig, uniforms_BP: Tensor) -> Tensor:
    """Return views as `augment` of uint8 images that were cropped to `crop_boxes` of the same numbers and resized."""
    check_uint8(images_BCSS)
    drawn = appearance(config, uniforms_BP)
    flip_B111 = to_device(drawn.flip_B, images_BCSS.device)[:, None, None, None]
    return recolor(torch.where(flip_B111, images_BCSS.flip(-1), images_BCSS) / 255, drawn, config)


def finish_all(images_BCSS: Tensor, numbers_BN: Tensor, mean_std_2C11: Tensor, config: ViewConfig) -> Tensor:
    """Return views as `finish`, from `drawn_numbers`, as `augment_all`."""
    check_uint8(images_BCSS)
    flip_B111 = numbers_BN[:, 4, None, None, None] > 0
    flipped_BCSS = torch.where(flip_B111, images_BCSS.flip(-1), images_BCSS)
    return recolor_all(flipped_BCSS / 255, numbers_BN[:, 5:], mean_std_2C11, config)


def crop(images_BCHW: Tensor, boxes_B4: Tensor, flip_B: Tensor, size: int) -> Tensor:
    """Crop uint8 images to `boxes_B4`, flip where `flip_B`, and resize: float32 [B, 3, S, S] in [0, 1].

    Antialiased bilinear, as torchvision's `resized_crop(antialias=True)` on floats, but as two matrix products each.
    """
    check_uint8(images_BCHW)
    device = images_BCHW.device
    num_images, num_channels, height, width = images_BCHW.shape
    top_B, left_B, height_B, width_B = to_device(boxes_B4.float(), device).unbind(dim=1)
    flip_B = to_device(flip_B, device)
    columns_BSW = _resize_weights(left_B, width_B, flip_B, width, size)
    rows_BSH = _resize_weights(top_B, height_B, torch.zeros_like(flip_B), height, size).div_(255)
    narrow = torch.bmm(images_BCHW.float().view(num_images, num_channels * height, width), columns_BSW.mT)
    return rows_BSH[:, None] @ narrow.view(num_images, num_channels, height, size)


def _resize_weights(start_B: Tensor, length_B: Tensor, flip_B: Tensor, source_size: int, size: int) -> Tensor:
    """Return weights [B, S, source] of source pixels in output pixels, along one side, reversed where `flip_B`."""
    outputs_S = torch.arange(size, device=start_B.device)
    outputs_BS = torch.where(flip_B[:, None], size - 1 - outputs_S, outputs_S)
    scale_B1 = (length_B / size)[:, None]
    center_BS1 = (start_B[:, None] + (outputs_BS + 0.5) * scale_B1)[:, :, None]
    pixels = torch.arange(source_size, device=start_B.device) + 0.5
    inside_B1X = (pixels > start_B[:, None, None]) & (pixels < (start_B + length_B)[:, None, None])
    weights = (pixels - center_BS1).abs_().div_(-scale_B1.clamp(min=1)[:, :, None]).add_(1).clamp_(min=0)
    weights.mul_(inside_B1X)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _boxes_of_equal(config: ViewConfig, uniforms_BP: Tensor, height: int, width: int) -> Tensor:
    heights_B, widths_B = torch.tensor([[height], [width]]).expand(2, len(uniforms_BP))
    return crop_boxes(config, uniforms_BP, heights_B, widths_B)


def _between(span: tuple[float, float], uniforms: Tensor) -> Tensor:
    low, high = span
    return low + (high - low) * uniforms


def check_uint8(images_BCHW: Tensor) -> None:
    if images_BCHW.dtype != torch.uint8 or images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3:
        raise UserError(f"images must be uint8 [B, 3, H, W], not {images_BCHW.dtype} {list(images_BCHW.shape)}")
