"""Logistic regression on frozen features of another data set.

Shape suffixes: N images, F features.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from negbench.data.sets import FolderSet
from negbench.data.splits import split_validation
from negbench.evaluate.protocols.common.datasets import check_classes, digest_of, image_folder, left_out_of
from negbench.evaluate.protocols.common.scikit import Array, arrays, without_convergence_warnings
from negbench.evaluate.request import Request
from negbench.evaluate.subject import Dataset, Subject
from negbench.runtime.errors import UserError
from negbench.settings.plugins.facts import Protocol

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

PROTOCOL = Protocol(
    place=10,
    figure="transfer_top1",
    title="logistic regression on another data set",
    settings="negbench.settings.protocol_settings:Transfer",
    data="an image folder: train/CLASS and val/CLASS (or test/CLASS)",
)


def evaluate(subject: Subject, request: Request) -> dict[str, Any]:
    """Return the record of logistic regression: L2 strength chosen on held-out images, refit on all, tested once."""
    assert request.data is not None
    settings = request.settings
    splits = image_folder(request.data, subject.config)
    check_classes(splits, request.data)
    moved = subject.on(splits)
    (train_NF, labels_N), (test_NF, test_labels_N) = (arrays(moved.features(part)) for part in ("train", "test"))
    if moved.holds_out:
        validation_NF, validation_labels_N = arrays(moved.features("validation"))
        kept_N, held_out_N = np.split(np.arange(len(labels_N) + len(validation_labels_N)), [len(labels_N)])
        train_NF = np.concatenate([train_NF, validation_NF])
        labels_N = np.concatenate([labels_N, validation_labels_N])
    else:
        kept_N, held_out_N = _held_out(labels_N, settings.holdout)
    strengths = np.geomspace(settings.lowest, settings.highest, settings.num_strengths)[::-1].tolist()
    scores: dict[float, dict[str, float]] = {}
    for number, strength in enumerate(strengths, 1):
        model = fit(train_NF[kept_N], labels_N[kept_N], strength, settings.max_iterations)
        scores[strength] = accuracies(model.predict(train_NF[held_out_N]), labels_N[held_out_N])
        subject.progress("logistic regression", number, len(strengths))
    chosen = max(strengths, key=lambda strength: scores[strength][settings.choose_by])  # of equals the strongest
    model = fit(train_NF, labels_N, chosen, settings.max_iterations)
    return {
        **accuracies(model.predict(test_NF), test_labels_N),
        "strength": chosen,
        "strength_at_edge_of_grid": chosen in (strengths[0], strengths[-1]),
        "converged": bool((model.n_iter_ < settings.max_iterations).all()),
        "selection": f"L2 strength by {settings.choose_by} on {len(held_out_N)} held-out images, refit on all",
        "held_out_images": "the folder val" if moved.holds_out else f"{settings.holdout:g} of each class of train",
        "tested_images": f"the folder {_folder_of(splits.test, request.data)}",
        "held_out_by_strength": {f"{strength:.4g}": score[settings.choose_by] for strength, score in scores.items()},
        "features": "backbone, as they are, no augmentation",
        "classifier": "logistic regression (of two classes binary, of more multinomial), L-BFGS (scikit-learn), summed "
        "loss + strength / 2 * |weights|^2",
        "train": len(labels_N),
        "held_out": len(held_out_N),
        "test": len(test_labels_N),
        "num_classes": len(splits.classes),
        "data_digest": digest_of(splits),
        **left_out_of(splits),
    }


def _held_out(labels_N: Array, share: float) -> tuple[Array, Array]:
    """Return positions to fit on and to choose by. UserError if there are too few."""
    try:
        kept_N, held_out_N = split_validation(torch.from_numpy(labels_N), share, "transfer")
    except UserError:
        raise UserError(
            f"{len(labels_N)} training images are too few to hold {share:g} of each class out; "
            "choose another share with --set holdout=SHARE"
        ) from None
    return kept_N.numpy(), held_out_N.numpy()


def _folder_of(images: Dataset, root: Path) -> str:
    assert isinstance(images, FolderSet)
    return images.path(0).removeprefix(str(root)).lstrip("/").partition("/")[0]


def fit(features_NF: Array, labels_N: Array, strength: float, max_iterations: int) -> "LogisticRegression":
    """Minimise the summed cross entropy + strength / 2 * |weights|^2 from zero weights; the bias is not penalised."""
    from sklearn.linear_model import LogisticRegression

    with without_convergence_warnings():
        return LogisticRegression(C=1 / strength, max_iter=max_iterations).fit(features_NF, labels_N)


def accuracies(predicted_N: Array, labels_N: Array) -> dict[str, float]:
    """Return top-1 accuracy, and its mean over the classes that have images; fractions."""
    right_N = predicted_N == labels_N
    per_class = [float(right_N[labels_N == label].mean()) for label in np.unique(labels_N)]
    return {"top1": float(right_N.mean()), "mean_per_class": math.fsum(per_class) / len(per_class)}
