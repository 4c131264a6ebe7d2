"""Runs are tied to their data: what counts as equal, what is seen, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.data import fingerprint
from negbench.data.files.packing import make_pack
from negbench.data.fingerprint import describe
from negbench.data.load import load_whole
from negbench.data.sets import ResidentSet
from negbench.evaluate.final import evaluate
from negbench.evaluate.source import run_source
from negbench.records.run.data import DataRecord
from negbench.runtime.errors import UserError
from negbench.runtime.failure import Interrupted
from negbench.settings.resolve import Resolved, resolve
from negbench.settings.schema import DataConfig
from tests.helpers import runs


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)  # of equal size, whatever is drawn


def image_folder(root: Path, classes: str = "ab", train: int = 20, val: int = 12) -> Path:
    for split, count in (("train", train), ("val", val)):
        for number, name in enumerate(classes):
            for image in range(count):
                save(root / split / name / f"{image:02}.png", 1000 * number + image + 500 * (split == "val"))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images")


def record(root: Path, full: bool = False) -> DataRecord:
    return describe(load_whole(DataConfig(name="imagefolder", root=str(root))), full)


def test_a_folder_moved_copied_and_packed_is_the_same_data(root: Path, tmp_path: Path) -> None:
    expected = record(root)
    assert expected.classes == ("a", "b") and (expected.train.images, expected.test.images) == (40, 24)
    make_pack(root, tmp_path / "pack", 4000, lambda num_images: lambda images, num_bytes: None)
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "copy" / "train" / "a" / "empty").mkdir()
    for other in (tmp_path / "pack", tmp_path / "copy", root.rename(tmp_path / "moved")):
        assert record(other) == expected
        assert record(other).difference(expected) is None


def swap_content(root: Path) -> None:
    replaced = root / "train" / "b" / "07.png"
    size = replaced.stat().st_size
    save(replaced, 99)
    assert replaced.stat().st_size == size


CHANGES = [
    (swap_content, "its images to train have another content (40 were compared)"),
    (lambda root: (root / "train" / "a" / "03.png").unlink(), "it has 39 images to train instead of 40"),
    (lambda root: save(root / "val" / "a" / "99.png", 5), "it has 25 images to test instead of 24"),
    (
        lambda root: (root / "train" / "a" / "03.png").rename(root / "train" / "a" / "3.png"),
        "its files to train have other names or classes",
    ),
    (
        lambda root: (root / "train" / "a" / "03.png").rename(root / "train" / "b" / "x.png"),
        "its files to train have other names or classes",
    ),
    (
        lambda root: [(root / split / "b").rename(root / split / "c") for split in ("train", "val")],
        "it has 2 classes instead of 2, class 'c' is new, class 'b' is gone",
    ),
    (lambda root: image_folder(root, "efghi"), "it has 7 classes instead of 2, class 'e' is new, class 'f' is new, cl"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_every_change_of_a_small_folder_is_seen_and_named(change: Any, sentence: str, root: Path) -> None:
    before = record(root)
    change(root)
    assert (record(root).difference(before) or "").startswith(sentence)


def test_of_many_files_some_are_read_and_full_reads_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "NUM_COMPARED", 5)
    few, all_ = record(root), record(root, full=True)
    assert few.train.num_compared == 5 and few.train.all_contents is None
    assert all_.difference(few) is None and few.difference(all_) is None
    swapped = 0
    for path in sorted(root.glob("train/*/*.png")):
        content = path.read_bytes()
        save(path, 99)
        assert record(root, full=True).difference(all_) is not None
        swapped += record(root).difference(few) is not None
        path.write_bytes(content)
    assert swapped == 5


def test_images_in_memory_are_equal_in_any_order_and_differ_by_a_pixel_or_a_label() -> None:
    images = torch.randint(0, 256, (30, 3, 4, 4), dtype=torch.uint8)
    labels = torch.arange(30) % 3

    def described(images: torch.Tensor, labels: torch.Tensor) -> DataRecord:
        return describe((ResidentSet(images, labels), ResidentSet(images[:5], labels[:5]), ("a", "b", "c"), 0))

    expected, order = described(images, labels), torch.randperm(30)
    assert described(images[order], labels[order]).train == expected.train
    changed = images.clone()
    changed[7, 1, 2, 3] += 1
    assert "its images to train have another content" in (described(changed, labels).difference(expected) or "")
    assert described(images, labels.roll(1)).train != expected.train


def of_folder(root: Path, *settings: str) -> Resolved:
    folder = ("data.name=imagefolder", f"data.root={root}", "data.num_images=null", "data.workers=0")
    return runs.short("moco", *folder, "data.validation=0.2", "evaluation.linear=false", *settings)


def test_a_finished_run_is_not_that_of_other_data(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = runs.start(of_folder(root), output)
    moved = root.rename(tmp_path / "moved")
    notes = runs.Notes()
    assert runs.start(of_folder(moved), output, notes) == summary
    assert any("is finished" in text for text in notes.texts)
    assert runs.start(of_folder(root), output, notes) == summary
    assert any("are not compared with the data that they were made on" in text for text in notes.texts)
    swap_content(moved)
    with pytest.raises(UserError, match=r"was made on other data: its images to train .*data\.version=NAME"):
        runs.start(of_folder(moved), output)
    assert runs.folder(of_folder(moved), output).read_summary() == summary
    other = of_folder(moved, "data.version=second")
    assert other.run_id != of_folder(moved).run_id
    runs.start(other, output)
    runs.start(of_folder(moved), output, fresh=True)


def test_a_run_resumes_on_its_own_data_alone(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(Interrupted):
        runs.start(of_folder(root), output, runs.StopAt(2))
    content = (root / "train" / "b" / "07.png").read_bytes()
    swap_content(root)
    with pytest.raises(UserError, match="was made on other data: its images to train have another content"):
        runs.start(of_folder(root), output)
    (root / "train" / "b" / "07.png").write_bytes(content)
    runs.start(of_folder(root), output)
    assert runs.folder(of_folder(root), output).done.exists()


def test_a_run_is_evaluated_on_its_own_data_wherever_that_lies(root: Path, tmp_path: Path) -> None:
    resolved = of_folder(root)
    runs.start(resolved, tmp_path / "out")
    run = runs.folder(resolved, tmp_path / "out")
    before = (run.evaluations / "knn.json").read_bytes()
    moved = root.rename(tmp_path / "moved")
    source = run_source(run.path, settings=[f"data.root={moved}"])
    made = evaluate(source, ["knn"], runs.CPU)["knn"]["trained"]
    assert made == json.loads(before)["trained"]
    save(moved / "val" / "a" / "01.png", 99)
    after = (run.evaluations / "knn.json").read_bytes()
    with pytest.raises(UserError, match="was made on other data: its images to test have another content"):
        evaluate(source, ["knn"], runs.CPU)
    assert (run.evaluations / "knn.json").read_bytes() == after


def test_a_run_of_an_earlier_version_is_of_unknown_data(root: Path, tmp_path: Path) -> None:
    summary = runs.start(of_folder(root), tmp_path / "out")
    runs.folder(of_folder(root), tmp_path / "out").data.unlink()
    swap_content(root)
    assert runs.start(of_folder(root), tmp_path / "out") == summary


def test_no_sweep_or_job_takes_a_run_of_other_data_for_done(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    settings = ["data.name=imagefolder", f"data.root={root}", "data.num_images=null", "data.workers=0"]
    settings = [*runs.SHORT, *settings, "evaluation.linear=false"]
    options = ["--device", "cpu", "--output", str(output), *(part for text in settings for part in ("--set", text))]
    sweep = ["sweep", "--methods", "moco", "--seeds", "0:2", *options, "--dry-run"]
    for seed in (0, 1):
        runs.start(resolve("moco", "quickstart", settings, seed), output)
    assert CliRunner().invoke(app, sweep).exit_code == 0
    swap_content(root)
    refused = CliRunner().invoke(app, sweep)
    assert refused.exit_code == 2 and "was made on other data" in refused.stderr
    assert refused.stderr.count("\n") == 1
    submitted = CliRunner().invoke(app, ["run", "--method", "moco", "--seed", "0", "--cluster", "local", *options])
    assert submitted.exit_code == 2 and "was made on other data" in submitted.stderr
    shutil.rmtree(root)
    done = CliRunner().invoke(app, sweep)
    assert done.exit_code == 0 and done.stderr.count("finished runs are not compared with the data") == 1


def test_evaluate_takes_the_place_of_a_runs_data(root: Path, tmp_path: Path) -> None:
    runs.start(of_folder(root), tmp_path / "out")
    run = runs.folder(of_folder(root), tmp_path / "out")
    moved = root.rename(tmp_path / "moved")
    evaluated = ["evaluate", str(run.path), "--protocol", "knn", "--set", f"data.root={moved}", "--device", "cpu"]
    assert CliRunner().invoke(app, evaluated).exit_code == 0
    other = CliRunner().invoke(app, [*evaluated, "--set", "data.image_size=16"])
    assert other.exit_code == 2 and "--set data.image_size=16 belongs to a FILE" in other.stderr


def test_one_of_a_hundred_images_that_was_replaced_is_seen(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", train=50, val=1)
    before = record(root)
    for number in (0, 31, 49):
        path = root / "train" / "b" / f"{number:02}.png"
        content = path.read_bytes()
        save(path, 99)
        assert path.stat().st_size == len(content)
        assert "its images to train have another content (100 were compared)" in (record(root).difference(before) or "")
        path.write_bytes(content)
    assert record(root) == before


def test_all_files_are_compared_where_both_records_know_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "NUM_COMPARED", 1)
    before, sampled = record(root, full=True), record(root)
    for path in sorted((root / "train" / "a").iterdir()):
        save(path, 99)
    assert (record(root).train.contents == sampled.train.contents) == (record(root).difference(sampled) is None)
    assert "its images to train have another content" in (record(root, full=True).difference(before) or "")


def test_the_fingerprint_of_all_files_is_no_part_of_the_run_id(root: Path, tmp_path: Path) -> None:
    full = of_folder(root, "data.fingerprint=full")
    assert full.run_id == of_folder(root).run_id
    runs.start(of_folder(root), tmp_path / "out")
    notes = runs.Notes()
    runs.start(full, tmp_path / "out", notes)
    assert any("is finished" in text for text in notes.texts)
    runs.start(full, tmp_path / "out", fresh=True)
    made = json.loads(runs.folder(full, tmp_path / "out").data.read_text())
    shown = CliRunner().invoke(app, ["data", "fingerprint", str(root), "--full"])
    assert shown.exit_code == 0 and json.loads(shown.stdout) == made and made["train"]["all_contents"]
    sampled = json.loads(CliRunner().invoke(app, ["data", "fingerprint", str(root)]).stdout)
    assert sampled["train"] == made["train"] | {"all_contents": None}
    wrong = CliRunner().invoke(app, ["data", "fingerprint", str(root / "train")])
    assert wrong.exit_code == 2 and "has no folders train/CLASS with images; it has a and b" in wrong.stderr


def test_a_record_of_an_earlier_version_does_not_know_what_was_left_out(root: Path) -> None:
    now = record(root)
    earlier = now.model_dump(mode="json")
    for part in ("train", "test"):
        for key in ("all_contents", "left_out"):
            del earlier[part][key]
    before = DataRecord.model_validate(earlier)
    assert before.train.left_out is None and now.difference(before) is None and before.difference(now) is None
