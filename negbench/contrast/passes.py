"""Views through an encoder: which go together, and how they are joined and parted.

Shape suffixes: N images on this rank, M embeddings of several views, D embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def shared_passes(views: Sequence[Tensor], wanted: Sequence[int]) -> list[list[int]]:
    """The `wanted` view numbers, in groups that go through an encoder, and its BatchNorm, together.

    In multi-crop those of one size (SwAV, arXiv:2006.09882); where there are only two views each goes by itself.
    """
    if len(views) == 2:
        return [[view] for view in wanted]
    sizes = [views[view].shape[-2:] for view in wanted]
    return [[view for view, other in zip(wanted, sizes, strict=True) if other == size] for size in dict.fromkeys(sizes)]


def interleaved(views: Sequence[Tensor]) -> Tensor:
    """Views [N, C, H, W] as one batch, the views of an image side by side and in their memory format.

    So each of the groups that `batch_norm: split` takes its statistics over has all views of its images, as one process
    of many has.
    """
    if len(views) == 1:
        return views[0]
    if views[0].is_contiguous():
        return torch.stack(list(views), dim=1).flatten(0, 1)
    return torch.stack([view.movedim(1, -1) for view in views], dim=1).flatten(0, 1).movedim(-1, 1)


def separated(embedding_MD: Tensor, num_views: int) -> tuple[Tensor, ...]:
    """The embeddings [N, D] of each of the views that were `interleaved`."""
    return embedding_MD.unflatten(0, (-1, num_views)).unbind(1)


def unit_norm(embedding_ND: Tensor) -> Tensor:
    """Rows scaled to unit length, in at least fp32."""
    return F.normalize(embedding_ND.to(torch.promote_types(embedding_ND.dtype, torch.float32)), dim=1)
