"""Two views of 32-pixel images by kornia: the operations of the study cifar10, each image with its own numbers.

python -m benchmarks.peers.kornia_views BATCH
"""

import sys

import torch
from kornia import augmentation
from torch import Tensor, nn

from benchmarks.peers.worker import serve

SIZE = 32
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (int(sys.argv[1]), 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    view = nn.Sequential(
        augmentation.RandomResizedCrop((SIZE, SIZE), scale=(0.08, 1.0)),
        augmentation.RandomHorizontalFlip(),
        augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
        augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )

    def step() -> list[Tensor]:
        floats = images / 255
        return [view(floats) for _ in range(2)]

    with torch.no_grad():
        serve(step, warmup=10)


if __name__ == "__main__":
    main()
