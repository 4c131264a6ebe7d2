"""The pattern data set: reproducible, balanced, and not solvable from raw pixels or colour histograms.

Shape legend: N images, D feature dimensions, K nearest neighbours.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from negbench.data.datasets.patterns import FAMILIES, make_patterns


def knn_accuracy(bank_nd: Tensor, bank_labels: Tensor, query_nd: Tensor, query_labels: Tensor) -> float:
    """Cosine 20-nearest-neighbour accuracy with votes weighted by exp(similarity / 0.07)."""
    similarity, neighbour_nk = (F.normalize(query_nd) @ F.normalize(bank_nd).T).topk(20)
    votes = torch.zeros(len(query_nd), len(FAMILIES))
    votes.scatter_add_(1, bank_labels[neighbour_nk], (similarity / 0.07).exp())
    return (votes.argmax(dim=1) == query_labels).float().mean().item()


def colour_histograms(images: Tensor, bins: int = 16) -> Tensor:
    level = images.flatten(2).long() * bins // 256
    counts = torch.zeros(len(images), 3, bins).scatter_add_(2, level, torch.ones(level.shape))
    return counts.flatten(1)


@pytest.fixture(scope="module")
def train_set() -> tuple[Tensor, Tensor]:
    return make_patterns(2000, seed=0, split="train")


@pytest.fixture(scope="module")
def test_set() -> tuple[Tensor, Tensor]:
    return make_patterns(500, seed=0, split="test")


def test_shapes_and_dtypes() -> None:
    images, labels = make_patterns(37, seed=3, split="train")
    assert images.shape == (37, 3, 32, 32) and images.dtype == torch.uint8
    assert labels.shape == (37,) and labels.dtype == torch.int64


def test_families_are_distinct_names() -> None:
    assert 10 <= len(FAMILIES) <= 12
    assert len(set(FAMILIES)) == len(FAMILIES)


def test_same_arguments_give_the_same_data_whatever_the_global_seed() -> None:
    torch.manual_seed(1)
    first = make_patterns(1100, seed=5, split="train")
    torch.manual_seed(2)
    second = make_patterns(1100, seed=5, split="train")
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    make_patterns(20, seed=0, split="train")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("seed", "split"), [(1, "train"), (0, "test"), (-1, "train"), (2**70, "train")])
def test_other_seeds_and_splits_give_other_data(seed: int, split: str) -> None:
    images, labels = make_patterns(100, seed=0, split="train")
    other_images, other_labels = make_patterns(100, seed=seed, split=split)
    assert not torch.equal(labels, other_labels)
    difference = (images.float() - other_images.float()).abs().mean(dim=(1, 2, 3))
    assert difference.min() > 5


def test_no_image_repeats_within_or_across_splits(
    train_set: tuple[Tensor, Tensor], test_set: tuple[Tensor, Tensor]
) -> None:
    images = torch.cat([train_set[0], test_set[0]])
    assert len({image.numpy().tobytes() for image in images}) == len(images)


@pytest.mark.parametrize("num_images", [1, 3, len(FAMILIES), 25, 2051])
def test_labels_are_balanced_to_within_one(num_images: int) -> None:
    images, labels = make_patterns(num_images, seed=0, split="test")
    counts = torch.bincount(labels, minlength=len(FAMILIES))
    assert len(images) == len(labels) == num_images == counts.sum()
    assert len(counts) == len(FAMILIES) and counts.max() - counts.min() <= 1


def test_labels_are_shuffled(train_set: tuple[Tensor, Tensor]) -> None:
    labels = train_set[1]
    same_as_next = (labels[1:] == labels[:-1]).float().mean().item()
    assert 0.05 < same_as_next < 0.15
    assert set(labels[:200].tolist()) == set(range(len(FAMILIES)))


@pytest.mark.parametrize("image_size", [8, 33, 64])
def test_other_image_sizes(image_size: int) -> None:
    images, labels = make_patterns(30, seed=0, split="train", image_size=image_size)
    assert images.shape == (30, 3, image_size, image_size)
    assert torch.equal(labels, make_patterns(30, seed=0, split="train")[1])
    assert images.float().std(dim=(2, 3)).amax(dim=1).min() > 5


@pytest.mark.parametrize(
    ("changed", "offender"),
    [({"split": "valid"}, "'valid'"), ({"num_images": 0}, "0"), ({"num_images": -4}, "-4"), ({"image_size": 0}, "0")],
)
def test_bad_arguments_are_named(changed: dict[str, Any], offender: str) -> None:
    arguments: dict[str, Any] = {"num_images": 10, "seed": 0, "split": "train"} | changed
    with pytest.raises(ValueError, match=f"{next(iter(changed))} .*got {offender}$"):
        make_patterns(**arguments)


def test_raw_pixels_do_not_give_the_label_away(
    train_set: tuple[Tensor, Tensor], test_set: tuple[Tensor, Tensor]
) -> None:
    bank, query = train_set[0].flatten(1).float(), test_set[0].flatten(1).float()
    mean = bank.mean(dim=0)
    assert knn_accuracy(bank - mean, train_set[1], query - mean, test_set[1]) < 0.45


def test_colour_histograms_do_not_give_the_label_away(
    train_set: tuple[Tensor, Tensor], test_set: tuple[Tensor, Tensor]
) -> None:
    bank, query = colour_histograms(train_set[0]), colour_histograms(test_set[0])
    assert knn_accuracy(bank, train_set[1], query, test_set[1]) < 0.35
