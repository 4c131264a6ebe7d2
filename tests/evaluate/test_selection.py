"""Nothing is selected by the test part: with other test images and permuted test labels, the same choices.

Images are noise, or nearly, so that choices hang on what they are made by.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC
from torch import nn

from negbench.data.load import RunData, load_splits
from negbench.evaluate.protocols.common.average_precision import average_precisions
from negbench.evaluate.protocols.common.datasets import voc07_folder
from negbench.evaluate.protocols.places205 import evaluate as places205
from negbench.evaluate.protocols.transfer import evaluate as transfer
from negbench.evaluate.protocols.voc07 import evaluate as voc07
from negbench.evaluate.request import make_requests
from negbench.evaluate.subject import Subject
from negbench.models.encoder import Encoder
from negbench.models.files.layout import NoProjector
from tests.helpers import layouts, runs

COSTS = "costs=[0.01, 0.3, 3]"


@pytest.fixture
def subject() -> Subject:
    """A linear map of the pixels to 16 features."""
    config = runs.short("moco", "data.workers=0").config
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(192, 16))
    data = RunData(config, runs.CPU, None, load_splits(config.data))
    return Subject(data, Encoder(backbone, NoProjector("there is none"), 16))


def redraw(files: list[Path]) -> None:
    assert files
    for number, file in enumerate(files):
        layouts.draw(file, 5000 + number)


def permute(file: Path) -> None:
    """The second words of the lines, among the lines."""
    names, labels = zip(*(line.split() for line in file.read_text().splitlines()), strict=True)
    permuted = np.random.default_rng(len(file.name)).permutation(labels)
    assert tuple(permuted) != labels
    file.write_text("".join(f"{name} {label}\n" for name, label in zip(names, permuted, strict=True)))


def test_transfers_strength(subject: Subject, tmp_path: Path) -> None:
    """Images lie in their class's folder: other images are other labels too."""
    first, second = (layouts.image_folder(tmp_path / name, train=40, test=12, tint=0) for name in "ab")
    redraw(sorted(second.glob("val/*/*")))
    settings = ["num_strengths=7", "lowest=1e-3", "highest=1e3"]
    made, other = (
        transfer(subject, make_requests(["transfer"], settings, root)["transfer"]) for root in (first, second)
    )
    assert other["strength"] == made["strength"]
    assert other["held_out_by_strength"] == made["held_out_by_strength"]
    assert len(set(made["held_out_by_strength"].values())) > 1
    assert other["top1"] != made["top1"]


def test_voc07s_costs(subject: Subject, tmp_path: Path) -> None:
    first, second = (layouts.voc07(tmp_path / name) for name in "ab")
    base = second / "VOCdevkit/VOC2007"
    redraw(sorted(base.glob("JPEGImages/001*.jpg")))
    for file in base.glob("ImageSets/Main/*_test.txt"):
        permute(file)
    made, other = (classes_of(subject, root) for root in (first, second))
    for figure in ("cost", "validated_ap"):
        assert [of[figure] for of in other.values()] == [of[figure] for of in made.values()]
    assert len({of["cost"] for of in made.values()}) == 3
    assert [of["ap"] for of in other.values()] != [of["ap"] for of in made.values()]


def test_places205s_learning_rate(subject: Subject, tmp_path: Path) -> None:
    first, second = (layouts.places205(tmp_path / name, train=120, val=24) for name in "ab")
    redraw(sorted(second.rglob("gsun_val_*.jpg")))
    permute(second / "trainvalsplit_places205/val_places205.csv")
    settings = ["epochs=60", "batch_size=32"]
    made, other = (
        places205(subject, make_requests(["places205"], settings, root)["places205"]) for root in (first, second)
    )
    assert other["lr"] == made["lr"]
    assert other["validation_top1_by_lr"] == made["validation_top1_by_lr"]
    assert len(set(made["validation_top1_by_lr"].values())) > 1
    assert other["top1"] != made["top1"]


def test_voc07_is_of_features_of_unit_length(subject: Subject, tmp_path: Path) -> None:
    """Every class's average precision is that of scikit-learn's SVM on rows that scikit-learn normalises."""
    root = layouts.voc07(tmp_path)
    splits, shown = voc07_folder(root, subject.config)
    moved = subject.on(splits)
    train, test = (normalize(moved.features(part).features_NF.double().numpy()) for part in ("train", "test"))
    for number, figures in enumerate(classes_of(subject, root).values()):
        shows, test_shows = (shown[part][:, number].numpy() for part in ("train", "test"))
        svm = LinearSVC(
            C=figures["cost"], class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=subject.config.seed
        )
        by_hand = svm.fit(train[shows != 0], shows[shows != 0]).decision_function(test)
        expected = pytest.approx(average_precisions(by_hand, test_shows), abs=1e-12)
        assert (figures["ap"], figures["ap_area"]) == expected


def classes_of(subject: Subject, root: Path) -> dict[str, Any]:
    by_class: dict[str, Any] = voc07(subject, make_requests(["voc07"], [COSTS], root)["voc07"])["by_class"]
    return by_class
