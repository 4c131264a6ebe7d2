"""The settings of views, and named policies."""

from typing import Any

from pydantic import model_validator

from negbench.runtime.errors import UserError
from negbench.settings.group import OrderedRange, Probability, SettingsGroup, ShareRange, Triple, setting


class ViewConfig(SettingsGroup):
    """One view's distribution, in torchvision's terms.

    Order: crop, flip, jitter, grayscale, blur, solarise, normalise.
    """

    crop_scale: ShareRange = setting((0.2, 1.0), "area of the crop, share of the image's area")
    crop_ratio: OrderedRange = setting((3 / 4, 4 / 3), "width over height of the crop")
    flip_probability: Probability = setting(0.5, "horizontal flip")
    jitter_probability: Probability = setting(0.8, "colour jitter, its four operations in random order")
    brightness: float = setting(0.4, "factor uniform in [max(0, 1 - b), 1 + b]", ge=0)
    contrast: float = setting(0.4, "factor, as brightness", ge=0)
    saturation: float = setting(0.4, "factor, as brightness", ge=0)
    hue: float = setting(0.1, "shift uniform in [-h, h], turns of the colour circle", ge=0, le=0.5)
    grayscale_probability: Probability = setting(0.2, "three equal channels")
    blur_probability: Probability = setting(0.5, "Gaussian blur")
    blur_sigma: OrderedRange = setting((0.1, 2.0), "standard deviation of the blur, pixels")
    solarize_probability: Probability = setting(0.0, "inversion of pixels at or above the threshold")
    solarize_threshold: Probability = setting(0.5, "brightness where solarisation starts (128 of 256)")
    mean: Triple = setting((0.485, 0.456, 0.406), "channel means for normalisation, in [0, 1]")
    std: Triple = setting((0.229, 0.224, 0.225), "channel standard deviations for normalisation")

    @model_validator(mode="after")
    def _positive(self) -> "ViewConfig":
        if min(self.std) <= 0:
            raise UserError(f"std must be positive, not {list(self.std)}")
        return self


_CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
VIEW_POLICIES: dict[str, dict[str, dict[str, Any]]] = {
    # MoCo v2 (arXiv:2003.04297), facebookresearch/moco main_moco.py --aug-plus: the defaults of ViewConfig.
    "moco-v2": {"first": {}, "second": {}},
    # SimCLR (arXiv:2002.05709) appendix A at strength 1.
    "simclr": {
        "first": {"crop_scale": (0.08, 1.0), "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2},
        "second": {},
    },
    # BYOL (arXiv:2006.07733) table 6: the two views differ in blur and solarisation.
    "byol": {
        "first": {"crop_scale": (0.08, 1.0), "saturation": 0.2, "blur_probability": 1.0},
        "second": {"blur_probability": 0.1, "solarize_probability": 0.2},
    },
    # The CIFAR-10 settings that lightly's benchmark and MoCo's demo share, crops from 8% as in lightly's.
    "cifar": {"first": {"crop_scale": (0.08, 1.0), "blur_probability": 0.0, **_CIFAR}, "second": {}},
    # The nuisances of `patterns`: colour, place and size.
    "patterns": {
        "first": {
            "crop_scale": (0.3, 1.0),
            "blur_probability": 0.0,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
        },
        "second": {},
    },
}


class CropConfig(SettingsGroup):
    """Further views, which are only queries, with the colours of `first`: multi-crop (SwAV, arXiv:2006.09882)."""

    size: int = setting(..., "height and width, pixels", ge=8, le=1024)
    scale: ShareRange = setting(..., "area of the crop, share of the image's area")
    num: int = setting(1, "how many such views", ge=1, le=64)


class ViewsConfig(SettingsGroup):
    """Two views of each image and, in multi-crop, further ones."""

    policy: str = setting("moco-v2", f"named views: {', '.join(VIEW_POLICIES)}")
    first: ViewConfig = setting(ViewConfig(), "the first view")
    second: ViewConfig = setting(ViewConfig(), "the second view; what is not set for it is taken from the first")
    crops: tuple[CropConfig, ...] = setting(
        (), "multi-crop: a list of {size, scale, num}, views that are contrasted with the keys of the first two"
    )

    @property
    def all(self) -> tuple[ViewConfig, ...]:
        """Return the distribution of each view: first, second, crops."""
        crops = (self.first.model_copy(update={"crop_scale": crop.scale}) for crop in self._each_crop())
        return (self.first, self.second, *crops)

    def sizes(self, image_size: int) -> tuple[int, ...]:
        """Return the side of each view in pixels; `image_size` is that of the first two."""
        return (image_size, image_size, *(crop.size for crop in self._each_crop()))

    def _each_crop(self) -> list[CropConfig]:
        return [crop for crop in self.crops for _ in range(crop.num)]


def layer_of_policy(values: dict[str, Any], origins: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the lowest layer of settings, which the policy of flat settings gives, and the origin of each value.

    `second` starts from `first` as policy and settings have it; they give only its differences.
    """
    policy, origin = values.get("views.policy", "moco-v2"), origins.get("views.policy", "default")
    if not isinstance(policy, str) or policy not in VIEW_POLICIES:
        raise UserError(f"views ({origin}): unknown view policy {policy!r}; known: {', '.join(VIEW_POLICIES)}")
    layer = {
        f"views.{view}.{key}": value for view, keys in VIEW_POLICIES[policy].items() for key, value in keys.items()
    }
    named = dict.fromkeys(layer, f"views: {policy} ({origin})")
    for key in ViewConfig.model_fields:
        first, second = f"views.first.{key}", f"views.second.{key}"
        if second not in layer and (first in layer or first in values):
            layer[second] = values.get(first, layer.get(first))
            named[second] = f"{first} ({origins[first]})" if first in origins else named.get(first, "default")
    return layer, named
