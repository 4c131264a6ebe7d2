"""All views of a batch, those of one distribution and size together, by operations on rows or a compiled function.

CPUs always use the former: the compiled function shifts the hue of every row at every place, and is slower there.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from negbench.data.views import crops as views
from negbench.data.views.colors import mean_std
from negbench.runtime.compiling import compiled
from negbench.runtime.device import to_device
from negbench.settings.schema import SharedConfig
from negbench.settings.views import ViewConfig


class ViewMaker:
    """The views of a run, in its memory format. Shape suffixes as in `views`."""

    def __init__(self, config: SharedConfig) -> None:
        self.kinds = tuple(zip(config.views.all, config.views.sizes(config.data.image_size), strict=True))
        self.mode = config.execution
        self.memory_format = torch.channels_last if config.channels_last else torch.contiguous_format

    def augment(self, images_BCHW: Tensor, uniforms_VBP: Tensor) -> list[Tensor]:
        """Return views [B, 3, S, S] of resident uint8 images, each as `views.augment` makes it."""
        return self._make(lambda group: images_BCHW.repeat(len(group), 1, 1, 1), uniforms_VBP, cropped=False)

    def finish(self, crops: Sequence[Tensor], uniforms_VBP: Tensor) -> list[Tensor]:
        """Return views [B, 3, S, S] of one uint8 crop [B, 3, S, S] each, as `views.finish` makes it."""
        return self._make(lambda group: torch.cat([crops[view] for view in group]), uniforms_VBP, cropped=True)

    def _make(
        self, images_of: Callable[[Sequence[int]], Tensor], uniforms_VBP: Tensor, *, cropped: bool
    ) -> list[Tensor]:
        made: dict[int, Tensor] = {}
        for config, size in dict.fromkeys(self.kinds):
            group = [view for view, kind in enumerate(self.kinds) if kind == (config, size)]
            images, uniforms_BP = images_of(group), uniforms_VBP[group].flatten(0, 1)
            if self.mode != "eager" and images.device.type != "cpu":
                joined = self._compiled(images, config, uniforms_BP, None if cropped else size)
            elif cropped:
                joined = views.finish(images, config, uniforms_BP)
            else:
                joined = views.augment(images, config, uniforms_BP, size)
            made |= zip(group, joined.contiguous(memory_format=self.memory_format).chunk(len(group)), strict=True)
        return [made[view] for view in range(len(self.kinds))]

    def _compiled(self, images: Tensor, config: ViewConfig, uniforms_BP: Tensor, size: int | None) -> Tensor:
        numbers_BN = to_device(views.drawn_numbers(config, uniforms_BP, *images.shape[2:]), images.device)
        function = compiled_view(config, size, self.memory_format, self.mode)
        return function(images, numbers_BN, mean_std(config, images.device))


@cache
def compiled_view(
    config: ViewConfig, size: int | None, memory_format: torch.memory_format, mode: str
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return `views.augment_all`, or without `size` `views.finish_all`, compiled once for each kind of view."""

    def make(images: Tensor, numbers_BN: Tensor, mean_std_2C11: Tensor) -> Tensor:
        if size is None:
            made = views.finish_all(images, numbers_BN, mean_std_2C11, config)
        else:
            made = views.augment_all(images, numbers_BN, mean_std_2C11, config, size)
        return made.contiguous(memory_format=memory_format)

    return compiled(make, mode)
