"""The equivalent training loop from lightly's own parts, as its CIFAR-10 benchmark puts them together.

SimCLRTransform on PIL images in DataLoader workers, a ResNet-18 with the CIFAR stem, lightly's heads, NTXentLoss (for
MoCo with a memory bank of 4,096), SGD, fp32 (on a GPU convolutions in TF32, PyTorch's default). Runs with
lightly's own environment and without negbench. Of the whole loop's parts, `loader` is the batches alone, and `model`
the steps on one fixed batch.

    python -m benchmarks.peers.lightly_loop {moco,simclr} {loop,loader,model} DEVICE BATCH WORKERS
"""

import copy
import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead, SimCLRProjectionHead
from lightly.models.utils import batch_shuffle, batch_unshuffle, deactivate_requires_grad, update_momentum
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.worker import serve

NUM_IMAGES, NUM_DIFFERENT, SIZE, MEMORY_BANK, DIM = 50_000, 4096, 32, 4096, 128


class RandomImages(Dataset[Any]):
    """As many PIL images as CIFAR-10 has, of its size, each as two views; they repeat, which takes the same."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (NUM_DIFFERENT, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
        self.images = [Image.fromarray(image.numpy()) for image in pixels]
        self.transform = SimCLRTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0)

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, number: int) -> Any:
        return self.transform(self.images[number % NUM_DIFFERENT])


def backbone() -> nn.Module:
    resnet = torchvision.models.resnet18()
    resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    resnet.maxpool = nn.Identity()
    resnet.fc = nn.Identity()
    return resnet


def moco(batches: Iterator[Any], device: torch.device) -> Callable[[], float]:
    query = nn.Sequential(backbone(), MoCoProjectionHead(512, 512, DIM)).to(device)
    key = copy.deepcopy(query)
    deactivate_requires_grad(key)
    criterion = NTXentLoss(temperature=0.1, memory_bank_size=(MEMORY_BANK, DIM))
    optimizer = torch.optim.SGD(query.parameters(), lr=6e-2, momentum=0.9, weight_decay=5e-4)

    def step() -> float:
        first, second = (view.to(device, non_blocking=True) for view in next(batches))
        update_momentum(query, key, 0.99)
        queries = query(first)
        with torch.no_grad():
            shuffled, order = batch_shuffle(second)
            keys = batch_unshuffle(key(shuffled), order)
        return descend(criterion(queries, keys), optimizer)

    return step


def simclr(batches: Iterator[Any], device: torch.device) -> Callable[[], float]:
    encoder = nn.Sequential(backbone(), SimCLRProjectionHead(512, 512, DIM)).to(device)
    criterion = NTXentLoss(temperature=0.5)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=6e-2, momentum=0.9, weight_decay=5e-4)

    def step() -> float:
        first, second = (view.to(device, non_blocking=True) for view in next(batches))
        return descend(criterion(encoder(first), encoder(second)), optimizer)

    return step


def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
    """The loss as a number: its reading is where this loop waits for the device, as lightly's logging does."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main() -> None:
    method, kind, device = sys.argv[1], sys.argv[2], torch.device(sys.argv[3])
    batch, workers = int(sys.argv[4]), int(sys.argv[5])
    loader = DataLoader(
        RandomImages(),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    batches: Iterator[Any] = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())
    if kind == "model":
        batches = itertools.repeat([view.to(device) for view in next(batches)])
    steps = {"moco": moco, "simclr": simclr}
    step = functools.partial(next, batches) if kind == "loader" else steps[method](batches, device)
    in_advance = 2 * workers  # batches that were ready before the first step: where loading is slower they run out
    serve(step, 2 + in_advance if kind == "loader" or device.type == "cuda" else 2)


if __name__ == "__main__":
    main()
