"""Views through an encoder: which share a pass, and how they are joined and separated.

Shape suffixes: N images on this rank, M embeddings of several views, D embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def shared_passes(views: Sequence[Tensor], wanted: Sequence[int]) -> list[list[int]]:
    """Return the `wanted` view numbers in groups that share a pass through the encoder, and so BatchNorm's statistics.

    In multi-crop, views of one size share a pass (SwAV, arXiv:2006.09882); of only two views each has its own.
    """
    if len(views) == 2:
        return [[view] for view in wanted]
    sizes = [views[view].shape[-2:] for view in wanted]
    return [[view for view, other in zip(wanted, sizes, strict=True) if other == size] for size in dict.fromkeys(sizes)]


def interleaved(views: Sequence[Tensor]) -> Tensor:
    """Return views [N, C, H, W] as one batch in their memory format, the views of an image side by side.

    So each group that `batch_norm: split` takes its statistics over has all views of its images, as a process has.
    """
    if len(views) == 1:
        return views[0]
    if views[0].is_contiguous():
        return torch.stack(list(views), dim=1).flatten(0, 1)
    return torch.stack([view.movedim(1, -1) for view in views], dim=1).flatten(0, 1).movedim(-1, 1)


def separated(embedding_MD: Tensor, num_views: int) -> tuple[Tensor, ...]:
    """Return the embeddings [N, D] of each view that `interleaved` joined."""
    return embedding_MD.unflatten(0, (-1, num_views)).unbind(1)


def unit_norm(embedding_ND: Tensor) -> Tensor:
    """Return the rows scaled to unit length, in at least fp32."""
    return F.normalize(embedding_ND.to(torch.promote_types(embedding_ND.dtype, torch.float32)), dim=1)
