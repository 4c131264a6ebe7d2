"""The order in which training goes through the images.

Shape legend: N images of a set, n images of this rank's batch.
"""

from functools import lru_cache

import torch
from torch import Tensor

from negbench.runtime.errors import UserError
from negbench.runtime.seeding import stream
from negbench.settings.steps import steps_per_epoch


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_images: int) -> Tensor:
    """Return the permutation (int64 [N]) of the training images in `epoch`. Calls share it: do not write to it."""
    return torch.randperm(num_images, generator=stream(seed, "order", epoch))


def batch_index(step: int, num_images: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> Tensor:
    """Return the positions (int64 [n]) of this rank's images at `step`, counted from 0 over the whole run.

    The global batch is a slice of the epoch's order and rank r has its rows r * n to (r + 1) * n, n = batch_size /
    world_size. The last num_images % batch_size images of an epoch's order are left out of it.
    """
    if batch_size % world_size:
        raise UserError(f"batch_size {batch_size} is not divisible by the {world_size} ranks")
    epoch, within = divmod(step, steps_per_epoch(num_images, batch_size))
    rows = batch_size // world_size
    start = within * batch_size + rank * rows
    return epoch_order(seed, epoch, num_images)[start : start + rows]
