"""CIFAR-10 from class folders and from the archive's layout, its cache, and what is said when it is absent."""

import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from negbench.data.datasets import cifar10
from negbench.data.datasets.cifar10 import CLASSES, load_cifar10
from negbench.data.files.decode import BadImageError
from negbench.data.load import load_splits
from negbench.settings.schema import DataConfig

_PER_CLASS = {"train": 2, "test": 1}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def pixels(split: str) -> tuple[np.ndarray, list[int]]:
    count = _PER_CLASS[split] * len(CLASSES)
    rng = np.random.default_rng(split == "test")
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), [i % len(CLASSES) for i in range(count)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar"
    for split in ("train", "test"):
        for number, (image, label) in enumerate(zip(*pixels(split), strict=True)):
            path = folder / split / CLASSES[label] / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


def config(root: Path, **settings: Any) -> DataConfig:
    return DataConfig(name="cifar10", root=str(root), download=False, **settings)


def pairs(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[bytes, int]]:
    return [(image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]


def test_class_folders_hold_the_images_with_their_labels(root: Path) -> None:
    train, test, skipped = load_cifar10(config(root))
    assert skipped == 0 and len(test) == 10
    images, labels = pixels("train")
    expected = pairs(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels))
    assert sorted(pairs(train.images_NCHW, train.labels_N)) == sorted(expected)


def test_archive_and_class_folders_give_the_same_sets(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = tmp_path / "unpacked" / CIFAR10.base_folder
    batches.mkdir(parents=True)
    for split, name in (("train", "data_batch_1"), ("test", "test_batch")):
        images, labels = pixels(split)
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        (batches / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})
    for ours, theirs in zip(load_cifar10(config(root))[:2], load_cifar10(config(batches.parent))[:2], strict=True):
        assert torch.equal(ours.images_NCHW, theirs.images_NCHW) and torch.equal(ours.labels_N, theirs.labels_N)


def refuse(path: str) -> torch.Tensor:
    raise AssertionError(f"{path} was decoded although it is cached")


def test_cache_is_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_cifar10(config(root))[0]
    monkeypatch.setattr(cifar10, "decode", refuse)
    second = load_cifar10(config(root))[0]
    assert torch.equal(first.images_NCHW, second.images_NCHW) and torch.equal(first.labels_N, second.labels_N)
    assert not list(root.glob("*.partial"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "not a zip"])
def test_damaged_cache_is_rebuilt(root: Path, damage: str) -> None:
    first = load_cifar10(config(root))[0]
    cache = root / "negbench-cifar10-train.npz"
    content = bytearray(whole := cache.read_bytes())
    content[len(content) // 2] ^= 1
    cache.write_bytes(
        {"truncated": whole[:-100], "flipped": bytes(content), "empty": b"", "not a zip": b"x" * 1000}[damage]
    )
    assert torch.equal(load_cifar10(config(root))[0].images_NCHW, first.images_NCHW)
    assert cache.read_bytes()[-100:] == whole[-100:]


def test_new_file_renews_the_cache(root: Path) -> None:
    load_cifar10(config(root))
    Image.new("RGB", (32, 32), (7, 7, 7)).save(root / "train" / "cat" / "new.png")
    train = load_cifar10(config(root))[0]
    assert train.labels_N.bincount().tolist() == [2, 2, 2, 3, 2, 2, 2, 2, 2, 2]


def test_read_only_root_is_cached_at_home(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):  # a folder in its place cannot be overwritten, not even by a privileged user
        (root / f"negbench-cifar10-{split}.npz").mkdir()
    load_cifar10(config(root))
    assert len(list((home / ".cache" / "negbench").glob("*.npz"))) == 2
    monkeypatch.setattr(cifar10, "decode", refuse)
    assert len(load_cifar10(config(root))[0]) == 20


def test_bad_file_is_an_error_or_is_left_out_and_counted(root: Path) -> None:
    (root / "train" / "frog" / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(BadImageError, match=r"frog/broken\.png"):
        load_cifar10(config(root))
    for _ in range(2):
        splits = load_splits(config(root, on_bad_image="skip", validation=0.5))
        assert splits.skipped == 1 and len(splits.train) == 10 and splits.validation is not None
    with pytest.raises(BadImageError, match=r"frog/broken\.png"):
        load_cifar10(config(root))


def test_wrong_size_is_refused(root: Path) -> None:
    Image.new("RGB", (33, 32)).save(root / "test" / "ship" / "wide.png")
    with pytest.raises(ValueError, match=r"test/ship/wide\.png has 32 x 33 pixels; CIFAR-10 has 32 x 32"):
        load_cifar10(config(root))


def test_missing_class_is_named(root: Path) -> None:
    for path in (root / "test" / "deer").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="test/deer holds no PNG"):
        load_cifar10(config(root))


def test_absent_data_says_which_file_goes_where(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        load_cifar10(config(tmp_path / "nothing"))
    assert f"as {tmp_path / 'nothing' / 'cifar-10-python.tar.gz'}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_root_that_is_not_there_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "download", lambda self: pytest.fail("fetched"))
    with pytest.raises(ValueError, match=f"there is no folder data.root {tmp_path / 'mistyped'}"):
        load_cifar10(DataConfig(name="cifar10", root=str(tmp_path / "mistyped")))
    assert not (tmp_path / "mistyped").exists()


def test_default_root_and_failed_download(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: CIFAR10) -> None:
        raise URLError("no network")

    monkeypatch.setattr(CIFAR10, "download", fail)
    with pytest.raises(ValueError, match=r"was not fetched .*no network") as error:
        load_cifar10(DataConfig(name="cifar10"))
    assert str(home / ".cache" / "negbench" / "cifar10" / "cifar-10-python.tar.gz") in str(error.value)
