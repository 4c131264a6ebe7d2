"""The end of a run: kNN and linear probe on frozen backbone features, beside the untrained encoder and no network.

Shape suffixes: N images, F features.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from negbench.config import RunConfig
from negbench.data.batches import eval_batches
from negbench.data.decode import BadImageError
from negbench.data.folder import FolderSet
from negbench.data.sets import ResidentSet, Splits, split_validation
from negbench.distributed import gather_rows, rank, world_size
from negbench.evaluate.baselines import baseline_knn
from negbench.evaluate.knn import knn_top1
from negbench.evaluate.linear import linear_probe

KNN_K = (20, 200)
Dataset = ResidentSet | FolderSet


@dataclass(frozen=True)
class Features:
    features_NF: Tensor
    labels_N: Tensor


@torch.no_grad()
def extract(
    backbone: nn.Module,
    dataset: Dataset,
    config: RunConfig[Any],
    device: torch.device,
    dtype: torch.dtype | None,
    skipped: set[str],
) -> Features:
    """Features [N, F] of the test view, fp32, and labels [N], on every rank; each rank encodes its share.

    Paths of files that cannot be decoded are added to `skipped`. The backbone is in evaluation mode inside and back in
    its own mode after.
    """
    training = backbone.training
    backbone.eval()
    features, labels = [], []
    for images, label in eval_batches(dataset, config, device, rank=rank(), world_size=world_size(), skipped=skipped):
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            features.append(backbone(images).float())
        labels.append(label)
    backbone.train(training)
    if not features:
        raise BadImageError(f"none of the {len(dataset)} images to evaluate on can be decoded")
    return Features(gather_rows(torch.cat(features)), gather_rows(torch.cat(labels)))


def knn(bank: Features, queries: Features, config: RunConfig[Any], num_classes: int) -> dict[int, float]:
    """Top-1 accuracy by k, fractions."""
    return knn_top1(
        bank.features_NF,
        bank.labels_N,
        queries.features_NF,
        queries.labels_N,
        ks=KNN_K,
        temperature=config.evaluation.knn_temperature,
        num_classes=num_classes,
    )


def knn_protocol(train: Features, test: Features, config: RunConfig[Any], num_classes: int) -> dict[str, Any]:
    """kNN on the test set, with every setting that the figure depends on."""
    top1 = knn(train, test, config, num_classes)
    return {
        "protocol": "knn",
        "top1": {str(k): value for k, value in top1.items()},
        "features": "backbone, L2-normalised",
        "similarity": "cosine",
        "temperature": config.evaluation.knn_temperature,
        "bank": f"training images without the held-out ones, {len(train.labels_N)}",
        "queries": f"test images, {len(test.labels_N)}",
    }


def split_for_probe(labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Positions to train on and a tenth to choose by. ValueError if the set is too small to hold any out."""
    try:
        return split_validation(labels_N, 0.1, "linear probe")
    except ValueError:
        raise ValueError(
            f"{len(labels_N)} training images are too few to hold some out for the linear probe's learning rate; "
            "set evaluation.linear=false, or data.validation"
        ) from None


def linear_protocol(
    train: Features, validation: Features | None, test: Features, config: RunConfig[Any], num_classes: int
) -> dict[str, Any]:
    """The linear probe: learning rate chosen on the held-out images, tested once."""
    if validation is None:
        kept_N, held_out_N = split_for_probe(train.labels_N.cpu())
        validation = Features(train.features_NF[held_out_N], train.labels_N[held_out_N])
        train = Features(train.features_NF[kept_N], train.labels_N[kept_N])
    settings = config.evaluation
    result = linear_probe(
        train.features_NF,
        train.labels_N,
        validation.features_NF,
        validation.labels_N,
        test.features_NF,
        test.labels_N,
        num_classes=num_classes,
        epochs=settings.linear_epochs,
        batch_size=settings.linear_batch_size,
        seed=config.seed,
    )
    return {
        "protocol": "linear",
        "top1": result.top1,
        "lr": result.lr,
        "lr_at_edge_of_grid": result.at_edge,
        "validation_top1_by_lr": {str(lr): top1 for lr, top1 in result.validation_top1_by_lr.items()},
        "features": "backbone, standardised by the training features, no augmentation",
        "optimizer": "SGD, momentum 0.9, no weight decay, cosine",
        "epochs": settings.linear_epochs,
        "batch_size": settings.linear_batch_size,
        "train": len(train.labels_N),
        "validation": len(validation.labels_N),
        "test": len(test.labels_N),
    }


def without_network(splits: Splits, config: RunConfig[Any]) -> dict[str, float]:
    """kNN (k = 20) on raw pixels and on colour histograms; empty for image folders."""
    train, test = splits.train, splits.test
    if not isinstance(train, ResidentSet) or not isinstance(test, ResidentSet):
        return {}
    return baseline_knn(
        train.images_NCHW,
        train.labels_N,
        test.images_NCHW,
        test.labels_N,
        num_classes=len(splits.classes),
        temperature=config.evaluation.knn_temperature,
    )
