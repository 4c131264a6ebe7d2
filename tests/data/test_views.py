"""Views against torchvision: its functional operations with the drawn parameters, and its distributions."""

import dataclasses
from itertools import permutations

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as TF

from negbench.data.views import colors, crops, evaluation
from negbench.settings.views import VIEW_POLICIES, ViewConfig
from tests.helpers.views import of_policy as views_of

PLAIN = ViewConfig(
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip_probability=0,
    jitter_probability=0,
    grayscale_probability=0,
    blur_probability=0,
    mean=(0, 0, 0),
    std=(1, 1, 1),
)


def noise(num_images: int, height: int, width: int) -> Tensor:
    """Images with saturated colours, exact grays, black and white."""
    generator = torch.Generator().manual_seed(height * width)
    images = torch.randint(0, 256, (num_images, 3, height, width), dtype=torch.uint8, generator=generator)
    images[0] = images[0, :1]
    images[1, :, : height // 2] = 0
    images[1, :, height // 2 :] = 255
    return images


def jittered(image: Tensor, order: list[int], factors: list[float]) -> Tensor:
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for operation in order:
        image = adjust[operation](image, factors[operation])
    return image


def recolored(image: Tensor, drawn: colors.Appearance, i: int, config: ViewConfig) -> Tensor:
    if drawn.jitter_B[i]:
        image = jittered(image, drawn.order_B4[i].tolist(), drawn.factors_B4[i].tolist())
    if drawn.grayscale_B[i]:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    if drawn.blur_B[i]:
        taps = 2 * max(1, min(image.shape[1:]) // 10 // 2) + 1
        image = TF.gaussian_blur(image, [taps, taps], [drawn.sigma_B[i].item()] * 2)
    if drawn.solarize_B[i]:
        image = TF.solarize(image, config.solarize_threshold)
    return TF.normalize(image, list(config.mean), list(config.std))


def resized(image: Tensor, box: Tensor, flip: bool, size: int) -> Tensor:
    image = TF.resized_crop(TF.to_dtype(image, torch.float32, scale=True), *box.tolist(), [size, size], antialias=True)
    return TF.horizontal_flip(image) if flip else image


@pytest.mark.parametrize("policy", VIEW_POLICIES)
@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (40, 64, 48), (70, 33, 24)])
def test_augment_equals_torchvision(policy: str, height: int, width: int, size: int) -> None:
    config = views_of(policy)
    images = noise(32, height, width)
    heights_B, widths_B = torch.full((32,), height), torch.full((32,), width)
    for view, uniforms_BP in zip((config.first, config.second), crops.uniforms(0, 0, 32), strict=True):
        ours = crops.augment(images, view, uniforms_BP, size)
        drawn = crops.appearance(view, uniforms_BP)
        boxes_B4 = crops.crop_boxes(view, uniforms_BP, heights_B, widths_B)
        for i, image in enumerate(images):
            theirs = recolored(resized(image, boxes_B4[i], bool(drawn.flip_B[i]), size), drawn, i, view)
            torch.testing.assert_close(ours[i], theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("size", [8, 32, 100])
def test_crop_equals_resized_crop(size: int) -> None:
    images = noise(6, 50, 37)
    boxes_B4 = torch.tensor(
        [[0, 0, 50, 37], [49, 36, 1, 1], [3, 5, 8, 32], [0, 7, 50, 2], [10, 0, 32, 32], [20, 1, 30, 36]]
    )
    flip_B = torch.tensor([False, True, False, True, True, False])
    ours = crops.crop(images, boxes_B4, flip_B, size)
    assert ours.is_contiguous() and ours.dtype == torch.float32
    for i, image in enumerate(images):
        theirs = resized(image, boxes_B4[i], bool(flip_B[i]), size)
        torch.testing.assert_close(ours[i], theirs, rtol=0, atol=1e-5)


def test_every_order_of_jitter_equals_torchvision() -> None:
    orders = list(permutations(range(4)))
    images = noise(24, 9, 14) / 255
    drawn = crops.appearance(PLAIN, crops.uniforms(1, 0, 24)[0])
    factors_B4 = torch.rand(24, 4, generator=torch.Generator().manual_seed(0)) * 1.8
    factors_B4[:, 3] = torch.linspace(-0.5, 0.5, 24)[torch.randperm(24, generator=torch.Generator().manual_seed(0))]
    jitter_B = torch.ones(24, dtype=torch.bool)
    drawn = dataclasses.replace(drawn, jitter_B=jitter_B, order_B4=torch.tensor(orders), factors_B4=factors_B4)
    ours = colors.recolor(images, drawn, PLAIN)
    for i, image in enumerate(images):
        theirs = jittered(image, list(orders[i]), factors_B4[i].tolist())
        torch.testing.assert_close(ours[i], theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 64), (60, 96), (97, 45)])
def test_blur_equals_torchvision(height: int, width: int) -> None:
    config = PLAIN.model_copy(update={"blur_probability": 1.0})
    images = noise(8, height, width) / 255
    drawn = crops.appearance(config, crops.uniforms(0, 0, 8)[0])
    ours = colors.recolor(images, drawn, config)
    for i, image in enumerate(images):
        torch.testing.assert_close(ours[i], recolored(image, drawn, i, config), rtol=0, atol=2e-6)


def test_solarize_and_grayscale_equal_torchvision() -> None:
    config = PLAIN.model_copy(
        update={"solarize_probability": 0.5, "solarize_threshold": 51 / 255, "grayscale_probability": 0.5}
    )
    images = noise(32, 16, 11) / 255
    drawn = crops.appearance(config, crops.uniforms(0, 0, 32)[0])
    assert len(set(zip(drawn.solarize_B.tolist(), drawn.grayscale_B.tolist(), strict=True))) == 4
    ours = colors.recolor(images, drawn, config)
    for i, image in enumerate(images):
        torch.testing.assert_close(ours[i], recolored(image, drawn, i, config), rtol=0, atol=1e-6)


def test_nothing_drawn_or_zero_strength_is_identity() -> None:
    images = noise(16, 20, 20)
    zero = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    for config in (PLAIN, PLAIN.model_copy(update={"jitter_probability": 1.0, **zero})):
        ours = crops.augment(images, config, crops.uniforms(0, 0, 16)[0], 20)
        torch.testing.assert_close(ours, images / 255, rtol=0, atol=1e-6)


def test_recolor_leaves_its_input() -> None:
    config = ViewConfig(jitter_probability=1, grayscale_probability=1, blur_probability=1, solarize_probability=1)
    images = noise(4, 16, 16) / 255
    before = images.clone()
    assert not torch.equal(colors.recolor(images, crops.appearance(config, crops.uniforms(0, 0, 4)[0]), config), before)
    assert torch.equal(images, before)


def test_finish_completes_images_cropped_elsewhere() -> None:
    config = ViewConfig(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), solarize_probability=0.3)
    images = noise(64, 24, 24)
    uniforms_BP = crops.uniforms(0, 0, 64)[0]
    whole = crops.augment(images, config, uniforms_BP, 24)
    torch.testing.assert_close(crops.finish(images, config, uniforms_BP), whole, rtol=0, atol=5e-5)


def test_one_image_draws_the_box_it_has_in_a_batch_of_many_sizes() -> None:
    uniforms_BP = crops.uniforms(0, 0, 40)[0]
    heights_B, widths_B = torch.arange(20, 60), torch.arange(200, 40, -4)
    boxes_B4 = crops.crop_boxes(ViewConfig(), uniforms_BP, heights_B, widths_B)
    for i in range(40):
        one = slice(i, i + 1)
        assert torch.equal(
            crops.crop_boxes(ViewConfig(), uniforms_BP[one], heights_B[one], widths_B[one]), boxes_B4[one]
        )
    assert (boxes_B4[:, :2] >= 0).all() and (boxes_B4[:, 2:] > 0).all()
    assert (boxes_B4[:, :2] + boxes_B4[:, 2:] <= torch.stack([heights_B, widths_B], dim=1)).all()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (30, 45), (50, 150), (120, 40)])
@pytest.mark.parametrize("policy", ["moco-v2", "cifar"])
def test_crop_boxes_have_torchvisions_distribution(policy: str, height: int, width: int) -> None:
    config, num_draws = views_of(policy).first, 2000
    uniforms_BP = crops.uniforms(0, 0, num_draws)[0]
    ours = crops.crop_boxes(config, uniforms_BP, torch.full((num_draws,), height), torch.full((num_draws,), width))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image, scale, ratio = torch.empty(3, height, width), list(config.crop_scale), list(config.crop_ratio)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(num_draws)])
    for measure in (
        lambda boxes: boxes[:, 0],
        lambda boxes: boxes[:, 1],
        lambda boxes: boxes[:, 2],
        lambda boxes: boxes[:, 3],
        lambda boxes: boxes[:, 2] * boxes[:, 3],
        lambda boxes: boxes[:, 3] / boxes[:, 2],
        lambda boxes: boxes[:, 0] / (height - boxes[:, 2]).clamp(min=1),
        lambda boxes: boxes[:, 1] / (width - boxes[:, 3]).clamp(min=1),
    ):
        assert stats.ks_2samp(measure(ours).numpy(), measure(theirs).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(20, 401), (401, 20), (100, 120)])
def test_crop_falls_back_to_torchvisions_centre(height: int, width: int) -> None:
    config = ViewConfig(crop_scale=(1.0, 1.0))  # fits no image beyond the ratio, and only as a whole one within it
    ours = crops.crop_boxes(config, crops.uniforms(0, 0, 50)[0], torch.full((50,), height), torch.full((50,), width))
    image, scale, ratio = torch.empty(3, height, width), list(config.crop_scale), list(config.crop_ratio)
    theirs = RandomResizedCrop.get_params(image, scale, ratio)
    assert ours.tolist() == [list(theirs)] * 50


def test_appearance_has_the_configured_distribution() -> None:
    num_draws = 20_000
    config = ViewConfig(brightness=1.5, contrast=0.2, saturation=0.6, solarize_probability=0.25, flip_probability=0.4)
    drawn = crops.appearance(config, crops.uniforms(0, 0, num_draws)[0])
    for switch_B, probability in (
        (drawn.flip_B, 0.4),
        (drawn.jitter_B, 0.8),
        (drawn.grayscale_B, 0.2),
        (drawn.blur_B, 0.5),
        (drawn.solarize_B, 0.25),
    ):
        assert stats.binomtest(int(switch_B.sum()), num_draws, probability).pvalue > 1e-3
    spans = [(0, 2.5), (0.8, 1.2), (0.4, 1.6), (-0.1, 0.1), (0.1, 2.0)]
    drawn_numbers = [*drawn.factors_B4.unbind(1), drawn.sigma_B]
    for numbers_B, (low, high) in zip(drawn_numbers, spans, strict=True):
        assert stats.kstest(numbers_B.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
    counts = drawn.order_B4.unique(dim=0, return_counts=True)[1]
    assert len(counts) == 24 and stats.chisquare(counts.numpy()).pvalue > 1e-3
    switches = [drawn.flip_B, drawn.jitter_B, drawn.grayscale_B, drawn.blur_B, drawn.solarize_B, drawn.order_B4[:, 0]]
    correlation = torch.corrcoef(torch.stack([numbers_B.double() for numbers_B in [*switches, *drawn_numbers]]))
    assert correlation.fill_diagonal_(0).abs().max() < 5 / num_draws**0.5


def test_uniforms_depend_on_seed_and_step_only() -> None:
    numbers = crops.uniforms(3, 7, 16)
    assert numbers.shape == (2, 16, crops.NUM_UNIFORMS) and numbers.min() >= 0 and numbers.max() < 1
    torch.manual_seed(99)
    assert torch.equal(crops.uniforms(3, 7, 16), numbers)
    assert torch.equal(crops.uniforms(3, 7, 16, num_views=5)[:2], numbers)
    assert len(torch.cat([numbers, crops.uniforms(3, 8, 16), crops.uniforms(4, 7, 16)]).unique()) == 3 * numbers.numel()


def test_a_ranks_rows_are_the_global_batchs() -> None:
    config, images = views_of("byol").second, noise(48, 32, 32)
    uniforms_BP = crops.uniforms(0, 0, 48)[1]
    everything = crops.augment(images, config, uniforms_BP, 32)
    for rows in (slice(0, 16), slice(16, 48), slice(20, 21)):
        rank = crops.augment(images[rows], config, uniforms_BP[rows], 32)
        torch.testing.assert_close(rank, everything[rows], rtol=0, atol=5e-6)


@pytest.mark.parametrize("policy", VIEW_POLICIES)
def test_nothing_is_read_back_from_the_device(policy: str) -> None:
    # Tensors on the meta device hold no values: whatever asks for one fails.
    images, uniforms_VBP = noise(32, 40, 40).to("meta"), crops.uniforms(0, 0, 32)
    config = views_of(policy).second.model_copy(update={"blur_probability": 0.5})
    assert crops.augment(images, config, uniforms_VBP[0], 32).shape == (32, 3, 32, 32)
    assert crops.finish(images, config, uniforms_VBP[0]).device.type == "meta"
    assert evaluation.eval_view(images, config, 32).shape == (32, 3, 32, 32)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 61), (75, 33), (17, 30)])
def test_eval_view_is_resize_and_centre_crop(height: int, width: int) -> None:
    config, images = views_of("cifar").first, noise(3, height, width)
    theirs = TF.center_crop(TF.resize(TF.to_dtype(images, torch.float32, scale=True), [32], antialias=True), [32, 32])
    theirs = TF.normalize(theirs, list(config.mean), list(config.std))
    torch.testing.assert_close(evaluation.eval_view(images, config, 32), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, 3, dtype=torch.uint8)])
def test_wrong_images_are_named(images: Tensor) -> None:
    uniforms_BP = crops.uniforms(0, 0, 2)[0]
    for call in (
        lambda: crops.augment(images, PLAIN, uniforms_BP, 8),
        lambda: crops.finish(images, PLAIN, uniforms_BP),
        lambda: evaluation.eval_view(images, PLAIN, 8),
    ):
        with pytest.raises(ValueError, match=r"uint8 \[B, 3, H, W\], not torch"):
            call()
