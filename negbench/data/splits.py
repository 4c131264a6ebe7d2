"""Which images are held out and which are used, by class.

Shape legend: N images of a set, M images chosen, C classes.
"""

import torch
from torch import Tensor

from negbench.runtime.errors import UserError
from negbench.runtime.seeding import stream


def split_validation(labels_N: Tensor, share: float, name: str) -> tuple[Tensor, Tensor]:
    """Return positions (ascending) for training and positions held out, `share` of each class, rounded.

    The choice depends on the data set's `name` and labels only. Every class keeps at least one training image.
    Raises UserError if a positive share of these few images holds out none.
    """
    counts_C = labels_N.bincount()
    wanted_C = torch.minimum((share * counts_C.double()).round().long(), (counts_C - 1).clamp(min=0))
    held_out_N = _turns(labels_N, stream("validation", name)) < wanted_C[labels_N]
    if share > 0 and not held_out_N.any():
        largest = int(counts_C.max())
        enough = f"raise it to {1 / largest:.2g} or more, or " if largest > 1 else ""
        raise UserError(
            f"data.validation {share} holds out none of {len(labels_N)} images in {_num_classes(labels_N)} classes; "
            f"{enough}hold none out by --set data.validation=0 --set evaluation.linear=false"
        )
    return (~held_out_N).nonzero().squeeze(1), held_out_N.nonzero().squeeze(1)


def split_for_probe(labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions to train on and a tenth to choose by. UserError if the set is too small to hold any out."""
    try:
        return split_validation(labels_N, 0.1, "linear probe")
    except UserError:
        largest = int(labels_N.bincount().max())
        enough = f" or --set data.validation={1 / largest:.2g}" if largest > 1 else ""
        raise UserError(
            f"{len(labels_N)} training images in {_num_classes(labels_N)} classes are too few to hold some out for the "
            f"linear probe's learning rate; add --set evaluation.linear=false{enough}"
        ) from None


def balanced_subset(labels_N: Tensor, num_images: int, name: str) -> Tensor:
    """Return positions (ascending) of `num_images` images, class counts as equal as the classes' sizes permit."""
    num_classes = _num_classes(labels_N)
    if num_images > len(labels_N):
        raise UserError(
            f"data.num_images {num_images} exceeds the {len(labels_N)} training images of {name} "
            "that are left after the validation share"
        )
    if num_images < num_classes:
        raise UserError(
            f"data.num_images {num_images} is fewer than the {num_classes} classes of {name}; at least one each is due"
        )
    generator = stream("subset", name)
    order_N = torch.randperm(len(labels_N), generator=generator)  # which classes get the odd images
    turns_N = _turns(labels_N, generator)
    return order_N[turns_N[order_N].argsort(stable=True)][:num_images].sort().values


def _num_classes(labels_N: Tensor) -> int:
    return int((labels_N.bincount() > 0).sum())


def _turns(labels_N: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image's place (int64 [N], from 0) in a random order of the images of its class."""
    order_N = torch.randperm(len(labels_N), generator=generator)
    order_N = order_N[labels_N[order_N].argsort(stable=True)]
    counts_C = labels_N.bincount()
    starts_C = counts_C.cumsum(0) - counts_C
    turns_N = torch.empty_like(labels_N)
    turns_N[order_N] = torch.arange(len(labels_N)) - starts_C.repeat_interleave(counts_C)
    return turns_N
