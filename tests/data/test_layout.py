"""Image folders as users have them: what is taken, what is left out and said, and what is named in one sentence."""

import json
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.data.datasets.imagefolder import load_folder
from negbench.data.files.left_out import kind_of
from negbench.data.files.listing import list_classes
from negbench.data.fingerprint import describe
from negbench.data.load import load_data, load_whole
from negbench.records.run.data import DataRecord
from negbench.settings.schema import DataConfig
from tests.helpers import layouts, runs

PILLOW = (".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".ppm", ".jfif")
LABELLED = {"classes": 2, "train": 6, "test": 3}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return layouts.image_folder(tmp_path / "images", **LABELLED)


def config(root: Path) -> DataConfig:
    return DataConfig(name="imagefolder", root=str(root))


def record(root: Path) -> DataRecord:
    return describe(load_whole(config(root)))


def settings(root: Path, *more: str) -> list[str]:
    folder = ["data.name=imagefolder", f"data.root={root}", "data.num_images=null", "data.workers=0", "batch_size=4"]
    return [*folder, "epochs=1", "method.num_negatives=8", *more]


def notes(root: Path, *more: str) -> list[str]:
    return load_data(runs.short("moco", *settings(root, *more)).config, runs.CPU, trains=True).notes


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def run(root: Path, output: Path, *more: str) -> tuple[int, str, str]:
    given = [part for text in [*runs.SHORT, *settings(root, *more)] for part in ("--set", text)]
    return invoke("run", "--method", "moco", "--device", "cpu", "--output", output, *given)


def refused(root: Path, *more: str) -> str:
    """The one sentence with which a run on the folder is refused."""
    code, shown, err = run(root, root.parent / "out", *more)
    assert code == 2 and err.count("\n") == 1 and not shown
    return err


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.parent.iterdir())


# What counts as an image


def test_every_format_that_pillow_decodes_is_taken(root: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    names = [f"z{number}{extension}" for number, extension in enumerate(PILLOW)]
    for name in names:
        form = "JPEG" if name.endswith("jfif") else None
        Image.fromarray(pixels).save(root / "train" / "n00000000" / name, form)
    train, _, _ = load_folder(config(root))
    taken = [position for position in range(len(train)) if Path(train.path(position)).name in names]
    assert len(taken) == len(PILLOW) and len(train) == 12 + len(PILLOW)
    for position in taken:
        assert train.decode(position).shape == (3, 16, 16)
    exact = next(position for position in taken if train.path(position).endswith(".bmp"))
    assert np.array_equal(train.decode(exact).permute(1, 2, 0).numpy(), pixels)
    assert notes(root) == []


def test_a_folder_of_jpeg_and_png_alone_has_the_fingerprint_that_it_had(root: Path) -> None:
    """Of the listing as it was before other extensions counted."""
    Image.new("RGB", (12, 12)).save(root / "train" / "n00000001" / "a.png")
    (root / "train" / "n00000000" / "sub").mkdir()
    (root / "train" / "n00000000" / "n00000000_3.JPEG").rename(root / "train" / "n00000000" / "sub" / "x.JPEG")
    found = record(root)
    assert (found.train.images, found.test.images) == (13, 6)
    assert found.train.names == "8e51c27f9387d9f4800d22152386cd5a"
    assert found.test.names == "b819faba2d05ef1afa1122e7ec36f857"


# What is left out


def litter(root: Path) -> None:
    """Leave out three photos and a video; the rest is what lies in every such folder."""
    classes = root / "train" / "n00000000"
    for name in ("a.heic", "b.HEIC", "c.heif", "d.mp4", "Thumbs.db", "notes.txt", "LICENSE", ".DS_Store", "._a.jpg"):
        (classes / name).write_bytes(b"\0")
    for number in range(40):
        (classes / f"{number}.xml").touch()
        (root / "val" / "n00000001" / f"{number}.json").touch()


def test_pictures_that_cannot_be_read_are_counted_and_texts_are_not(root: Path) -> None:
    litter(root)
    said = "left out: beside 12 images to train, 2 .heic files, 1 .heif file and 1 .mp4 file"
    assert notes(root) == [said]
    assert record(root).train.left_out == ("2 .heic files", "1 .heif file", "1 .mp4 file")
    assert record(root).test.left_out == ()


def test_many_files_of_any_kind_are_counted_and_few_are_not(root: Path) -> None:
    for number in range(10):
        (root / "train" / "n00000001" / f"{number}.npy").touch()
        (root / "train" / "n00000001" / f"scan.{number:04}").touch()
        (root / "val" / "n00000001" / "few.pkl").touch()
    assert record(root).train.left_out == ("10 files without an extension", "10 .npy files")
    assert record(root).test.left_out == ()


def test_what_is_left_out_is_said_from_the_cache_and_of_a_pack_too(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("negbench.data.files.listing._SETTLED_NS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    litter(root)
    first, again = list_classes(root / "train"), list_classes(root / "train")
    assert first.left_out == again.left_out and len(again.left_out or ()) == 3
    code, _, err = invoke("data", "pack", root, tmp_path / "pack")
    assert code == 0 and "left out: beside 12 images to train, 2 .heic files" in err
    assert record(tmp_path / "pack") == record(root)
    assert notes(tmp_path / "pack") == notes(root)


def test_a_run_and_an_evaluation_say_what_is_left_out_and_data_json_keeps_it(root: Path, tmp_path: Path) -> None:
    litter(root)
    code, _, err = run(root, tmp_path / "out", "evaluation.linear=false", "data.validation=0")
    assert code == 0 and err.count("2 .heic files, 1 .heif file and 1 .mp4 file") == 1
    (folder,) = (tmp_path / "out").iterdir()
    assert json.loads((folder / "data.json").read_text())["train"]["left_out"][0] == "2 .heic files"
    code, _, err = invoke("evaluate", folder, "--protocol", "knn", "--device", "cpu")
    assert code == 0 and err.count("left out: beside 12 images to train, 2 .heic files") == 1


def test_images_outside_of_classes_unused_folders_and_untested_classes_are_named(root: Path) -> None:
    layouts.draw(root / "train" / "loose.jpg", 1)
    layouts.draw(root / "val" / "loose.jpg", 1)
    shutil.copytree(root / "val", root / "test")
    shutil.rmtree(root / "val" / "n00000000")
    assert notes(root) == [
        "left out: beside 12 images to train, 1 image outside of folders of classes; beside 3 images to test, 1 image "
        "outside of folders of classes and the folder test",
        "no image to test is of class 'n00000000'",
    ]


def test_extensions_are_told_from_other_dots() -> None:
    names = {"a.HEIC": ".heic", "a.tar.gz": ".gz", "README": "", "img.0001": "", "a.b c": "", "a.": "", "x.7z": ".7z"}
    assert {name: kind_of(name) for name in names} == names


# Parts


@pytest.mark.parametrize("name", ["test", "valid", "validation"])
def test_other_names_of_the_folder_to_test_are_taken(root: Path, tmp_path: Path, name: str) -> None:
    expected = record(root)
    (root / "val").rename(root / name)
    assert record(root) == expected
    assert invoke("data", "pack", root, tmp_path / "pack")[0] == 0
    assert record(tmp_path / "pack") == expected and (tmp_path / "pack" / name).is_dir()


def test_a_class_in_two_unicode_forms_is_one_class(root: Path, tmp_path: Path) -> None:
    composed, parted = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (root / "train" / "n00000000").rename(root / "train" / composed)
    (root / "val" / "n00000000").rename(root / "val" / parted)
    assert invoke("data", "pack", root, tmp_path / "pack")[0] == 0
    for where in (root, tmp_path / "pack"):
        train, test, classes = load_folder(config(where))
        assert classes == (composed, "n00000001")
        assert (train.labels_N.tolist(), test.labels_N.tolist()) == ([0] * 6 + [1] * 6, [0] * 3 + [1] * 3)
    before = record(root)
    (root / "train" / composed).rename(root / "train" / parted)
    difference = record(root).difference(before) or ""
    assert "has another Unicode form ('cafe\\u0301' instead of 'caf\\xe9')" in difference
    shutil.copytree(root / "train" / parted, root / "train" / composed)
    assert "whose names differ in their Unicode form alone (NFC and NFD); join them" in refused(root)


def test_a_root_that_is_a_file_or_another_folder_is_named(root: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as tar:
        tar.add(root / "val")
    archive = Path(shutil.make_archive(str(tmp_path / "images"), "zip", root))
    single = root / "train" / "n00000000" / "n00000000_0.JPEG"
    files = [(archive, "a zip archive"), (tmp_path / "images.tar.gz", "compressed by gzip"), (single, "a JPEG image")]
    for path, kind in files:
        assert f"data.root {path} is a file ({kind}) and no folder; unpack it" in refused(path)
    assert "give the folder that cifar-10-python.tar.gz lies in" in refused(archive, "data.name=cifar10")
    code, _, err = invoke("data", "pack", archive, tmp_path / "pack")
    assert code == 2 and "is a file (a zip archive) and no folder" in err and err.count("\n") == 1
    (root / "train").rename(root / "Train")
    assert "has no folders train/CLASS with images; it has Train and val" in refused(root)
    assert "there is no such folder" in refused(tmp_path / "nowhere")


# Without labels

UNLABELLED = ("evaluation.test=false", "data.validation=0")
NOTHING = "nothing is evaluated: evaluation.test=false, and no images are held out for a curve"


def without_val(root: Path) -> Path:
    shutil.rmtree(root / "val")
    return root


def flat_train(root: Path) -> Path:
    for path in sorted(root.glob("train/*/*")):
        path.rename(root / "train" / path.name)
    for folder in (root / "train").glob("n*[0-9]"):
        if folder.is_dir():
            folder.rmdir()
    return root


def flat_train_alone(root: Path) -> Path:
    return without_val(flat_train(root))


def flat_root(root: Path) -> Path:
    return flat_train_alone(root) / "train"


def one_class(root: Path) -> Path:
    for part in ("train", "val"):
        shutil.rmtree(root / part / "n00000001")
    return root


LAYOUTS: dict[Callable[[Path], Path], tuple[int, str]] = {
    without_val: (2, "has no folders val/CLASS or test/CLASS with images; add them, or train without a test by"),
    flat_train: (0, "train has 12 images but no folders of classes, which an evaluation needs; give each class"),
    flat_train_alone: (0, "train has 12 images but no folders of classes, which an evaluation needs; give each class"),
    flat_root: (0, "train has 12 images but no folders of classes, which an evaluation needs; give each class"),
    one_class: (1, "has one class, 'n00000000', and every accuracy would be 100%; give each class a folder"),
}


@pytest.mark.parametrize("change", LAYOUTS)
def test_images_without_labels_train_if_nothing_is_evaluated(change: Callable[[Path], Path], root: Path) -> None:
    root, output = change(root), root.parent / "out"
    classes, sentence = LAYOUTS[change]
    code, _, err = run(root, output)
    assert code == 2 and sentence in err and err.count("\n") == 1 and "--set evaluation.test=false" in err
    code, _, err = run(root, output, *UNLABELLED)
    assert code == 0 and NOTHING in err
    (folder,) = output.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["num_classes"], summary["knn_top1"]) == ("done", classes, None)
    assert summary["num_images"] == (6 if change is one_class else 12)
    code, _, err = run(root, output, *UNLABELLED)
    assert code == 0 and "is finished" in err


def test_a_curve_of_one_class_is_refused_too(root: Path) -> None:
    assert "every accuracy would be 100%" in refused(one_class(root), "evaluation.test=false", "data.validation=0.3")
    settings = ("evaluation.test=false", "data.validation=0.3", "evaluate_every_epochs=0")
    assert notes(root, *settings) == [NOTHING]


def test_flat_folders_moved_and_packed_are_the_same_data(root: Path, tmp_path: Path) -> None:
    flat = flat_root(root)
    (flat / "sub").mkdir()
    layouts.draw(flat / "sub" / "deep.jpg", 3)
    expected = record(flat)
    assert (expected.classes, expected.train.images, expected.test.images) == ((), 13, 0)
    code, _, err = invoke("data", "pack", flat, tmp_path / "pack")
    assert code == 0 and "has no images to test; runs on the pack need evaluation.test=false" in err
    assert invoke("data", "verify", tmp_path / "pack")[0] == 0
    shutil.copytree(flat, tmp_path / "copy" / "train")
    layouts.draw(tmp_path / "copy" / "train" / "sub" / "x.txt.jpg", 5)
    (tmp_path / "copy" / "train" / "sub" / "x.txt.jpg").unlink()
    assert record(tmp_path / "pack") == expected
    train = load_folder(config(tmp_path / "pack"))[0]
    assert torch.equal(train.decode(12), load_folder(config(flat))[0].decode(12))


def test_images_beside_a_folder_to_test_are_not_trained_on_in_silence(root: Path) -> None:
    for path in (root / "train" / "n00000000").iterdir():
        path.rename(root / path.name)
    shutil.rmtree(root / "train")
    assert "has val, but no train, and images beside it; move them to" in refused(root, *UNLABELLED)


@pytest.mark.parametrize("images", [1, 4])
def test_the_advice_for_few_images_ends_in_a_run(tmp_path: Path, images: int) -> None:
    root = layouts.image_folder(tmp_path / "images", classes=6, train=images, test=1)
    refusal = refused(root, "data.validation=0.1")
    assert "--set data.validation=0 --set evaluation.linear=false" in refusal
    assert ("raise it to 0.25 or more" in refusal) == (images == 4)
    assert "--set evaluation.linear=false" in refused(root, "data.validation=0") if images == 1 else True
    assert run(root, tmp_path / "out", "data.validation=0", "evaluation.linear=false")[0] == 0


# Files of users that begin with a byte order mark


def test_a_byte_order_mark_is_no_part_of_a_text(root: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("epochs: 1\nmethod: moco\n", encoding="utf-8-sig")
    assert invoke("config", "--config", study)[0] == 0
    assert invoke("data", "pack", root, tmp_path / "pack")[0] == 0
    manifest = tmp_path / "pack" / "manifest.json"
    manifest.write_text(manifest.read_text(), encoding="utf-8-sig")
    assert record(tmp_path / "pack") == record(root)


def test_every_layout_is_counted_for_a_plan(root: Path) -> None:
    from negbench.cost.plan.extent import extent_of

    def extent(*more: str) -> Any:
        found = extent_of(runs.short("moco", *settings(root, *more)).config, None)
        return found.train, found.validation, found.test, found.num_classes

    assert extent("data.validation=0.5") == (6, 6, 6, 2)
    flat_train_alone(root)
    assert extent(*UNLABELLED) == (12, 0, 0, 1)
    with pytest.raises(ValueError, match="no folders of classes"):
        extent()
