"""Two uint8 views of each JPEG by Pillow and torchvision, as loaders are commonly written: crops of PIL images.

python -m benchmarks.peers.pillow_folder IMAGES
"""

import random
import sys

from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.peers.pictures import chosen
from benchmarks.peers.worker import serve

SIZE = 128


def main() -> None:
    paths = chosen(sys.argv[1])
    crop = v2.RandomResizedCrop(SIZE, scale=(0.2, 1.0))
    shuffled = random.Random(0)

    def views(path: str) -> list[Tensor]:
        with Image.open(path) as file:
            image = file.convert("RGB")
        return [v2.functional.pil_to_tensor(crop(image)) for _ in range(2)]

    def step() -> list[list[Tensor]]:
        shuffled.shuffle(paths)
        return [views(path) for path in paths]

    serve(step)


if __name__ == "__main__":
    main()
