"""`negbench evaluate` by every protocol: records, their files, other data sets, and mistakes in one sentence."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torchvision.transforms.v2 import functional as transforms

from negbench.data.files.decode import decode
from negbench.data.load import RunData, load_splits
from negbench.data.sets import FolderSet
from negbench.data.workers import EvaluationDataset
from negbench.evaluate.protocols.common import classifier
from negbench.evaluate.protocols.common.datasets import digest_of, image_folder, voc07_folder
from negbench.evaluate.protocols.common.scikit import arrays
from negbench.evaluate.request import make_record, make_requests
from negbench.evaluate.subject import Subject
from negbench.models.encoder import Encoder
from negbench.models.files.layout import NoProjector
from negbench.records.run_folder import RunFolder
from negbench.settings.plugins.protocols import NAMED, PROTOCOLS
from negbench.settings.resolve import restore
from negbench.train.setup import set_up
from tests.cli.test_cli import invoke
from tests.helpers import layouts, runs

QUICK = ("--set", "epochs=2", "--set", "batch_size=32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    output = tmp_path_factory.mktemp("run")
    resolved = runs.short("moco", "data.workers=0")
    runs.start(resolved, output)
    return runs.folder(resolved, output)


@pytest.fixture
def finished(trained: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of the test's own, to which it may write."""
    return RunFolder(shutil.copytree(trained.path, tmp_path_factory.mktemp("copy") / trained.path.name))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    return {
        "transfer": layouts.image_folder(root / "flowers"),
        "voc07": layouts.voc07(root / "voc"),
        "places205": layouts.places205(root / "places"),
    }


def evaluate(run: RunFolder, name: str, *options: str) -> dict[str, Any]:
    """The record that the command says it has written."""
    code, stdout, stderr = invoke("evaluate", str(run.path), "--protocol", name, "--device", "cpu", *options)
    assert code == 0, stderr
    written, _, file = stdout.splitlines()[-1].partition(": ")
    assert written == f"written to {run.evaluations}"
    record: dict[str, Any] = json.loads((run.evaluations / file).read_text())
    figure = record["trained"][PROTOCOLS[name].key]
    assert f"{PROTOCOLS[name].figure:32}{figure:.4f}" in stdout
    return record


@pytest.mark.parametrize("name", ["linear-moco", "linear-adco", "finetune", "semi-1", "semi-10"])
def test_classifiers_on_the_runs_own_data(finished: RunFolder, name: str) -> None:
    record = evaluate(finished, name, *QUICK)
    made = record["trained"]
    share = {"semi-1": 10, "semi-10": 57}.get(name, 570)
    assert (record["step"], made["train"], made["test"], made["images_a_step"]) == (12, share, 2000, min(32, share))
    assert made["settings"]["epochs"] == 2 and made["settings_are_defaults"] is False
    assert "the published code reports the highest of all epochs on the test set" in made["selection"]
    assert "untrained" not in record
    (file,) = finished.evaluations.glob(f"{name}-????????.json")
    assert not (finished.evaluations / f"{name}.json").exists()  # which is for published settings
    before = file.read_bytes()
    evaluate(finished, name, *QUICK)
    assert file.read_bytes() == before


def test_transfer(finished: RunFolder, data: dict[str, Path]) -> None:
    record = evaluate(finished, "transfer", "--data", str(data["transfer"]))
    made = record["trained"]
    assert (made["train"], made["held_out"], made["test"], made["num_classes"]) == (30, 6, 12, 3)
    assert made["settings_are_defaults"] and made["defaults_are_published"] and len(made["held_out_by_strength"]) == 45
    assert made["top1"] > 0.8  # brightness tells the classes apart
    assert made["data"] == str(data["transfer"]) and record["untrained"].keys() == made.keys()
    assert made["top1"] == pytest.approx(made["mean_per_class"])


def test_sets_of_one_name_do_not_overwrite_each_other(finished: RunFolder, tmp_path: Path) -> None:
    few = ("--set", "num_strengths=2")
    for number in (1, 2):
        root = layouts.image_folder(tmp_path / str(number) / "birds", train=6 + number)
        evaluate(finished, "transfer", "--data", str(root), *few)
    evaluate(finished, "transfer", "--data", str(root), "--set", "num_strengths=3")
    root.rename(tmp_path / "birds")
    evaluate(finished, "transfer", "--data", str(tmp_path / "birds"), *few)  # the same images elsewhere
    assert len(list(finished.evaluations.glob("transfer-birds-*.json"))) == 3


def test_images_of_other_sizes_under_the_same_names_are_another_set(tmp_path: Path) -> None:
    config = runs.short("moco").config
    digests = []
    for name in ("a", "b"):
        root = layouts.image_folder(tmp_path / name / "birds")
        image = next((root / "val").rglob("*.JPEG"))
        image.write_bytes(image.read_bytes() + (b" " if name == "b" else b""))
        digests.append(digest_of(image_folder(root, config)))
    assert digests[0] != digests[1]


def test_with_val_and_test_the_choice_is_on_val_and_the_test_on_test(finished: RunFolder, tmp_path: Path) -> None:
    root = layouts.image_folder(tmp_path / "birds", train=10, test=4)
    layouts.image_folder(tmp_path / "others", train=10, test=7)
    (tmp_path / "others" / "val").rename(root / "test")
    made = evaluate(finished, "transfer", "--data", str(root), "--set", "num_strengths=2")["trained"]
    assert (made["train"], made["held_out"], made["test"]) == (3 * (10 + 4), 3 * 4, 3 * 7)
    assert (made["held_out_images"], made["tested_images"]) == ("the folder val", "the folder test")


def test_a_run_without_labels_is_evaluated_on_images_that_have_some(tmp_path: Path) -> None:
    root = layouts.image_folder(tmp_path / "images", classes=2, train=8)
    other = layouts.image_folder(tmp_path / "others", classes=2, train=8)
    shutil.move(root / "val", tmp_path / "val")
    folder = ("data.name=imagefolder", f"data.root={root}", "data.num_images=null", "data.workers=0", "batch_size=8")
    resolved = runs.short("moco", *folder, "evaluation.test=false", "data.validation=0", "epochs=1")
    runs.start(resolved, tmp_path / "out")
    run = runs.folder(resolved, tmp_path / "out")
    code, _, stderr = invoke("evaluate", str(run.path), "--protocol", "knn", "--device", "cpu")
    assert code == 2 and f"protocol knn needs images to test, and {root} has none; add them" in stderr
    (other / "val" / "n00000001" / "a.heic").touch()
    options = ("--data", str(other), "--set", "num_strengths=2", "--device", "cpu")
    code, _, stderr = invoke("evaluate", str(run.path), "--protocol", "transfer", *options)
    assert code == 0 and "transfer: left out: beside 8 images to test, 1 .heic file" in stderr
    shutil.move(tmp_path / "val", root / "val")
    assert invoke("evaluate", str(run.path), "--protocol", "knn", "--device", "cpu")[0] == 0


def test_what_was_done_before_a_mistake_is_kept(finished: RunFolder, data: dict[str, Path]) -> None:
    options = ("--protocol", "places205", "--protocol", "transfer", "--data", str(data["places205"]))
    for path in finished.evaluations.glob("places205-*.json"):
        path.unlink()
    code, _, stderr = invoke("evaluate", str(finished.path), *options)
    assert code == 2 and "has no folders train/CLASS" in stderr
    (record,) = finished.evaluations.glob("places205-*.json")
    made = json.loads(record.read_text())["trained"]
    assert (made["seed"], made["precision"], made["image_size"], made["held_out_share"]) == (0, "float32", 8, 0.1)


def test_voc07(finished: RunFolder, data: dict[str, Path]) -> None:
    made = evaluate(finished, "voc07", "--data", str(data["voc07"]), "--set", "costs=[0.1, 1]")["trained"]
    assert (made["train"], made["test"]) == (30, 15)
    assert tuple(made["by_class"]) == layouts.VOC_CLASSES
    for key in ("ap", "ap_area"):
        mean = math.fsum(figures[key] for figures in made["by_class"].values()) / 20
        assert made[f"mean_{key}"] == pytest.approx(mean)
    assert {figures["cost"] for figures in made["by_class"].values()} == {0.1, 1}
    inside = evaluate(finished, "voc07", "--data", str(data["voc07"] / "VOCdevkit" / "VOC2007"), "--set", "costs=[0.1]")
    assert inside["trained"]["data_digest"] == made["data_digest"]


def test_places205(finished: RunFolder, data: dict[str, Path]) -> None:
    options = ("--data", str(data["places205"]), *QUICK)
    made = evaluate(finished, "places205", *options)["trained"]
    assert (made["train"], made["validation"], made["test"], made["num_classes"]) == (36, 4, 12, 4)
    assert made["epochs"] == 2 and "lr" in made
    fewer = evaluate(finished, "places205", *options, "--set", "num_images=24")["trained"]
    assert (fewer["train"], fewer["validation"]) == (20, 4)


def test_transfer_is_refit_on_all_training_images(finished: RunFolder, tmp_path: Path) -> None:
    root = layouts.image_folder(tmp_path, test=40, tint=0)  # noise, on which every fit errs differently
    asked = make_requests(["transfer"], ["num_strengths=3", "highest=1e-3"], root)["transfer"]
    setup = set_up(restore(finished.path), runs.CPU)
    subject = Subject(setup, setup.method.query_encoder)
    made = make_record(PROTOCOLS["transfer"], subject, asked)
    moved = subject.on(image_folder(root, setup.config))
    (train, labels), (test, test_labels) = (arrays(moved.features(part)) for part in ("train", "test"))
    by_hand = LogisticRegression(C=1 / made["strength"], max_iter=100).fit(train, labels)
    assert made["top1"] == by_hand.score(test, test_labels)
    assert max(made["held_out_by_strength"].values()) == made["held_out_by_strength"][f"{made['strength']:.4g}"]


def test_voc07_sees_whole_images(data: dict[str, Path]) -> None:
    config = runs.short("moco").config
    splits, _ = voc07_folder(data["voc07"], config)
    assert isinstance(splits.test, FolderSet)
    views, positions, _ = EvaluationDataset(splits.test, 4)[0]
    image = decode(splits.test.path(2))
    assert torch.equal(views[2], transforms.resize(image, [8, 8], antialias=True)) and positions.tolist() == [
        0,
        1,
        2,
        3,
    ]


def test_a_file_that_cannot_be_decoded_is_left_out(tmp_path: Path) -> None:
    resolved = runs.short("moco", "data.on_bad_image=skip", "data.workers=0", "epochs=1")
    runs.start(resolved, tmp_path)
    broken, whole = layouts.voc07(tmp_path / "broken"), layouts.voc07(tmp_path / "whole")
    (broken / "VOCdevkit/VOC2007/JPEGImages/000003.jpg").write_bytes(b"no image")
    for file in (whole / "VOCdevkit/VOC2007/ImageSets/Main").glob("*_trainval.txt"):
        file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("000003")))
    made, without = (
        evaluate(runs.folder(resolved, tmp_path), "voc07", "--data", str(root), "--set", "costs=[1]")["trained"]
        for root in (broken, whole)
    )
    assert (made["train"], made["test"]) == (29, 15)
    assert made["by_class"] == without["by_class"]


def test_several_protocols_share_what_they_are_given(finished: RunFolder) -> None:
    options = ("--protocol", "linear-moco", "--protocol", "linear-adco", "--json", *QUICK, "--set", "lr=1")
    code, stdout, _ = invoke("evaluate", str(finished.path), *options)
    assert code == 0 and set(json.loads(stdout)) >= {"linear_moco_top1", "linear_adco_top1"}


def test_an_interruption_leaves_records_as_they_were(finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {path: path.read_bytes() for path in finished.evaluations.iterdir()}
    monkeypatch.setattr(classifier, "optimizer_step", interrupt)
    code, _, stderr = invoke("evaluate", str(finished.path), "--protocol", "linear-moco", *QUICK)
    assert code == 130
    assert stderr.endswith("all other records are as they were\n")
    assert {path: path.read_bytes() for path in finished.evaluations.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["linear-mocco"], "unknown protocol 'linear-mocco', did you mean 'linear-moco'?"),
        (
            ["linear-moco", "--set", "epoch=2"],
            "linear-moco has no setting epoch, did you mean 'epochs'?; it has epochs,",
        ),
        (["linear-moco", "--set", "epochs=none"], "epochs (--set): input should be a valid integer"),
        (
            ["linear-moco", "--set", "crop_scale=[1,0.5]"],
            "crop_scale (--set): must be two numbers in (0, 1], low then high",
        ),
        (["linear-moco", "--set", "epochs"], "--set epochs must have the form key.path=value"),
        (["knn", "--set", "k=3"], "protocol knn takes no --set: its settings are the run's own"),
        (["finetune", "--data", "."], "protocol finetune takes no --data: it is evaluated on the run's own data"),
        (["finetune", "--labels-file", "x"], "protocol finetune takes no --labels-file; semi-1 and semi-10 do"),
        (["semi-1", "--labels-file", "missing.txt"], "--labels-file missing.txt is no file"),
        (["transfer"], "protocol transfer needs --data DIR, which holds an image folder: train/CLASS"),
        (
            ["transfer", "--data", "missing"],
            "--data missing is no folder; transfer needs one that holds an image folder",
        ),
        (["transfer", "--data", "{empty}"], "--data {empty} has no folders train/CLASS with images"),
        (["voc07", "--data", "{empty}"], "--data {empty} has no VOCdevkit/VOC2007/ImageSets/Main"),
        (["places205", "--data", "{empty}"], "--data {empty} has no trainvalsplit_places205/train_places205.csv"),
        (
            ["places205", "--data", "{whole}", "--set", "num_images=3"],
            "num_images (--set) must be from 4, one a class, to",
        ),
        (
            ["places205", "--data", "{whole}", "--set", "num_images=8"],
            "8 training images are too few to hold a tenth of",
        ),
        (["voc07", "--data", "{voc}"], "has CLASS_trainval.txt of 19 classes, and VOC2007 20"),
        (
            ["places205", "--data", "{places}"],
            "val_places205.csv, line 2 must be a path and a class's number, not 'b/b.jpg'",
        ),
        (
            ["voc07", "--data", "{untested}"],
            "--data {untested} has no VOCdevkit/VOC2007/ImageSets/Main/aeroplane_test.txt",
        ),
    ],
)
def test_mistakes(finished: RunFolder, tmp_path: Path, options: list[str], sentence: str) -> None:
    folders = {"empty": tmp_path / "empty", "voc": tmp_path / "v", "places": tmp_path / "p", "untested": tmp_path / "u"}
    folders["whole"] = tmp_path / "whole"
    folders["empty"].mkdir()
    if "{voc}" in options:
        (layouts.voc07(folders["voc"]) / "VOCdevkit/VOC2007/ImageSets/Main/sofa_trainval.txt").unlink()
    if "{untested}" in options:
        (layouts.voc07(folders["untested"]) / "VOCdevkit/VOC2007/ImageSets/Main/aeroplane_test.txt").unlink()
    if "{whole}" in options:
        layouts.places205(folders["whole"])
    if "{places}" in options:
        file = layouts.places205(folders["places"]) / "trainvalsplit_places205/val_places205.csv"
        file.write_text("a/abbey/gsun_val_0000.jpg 0\nb/b.jpg\n")
        layouts.draw(folders["places"] / "data/vision/torralba/deeplearning/images256/a/abbey/gsun_val_0000.jpg", 0)
    before = sorted(finished.evaluations.iterdir())
    code, stdout, stderr = invoke(
        "evaluate", str(finished.path), "--protocol", *(option.format(**folders) for option in options)
    )
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert sentence.format(**folders) in stderr
    assert sorted(finished.evaluations.iterdir()) == before


def test_a_missing_image_is_named(finished: RunFolder, tmp_path: Path) -> None:
    root = layouts.voc07(tmp_path / "voc")
    (root / "VOCdevkit/VOC2007/JPEGImages/000009.jpg").unlink()
    code, _, stderr = invoke("evaluate", str(finished.path), "--protocol", "voc07", "--data", str(root))
    assert (code, stderr.count("\n")) == (2, 1) and "000009.jpg" in stderr


def test_an_encoder_without_a_run_and_without_a_projector(data: dict[str, Path]) -> None:
    config = runs.short("moco", "data.workers=0").config
    backbone, none = nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), NoProjector("the encoder has no projector")
    subject = Subject(RunData(config, runs.CPU, None, load_splits(config.data)), Encoder(backbone, none, 7))
    requests = make_requests(["linear-moco", "semi-1"], ["epochs=1"]) | make_requests(
        ["transfer"], data=data["transfer"]
    )
    made = {name: make_record(PROTOCOLS[name], subject, requests.get(name)) for name in ("knn", "linear", *requests)}
    assert made["transfer"]["test"] == 12 and all(made[name]["top1"] for name in made)
    with pytest.raises(ValueError, match="the encoder has no projector"):
        make_record(PROTOCOLS["knn-moco-demo"], subject)


def test_published_settings_have_the_plain_name() -> None:
    requests = make_requests(["linear-moco", "semi-10", "finetune"])
    assert [request.stem({}) for request in requests.values()] == list(requests)
    published = [request.described()["defaults_are_published"] for request in requests.values()]
    assert published == [True, True, False]  # nobody published fine-tuning with all labels by these
    assert not set(requests) & set(NAMED)
    assert "/" not in make_requests(["linear-moco"], ["lr=1"])["linear-moco"].stem({})
