"""Classifiers on views: schedules, first weights, what is trained and what is not, and which labels are used."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from negbench.data.batches import training_batches
from negbench.data.load import load_splits
from negbench.data.sets import FolderSet
from negbench.evaluate.protocols.common import classifier
from negbench.evaluate.protocols.common.classifier import decay, make_head, top1, training_config
from negbench.evaluate.protocols.common.datasets import image_folder
from negbench.evaluate.protocols.common.labels import choose_labels
from negbench.evaluate.request import Request, make_record, make_requests
from negbench.evaluate.subject import Subject
from negbench.settings.plugins.protocols import PROTOCOLS
from negbench.settings.protocol_settings import ClassifierSettings, LinearAdco, LinearMoco, Semi1, Semi10
from negbench.train.setup import Setup, set_up
from tests.helpers import layouts, runs
from tests.helpers.runs import assert_same


def request(name: str, *settings: str, labels_file: Path | None = None) -> Request:
    return make_requests([name], settings, labels_file=labels_file)[name]


def subject(method: str = "moco", *settings: str) -> Subject:
    setup = set_up(runs.short(method, *settings), runs.CPU)
    return Subject(setup, setup.method.query_encoder)


def rates(settings: ClassifierSettings, *epochs: int) -> list[float]:
    return [settings.lr * decay(settings, epoch) for epoch in epochs]


def test_published_schedules() -> None:
    assert rates(LinearMoco(), 0, 59, 60, 79, 80, 99) == pytest.approx([30, 30, 3, 3, 0.3, 0.3])
    half = 0.01 + 9.99 / 2
    last = 0.01 + 9.99 * (1 + math.cos(math.pi * 0.99)) / 2
    assert rates(LinearAdco(), 0, 50, 99) == pytest.approx([10, half, last])
    assert rates(Semi10(), 0, 11, 12, 16, 19) == pytest.approx([0.2, 0.2, 0.04, 0.008, 0.008])
    assert [s.backbone_lr * decay(s, 16) for s in (Semi10(), Semi1())] == pytest.approx([0.0004, 0.0008])
    for settings in (LinearMoco(), LinearAdco()):
        published = (settings.epochs, settings.batch_size, settings.momentum, settings.weight_decay)
        assert published == (100, 256, 0.9, 0)
    assert (Semi1().lr, Semi1().epochs, Semi1().batch_size, Semi1().weight_decay) == (5, 20, 256, 0)


def test_the_linear_head_starts_as_mocos() -> None:
    setting = subject("moco", "model.name=resnet8")
    head = make_head(setting, 0.01)
    assert head.weight.shape == (10, 64)
    assert abs(float(head.weight.detach().mean())) < 0.001
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert not head.bias.any()
    assert torch.equal(head.weight, make_head(setting, 0.01).weight)
    assert not torch.equal(head.weight, make_head(subject("moco", "seed=1"), 0.01).weight)


def test_training_equals_sgd_written_out_on_the_frozen_features() -> None:
    setting = subject()
    asked = request("linear-moco", "epochs=3", "steps=[1,2]", "batch_size=32", "lr=0.5")
    images, backbone = setting.splits.all_training, setting.encoder.backbone.eval()
    head = make_head(setting, 0.01)
    by_hand = copy.deepcopy(head)
    facts = classifier.train(backbone, head, images, setting, asked)
    steps = len(images) // 32
    assert facts["steps"] == 3 * steps
    config = training_config(setting.config, asked.settings, len(images))
    velocities = [torch.zeros_like(p) for p in by_hand.parameters()]
    batches = training_batches(images, config, runs.CPU, 0, 3 * steps)
    for step, ((view,), index) in enumerate(batches):
        with torch.no_grad():
            features = backbone(view)
        loss = F.cross_entropy(by_hand(features), images.labels_N[index])
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        for parameter, velocity, gradient in zip(by_hand.parameters(), velocities, gradients, strict=True):
            velocity.mul_(0.9).add_(gradient)
            parameter.data.sub_(0.5 * 0.1 ** (step // steps) * velocity)
    torch.testing.assert_close(head.weight, by_hand.weight, rtol=1e-4, atol=1e-6)


def test_views_are_crops_and_flips_that_differ_between_epochs() -> None:
    setting = subject()
    images = setting.splits.all_training
    config = training_config(setting.config, LinearMoco(batch_size=len(images)), len(images))
    first, second = ((view[0], index) for view, index in training_batches(images, config, runs.CPU, 0, 2))
    assert sorted(first[1].tolist()) == sorted(second[1].tolist()) == list(range(len(images)))
    shown = [view[index.argsort()] for view, index in (first, second)]
    different = (shown[0] != shown[1]).flatten(1).any(1)
    assert different.double().mean() > 0.98
    assert different.all() or len(images) > 50
    kind = config.views.all[0]
    off = (kind.jitter_probability, kind.grayscale_probability, kind.blur_probability, kind.solarize_probability)
    assert (kind.crop_scale, kind.crop_ratio, kind.flip_probability, off) == ((0.08, 1), (3 / 4, 4 / 3), 0.5, (0,) * 4)
    assert (kind.mean, kind.std) == (setting.config.views.first.mean, setting.config.views.first.std)


def test_the_linear_classifier_leaves_the_encoder_bit_for_bit() -> None:
    setting = subject()
    encoder = setting.encoder
    assert isinstance(encoder, nn.Module)
    encoder.train()
    before = copy.deepcopy(encoder.state_dict())
    made = make_record(PROTOCOLS["linear-adco"], setting, request("linear-adco", "epochs=2", "batch_size=32"))
    assert_same(dict(before), dict(encoder.state_dict()))
    assert all(module.training for module in encoder.modules())
    assert 0 < made["top1"] < 1 and made["train"] == 70 + 500
    again = make_record(PROTOCOLS["linear-adco"], subject(), request("linear-adco", "epochs=2", "batch_size=32"))
    assert again == made


@pytest.mark.parametrize("name", ["linear-moco", "linear-adco", "finetune"])
def test_what_can_be_learned_is_learned(name: str, tmp_path: Path) -> None:
    """Three classes that differ in brightness."""
    setting = subject("moco", "data.workers=0")
    moved = setting.on(image_folder(layouts.image_folder(tmp_path), setting.config))
    rates = {"finetune": ["lr=0.2"]}.get(name, ["lr=1"])
    made = make_record(PROTOCOLS[name], moved, request(name, "epochs=10", "batch_size=10", *rates))
    assert made["top1"] > 0.75


def test_fine_tuning_moves_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = subject("moco", "batch_norm=split", "batch_norm_splits=2")
    encoder = setting.encoder
    assert isinstance(encoder, nn.Module)
    before = copy.deepcopy(encoder.state_dict())
    tuned: list[nn.Module] = []
    extract = setting.extract

    def kept(backbone: nn.Module, *rest: Any) -> Any:
        tuned.append(backbone)
        return extract(backbone, *rest)

    monkeypatch.setattr(setting, "extract", kept)
    made = make_record(PROTOCOLS["semi-10"], setting, request("semi-10", "epochs=2", "batch_size=19"))
    assert_same(dict(before), dict(encoder.state_dict()))
    _, backbone = tuned  # the first features are the encoder's own, before time is spent
    old, new = encoder.backbone.state_dict(), backbone.state_dict()
    assert old.keys() == new.keys() and all(not torch.equal(old[key], new[key]) for key in old)
    assert made["images_a_step"] == 19 and made["steps"] == 2 * (57 // 19)  # 19 is no multiple of two splits
    assert setting.features("test").features_NF.isfinite().all()


def test_shares_are_balanced_and_contained() -> None:
    images = load_splits(runs.short("moco", "data.num_images=4000").config.data).all_training
    chosen = {}
    for name in ("semi-1", "semi-10"):
        index, facts = choose_labels(images, 10, request(name))
        chosen[name] = set(index.tolist())
        assert len(index) == round(len(images) * request(name).settings.share)
        low, high = images.labels_N[index].bincount().aminmax()
        assert high - low <= 1 and facts["labels_per_class"] == [low, high]
    assert chosen["semi-1"] < chosen["semi-10"]
    again, _ = choose_labels(images, 10, request("semi-1"))
    assert set(again.tolist()) == chosen["semi-1"]
    few = images.subset(torch.arange(60))
    index, _ = choose_labels(few, 10, request("semi-1"))
    assert len(index) == 10  # one each, where 1% would be fewer


@pytest.fixture
def folder(tmp_path: Path) -> Setup:
    root = layouts.image_folder(tmp_path / "images")
    (root / "train" / "n00000000" / "same.png").write_bytes(b"")
    (root / "train" / "n00000001" / "same.png").write_bytes(b"")
    settings = ("data.name=imagefolder", f"data.root={root}", "data.num_images=null", "data.validation=0.1")
    return set_up(runs.short("moco", *settings, "data.workers=0"), runs.CPU)


def test_labels_by_a_published_list(folder: Setup, tmp_path: Path) -> None:
    file = tmp_path / "1percent.txt"
    file.write_text("n00000001_3.JPEG\nn00000000_9.JPEG\n\nn00000002/n00000002_0.JPEG\n")
    asked = request("semi-1", "epochs=1", labels_file=file)
    index, facts = choose_labels(folder.splits.all_training, 3, asked)
    images = folder.splits.all_training
    assert isinstance(images, FolderSet)
    names = {Path(images.path(i)).name for i in index.tolist()}
    assert names == {"n00000001_3.JPEG", "n00000000_9.JPEG", "n00000002_0.JPEG"}
    assert sorted(images.labels_N[index].tolist()) == [0, 1, 2]
    made = make_record(PROTOCOLS["semi-1"], Subject(folder, folder.method.query_encoder), asked)
    assert (made["train"], made["labels_per_class"], made["labels_file"]) == (3, [1, 1], str(file))
    other = tmp_path / "other.txt"
    other.write_text("n00000001_4.JPEG\nn00000000_9.JPEG\n")
    stem = request("semi-1", labels_file=other).stem(choose_labels(images, 3, request("semi-1", labels_file=other))[1])
    assert stem != asked.stem(facts) != "semi-1"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            "n00000001_3.JPEG\nn09999999_1.JPEG",
            "line 2: n09999999_1.JPEG is none of the 32 training images",
        ),
        ("same.png", "line 1: same.png is the name of 2 of the 32 training images; write CLASS/same.png"),
        ("n00000001_3.JPEG\nn00000001/n00000001_3.JPEG", "line 2: n00000001/n00000001_3.JPEG is listed twice"),
        ("\n", "names 0 images; at least two are needed"),
    ],
)
def test_a_list_that_does_not_fit(folder: Setup, tmp_path: Path, lines: str, sentence: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(lines)
    with pytest.raises(ValueError) as error:
        choose_labels(folder.splits.all_training, 3, request("semi-1", labels_file=file))
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_list_needs_files(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("n01440764_10026.JPEG\n")
    with pytest.raises(ValueError, match="only image folders have these"):
        choose_labels(subject().splits.all_training, 10, request("semi-1", labels_file=file))


def test_divergence_is_told() -> None:
    with pytest.raises(ValueError, match="linear-moco diverged in epoch 1; try a smaller rate, as --set lr=1e\\+37"):
        make_record(PROTOCOLS["linear-moco"], subject(), request("linear-moco", "epochs=2", "batch_size=32", "lr=1e38"))


def test_accuracy_of_a_head() -> None:
    setting = subject()
    head = nn.Linear(32, 10)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(F.one_hot(torch.tensor(4), 10))
    labels = setting.splits.test.labels_N
    assert top1(head, setting.features("test")) == float((labels == 4).double().mean())
