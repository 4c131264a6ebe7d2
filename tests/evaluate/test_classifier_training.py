"""What the classifiers' training starts from, and fine-tuning beside SGD with two rates written out."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from negbench.data.batches import training_batches
from negbench.evaluate.protocols.common import classifier
from negbench.evaluate.protocols.common.classifier import training_config
from negbench.evaluate.protocols.common.labels import choose_labels
from tests.evaluate.test_classifier import request, subject
from tests.helpers import runs


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Of each training: copies of backbone and head before it, and themselves, which it changes."""
    modules: list[tuple[Any, ...]] = []
    train = classifier.train

    def kept(backbone: nn.Module, head: nn.Linear, *rest: Any) -> Any:
        modules.append((copy.deepcopy(backbone), copy.deepcopy(head), backbone, head))
        return train(backbone, head, *rest)

    monkeypatch.setattr(classifier, "train", kept)
    return modules


def test_linear_classifiers_start_from_small_normal_weights(trained: list[tuple[Any, ...]]) -> None:
    for seed in range(5):
        classifier.linear(subject("moco", f"seed={seed}", "model.name=resnet8"), request("linear-moco", "epochs=1"))
    assert not any(head.bias.any() for _, head, _, _ in trained)
    weights = torch.cat([head.weight.detach().flatten() for _, head, _, _ in trained])
    assert len(weights) == 5 * 640
    assert float(weights.std()) == pytest.approx(0.01, rel=0.05)
    assert abs(float(weights.mean())) < 0.001
    for deviations, share in ((1, 0.683), (2, 0.954)):
        assert float((weights.abs() < 0.01 * deviations).double().mean()) == pytest.approx(share, abs=0.03)


def test_fine_tuning_equals_sgd_of_two_rates_written_out(trained: list[tuple[Any, ...]]) -> None:
    """Two steps at semi-1's rates, by hand in float64, from which float32 differs by little of the way moved."""
    setting, asked = subject(), request("semi-1", "batch_size=5", "epochs=1")
    assert classifier.finetune(setting, asked)["steps"] == 2
    (modules,) = trained
    first = [[parameter.detach().clone() for parameter in module.parameters()] for module in modules[:2]]
    backbone, head = (module.double() for module in modules[:2])
    learned = [(parameter, rate) for module, rate in ((backbone, 0.02), (head, 5)) for parameter in module.parameters()]

    everything = setting.splits.all_training
    index, _ = choose_labels(everything, setting.num_classes, asked)
    images = everything.subset(index)
    config = training_config(setting.config, asked.settings, len(images))
    velocities = [torch.zeros_like(parameter) for parameter, _ in learned]
    for (view,), positions in training_batches(images, config, runs.CPU, 0, 2):
        loss = F.cross_entropy(head(backbone(view.double())), images.labels_N[positions])
        gradients = torch.autograd.grad(loss, [parameter for parameter, _ in learned])
        for (parameter, rate), velocity, gradient in zip(learned, velocities, gradients, strict=True):
            velocity.mul_(0.9).add_(gradient)
            parameter.data.sub_(rate * velocity)

    for by_hand, before, made in zip((backbone, head), first, modules[2:], strict=True):
        for expected, start, got in zip(by_hand.parameters(), before, made.parameters(), strict=True):
            distance = float((expected - start).detach().norm())
            assert distance > 0
            assert float((got - expected).detach().norm()) < 1e-3 * distance
