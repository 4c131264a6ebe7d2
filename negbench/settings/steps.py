"""Numbers of steps, and the division of a batch."""

from typing import Any

from negbench.runtime.errors import UserError
from negbench.settings.schema import RunConfig


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Return floor(num_images / batch_size). UserError if not even one batch can be filled."""
    if batch_size > num_images:
        raise UserError(f"batch_size {batch_size} exceeds the {num_images} training images; at most that many")
    return num_images // batch_size


def check_batch(config: RunConfig[Any], num_processes: int) -> None:
    """Raise UserError if the processes cannot share the batch, or its groups for BatchNorm, equally."""
    if config.batch_size % num_processes:
        raise UserError(f"batch_size {config.batch_size} is not divisible by the {num_processes} processes")
    if config.batch_norm == "shuffled" and num_processes == 1:
        raise UserError(
            "batch_norm: shuffled exchanges images among processes and there is one; use batch_norm: split, or several "
            "processes (--gpus-per-node)"
        )
    groups = config.batch_norm_splits if config.batch_norm == "split" else 1
    images = config.batch_size // num_processes
    if images % groups or images // groups < 2:
        raise UserError(
            f"batch_norm: {config.batch_norm} takes statistics over {groups} group(s) of a process's {images} images; "
            "choose batch_size (and batch_norm_splits) so that each group has the same number, at least 2"
        )
