"""InfoNCE over columns offered by sources of negatives.

Shape suffixes: N images on this rank, D embedding, M columns, B columns of a block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Logits of one source up to which they are held at once, and how many there are at a time beyond. On a CPU blocks fit
# its caches: at 128 x 65,536 loss and gradient by the queries take 0.38 of the time (one thread of an AMD EPYC).
DENSE = {"cpu": 1 << 20, "cuda": 1 << 25}
BLOCK = {"cpu": 1 << 18, "cuda": 1 << 23}


@dataclass(frozen=True)
class Columns:
    """Negatives for every query of a step. Exactly one of `vectors_MD` and `scores_NM` is given."""

    vectors_MD: Tensor | None = None  # unit norm, the same for every query
    scores_NM: Tensor | None = None  # cosines, only where columns differ by query
    index_M: Tensor | None = None  # int64 dataset index behind each column; -1: none (learned, or still random)
    mask_own: bool = False  # leave out the columns whose dataset index is the query's

    @property
    def num_columns(self) -> int:
        if self.scores_NM is not None:
            return self.scores_NM.shape[1]
        assert self.vectors_MD is not None
        return len(self.vectors_MD)

    def is_dense(self, query_ND: Tensor) -> bool:
        """Return whether the logits of all queries are held at once."""
        return self.scores_NM is not None or len(query_ND) * self.num_columns <= DENSE[query_ND.device.type]

    def count(self, index_N: Tensor) -> Tensor:
        """Return the mean over queries of the number of columns that are not left out, a float64 scalar."""
        if self.scores_NM is not None:
            return self.scores(self.scores_NM, index_N).isfinite().sum(1).double().mean()
        left_out = self._is_own(index_N, slice(None)).sum(1).double().mean() if self.mask_own else 0.0
        return index_N.new_full((), self.num_columns, dtype=torch.float64) - left_out

    def scores(self, query_ND: Tensor, index_N: Tensor, block: slice = slice(None)) -> Tensor:
        """Return the cosines [N, B] of each query to the columns of `block`, -inf where a column is left out."""
        if self.scores_NM is not None:
            scores_NB = self.scores_NM[:, block]
        else:
            assert self.vectors_MD is not None
            scores_NB = query_ND @ self.vectors_MD[block].T
        return scores_NB.masked_fill(self._is_own(index_N, block), -torch.inf) if self.mask_own else scores_NB

    def _is_own(self, index_N: Tensor, block: slice) -> Tensor:
        assert self.index_M is not None
        return index_N[:, None] == self.index_M[block]


def info_nce(
    query_ND: Tensor, positive_N1: Tensor, columns: Sequence[Columns], index_N: Tensor, temperature: float
) -> Tensor:
    """Return the mean over queries of -log softmax of the positive among the positive and all columns, a scalar.

    `positive_N1` holds cosines; column 0 of the logits is the positive and appears once. van den Oord et al. 2018,
    arXiv:1807.03748, eq. 4; with other views of the batch as columns it is SimCLR's NT-Xent (arXiv:2002.05709, eq. 1).
    Of columns with more logits than `DENSE` only a block exists at a time; backward computes it again.
    """
    few = [c for c in columns if c.is_dense(query_ND)]
    logits = torch.cat([positive_N1, *(c.scores(query_ND, index_N) for c in few)], dim=1) / temperature
    many = [c for c in columns if not c.is_dense(query_ND)]
    sums = [_Blockwise.apply(query_ND, c.vectors_MD, c, index_N, temperature)[:, None] for c in many]
    all_logits = torch.cat([logits, *sums], dim=1)
    return (torch.logsumexp(all_logits, dim=1) - logits[:, 0]).mean()


class _Blockwise(torch.autograd.Function):
    """The logsumexp [N] of the columns' logits, block by block, with gradients to queries and vectors.

    Forward keeps one number a query; backward makes each block's probabilities from it.
    """

    @staticmethod
    def forward(
        ctx: Any, query_ND: Tensor, vectors_MD: Tensor, columns: Columns, index_N: Tensor, temperature: float
    ) -> Tensor:
        ctx.columns = replace(columns, vectors_MD=None)  # backward frees what is saved below, but not this
        ctx.temperature = temperature
        total_N = query_ND.new_full((len(query_ND),), -torch.inf)
        for block in _blocks(query_ND, vectors_MD):
            logits_NB = columns.scores(query_ND, index_N, block).div_(temperature)
            total_N = torch.logaddexp(total_N, torch.logsumexp(logits_NB, dim=1))
        ctx.save_for_backward(query_ND, vectors_MD, index_N, total_N)
        return total_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        query_ND, vectors_MD, index_N, total_N = ctx.saved_tensors
        columns = replace(ctx.columns, vectors_MD=vectors_MD)
        total_N = total_N.clamp(min=torch.finfo(total_N.dtype).min)  # where all columns are left out
        weight_N1 = (grads[0] / ctx.temperature)[:, None]
        of_query_ND = torch.zeros_like(query_ND) if ctx.needs_input_grad[0] else None
        of_vectors_MD = torch.empty_like(vectors_MD) if ctx.needs_input_grad[1] else None
        for block in _blocks(query_ND, vectors_MD):
            logits_NB = columns.scores(query_ND, index_N, block).div_(ctx.temperature)
            slope_NB = logits_NB.sub_(total_N[:, None]).exp_().mul_(weight_N1)
            if of_query_ND is not None:
                # Not addmm_, which torch does not count as an operation.
                torch.addmm(of_query_ND, slope_NB, vectors_MD[block], out=of_query_ND)
            if of_vectors_MD is not None:
                torch.mm(slope_NB.T, query_ND, out=of_vectors_MD[block])
        return of_query_ND, of_vectors_MD, None, None, None


def _blocks(query_ND: Tensor, vectors_MD: Tensor) -> Iterator[slice]:
    width = max(1, BLOCK[query_ND.device.type] // len(query_ND))
    return (slice(start, start + width) for start in range(0, len(vectors_MD), width))


def negative_cosine(query_ND: Tensor, key_ND: Tensor) -> Tensor:
    """Return the mean over images of 2 - 2 cos, a scalar in [0, 4], of unit vectors (BYOL, arXiv:2006.07733, eq. 2)."""
    return 2 - 2 * (query_ND * key_ND).sum(1).mean()
