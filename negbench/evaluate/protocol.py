"""What every run is evaluated by: kNN and linear probe on frozen backbone features, and features without a network."""

from typing import Any

from negbench.config import RunConfig
from negbench.data.sets import ResidentSet, Splits
from negbench.evaluate.baselines import baseline_knn
from negbench.evaluate.knn import knn_top1
from negbench.evaluate.linear import linear_probe, split_for_probe
from negbench.evaluate.subject import Features, Subject

KNN_K = (20, 200)


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


def knn_protocol(subject: Subject) -> dict[str, Any]:
    """kNN on the test set, with every setting that the figure depends on."""
    train, test = subject.features("train"), subject.features("test")
    top1 = knn(train, test, subject.config, subject.num_classes)
    return {
        "top1": {str(k): value for k, value in top1.items()},
        "features": "backbone, L2-normalised",
        "similarity": "cosine",
        "temperature": subject.config.evaluation.knn_temperature,
        "bank": f"training images without the held-out ones, {len(train.labels_N)}",
        "queries": f"test images, {len(test.labels_N)}",
    }


def linear_protocol(subject: Subject) -> dict[str, Any]:
    """The linear probe: learning rate chosen on the held-out images, tested once."""
    settings = subject.config.evaluation
    return linear_on(subject, settings.linear_epochs, settings.linear_batch_size)


def linear_on(subject: Subject, epochs: int, batch_size: int) -> dict[str, Any]:
    """The linear probe on the subject's data."""
    train, test = subject.features("train"), subject.features("test")
    if subject.holds_out:
        validation = subject.features("validation")
    else:
        kept_N, held_out_N = split_for_probe(train.labels_N.cpu())
        validation = Features(train.features_NF[held_out_N], train.labels_N[held_out_N])
        train = Features(train.features_NF[kept_N], train.labels_N[kept_N])
    result = linear_probe(
        train.features_NF,
        train.labels_N,
        validation.features_NF,
        validation.labels_N,
        test.features_NF,
        test.labels_N,
        num_classes=subject.num_classes,
        epochs=epochs,
        batch_size=batch_size,
        seed=subject.config.seed,
    )
    return {
        "top1": result.top1,
        "lr": result.lr,
        "lr_at_edge_of_grid": result.at_edge,
        "validation_top1_by_lr": {str(lr): top1 for lr, top1 in result.validation_top1_by_lr.items()},
        "features": "backbone, standardised by the training features, no augmentation",
        "optimizer": "SGD, momentum 0.9, no weight decay, cosine",
        "epochs": epochs,
        "batch_size": batch_size,
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
