"""Colours of views: jitter, grayscale, blur, solarisation and normalisation, equal to torchvision's operations.

Two ways to the same images. `recolor` runs each operation on just the rows that drew it, which the host knows; its
shapes differ from batch to batch. `recolor_all` runs everything on all rows, with factors that leave a row as it is
if it drew nothing: more arithmetic, but fixed shapes, and so a few fused kernels once it is compiled.

Shape suffixes: B images, N numbers of `Appearance.numbers`, C three channels, H and W height and width, R rows (images)
that an operation applies to, K taps of the blur.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from negbench.runtime.device import to_device
from negbench.settings.views import ViewConfig

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
NUM_PLACES = 4
_HUE_PLACE, _SHIFT, _GRAYSCALE, _SIGMA, _SOLARIZE = range(9, 14)  # of `Appearance.numbers`, behind the blends


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

    def numbers(self) -> Tensor:
        """Return all but the flip as float32 [B, 14].

        They are three factors, whether each is a contrast, whether each is a saturation, the place of the hue's shift,
        the shift, grayscale, sigma, solarize. Factor 1, place 4 and sigma 0 leave a row as it is.
        """
        jitter_B1 = self.jitter_B[:, None]
        blends_B3 = self.order_B4[self.order_B4 != HUE].view(-1, 3)
        columns = [
            torch.where(jitter_B1, self.factors_B4.gather(1, blends_B3), 1.0),
            blends_B3 == CONTRAST,
            blends_B3 == SATURATION,
            torch.where(jitter_B1, self._place_of_hue()[:, None], NUM_PLACES),
            self.factors_B4[:, HUE:],
            self.grayscale_B[:, None],
            torch.where(self.blur_B, self.sigma_B, 0.0)[:, None],
            self.solarize_B[:, None],
        ]
        return torch.cat([column.float() for column in columns], dim=1)

    def _place_of_hue(self) -> Tensor:
        return (self.order_B4 == HUE).int().argmax(dim=1)

    def by_place_of_hue(self) -> tuple[Tensor, list[int]]:
        """Return the jittered rows, sorted by the place of their hue's shift, and where each place's rows end."""
        rows_R = self.jitter_B.nonzero()[:, 0]
        place_R, order_R = self._place_of_hue()[rows_R].sort(stable=True)
        return rows_R[order_R], place_R.bincount(minlength=NUM_PLACES).cumsum(0).tolist()


def recolor(images_BCHW: Tensor, drawn: Appearance, config: ViewConfig) -> Tensor:
    """Jitter, grayscale, blur and solarise float32 images in [0, 1] as `drawn`, then normalise. Does not flip.

    The blur's kernel is SimCLR's: the odd size next to a tenth of the image, at least 3 taps, reflected at the border.
    """
    images = images_BCHW.clone(memory_format=torch.contiguous_format)
    _jitter_rows_(images, drawn, config)
    _on_rows_(images, drawn.grayscale_B, lambda x, _: _gray(x).expand_as(x))
    _on_rows_(images, drawn.blur_B, lambda x, rows_R: _blur(x, to_device(drawn.sigma_B[rows_R], x.device)))
    _on_rows_(images, drawn.solarize_B, lambda x, _: torch.where(x >= config.solarize_threshold, 1 - x, x))
    return normalize_(images, mean_std(config, images.device))


def recolor_all(images_BCHW: Tensor, numbers_BN: Tensor, mean_std_2C11: Tensor, config: ViewConfig) -> Tensor:
    """Return images as `recolor`, from `Appearance.numbers`, on the images' device, by masks."""
    numbers = numbers_BN[:, :, None, None, None].unbind(dim=1)
    images = images_BCHW
    if config.jitter_probability:
        for place in range(NUM_PLACES):
            if config.hue:
                images = torch.where(numbers[_HUE_PLACE] == place, _shifted_hue(images, numbers[_SHIFT][:, 0]), images)
            if place < NUM_PLACES - 1 and _blends(config):
                images = _blended(images, *numbers[place:_HUE_PLACE:3])
    if config.grayscale_probability:
        images = torch.where(numbers[_GRAYSCALE] > 0, _gray(images), images)
    if config.blur_probability:
        sigma = numbers[_SIGMA]
        images = torch.where(sigma > 0, _blur(images, sigma.flatten().clamp(min=config.blur_sigma[0])), images)
    if config.solarize_probability:
        images = torch.where((numbers[_SOLARIZE] > 0) & (images >= config.solarize_threshold), 1 - images, images)
    return (images - mean_std_2C11[0]) / mean_std_2C11[1]


def _on_rows_(images_BCHW: Tensor, mask_B: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    rows_R = mask_B.nonzero()[:, 0]
    if len(rows_R):
        on_device_R = to_device(rows_R, images_BCHW.device)
        images_BCHW.index_copy_(0, on_device_R, function(images_BCHW.index_select(0, on_device_R), rows_R))


def _jitter_rows_(images_BCHW: Tensor, drawn: Appearance, config: ViewConfig) -> None:
    """The four operations in each row's order: three rounds of blending, with the hue shifted before, between or after.

    Rows are sorted by the place of their hue shift, so that those to shift together are a slice.
    """
    rows_R, ends = drawn.by_place_of_hue()
    if not len(rows_R):
        return
    numbers_R = to_device(drawn.numbers()[rows_R], images_BCHW.device)[:, :, None, None, None]
    on_device_R = to_device(rows_R, images_BCHW.device)
    images_RCHW = images_BCHW.index_select(0, on_device_R)
    for place, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if config.hue and end > start:
            images_RCHW[start:end] = _shifted_hue(images_RCHW[start:end], numbers_R[start:end, _SHIFT, 0])
        if place < NUM_PLACES - 1 and _blends(config):
            images_RCHW = _blended(images_RCHW, *numbers_R[:, place:_HUE_PLACE:3].unbind(dim=1))
    images_BCHW.index_copy_(0, on_device_R, images_RCHW)


def _blends(config: ViewConfig) -> bool:
    return bool(config.brightness or config.contrast or config.saturation)


def _blended(images_RCHW: Tensor, factor: Tensor, is_contrast: Tensor, is_saturation: Tensor) -> Tensor:
    """One operation a row, [R, 1, 1, 1] each: brightness blends with black, contrast with the mean gray, saturation
    with the gray image.
    """
    target_R1HW = _gray(images_RCHW)
    mean_R111 = target_R1HW.mean(dim=(2, 3), keepdim=True)
    target_R1HW.mul_(is_saturation).add_(mean_R111.mul_(is_contrast))
    return torch.lerp(target_R1HW, images_RCHW, factor).clamp_(0, 1)


def _gray(images_BCHW: Tensor) -> Tensor:
    red, green, blue = images_BCHW.unbind(dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]


def _shifted_hue(images_RCHW: Tensor, shift_R11: Tensor) -> Tensor:
    """Shift the hue of RGB images by `shift_R11` turns; value and chroma stay.

    Signs and `lerp` replace `where` and `remainder`, which CPUs do one number at a time.
    """
    red, green, blue = images_RCHW.unbind(dim=1)
    high = torch.maximum(red, green).clamp_(min=blue)
    low = torch.minimum(red, green).clamp_(max=blue)
    chroma = high - low
    # Hue in sixths of a turn, times chroma; where chroma is 0 the hue does not matter.
    not_red, not_green = (high - red).sign_(), (high - green).sign_()
    sixths = torch.lerp((blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4), not_green)
    sixths = torch.lerp(green - blue, sixths, not_red)
    sixths.div_(chroma.clamp(min=1e-12)).add_(shift_R11, alpha=6)
    sixths.sub_((sixths / 6).floor_(), alpha=6)
    shares = (
        (sixths - 3).abs_().sub_(1).clamp_(0, 1),
        (sixths - 2).abs_().neg_().add_(2).clamp_(0, 1),
        (sixths - 4).abs_().neg_().add_(2).clamp_(0, 1),
    )
    return torch.stack([torch.addcmul(low, chroma, share) for share in shares], dim=1)


def _blur(images_RCHW: Tensor, sigma_R: Tensor) -> Tensor:
    """Apply a separable Gaussian as one matrix an image and side, which holds the reflected border."""
    height, width = images_RCHW.shape[2:]
    radius = max(1, min(height, width) // 20)
    offsets_K = torch.arange(-radius, radius + 1, device=images_RCHW.device)
    kernels_RK = (-0.5 * (offsets_K / sigma_R[:, None]) ** 2).softmax(dim=1)
    down_RHH, across_RWW = (_blur_matrices(kernels_RK, side) for side in (height, width))
    return down_RHH[:, None] @ (images_RCHW.flatten(1, 2) @ across_RWW.mT).view_as(images_RCHW)


def _blur_matrices(kernels_RK: Tensor, side: int) -> Tensor:
    """Return matrices [R, side, side] that convolve a column of pixels, reflected at the border."""
    radius = kernels_RK.shape[1] // 2
    pixels = torch.arange(side, device=kernels_RK.device)
    sources_KX = (pixels + torch.arange(-radius, radius + 1, device=kernels_RK.device)[:, None]).abs()
    sources_KX = side - 1 - (side - 1 - sources_KX).abs()
    taps_KXX = (sources_KX[:, :, None] == pixels).to(kernels_RK.dtype)
    return (kernels_RK @ taps_KXX.flatten(1)).view(-1, side, side)


def mean_std(config: ViewConfig, device: torch.device) -> Tensor:
    """Return the channels' means and standard deviations, [2, C, 1, 1]."""
    return to_device(torch.tensor([config.mean, config.std])[..., None, None], device)


def normalize_(images_BCHW: Tensor, mean_std_2C11: Tensor) -> Tensor:
    return images_BCHW.sub_(mean_std_2C11[0]).div_(mean_std_2C11[1])
