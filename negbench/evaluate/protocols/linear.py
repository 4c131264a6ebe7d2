"""The linear probe: linear classifiers on frozen features, one for each learning rate, trained together.

Shape legend: N images, B images of a batch, D feature dimensions, L learning rates, C classes, P = L * C outputs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from negbench.data.splits import split_for_probe
from negbench.evaluate.protocols.knn import check_labelled, full_precision
from negbench.evaluate.subject import Features, Subject
from negbench.runtime.errors import UserError
from negbench.runtime.seeding import stream
from negbench.settings.plugins.facts import Protocol

PROTOCOL = Protocol(place=2)

GRID = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)  # DINOv2's, arXiv:2304.07193
_MOMENTUM = 0.9
_EVALUATION_CHUNK = 1024


def evaluate(subject: Subject) -> dict[str, Any]:
    """Return the linear probe's record: learning rate chosen on the held-out images, tested once."""
    settings = subject.config.evaluation
    return linear_on(subject, settings.linear_epochs, settings.linear_batch_size)


def linear_on(subject: Subject, epochs: int, batch_size: int) -> dict[str, Any]:
    """Return the linear probe's record on the subject's data."""
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


@dataclass(frozen=True)
class LinearResult:
    """Accuracies are fractions in [0, 1]."""

    top1: float  # on the test images, of the chosen probe
    lr: float  # chosen on the validation images
    validation_top1_by_lr: dict[float, float]  # of a diverged probe 0.0
    at_edge: bool  # lr is the smallest or largest of the grid, so the best one may lie outside


@dataclass(frozen=True)
class Probes:
    """L linear classifiers on features standardised by the training images' mean and scale."""

    mean_D: Tensor
    scale_D: Tensor
    weight_DLC: Tensor
    bias_LC: Tensor

    def standardised(self, features_ND: Tensor) -> Tensor:
        features_ND = full_precision(features_ND.to(self.mean_D.device)).to(self.mean_D.dtype)
        return (features_ND - self.mean_D) / self.scale_D

    def logits(self, features_ND: Tensor) -> Tensor:
        """Return logits [N, L, C]."""
        logits_NP = torch.addmm(self.bias_LC.flatten(), self.standardised(features_ND), self.weight_DLC.flatten(1))
        return logits_NP.view(-1, *self.bias_LC.shape)

    def only(self, which: int) -> "Probes":
        """Return the probe number `which` alone."""
        return Probes(self.mean_D, self.scale_D, self.weight_DLC[:, which : which + 1], self.bias_LC[which : which + 1])

    def top1(self, features_ND: Tensor, labels_N: Tensor) -> list[float]:
        """Return the accuracy of each probe. An image with a logit that is not finite counts as wrong."""
        num_right_L = torch.zeros(len(self.bias_LC), dtype=torch.int64, device=self.mean_D.device)
        for chunk_BD, labels_B in zip(
            torch.split(features_ND, _EVALUATION_CHUNK), torch.split(labels_N, _EVALUATION_CHUNK), strict=True
        ):
            logits_BLC = self.logits(chunk_BD)
            right_BL = logits_BLC.argmax(2) == labels_B.to(logits_BLC.device)[:, None]
            num_right_L += (right_BL & logits_BLC.isfinite().all(2)).sum(0)
        return [num_right / len(labels_N) for num_right in num_right_L.tolist()]


@torch.no_grad()
def train_probes(
    train_ND: Tensor,
    train_labels_N: Tensor,
    num_classes: int,
    epochs: int,
    batch_size: int,
    seed: int,
    lrs: Sequence[float] = GRID,
) -> Probes:
    """Return one softmax regression for each learning rate, all trained on the same batches.

    Each starts at zero (the loss is convex) and is trained by SGD with momentum 0.9, a cosine schedule from its
    learning rate to 0 over all steps, and no weight decay. The last batch of an epoch may be smaller. Each dimension is
    standardised with the training images' mean and standard deviation, so that the same learning rates fit features of
    any scale; one that is constant in training is only centred, and its weights stay 0. Arithmetic is float32, or
    float64 for float64 features, and the features are copied only if their precision is lower. UserError as
    `linear_probe`.
    """
    check_labelled("train", train_ND, train_labels_N, num_classes)
    if epochs < 1 or batch_size < 1:
        raise UserError(f"epochs and batch_size must be at least 1, not {epochs} and {batch_size}")
    if not lrs or not all(0 < lr < math.inf for lr in lrs) or len(set(lrs)) < len(lrs):
        raise UserError(f"lrs must be different positive numbers, not {list(lrs)}")

    std_D, mean_D = torch.std_mean(full_precision(train_ND), dim=0, correction=0)
    scale_D = torch.where(std_D > 0, std_D, 1.0)
    weight_DLC = mean_D.new_zeros(len(mean_D), len(lrs), num_classes)
    bias_LC = mean_D.new_zeros(len(lrs), num_classes)
    probes = Probes(mean_D, scale_D, weight_DLC, bias_LC)

    # Side by side the probes are one matrix, so that a step costs two matrix products whatever the grid's size.
    weight_DP, bias_P = weight_DLC.view(len(mean_D), -1), bias_LC.view(-1)
    velocity_DP, velocity_P = torch.zeros_like(weight_DP), torch.zeros_like(bias_P)
    lr_P = torch.tensor(lrs, dtype=mean_D.dtype, device=mean_D.device).repeat_interleave(num_classes)
    train_labels_N = train_labels_N.to(mean_D.device)
    num_steps = epochs * math.ceil(len(train_ND) / batch_size)
    step = 0
    for epoch in range(epochs):
        order_N = torch.randperm(len(train_ND), generator=stream(seed, "linear", epoch))
        for index_B in torch.split(order_N.to(train_ND.device), batch_size):
            features_BD = probes.standardised(train_ND[index_B])
            labels_B = train_labels_N[index_B.to(mean_D.device)]
            logits_BLC = torch.addmm(bias_P, features_BD, weight_DP).view(-1, *bias_LC.shape)
            # The gradient of the summed cross entropy: probabilities, less one at the label.
            gradient_BLC = logits_BLC.softmax(2)
            gradient_BLC[torch.arange(len(index_B), device=mean_D.device), :, labels_B] -= 1
            gradient_BP = gradient_BLC.flatten(1) / len(index_B)
            velocity_DP.addmm_(features_BD.T, gradient_BP, beta=_MOMENTUM)
            velocity_P.mul_(_MOMENTUM).add_(gradient_BP.sum(0))
            decay = 0.5 * (1 + math.cos(math.pi * step / num_steps))
            weight_DP.addcmul_(velocity_DP, lr_P, value=-decay)
            bias_P.addcmul_(velocity_P, lr_P, value=-decay)
            step += 1
    return probes


@torch.no_grad()
def linear_probe(
    train_ND: Tensor,
    train_labels: Tensor,
    validation_ND: Tensor,
    validation_labels: Tensor,
    test_ND: Tensor,
    test_labels: Tensor,
    num_classes: int,
    epochs: int,
    batch_size: int,
    seed: int,
    lrs: Sequence[float] = GRID,
) -> LinearResult:
    """Train a probe for each learning rate (`train_probes`), choose one on the validation images, and test it once.

    Of learning rates that are equally good on the validation images, the smallest inside the grid is taken, and one at
    the grid's ends only if there is none inside. The grid of thirteen learning rates is DINOv2's (arXiv:2304.07193);
    unlike there, they are not scaled by the batch size, features are standardised, and the choice is made on images
    held out from training.

    UserError for a set without images, non-finite features, labels outside [0, num_classes), shapes that do not match,
    fewer than one epoch or image a batch, or learning rates that are not positive and different.
    """
    check_labelled("validation", validation_ND, validation_labels, num_classes)
    check_labelled("test", test_ND, test_labels, num_classes)
    if not train_ND.shape[1:] == validation_ND.shape[1:] == test_ND.shape[1:]:
        shapes = [list(features.shape) for features in (train_ND, validation_ND, test_ND)]
        raise UserError(f"train, validation and test features must have equal dimensions, not {shapes}")
    probes = train_probes(train_ND, train_labels, num_classes, epochs, batch_size, seed, lrs)
    by_lr = dict(zip(lrs, probes.top1(validation_ND, validation_labels), strict=True))
    best = [lr for lr in lrs if by_lr[lr] == max(by_lr.values())]
    inside = [lr for lr in best if min(lrs) < lr < max(lrs)]
    lr = min(inside or best)
    (top1,) = probes.only(lrs.index(lr)).top1(test_ND, test_labels)
    return LinearResult(top1, lr, by_lr, at_edge=not inside)
