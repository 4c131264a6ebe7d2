"""InfoNCE over columns offered by sources of negatives.

Shape suffixes: N images on this rank, D embedding, M columns, V views.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """Negatives for every query of a step. Exactly one of `vectors_MD` and `scores_NM` is given."""

    vectors_MD: Tensor | None = None  # unit norm, the same for every query
    scores_NM: Tensor | None = None  # cosines, only where columns differ by query
    index_M: Tensor | None = (
        None  # int64 dataset index behind each column; -1 where there is none (learned, or still random)
    )
    mask_own: bool = False  # leave out the columns whose dataset index is the query's

    @property
    def num_columns(self) -> int:
        return len(self.vectors_MD) if self.vectors_MD is not None else cast(Tensor, self.scores_NM).shape[1]

    def scores(self, query_ND: Tensor, index_N: Tensor) -> Tensor:
        """Cosines [N, M] of each query to each column, -inf where a masked column shows the query's own image."""
        if self.scores_NM is not None:
            scores_NM = self.scores_NM
        else:
            assert self.vectors_MD is not None
            scores_NM = query_ND @ self.vectors_MD.T
        if self.mask_own:
            assert self.index_M is not None
            scores_NM = scores_NM.masked_fill(index_N[:, None] == self.index_M, -torch.inf)
        return scores_NM


def info_nce(
    query_ND: Tensor, positive_N1: Tensor, columns: Sequence[Columns], index_N: Tensor, temperature: float
) -> Tensor:
    """Mean over queries of -log softmax of the positive among the positive and all columns, a scalar.

    `positive_N1` holds cosines; column 0 of the logits is the positive and appears once. van den Oord et al. 2018,
    arXiv:1807.03748, eq. 4; with other views of the batch as columns it is SimCLR's NT-Xent (arXiv:2002.05709, eq. 1).
    """
    logits = torch.cat([positive_N1, *(c.scores(query_ND, index_N) for c in columns)], dim=1) / temperature
    return (torch.logsumexp(logits, dim=1) - logits[:, 0]).mean()


def negative_cosine(query_ND: Tensor, key_ND: Tensor) -> Tensor:
    """Mean over images of 2 - 2 cos, a scalar in [0, 4]; BYOL, arXiv:2006.07733, eq. 2. Inputs have unit norm."""
    return 2 - 2 * (query_ND * key_ND).sum(1).mean()
