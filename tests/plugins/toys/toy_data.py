"""Two classes, dark and bright."""

import torch

from negbench.data.sets import Loaded, ResidentSet
from negbench.settings.plugins.facts import DataSet
from negbench.settings.schema import DataConfig

DATASET = DataSet(title="toy shades", train=120, test=40, num_classes=2)


def load(config: DataConfig) -> Loaded:
    return shades(DATASET.train, config.image_size), shades(DATASET.test, config.image_size), ("dark", "bright"), 0


def shades(num_images: int, size: int) -> ResidentSet:
    labels_N = torch.arange(num_images) % 2
    noise = torch.randint(0, 100, (num_images, 3, size, size), generator=torch.Generator().manual_seed(num_images))
    return ResidentSet((noise + 150 * labels_N[:, None, None, None]).to(torch.uint8), labels_N)
