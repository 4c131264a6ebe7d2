"""PASCAL VOC2007 classification by linear SVMs on frozen features.

Shape suffixes: N images, F features, C classes.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from negbench.evaluate.protocols.common.average_precision import average_precisions
from negbench.evaluate.protocols.common.datasets import digest_of, voc07_folder
from negbench.evaluate.protocols.common.scikit import Array, arrays, without_convergence_warnings
from negbench.evaluate.request import Request
from negbench.evaluate.subject import Subject
from negbench.runtime.errors import UserError
from negbench.settings.plugins.facts import Protocol
from negbench.settings.protocol_settings import Voc07

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

PROTOCOL = Protocol(
    place=11,
    figure="voc07_mean_ap",
    title="SVMs on PASCAL VOC2007, mean average precision",
    key="mean_ap",
    settings="negbench.settings.protocol_settings:Voc07",
    data="VOCdevkit/VOC2007, trainval and test",
)


def evaluate(subject: Subject, request: Request) -> dict[str, Any]:
    """Return the record of one SVM a class, its cost chosen by cross-validation on trainval, tested on test."""
    assert request.data is not None
    settings: Voc07 = request.settings
    splits, shown = voc07_folder(request.data, subject.config)
    moved = subject.on(splits)
    features, shows = {}, {}
    for part in ("train", "test"):
        features_NF, position_N = arrays(moved.features(part))  # of the images that could be decoded
        features[part], shows[part] = normalised(features_NF), shown[part].numpy()[position_N]
    for name, test_N in zip(splits.classes, shows["test"].T, strict=True):
        if not (test_N > 0).any():
            raise UserError(f"--data {request.data}: no test image shows {name}, so it has no average precision")
    by_class = {}
    for number, name in enumerate(splits.classes):
        train_N, test_N = (shows[part][:, number] for part in ("train", "test"))
        cost, validated = choose_cost(features["train"], train_N, settings, subject.config.seed, name)
        model = fit(features["train"], train_N, cost, settings, subject.config.seed)
        ap, area = average_precisions(model.decision_function(features["test"]), test_N)
        by_class[name] = {
            "ap": ap,
            "ap_area": area,
            "cost": cost,
            "cost_at_edge_of_grid": cost in (min(settings.costs), max(settings.costs)),
            "converged": bool(model.n_iter_ < settings.max_iterations),
            "validated_ap": validated,
        }
        subject.progress("SVMs", number + 1, len(splits.classes))
    return {
        "mean_ap": float(np.mean([figures["ap"] for figures in by_class.values()])),
        "mean_ap_area": float(np.mean([figures["ap_area"] for figures in by_class.values()])),
        "by_class": by_class,
        "definition": "ap: VOC2007's eleven points; ap_area: VOC2010's area, which VISSL reports",
        "selection": f"cost of each class by average precision in {settings.folds}-fold cross-validation on trainval",
        "features": "backbone, pooled and L2-normalised, of the whole image squeezed to a square, no augmentation",
        "classifier": "linear SVM for each class, squared hinge, L2, dual (scikit-learn's liblinear)",
        "difficult": "images with only difficult objects of a class are left out of its training and of its test",
        "train": len(shows["train"]),
        "test": len(shows["test"]),
        "data_digest": digest_of(splits),
    }


def choose_cost(features_NF: Array, shown_N: Array, settings: Voc07, seed: int, name: str) -> tuple[float, float]:
    """Return the cost with the highest mean average precision over the folds, the first of equals, and that precision.

    Folds are stratified blocks in the images' order. UserError if a fold would lack positive or negative images.
    """
    from sklearn.model_selection import cross_val_score

    known_N = shown_N != 0
    features_NF, shown_N = features_NF[known_N], shown_N[known_N]
    fewest = min(int((shown_N > 0).sum()), int((shown_N < 0).sum()))
    if fewest < settings.folds:
        raise UserError(
            f"{name} has {fewest} positive (or negative) training images; {settings.folds} folds need as many"
        )
    with without_convergence_warnings():
        scores = [
            cross_val_score(
                _svm(cost, settings, seed), features_NF, shown_N, cv=settings.folds, scoring="average_precision"
            ).mean()
            for cost in settings.costs
        ]
    best = int(np.argmax(scores))
    return settings.costs[best], float(scores[best])


def fit(features_NF: Array, shown_N: Array, cost: float, settings: Voc07, seed: int) -> "LinearSVC":
    """Return the SVM of one class; images with only difficult objects of it are left out."""
    known_N = shown_N != 0
    with without_convergence_warnings():
        return _svm(cost, settings, seed).fit(features_NF[known_N], shown_N[known_N])


def normalised(features_NF: Array) -> Array:
    """Return rows of unit length; a zero row stays."""
    lengths_N1 = np.linalg.norm(features_NF, axis=1, keepdims=True)
    scaled: Array = features_NF / np.where(lengths_N1 > 0, lengths_N1, 1.0)
    return scaled


def _svm(cost: float, settings: Voc07, seed: int) -> "LinearSVC":
    from sklearn.svm import LinearSVC

    return LinearSVC(
        C=cost,
        class_weight={1: settings.positive_weight, -1: 1.0},
        loss="squared_hinge",
        dual=True,
        max_iter=settings.max_iterations,
        random_state=seed % 2**32,
    )
