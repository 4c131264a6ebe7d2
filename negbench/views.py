"""Views: random crops and colours per sample, in batch, on the images' device, equal to torchvision's operations.

Every random number comes from one seeded stream on the CPU (`uniforms`), so that views are the same on every device and
for every method and world size. Since the CPU knows all parameters, rare operations run on just the rows that drew them
and nothing waits for the device. Matrix products are fp32: call outside autocast.

Shape suffixes: V views, B images, P numbers a view needs, A attempts to crop, C three channels, H and W height and
width, S size of a view, R rows (images) that an operation applies to, K taps of the blur.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from negbench.config import Triple, ViewConfig
from negbench.seeding import stream
from negbench.transfer import to_device

_ATTEMPTS = 10
_CROP_UNIFORMS = 2 * _ATTEMPTS + 2  # areas, ratios, top, left
_APPEARANCE_UNIFORMS = 11
NUM_UNIFORMS = _CROP_UNIFORMS + _APPEARANCE_UNIFORMS

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_ORDERS = torch.tensor(list(permutations(range(4))))


def uniforms(seed: int, step: int, batch_size: int, num_views: int = 2) -> Tensor:
    """The numbers [V, B, P] in [0, 1), float64 on the CPU, that define the views of the whole global batch of `step`.

    A rank takes its rows of dimension B. A view's numbers do not depend on how many views follow it.
    """
    return torch.rand(num_views, batch_size, NUM_UNIFORMS, dtype=torch.float64, generator=stream(seed, "views", step))


def crop_boxes(config: ViewConfig, uniforms_BP: Tensor, heights_B: Tensor, widths_B: Tensor) -> Tensor:
    """Crops [B, 4] (top, left, height, width; int64 pixels) of images `heights_B` by `widths_B`, all on the CPU.

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


@dataclass(frozen=True)
class Appearance:
    """What happens to each cropped image; CPU tensors over the batch."""

    flip_B: Tensor  # bool, as all the switches
    jitter_B: Tensor
    order_B4: Tensor  # int64: operation of each place; 0 brightness, 1 contrast, 2 saturation, 3 hue
    factors_B4: Tensor  # float32: brightness, contrast and saturation factor, hue shift in turns
    grayscale_B: Tensor
    blur_B: Tensor
    sigma_B: Tensor  # float32, pixels
    solarize_B: Tensor


def appearance(config: ViewConfig, uniforms_BP: Tensor) -> Appearance:
    """Turn a view's numbers into switches and factors. Independent of the numbers that `crop_boxes` reads."""
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


def augment(images_BCHW: Tensor, config: ViewConfig, uniforms_BP: Tensor, size: int) -> Tensor:
    """One view [B, 3, S, S] (normalised float32) of each uint8 image, from one view's rows of `uniforms`."""
    drawn = appearance(config, uniforms_BP)
    num_images, _, height, width = images_BCHW.shape
    boxes_B4 = crop_boxes(config, uniforms_BP, torch.full((num_images,), height), torch.full((num_images,), width))
    return recolor(crop(images_BCHW, boxes_B4, drawn.flip_B, size), drawn, config)


def finish(images_BCSS: Tensor, config: ViewConfig, uniforms_BP: Tensor) -> Tensor:
    """`augment` for uint8 images that were cropped and resized elsewhere, to `crop_boxes` of the same numbers."""
    _check_uint8(images_BCSS)
    drawn = appearance(config, uniforms_BP)
    flip_B111 = to_device(drawn.flip_B, images_BCSS.device)[:, None, None, None]
    return recolor(torch.where(flip_B111, images_BCSS.flip(-1), images_BCSS) / 255, drawn, config)


def eval_view(images_BCHW: Tensor, config: ViewConfig, size: int) -> Tensor:
    """The centre [B, 3, S, S] of uint8 images whose shorter side is resized (antialiased) to `size`, normalised."""
    _check_uint8(images_BCHW)
    images = images_BCHW / 255
    height, width = images.shape[2:]
    if min(height, width) != size:
        shorter = min(height, width)
        height, width = size * height // shorter, size * width // shorter
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return _normalize(images[:, :, top : top + size, left : left + size].contiguous(), config.mean, config.std)


def crop(images_BCHW: Tensor, boxes_B4: Tensor, flip_B: Tensor, size: int) -> Tensor:
    """Crop uint8 images to `boxes_B4`, flip where `flip_B`, and resize: float32 [B, 3, S, S] in [0, 1].

    Antialiased bilinear, as torchvision's `resized_crop(antialias=True)` on floats, but as two matrix products each.
    """
    _check_uint8(images_BCHW)
    device = images_BCHW.device
    num_images, num_channels, height, width = images_BCHW.shape
    top_B, left_B, height_B, width_B = to_device(boxes_B4.float(), device).unbind(dim=1)
    flip_B = to_device(flip_B, device)
    columns_BSW = _resize_weights(left_B, width_B, flip_B, width, size)
    rows_BSH = _resize_weights(top_B, height_B, torch.zeros_like(flip_B), height, size).div_(255)
    narrow = torch.bmm(images_BCHW.float().view(num_images, num_channels * height, width), columns_BSW.mT)
    return rows_BSH[:, None] @ narrow.view(num_images, num_channels, height, size)


def _resize_weights(start_B: Tensor, length_B: Tensor, flip_B: Tensor, source_size: int, size: int) -> Tensor:
    """Weights [B, S, source] of each source pixel in each output pixel, along one side, reversed where `flip_B`."""
    outputs_S = torch.arange(size, device=start_B.device)
    outputs_BS = torch.where(flip_B[:, None], size - 1 - outputs_S, outputs_S)
    scale_B1 = (length_B / size)[:, None]
    center_BS1 = (start_B[:, None] + (outputs_BS + 0.5) * scale_B1)[:, :, None]
    pixels = torch.arange(source_size, device=start_B.device) + 0.5
    inside_B1X = (pixels > start_B[:, None, None]) & (pixels < (start_B + length_B)[:, None, None])
    weights = (pixels - center_BS1).abs_().div_(-scale_B1.clamp(min=1)[:, :, None]).add_(1).clamp_(min=0)
    weights.mul_(inside_B1X)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def recolor(images_BCHW: Tensor, drawn: Appearance, config: ViewConfig) -> Tensor:
    """Jitter, grayscale, blur and solarise float32 images in [0, 1] as `drawn`, then normalise. Does not flip.

    The blur's kernel is SimCLR's: the odd size next to a tenth of the image, at least 3 taps, reflected at the border.
    """
    images = images_BCHW.clone(memory_format=torch.contiguous_format)
    _jitter_(images, drawn, config)
    _on_rows_(images, drawn.grayscale_B, lambda x, _: _gray(x).expand_as(x))
    _on_rows_(images, drawn.blur_B, lambda x, rows_R: _blur(x, drawn.sigma_B[rows_R]))
    _on_rows_(images, drawn.solarize_B, lambda x, _: torch.where(x >= config.solarize_threshold, 1 - x, x))
    return _normalize(images, config.mean, config.std)


def _on_rows_(images_BCHW: Tensor, mask_B: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    rows_R = mask_B.nonzero()[:, 0]
    if len(rows_R):
        on_device_R = to_device(rows_R, images_BCHW.device)
        images_BCHW.index_copy_(0, on_device_R, function(images_BCHW.index_select(0, on_device_R), rows_R))


def _jitter_(images_BCHW: Tensor, drawn: Appearance, config: ViewConfig) -> None:
    """The four operations in each row's order: three rounds of blending, with the hue shifted before, between or after.

    Rows are sorted by the place of their hue shift, so that those to shift together are a slice.
    """
    rows_R = drawn.jitter_B.nonzero()[:, 0]
    if not len(rows_R):
        return
    place_R = (drawn.order_B4[rows_R] == _HUE).int().argmax(dim=1)
    place_R, by_place_R = place_R.sort(stable=True)
    rows_R = rows_R[by_place_R]
    ends = place_R.bincount(minlength=4).cumsum(0).tolist()
    order_R4 = drawn.order_B4[rows_R]
    blends_R3 = order_R4[order_R4 != _HUE].view(-1, 3)
    factors_R4 = drawn.factors_B4[rows_R]

    device = images_BCHW.device
    factors_3R111 = to_device(factors_R4.gather(1, blends_R3).T.contiguous(), device)[..., None, None, None]
    contrast_3R111 = to_device((blends_R3 == _CONTRAST).T.float(), device)[..., None, None, None]
    saturation_3R111 = to_device((blends_R3 == _SATURATION).T.float(), device)[..., None, None, None]
    shift_R11 = to_device(factors_R4[:, _HUE].contiguous(), device)[:, None, None]
    on_device_R = to_device(rows_R, device)

    images_RCHW = images_BCHW.index_select(0, on_device_R)
    for place, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if config.hue and end > start:
            _shift_hue_(images_RCHW[start:end], shift_R11[start:end])
        if place < 3 and (config.brightness or config.contrast or config.saturation):
            gray_R1HW = _gray(images_RCHW)
            mean_R111 = gray_R1HW.mean(dim=(2, 3), keepdim=True)
            # Brightness blends with black, contrast with the mean gray, saturation with the gray image.
            target_R1HW = gray_R1HW.mul_(saturation_3R111[place]).add_(mean_R111.mul_(contrast_3R111[place]))
            torch.lerp(target_R1HW, images_RCHW, factors_3R111[place], out=images_RCHW)
            images_RCHW.clamp_(0, 1)
    images_BCHW.index_copy_(0, on_device_R, images_RCHW)


def _gray(images_BCHW: Tensor) -> Tensor:
    red, green, blue = images_BCHW.unbind(dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]


def _shift_hue_(images_RCHW: Tensor, shift_R11: Tensor) -> None:
    """RGB to HSV, hue plus `shift_R11` turns, back to RGB; value and chroma stay."""
    red, green, blue = images_RCHW.unbind(dim=1)
    high = torch.maximum(red, green).clamp_(min=blue)
    low = torch.minimum(red, green).clamp_(max=blue)
    chroma = high - low
    # Hue in sixths of a turn, times chroma; where chroma is 0 the hue does not matter.
    sixths = torch.where(high == green, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4))
    sixths = torch.where(high == red, green - blue, sixths)
    sixths.div_(chroma.clamp(min=1e-12)).add_(shift_R11, alpha=6).remainder_(6)
    torch.addcmul(low, chroma, (sixths - 3).abs_().sub_(1).clamp_(0, 1), out=red)
    torch.addcmul(low, chroma, (sixths - 2).abs_().neg_().add_(2).clamp_(0, 1), out=green)
    torch.addcmul(low, chroma, (sixths - 4).abs_().neg_().add_(2).clamp_(0, 1), out=blue)


def _blur(images_RCHW: Tensor, sigma_R: Tensor) -> Tensor:
    """Separable Gaussian, as one matrix an image and side that already holds the reflected border."""
    height, width = images_RCHW.shape[2:]
    radius = max(1, min(height, width) // 20)
    offsets_K = torch.arange(-radius, radius + 1)
    kernels_RK = to_device((-0.5 * (offsets_K / sigma_R[:, None]) ** 2).softmax(dim=1), images_RCHW.device)
    down_RHH, across_RWW = (_blur_matrices(kernels_RK, side) for side in (height, width))
    return down_RHH[:, None] @ (images_RCHW.flatten(1, 2) @ across_RWW.mT).view_as(images_RCHW)


def _blur_matrices(kernels_RK: Tensor, side: int) -> Tensor:
    """Matrices [R, side, side] whose product with a column of pixels is its convolution, reflected at the border."""
    radius = kernels_RK.shape[1] // 2
    pixels = torch.arange(side, device=kernels_RK.device)
    sources_KX = (pixels + torch.arange(-radius, radius + 1, device=kernels_RK.device)[:, None]).abs()
    sources_KX = side - 1 - (side - 1 - sources_KX).abs()
    taps_KXX = (sources_KX[:, :, None] == pixels).to(kernels_RK.dtype)
    return (kernels_RK @ taps_KXX.flatten(1)).view(-1, side, side)


def _normalize(images_BCHW: Tensor, mean: Triple, std: Triple) -> Tensor:
    mean_C11, std_C11 = to_device(torch.tensor([mean, std]), images_BCHW.device)[..., None, None]
    return images_BCHW.sub_(mean_C11).div_(std_C11)


def _between(span: tuple[float, float], uniforms: Tensor) -> Tensor:
    low, high = span
    return low + (high - low) * uniforms


def _check_uint8(images_BCHW: Tensor) -> None:
    if images_BCHW.dtype != torch.uint8 or images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3:
        raise ValueError(f"images must be uint8 [B, 3, H, W], not {images_BCHW.dtype} {list(images_BCHW.shape)}")
