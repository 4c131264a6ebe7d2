"""Splits and order: who is held out, who is chosen, who is seen when."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from negbench.data.datasets import patterns as patterns_set
from negbench.data.datasets.patterns import make_patterns
from negbench.data.load import load_splits
from negbench.data.order import batch_index, epoch_order
from negbench.data.sets import ResidentSet, Splits
from negbench.data.splits import balanced_subset, split_validation
from negbench.runtime.seeding import stream
from negbench.settings.schema import DataConfig
from negbench.settings.steps import steps_per_epoch

LABELS = torch.tensor([0] * 50 + [1] * 20 + [2] * 30)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]


def test_validation_is_stratified_disjoint_and_complete() -> None:
    kept, held_out = split_validation(LABELS, 0.1, "name")
    assert LABELS[held_out].bincount().tolist() == [5, 2, 3]
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(100))


def turns(order: list[int]) -> dict[int, int]:
    """Each position's place among the positions of its class, in `order`."""
    by_class = [[position for position in order if LABELS[position] == label] for label in range(3)]
    return {position: place for members in by_class for place, position in enumerate(members)}


def test_the_first_of_each_class_in_one_random_order_are_held_out() -> None:
    """By a stable sort, on every processor: others leave equal labels in an order that differs between processors."""
    place = turns(torch.randperm(100, generator=stream("validation", "name")).tolist())
    expected = [position for position in range(100) if place[position] < (5, 2, 3)[int(LABELS[position])]]
    assert split_validation(LABELS, 0.1, "name")[1].tolist() == expected


def test_a_subset_takes_of_each_class_in_turn() -> None:
    generator = stream("subset", "name")
    order, within = (torch.randperm(100, generator=generator).tolist() for _ in range(2))
    place = turns(within)
    in_turn = sorted(order, key=lambda position: place[position])
    for size in (3, 10, 31, 50, 71, 100):
        assert balanced_subset(LABELS, size, "name").tolist() == sorted(in_turn[:size])


def test_validation_depends_on_the_name_only() -> None:
    torch.manual_seed(1)
    first = split_validation(LABELS, 0.1, "name")[1]
    torch.manual_seed(2)
    assert torch.equal(first, split_validation(LABELS, 0.1, "name")[1])
    assert not torch.equal(first, split_validation(LABELS, 0.1, "other")[1])


def test_every_class_keeps_a_training_image() -> None:
    labels = torch.tensor([0, 1, 1, 1, 1])
    kept, held_out = split_validation(labels, 0.9, "name")
    assert labels[kept].bincount().tolist() == [1, 1] and labels[held_out].bincount().tolist() == [0, 3]


def test_no_validation_and_a_share_too_small() -> None:
    assert len(split_validation(LABELS, 0.0, "name")[1]) == 0
    with pytest.raises(ValueError, match=r"data\.validation 0\.001 holds out none of 100 images in 3 classes"):
        split_validation(LABELS, 0.001, "name")


def test_subset_is_balanced_and_nested() -> None:
    small, large = balanced_subset(LABELS, 30, "name"), balanced_subset(LABELS, 90, "name")
    assert LABELS[small].bincount().tolist() == [10, 10, 10]
    assert LABELS[large].bincount().tolist() == [40, 20, 30]
    assert set(small.tolist()) < set(large.tolist()) and len(set(large.tolist())) == 90


@pytest.mark.parametrize(("num_images", "message"), [(101, "exceeds the 100 training images"), (2, "the 3 classes")])
def test_impossible_subsets_are_refused(num_images: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"data.num_images {num_images} .*{message}"):
        balanced_subset(LABELS, num_images, "name")


def test_patterns_splits() -> None:
    images, _ = make_patterns(5000, 0, "train", 8)
    splits = load_splits(DataConfig(image_size=8))
    again = load_splits(DataConfig(image_size=8, num_images=40))
    assert isinstance(splits.train, ResidentSet) and isinstance(splits.validation, ResidentSet)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (4500, 500, 2000)
    assert len(splits.classes) == 10 and splits.skipped == 0
    both = torch.cat([splits.train.images_NCHW, splits.validation.images_NCHW]).flatten(1)
    assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, images.flatten(1).numpy()))
    assert isinstance(again.validation, ResidentSet) and isinstance(again.train, ResidentSet)
    assert torch.equal(again.validation.images_NCHW, splits.validation.images_NCHW)
    assert again.train.labels_N.bincount().tolist() == [4] * 10
    assert load_splits(DataConfig(image_size=8, validation=0)).validation is None


def test_patterns_have_up_to_128_pixels_a_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns_set, "_PATTERNS_TRAIN", 20)
    monkeypatch.setattr(patterns_set, "_PATTERNS_TEST", 10)
    splits = load_splits(DataConfig(image_size=128, validation=0))
    assert isinstance(splits.train, ResidentSet) and splits.train.images_NCHW.shape == (20, 3, 128, 128)
    with pytest.raises(ValueError, match="image_size of patterns is at most 128, not 129"):
        load_splits(DataConfig(image_size=129))


def test_sets_and_splits_cannot_be_replaced() -> None:
    images = ResidentSet(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.arange(4))
    for held, field in ((images, "labels_N"), (Splits(images, None, images, ("a",)), "validation")):
        with pytest.raises(FrozenInstanceError):
            setattr(held, field, getattr(held, field))


def test_subset_takes_images_with_their_labels() -> None:
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 2, 2)
    chosen = ResidentSet(images, torch.arange(4)).subset(torch.tensor([3, 1])).to("cpu")
    assert chosen.labels_N.tolist() == [3, 1] == chosen.images_NCHW[:, 0, 0, 0].tolist()


def test_an_epoch_shows_every_image_at_most_once() -> None:
    assert steps_per_epoch(23, 4) == 5
    seen = torch.cat([batch_index(step, 23, 4, seed=0) for step in range(5, 10)])
    assert len(set(seen.tolist())) == 20
    assert torch.equal(seen, epoch_order(0, 1, 23)[:20])


def test_order_differs_between_epochs_and_seeds() -> None:
    first = epoch_order(0, 0, 50)
    assert torch.equal(first.sort().values, torch.arange(50))
    assert not torch.equal(first, epoch_order(0, 1, 50)) and not torch.equal(first, epoch_order(1, 0, 50))


@pytest.mark.parametrize("step", [0, 3, 7])
def test_ranks_share_the_global_batch(step: int) -> None:
    parts = [batch_index(step, 23, 6, 0, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat(parts), batch_index(step, 23, 6, 0))


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 24 exceeds the 23 training images"):
        batch_index(0, 23, 24, 0)
    with pytest.raises(ValueError, match="batch_size 6 is not divisible by the 4 ranks"):
        batch_index(0, 23, 6, 0, 0, 4)
