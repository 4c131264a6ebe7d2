"""Figures of the negatives and of the representation on fixed images, to explain why one source beats another.

Every function takes unit-norm embeddings and returns plain numbers. Labels are read to describe negatives, never to
train. docs/diagnostics.md says what each figure can and cannot show.

Shape suffixes: N queries, M columns, K vectors of a source, P images, D embedding, B queries of a block.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from negbench.contrast.losses import Columns
from negbench.contrast.method import Probe

TOP = 10  # hardest negatives of a query
SAMPLE = 4096  # of more vectors, only that many, evenly spaced, are compared in pairs
SAME = 0.99  # cosine at which two adversaries count as duplicates
SHARPNESS = 2.0  # t of the Gaussian potential exp(-t |x - y|^2)
_BLOCK = 1 << 24  # logits at a time
Figures = dict[str, Any]


def of_columns(
    probe: Probe, groups: Mapping[str, Sequence[int]], labels_M: Sequence[Tensor], labels_N: Tensor
) -> dict[str, Figures]:
    """Return figures of each group of the probe's columns, given as numbers in `probe.columns`; means over queries.

    `labels_M` are the labels behind the columns of each number, -1 for none, `labels_N` the queries'.

    - negatives: columns that the query is contrasted with;
    - mean_cosine, top1_cosine, top10_cosine: to all of them, the nearest, the ten nearest;
    - effective_negatives: exp of the entropy of their softmax at the method's temperature, the positive left out;
    - mass_share: of the softmax over the columns of all sources;
    - false_negative_rate, false_negative_mass: share of columns, and of softmax mass, with the query's label, among the
      columns whose label is known; None if none is;
    - own_image_share: share of columns that show the query's own image; None if no column's image is known.
    """
    columns = [column for _, column in probe.columns]
    width = sum(len(labels) for labels in labels_M)
    sums: dict[str, dict[str, list[Tensor]]] = {name: {} for name in groups}
    for rows in torch.arange(len(probe.query_ND), device=probe.query_ND.device).split(max(1, _BLOCK // max(1, width))):
        query_BD, index_B = probe.query_ND[rows], probe.index_N[rows]
        scores = [_rows_of(column, rows).scores(query_BD, index_B) for column in columns]
        total_B = torch.logsumexp(torch.cat(scores, 1) / probe.temperature, dim=1)
        for name, members in groups.items():
            scores_BM = torch.cat([scores[i] for i in members], dim=1)
            labels = torch.cat([labels_M[i] for i in members])
            images_M = torch.cat([_images(columns[i], labels_M[i]) for i in members])
            figures = _of_queries(scores_BM, probe.temperature, total_B, labels, labels_N[rows], images_M, index_B)
            for figure, values_B in figures.items():
                sums[name].setdefault(figure, []).append(values_B.double())
    return {name: {f: _mean(torch.cat(parts)) for f, parts in figures.items()} for name, figures in sums.items()}


def _of_queries(
    scores_BM: Tensor,
    temperature: float,
    total_B: Tensor,
    labels_M: Tensor,
    labels_B: Tensor,
    images_M: Tensor,
    index_B: Tensor,
) -> dict[str, Tensor]:
    """Return each figure of `of_columns` by query; nan if it is unknown, as it is without columns."""
    scores_BM = F.pad(scores_BM, (0, 1), value=-torch.inf)  # a column that is left out, so that there is always one
    labels_M, images_M = F.pad(labels_M, (0, 1), value=-1), F.pad(images_M, (0, 1), value=-1)
    offered_BM = scores_BM.isfinite()
    count_B = _count(offered_BM)
    cosine_BM = scores_BM.masked_fill(~offered_BM, 0)
    top_BT = scores_BM.topk(min(TOP, scores_BM.shape[1]), dim=1).values
    top_BT = top_BT.where(top_BT.isfinite(), torch.nan)
    logits_BM = scores_BM / temperature
    mass_B = torch.logsumexp(logits_BM, dim=1)
    probability_BM = (logits_BM - mass_B[:, None]).exp()
    entropy_B = mass_B - (probability_BM * cosine_BM).sum(1) / temperature
    known_BM = offered_BM & (labels_M >= 0)
    same_BM = known_BM & (labels_M == labels_B[:, None])
    has_image_BM = offered_BM & (images_M >= 0)
    return {
        "negatives": count_B,
        "mean_cosine": cosine_BM.sum(1) / count_B,
        "top1_cosine": top_BT[:, 0],
        "top10_cosine": top_BT.nanmean(1),
        "effective_negatives": entropy_B.exp(),
        "mass_share": (mass_B - total_B).exp(),
        "false_negative_rate": _count(same_BM) / _count(known_BM),
        "false_negative_mass": (probability_BM * same_BM).sum(1) / (probability_BM * known_BM).sum(1),
        "own_image_share": _count(has_image_BM & (images_M == index_B[:, None])) / _count(has_image_BM),
    }


def _count(mask_BM: Tensor) -> Tensor:
    return mask_BM.sum(1, dtype=torch.float64)


def _rows_of(column: Columns, rows: Tensor) -> Columns:
    return column if column.scores_NM is None else replace(column, scores_NM=column.scores_NM[rows])


def _images(column: Columns, labels_M: Tensor) -> Tensor:
    """Return the dataset index behind each column, -1 for none."""
    return column.index_M if column.index_M is not None else torch.full_like(labels_M, -1)


def _mean(values_N: Tensor) -> float | None:
    mean = values_N.nanmean().item()
    return None if math.isnan(mean) else mean


def nearest_labels(vectors_KD: Tensor, bank_ND: Tensor, labels_N: Tensor) -> Tensor:
    """Return the label [K] of each vector's nearest image, by cosine; -1 for those that `sample` leaves out."""
    labels_K = labels_N.new_full((len(vectors_KD),), -1)
    for places in sample(len(vectors_KD)).split(max(1, _BLOCK // len(bank_ND))):
        places = places.to(labels_K.device)
        labels_K[places] = labels_N[(vectors_KD[places] @ bank_ND.T).argmax(1)]
    return labels_K


def sample(count: int) -> Tensor:
    """Return the places of at most `SAMPLE` of `count` vectors, evenly spaced."""
    return torch.arange(min(count, SAMPLE)) * count // min(count, SAMPLE)


def sampled(vectors_KD: Tensor) -> Tensor:
    return vectors_KD[sample(len(vectors_KD)).to(vectors_KD.device)]


def tracking(negatives_KD: Tensor, keys_PD: Tensor) -> float | None:
    """Return how close two distributions are, in [0, 1]; 1: equal. None with fewer than two vectors in either.

    It is the cosine between the means of both in the space of uniformity's kernel, exp(-2 |x - y|^2): 1 only for equal
    distributions (Gretton et al. 2012, JMLR 13, section 2.2). A vector is not paired with itself. The estimate can
    exceed 1 by chance, or if negatives are copies of keys; it is then cut to 1.
    """
    if min(len(negatives_KD), len(keys_PD)) < 2:
        return None
    negatives_KD, keys_PD = sampled(negatives_KD), sampled(keys_PD)
    cross = _potential(negatives_KD, keys_PD).mean()
    within = _mean_potential(negatives_KD) * _mean_potential(keys_PD)
    return min(1.0, (cross / within.sqrt()).item())


def _potential(a_KD: Tensor, b_PD: Tensor) -> Tensor:
    return (2 * SHARPNESS * (a_KD @ b_PD.T - 1)).double().exp()


def _mean_potential(vectors_PD: Tensor) -> Tensor:
    potential_PP, count = _potential(vectors_PD, vectors_PD), len(vectors_PD)
    return (potential_PP.sum() - potential_PP.trace()) / (count * (count - 1))


def duplicates(vectors_KD: Tensor) -> float:
    """Return the share of vectors that have another one at a cosine of at least 0.99."""
    places = sample(len(vectors_KD)).to(vectors_KD.device)
    hits = 0
    for block in places.split(max(1, _BLOCK // len(vectors_KD))):
        cosine_BK = vectors_KD[block] @ vectors_KD.T
        cosine_BK[torch.arange(len(block), device=block.device), block] = -1
        hits += int((cosine_BK >= SAME).any(1).sum())
    return hits / len(places)


def mean_cosine(a_PD: Tensor, b_PD: Tensor) -> float:
    """Return the mean over rows of the cosine of `a` and `b`, by |a - b|^2 = 2 - 2 cos: equal rows give exactly 1."""
    return (1 - (a_PD.double() - b_PD.double()).square().sum(1) / 2).mean().item()


def mean_angle(a_KD: Tensor, b_KD: Tensor) -> float:
    """Return the mean over rows of the angle between `a` and `b`, degrees; equal rows give exactly 0."""
    half_K = ((a_KD.double() - b_KD.double()).norm(dim=1) / 2).clamp(max=1)
    return torch.rad2deg(2 * half_K.asin()).mean().item()


def over_ages(cosine_by_age: Mapping[int, float]) -> float:
    """Return the mean over the ages 1, 2, ... to the oldest, interpolated linearly between known ones."""
    known = dict(sorted(cosine_by_age.items()))
    ages, total = list(known), known[min(known)] * min(known)
    for younger, older in itertools.pairwise(ages):
        steps = torch.arange(1, older - younger + 1, dtype=torch.float64) / (older - younger)
        total += (known[younger] + (known[older] - known[younger]) * steps).sum().item()
    return total / max(ages)


def of_representation(first_PD: Tensor, second_PD: Tensor) -> dict[str, float]:
    """Return figures of two views' embeddings of the same images in the same order.

    - alignment: mean |x - y|^2 of the two views, in [0, 4] (Wang and Isola, arXiv:2005.10242, section 4.1, alpha = 2);
    - uniformity: log of the mean of exp(-2 |x - y|^2) over pairs of images; 0 if all are equal (the same, t = 2);
    - spread: mean over dimensions of the standard deviation, times sqrt(D), in [0, 1]; 0 if all are equal, 1 if every
      dimension varies as on the whole sphere (SimSiam, arXiv:2011.10566, section 4.1);
    - effective_rank: exp of the entropy of the singular values (RankMe, arXiv:2210.02885, eq. 1); 1 if all are equal.
    """
    first_PD, second_PD = first_PD.double(), second_PD.double()
    values = torch.linalg.svdvals(first_PD)
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    entropy = -(share * share.clamp(min=torch.finfo(share.dtype).tiny).log()).sum()
    return {
        "alignment": (first_PD - second_PD).square().sum(1).mean().item(),
        "uniformity": _mean_potential(sampled(first_PD)).log().item() if len(first_PD) > 1 else 0.0,
        "spread": (first_PD.std(0, correction=0).mean() * first_PD.shape[1] ** 0.5).item(),
        "effective_rank": entropy.exp().item(),
    }
