"""The linear probe against torch's own layer and optimizer, and against scikit-learn."""

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from negbench.evaluate.protocols.linear import GRID, LinearResult, linear_probe, train_probes
from negbench.runtime.seeding import stream

NUM_CLASSES = 5
DIM = 12


def blobs(num_images: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Overlapping classes, in dimensions whose mean and scale differ a thousandfold."""
    generator = torch.Generator().manual_seed(seed)
    centres_CD = torch.randn(NUM_CLASSES, DIM, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    labels_N = torch.randint(NUM_CLASSES, (num_images,), generator=generator)
    noise_ND = torch.randn(num_images, DIM, generator=generator, dtype=torch.float64)
    scale_D = torch.logspace(-1.5, 1.5, DIM, dtype=torch.float64)
    return ((centres_CD[labels_N] + noise_ND) * scale_D + 3 * scale_D).to(dtype), labels_N


def probe(**changes: Any) -> LinearResult:
    splits = [tensor for seed, size in enumerate((600, 300, 400)) for tensor in blobs(size, seed, torch.float32)]
    names = ("train_ND", "train_labels", "validation_ND", "validation_labels", "test_ND", "test_labels")
    settings: dict[str, Any] = {"num_classes": NUM_CLASSES, "epochs": 5, "batch_size": 64, "seed": 0}
    return linear_probe(**(dict(zip(names, splits, strict=True)) | settings | changes))


def test_each_learning_rate_equals_torch_linear_and_sgd() -> None:
    lrs, epochs, batch_size, seed = (0.5, 0.003, 0.02), 4, 64, 7
    features_ND, labels_N = blobs(200, seed=0)  # the last batch of an epoch has 8 images
    other_ND, _ = blobs(50, seed=1)
    logits_NLC = train_probes(features_ND, labels_N, NUM_CLASSES, epochs, batch_size, seed, lrs).logits(other_ND)
    mean_D, std_D = features_ND.mean(0), features_ND.std(0, correction=0)
    inputs_ND = (features_ND - mean_D) / std_D
    for place, lr in enumerate(lrs):
        layer = torch.nn.Linear(DIM, NUM_CLASSES, dtype=torch.float64)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * 4)
        for epoch in range(epochs):
            for index_B in torch.split(torch.randperm(200, generator=stream(seed, "linear", epoch)), batch_size):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(layer(inputs_ND[index_B]), labels_N[index_B])
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
        expected_NC = layer((other_ND - mean_D) / std_D).detach()
        torch.testing.assert_close(logits_NLC[:, place], expected_NC, rtol=0, atol=1e-8)


def test_accuracy_agrees_with_scikit_learn() -> None:
    (train_ND, train_labels), (test_ND, test_labels) = blobs(3000, seed=0), blobs(3000, seed=1)
    result = linear_probe(
        train_ND, train_labels, *blobs(1000, seed=2), test_ND, test_labels, NUM_CLASSES, 20, 64, seed=0
    )
    scaler = StandardScaler().fit(train_ND.numpy())
    reference = LogisticRegression(C=1e3).fit(scaler.transform(train_ND.numpy()), train_labels.numpy())
    expected = reference.score(scaler.transform(test_ND.numpy()), test_labels.numpy())
    assert 0.6 < expected < 0.97
    assert abs(result.top1 - expected) < 0.02


def test_result_is_that_of_the_best_learning_rate_on_validation() -> None:
    result = probe()
    assert tuple(result.validation_top1_by_lr) == GRID
    assert result.validation_top1_by_lr[result.lr] == max(result.validation_top1_by_lr.values())
    assert result.validation_top1_by_lr[result.lr] > min(result.validation_top1_by_lr.values())
    test_ND, test_labels = blobs(400, 2, torch.float32)
    alone = probe(lrs=(result.lr,), validation_ND=test_ND, validation_labels=test_labels)
    assert result.top1 == alone.validation_top1_by_lr[result.lr] == alone.top1


def test_test_labels_do_not_reach_the_choice() -> None:
    result = probe()
    permuted = probe(test_labels=blobs(400, 2)[1].roll(1))
    assert permuted.top1 < result.top1
    assert (permuted.lr, permuted.validation_top1_by_lr) == (result.lr, result.validation_top1_by_lr)


def test_scale_and_offset_of_the_features_do_not_matter() -> None:
    plain = probe(lrs=(0.01,))
    names = ("train_ND", "validation_ND", "test_ND")
    moved = {
        name: blobs(size, seed)[0] * 1e-3 + 0.5
        for seed, (name, size) in enumerate(zip(names, (600, 300, 400), strict=True))
    }
    assert probe(lrs=(0.01,), **moved) == plain


def test_diverged_learning_rate_loses() -> None:
    """NaN logits would win for images of class 0, so all validation and test images are of class 0."""
    labels = {
        "validation_labels": torch.zeros(300, dtype=torch.int64),
        "test_labels": torch.zeros(400, dtype=torch.int64),
    }
    result = probe(lrs=(1e38, 0.01), **labels)
    assert result.lr == 0.01
    assert result.validation_top1_by_lr[1e38] == 0.0
    assert 0 < result.validation_top1_by_lr[0.01] < 1
    assert result == probe(lrs=(1e38, 0.01), **labels)
    assert result.top1 == probe(lrs=(0.01,), **labels).top1


def test_dimensions_constant_in_training_are_ignored() -> None:
    constant = {"train_ND": 0.1, "validation_ND": 0.1, "test_ND": 1e4}
    wider = {}
    for seed, (name, size) in enumerate(zip(constant, (600, 300, 400), strict=True)):
        features_ND, _ = blobs(size, seed, torch.float32)
        wider[name] = torch.cat([features_ND, torch.full((size, 1), constant[name])], dim=1)
    assert probe(**wider).top1 == pytest.approx(probe().top1, abs=0.01)


def test_order_of_the_grid_does_not_matter_and_the_seed_does() -> None:
    features_ND, labels_N = blobs(200, seed=0)
    one = train_probes(features_ND, labels_N, NUM_CLASSES, 2, 32, 0, (0.01, 0.1)).weight_DLC
    other = train_probes(features_ND, labels_N, NUM_CLASSES, 2, 32, 0, (0.1, 0.01)).weight_DLC
    torch.testing.assert_close(one, other.flip(1), rtol=1e-12, atol=1e-12)
    reseeded = train_probes(features_ND, labels_N, NUM_CLASSES, 2, 32, 1, (0.01, 0.1)).weight_DLC
    assert (one - reseeded).abs().max() > 1e-4


def test_edge_of_the_grid() -> None:
    smallest = probe(lrs=(1e38, 0.01, 2e38))
    assert (smallest.lr, smallest.at_edge) == (0.01, True)
    # The label depends on the difference of two correlated dimensions, which the first steps from zero do not find.
    generator = torch.Generator().manual_seed(0)
    shared_N1, own_ND = torch.randn(600, 1, generator=generator), torch.randn(600, 2, generator=generator)
    features_ND = shared_N1 + 0.2 * own_ND
    labels_N = (features_ND[:, 0] > 0.8 * features_ND[:, 1]).long()
    data = (features_ND, labels_N)
    for lrs, at_edge in (((1e-6, 0.3, 1e-5), True), ((1e-6, 0.3, 1e38), False)):
        result = linear_probe(*data, *data, *data, num_classes=2, epochs=20, batch_size=64, seed=0, lrs=lrs)
        assert (result.lr, result.at_edge) == (0.3, at_edge)
    # One image is right or wrong: the first probe's rate and the others' tie, and the one inside the grid is taken.
    tied = probe(lrs=(0.03, 0.01, 0.02, 0.04), validation_ND=torch.ones(1, DIM), validation_labels=torch.tensor([0]))
    assert len(set(tied.validation_top1_by_lr.values())) == 1
    assert (tied.lr, tied.at_edge) == (0.02, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation_ND": torch.empty(0, DIM), "validation_labels": torch.empty(0, dtype=torch.int64)}, "validation"),
        ({"test_ND": torch.full((400, DIM), math.nan)}, "test: the features of 400 of 400"),
        ({"validation_ND": torch.ones(300, DIM + 1)}, f"{DIM + 1}"),
        ({"num_classes": 3}, r"\[0, 3\)"),
        ({"lrs": ()}, r"\[\]"),
        ({"lrs": (0.1, -0.1)}, "-0.1"),
        ({"lrs": (0.1, 0.1)}, r"\[0.1, 0.1\]"),
        ({"lrs": (math.nan,)}, "nan"),
        ({"epochs": 0}, "0 and 64"),
        ({"batch_size": 0}, "5 and 0"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe(**change)


def test_trained_probes_and_their_result_cannot_be_replaced() -> None:
    probes = train_probes(*blobs(20, seed=0), NUM_CLASSES, epochs=1, batch_size=20, seed=0)
    result = LinearResult(0.5, 0.1, {0.1: 0.5}, at_edge=True)
    for held, field in ((probes, "bias_LC"), (result, "lr")):
        with pytest.raises(FrozenInstanceError):
            setattr(held, field, getattr(held, field))
