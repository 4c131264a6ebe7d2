"""Weighted k-nearest-neighbour classification of frozen features.

Shape legend: M bank images, Q queries, N images or columns, D feature dimensions, K neighbours, C classes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from negbench.evaluate.subject import Features, Subject
from negbench.runtime.errors import UserError
from negbench.runtime.words import count
from negbench.settings.plugins.facts import Protocol
from negbench.settings.schema import SharedConfig

PROTOCOL = Protocol(place=1)

_QUERY_CHUNK = 512
_BANK_CHUNK = 8192
KNN_K = (20, 200)


def evaluate(subject: Subject) -> dict[str, Any]:
    """Return kNN's record on the test set, with every setting that the figure depends on."""
    train, test = subject.features("train"), subject.features("test")
    top1 = knn(train, test, subject.config, subject.num_classes)
    return left_out_of(KNN_K, train) | {
        "top1": {str(k): value for k, value in top1.items()},
        "features": "backbone, L2-normalised",
        "similarity": "cosine",
        "temperature": subject.config.evaluation.knn_temperature,
        "bank": f"training images without the held-out ones, {len(train.labels_N)}",
        "queries": f"test images, {len(test.labels_N)}",
    }


def knn(bank: Features, queries: Features, config: SharedConfig, num_classes: int) -> dict[int, float]:
    """Return top-1 accuracy by k, fractions; of no k above the number of images in the bank."""
    ks = fitting(KNN_K, bank)
    return (
        {}
        if not ks
        else knn_top1(
            bank.features_NF,
            bank.labels_N,
            queries.features_NF,
            queries.labels_N,
            ks=ks,
            temperature=config.evaluation.knn_temperature,
            num_classes=num_classes,
        )
    )


def fitting(ks: Iterable[int], bank: Features) -> list[int]:
    return [k for k in ks if k <= len(bank.labels_N)]


def left_out_of(ks: Iterable[int], bank: Features) -> dict[str, str]:
    """Return what a record says of each k that has no figure, if there is any."""
    absent = [str(k) for k in ks if k > len(bank.labels_N)]
    if not absent:
        return {}
    images = count(len(bank.labels_N), "image")
    return {"left_out": f"no figure for k = {' and '.join(absent)}, since the bank has {images}"}


def knn_top1(
    bank_MD: Tensor,
    bank_labels_M: Tensor,
    queries_QD: Tensor,
    query_labels_Q: Tensor,
    ks: Sequence[int] = (20, 200),
    temperature: float = 0.07,
    *,
    num_classes: int,
) -> dict[int, float]:
    """Return the top-1 accuracy of `knn_predict`, a fraction in [0, 1], by k. UserError as `knn_predict`."""
    check_labelled("queries", queries_QD, query_labels_Q, num_classes)
    predictions = knn_predict(bank_MD, bank_labels_M, queries_QD, ks, temperature, num_classes=num_classes)
    labels_Q = query_labels_Q.to(bank_MD.device)
    return {k: (predicted_Q == labels_Q).double().mean().item() for k, predicted_Q in predictions.items()}


@torch.no_grad()
def knn_predict(
    bank_MD: Tensor,
    bank_labels_M: Tensor,
    queries_QD: Tensor,
    ks: Sequence[int] = (20, 200),
    temperature: float = 0.07,
    *,
    num_classes: int,
    query_chunk: int = _QUERY_CHUNK,
    bank_chunk: int = _BANK_CHUNK,
) -> dict[int, Tensor]:
    """Return the predicted classes int64 [Q], on the bank's device, by k.

    Each of a query's k nearest bank images by cosine votes for its class with weight exp(cosine / temperature)
    (Wu et al., arXiv:1805.01978, section 3.4; k = 20 and temperature 0.07 as in DINO, arXiv:2104.14294).
    Weights are relative to the nearest image's, which changes no prediction and can neither overflow nor vanish.

    A k larger than the bank uses the whole bank. Of equal cosines the earlier bank image is nearer; of equal votes
    the lower class wins. A zero feature has cosine 0 with everything. Arithmetic is float32, or float64 for float64
    features; the chunks (images at a time) bound the memory and have no other effect beyond rounding.

    UserError for empty or non-finite features, labels outside [0, num_classes), shapes that do not match,
    a k or a chunk below 1, or a temperature that is not positive.
    """
    check_labelled("bank", bank_MD, bank_labels_M, num_classes)
    check_features("queries", queries_QD)
    if queries_QD.shape[1] != bank_MD.shape[1]:
        raise UserError(f"queries have {queries_QD.shape[1]} dimensions, the bank has {bank_MD.shape[1]}")
    if not ks or min(ks) < 1:
        raise UserError(f"ks must be one or more positive numbers, not {list(ks)}")
    if not temperature > 0:
        raise UserError(f"temperature must be positive, not {temperature}")
    if min(query_chunk, bank_chunk) < 1:
        raise UserError(f"chunks must be positive, not {query_chunk} queries and {bank_chunk} bank images")

    bank_MD = F.normalize(full_precision(bank_MD), dim=1)
    bank_labels_M = bank_labels_M.to(bank_MD.device)
    depth = {k: min(k, len(bank_MD)) for k in ks}
    predictions: dict[int, list[Tensor]] = {k: [] for k in depth}
    for chunk_QD in torch.split(queries_QD, query_chunk):
        chunk_QD = F.normalize(full_precision(chunk_QD.to(bank_MD.device)), dim=1).to(bank_MD.dtype)
        cosines_QK, labels_QK = _nearest(chunk_QD, bank_MD, bank_labels_M, max(depth.values()), bank_chunk)
        weights_QK = ((cosines_QK - cosines_QK[:, :1]) / temperature).exp()
        votes_QC = weights_QK.new_zeros(len(chunk_QD), num_classes)
        rows_Q = torch.arange(len(chunk_QD), device=votes_QC.device)
        # One neighbour of every query at a time: the order of summation is fixed, and each k is complete at its place.
        for place in range(max(depth.values())):
            votes_QC[rows_Q, labels_QK[:, place]] += weights_QK[:, place]
            for k, stop in depth.items():
                if stop == place + 1:
                    predictions[k].append(votes_QC.argmax(1))
    return {k: torch.cat(parts) for k, parts in predictions.items()}


def check_features(name: str, features_ND: Tensor) -> None:
    """Raise UserError unless the features are a finite matrix with at least one row; `name` is in the sentence."""
    if features_ND.ndim != 2 or not features_ND.numel():
        raise UserError(f"{name}: features must be a matrix with at least one row, not {list(features_ND.shape)}")
    if num_bad := int((~features_ND.isfinite().all(1)).sum()):
        raise UserError(f"{name}: the features of {num_bad} of {len(features_ND)} images are not finite")


def check_labelled(name: str, features_ND: Tensor, labels_N: Tensor, num_classes: int) -> None:
    """Raise UserError unless `check_features` passes and each row has a label in [0, num_classes)."""
    check_features(name, features_ND)
    if labels_N.shape != features_ND.shape[:1]:
        raise UserError(f"{name}: labels must have shape [{len(features_ND)}], not {list(labels_N.shape)}")
    if labels_N.dtype != torch.int64:
        raise UserError(f"{name}: labels must be int64, not {labels_N.dtype}")
    low, high = int(labels_N.min()), int(labels_N.max())
    if low < 0 or high >= num_classes:
        raise UserError(f"{name}: labels must lie in [0, {num_classes}), not [{low}, {high}]")


def full_precision(features_ND: Tensor) -> Tensor:
    """Return float64 as it is, everything else as float32."""
    return features_ND if features_ND.dtype == torch.float64 else features_ND.float()


def _nearest(
    queries_QD: Tensor, bank_MD: Tensor, bank_labels_M: Tensor, k: int, bank_chunk: int
) -> tuple[Tensor, Tensor]:
    """Return cosines and labels [Q, K] of each query's k nearest bank images, nearest first."""
    cosines_QK = queries_QD.new_empty(len(queries_QD), 0)
    labels_QK = bank_labels_M.new_empty(len(queries_QD), 0)
    for block_MD, block_labels_M in zip(
        torch.split(bank_MD, bank_chunk), torch.split(bank_labels_M, bank_chunk), strict=True
    ):
        # What was kept so far is on the left, so that the leftmost of equal cosines is the earliest in the bank.
        cosines_QN = torch.cat([cosines_QK, queries_QD @ block_MD.T], dim=1)
        labels_QN = torch.cat([labels_QK, block_labels_M.expand(len(queries_QD), -1)], dim=1)
        columns_QK = _top_columns(cosines_QN, min(k, cosines_QN.shape[1]))
        cosines_QK, labels_QK = cosines_QN.gather(1, columns_QK), labels_QN.gather(1, columns_QK)
    return cosines_QK, labels_QK


def _top_columns(values_QN: Tensor, k: int) -> Tensor:
    """Return columns [Q, K] of each row's k largest values, largest first; of equal values the leftmost comes first.

    torch.topk alone does not specify which of equal values it returns; a stable sort of rows is twice as slow.
    """
    threshold_Q1 = values_QN.topk(k).values[:, -1:]
    above_QN = values_QN > threshold_Q1
    level_QN = values_QN == threshold_Q1
    room_Q1 = k - above_QN.sum(1, keepdim=True)
    taken_QN = above_QN | (level_QN & (level_QN.cumsum(1, dtype=torch.int32) <= room_Q1))
    columns_QK = taken_QN.nonzero()[:, 1].view(-1, k)
    order_QK = values_QN.gather(1, columns_QK).argsort(dim=1, descending=True, stable=True)
    return columns_QK.gather(1, order_QK)
