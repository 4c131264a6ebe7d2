"""Features that need no network, for comparison: pixels and colours alone.

Shape legend: N images, M bank images, Q queries, C colour channels, H height, W width, D = C * H * W, F = C * 16 bins.
"""

import torch
from torch import Tensor

from negbench.data.sets import ResidentSet, Splits
from negbench.evaluate.protocols.knn import knn_top1
from negbench.runtime.errors import UserError
from negbench.settings.schema import SharedConfig

_NUM_BINS = 16
_K = 20


def without_network(splits: Splits, config: SharedConfig) -> dict[str, float]:
    """Return `baseline_knn` of the training and test images; nothing for image folders, or fewer than k."""
    train, test = splits.train, splits.test
    if not isinstance(train, ResidentSet) or not isinstance(test, ResidentSet) or len(train) < _K:
        return {}
    sets = train.images_NCHW, train.labels_N, test.images_NCHW, test.labels_N
    return baseline_knn(*sets, len(splits.classes), config.evaluation.knn_temperature)


def pixels(bank_MCHW: Tensor, queries_QCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixels of uint8 images in [0, 1], less the bank's mean image: [M, D] and [Q, D] in float32.

    UserError for images that are not uint8 [N, C, H, W] or differ in size.
    """
    _check_images(bank_MCHW)
    _check_images(queries_QCHW)
    if bank_MCHW.shape[1:] != queries_QCHW.shape[1:]:
        raise UserError(f"images must be of one size, not {list(bank_MCHW.shape)} and {list(queries_QCHW.shape)}")
    bank_MD, queries_QD = (images.flatten(1).float().div_(255) for images in (bank_MCHW, queries_QCHW))
    mean_D = bank_MD.mean(0)
    return bank_MD.sub_(mean_D), queries_QD.sub_(mean_D.to(queries_QD.device))


def histograms(images_NCHW: Tensor) -> Tensor:
    """Return colour histograms, 16 equal bins a channel, unit Euclidean norm: float32 [N, F], F = 48 for RGB.

    The bins of the first channel come first, then those of the next. UserError if images are not uint8 [N, C, H, W].
    """
    _check_images(images_NCHW)
    bins_NCHW = images_NCHW // (256 // _NUM_BINS)
    counts_NCB = torch.stack([(bins_NCHW == b).sum((2, 3)) for b in range(_NUM_BINS)], dim=2)
    return torch.nn.functional.normalize(counts_NCB.flatten(1).float(), dim=1)


def baseline_knn(
    bank_images: Tensor,
    bank_labels: Tensor,
    query_images: Tensor,
    query_labels: Tensor,
    num_classes: int,
    temperature: float = 0.07,
) -> dict[str, float]:
    """Return kNN's top-1 accuracy (fraction, k = 20) of uint8 images [N, C, H, W] by `pixels` and by `histogram`.

    UserError as `pixels` and `knn_top1`.
    """
    features = {
        "pixels": pixels(bank_images, query_images),
        "histogram": (histograms(bank_images), histograms(query_images)),
    }
    return {
        name: knn_top1(bank, bank_labels, queries, query_labels, (_K,), temperature, num_classes=num_classes)[_K]
        for name, (bank, queries) in features.items()
    }


def _check_images(images_NCHW: Tensor) -> None:
    if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4:
        raise UserError(f"images must be uint8 [N, C, H, W], not {images_NCHW.dtype} {list(images_NCHW.shape)}")
