"""The nearest class mean."""

from typing import Any

import torch

from negbench.evaluate.subject import Subject
from negbench.settings.plugins.facts import Protocol

PROTOCOL = Protocol(figure="toy_mean_top1", title="toy nearest mean")


def evaluate(subject: Subject) -> dict[str, Any]:
    train, test = subject.features("train"), subject.features("test")
    means_CF = torch.stack([train.features_NF[train.labels_N == c].mean(0) for c in range(subject.num_classes)])
    right_N = torch.cdist(test.features_NF, means_CF).argmin(1) == test.labels_N
    return {"top1": right_N.double().mean().item()}
