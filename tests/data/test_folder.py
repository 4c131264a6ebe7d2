"""Image folders: layout, bad files, order, and batches that depend on the step only."""

import multiprocessing
import signal
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as transforms

from negbench.data import workers as data_workers
from negbench.data.batches import eval_batches, training_batches
from negbench.data.datasets.imagefolder import load_folder
from negbench.data.files.decode import BadImageError, decode
from negbench.data.load import load_splits
from negbench.data.order import batch_index
from negbench.data.sets import FolderSet, ResidentSet
from negbench.data.views import crops as views
from negbench.data.views import evaluation
from negbench.data.views.evaluation import center_crop
from negbench.data.workers import StepDataset
from negbench.runtime.signals import signals_blocked
from negbench.settings.schema import DataConfig, MethodConfig, RunConfig
from negbench.settings.views import ViewsConfig

CPU = torch.device("cpu")
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten training images a class of differing sizes, four of test; every pixel of an image has the same value."""
    folder = tmp_path / "images"
    value = 0
    for split, count in (("train", 10), ("val", 4)):
        for name in ("dog", "ant"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                value += 8
                size = (16 + number, 24 - number)
                Image.new("RGB", size, (value,) * 3).save(folder / split / name / f"{number}.png")
    return folder


def run_config(root: Path, **data: Any) -> RunConfig[MethodConfig]:
    settings = {"name": "imagefolder", "root": str(root), "image_size": 12, "validation": 0, "workers": 0} | data
    return RunConfig[MethodConfig](
        method=MethodConfig(name="any"), batch_size=6, data=DataConfig(**settings), channels_last=False
    )


def train_set(config: RunConfig[MethodConfig]) -> FolderSet:
    return load_folder(config.data)[0]


def paths(images: FolderSet) -> list[str]:
    return [images.path(position) for position in range(len(images))]


def channels(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


# Files


def test_agrees_with_image_folder(root: Path) -> None:
    Image.fromarray(RGB).save(root / "train" / "ant" / "c.jpeg")
    Image.fromarray(RGB).convert("RGBA").save(root / "train" / "dog" / "c.webp")
    theirs = ImageFolder(str(root / "train"))
    ours = train_set(run_config(root))
    assert list(zip(paths(ours), ours.labels_N.tolist(), strict=True)) == theirs.samples
    for position, (image, _) in enumerate(theirs):
        assert np.array_equal(channels(decode(ours.path(position))), np.asarray(image))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "absent"])
def test_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    if damage != "absent":
        Image.fromarray(RGB).save(path)
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no image" * 20}[damage])
    with pytest.raises(BadImageError, match=f"cannot decode the image {path}: .+"):
        decode(str(path))


# Layout


def test_order_is_sorted_and_other_files_are_ignored(root: Path) -> None:
    for name in ("notes.txt", "._0.png", "10.PNG"):
        (root / "train" / "ant" / name).write_bytes((root / "train" / "ant" / "0.png").read_bytes())
    (root / "train" / ".hidden").mkdir()
    train, test, classes = load_folder(run_config(root).data)
    assert classes == ("ant", "dog") and len(test) == 8
    names = [Path(path).name for path in paths(train)[:11]]
    assert names == ["0.png", "1.png", "10.PNG", *(f"{i}.png" for i in range(2, 10))]
    assert train.labels_N.tolist() == [0] * 11 + [1] * 10


def test_folder_test_stands_in_for_val(root: Path) -> None:
    (root / "val").rename(root / "test")
    assert len(load_folder(run_config(root).data)[1]) == 8


def test_wrong_layouts_are_explained(root: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        load_splits(DataConfig(name="imagefolder"))
    (root / "train" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"train/cat holds no image \(\.jpg, "):
        load_folder(run_config(root).data)
    (root / "train" / "cat").rename(root / "val" / "cat")
    with pytest.raises(ValueError, match=r"val/cat is a class that .*train has not"):
        load_folder(run_config(root).data)
    (root / "val" / "cat").rmdir()
    (root / "val").rename(root / "elsewhere")
    assert len(load_folder(run_config(root).data)[1]) == 0


def test_splits_of_a_folder(root: Path) -> None:
    splits = load_splits(run_config(root, validation=0.2, num_images=8).data)
    assert isinstance(splits.train, FolderSet) and isinstance(splits.validation, FolderSet)
    assert splits.train.labels_N.tolist() == [0] * 4 + [1] * 4
    assert splits.validation.labels_N.tolist() == [0, 0, 1, 1]
    assert not set(paths(splits.train)) & set(paths(splits.validation))
    for path, label in zip(paths(splits.train), splits.train.labels_N.tolist(), strict=True):
        assert Path(path).parent.name == splits.classes[label]


# Training


def collect(
    dataset: FolderSet | ResidentSet, config: RunConfig[MethodConfig], start: int, stop: int, **rest: Any
) -> Any:
    return list(training_batches(dataset, config, CPU, start, stop, **rest))


def assert_equal(first: Any, second: Any) -> None:
    assert len(first) == len(second) > 0
    for (views_1, index_1), (views_2, index_2) in zip(first, second, strict=True):
        assert torch.equal(index_1, index_2)
        assert all(torch.equal(a, b) for a, b in zip(views_1, views_2, strict=True))


@pytest.mark.parametrize("crops", [[], [{"size": 9, "scale": (0.1, 0.4)}, {"size": 16, "scale": (0.2, 1)}]])
def test_step_shows_the_images_of_the_order_cropped_as_torchvision_does(crops: list[Any], root: Path) -> None:
    Image.fromarray(RGB).save(root / "train" / "ant" / "3.png")
    config = run_config(root).model_copy(update={"views": ViewsConfig(crops=crops)})
    images = train_set(config)
    for step in range(4):  # beyond the first epoch
        made, index, bad = StepDataset(images, config)[step]
        assert torch.equal(index, batch_index(step, 20, 6, config.seed)) and bad == []
        uniforms = views.uniforms(config.seed, step, 6, 2 + len(crops))
        sizes = config.views.sizes(12)
        for view, view_config, size, numbers in zip(made, config.views.all, sizes, uniforms, strict=True):
            for row, position in enumerate(index.tolist()):
                image = decode(images.path(position))
                height, width = torch.tensor([image.shape[1]]), torch.tensor([image.shape[2]])
                box = views.crop_boxes(view_config, numbers[row : row + 1], height, width)[0].tolist()
                assert torch.equal(view[row], transforms.resized_crop(image, *box, [size, size], antialias=True))


def test_batches_equal_those_of_a_resident_set(root: Path) -> None:
    """With images of one value per image, resizing is exact, so both kinds of set must show the same."""
    config = run_config(root)
    images = train_set(config)
    resident = ResidentSet(torch.stack([decode(path)[:, :12, :12] for path in paths(images)]), images.labels_N)
    for (from_files, index_1), (from_memory, index_2) in zip(
        collect(images, config, 0, 4), collect(resident, config, 0, 4), strict=True
    ):
        assert torch.equal(index_1, index_2)
        for a, b in zip(from_files, from_memory, strict=True):
            assert a.dtype == torch.float32 and a.shape == (6, 3, 12, 12)
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_resumes_in_the_middle(root: Path) -> None:
    config = run_config(root)
    assert_equal(collect(train_set(config), config, 0, 7)[4:], collect(train_set(config), config, 4, 7))


def test_an_epoch_shows_every_image_at_most_once(root: Path) -> None:
    config = run_config(root)
    shown = torch.cat([index for _, index in collect(train_set(config), config, 3, 6)])
    assert len(shown) == len(set(shown.tolist())) == 18


def test_ranks_share_the_global_batch(root: Path) -> None:
    config = run_config(root)
    images = train_set(config)
    resident = ResidentSet(torch.randint(0, 256, (20, 3, 14, 14), dtype=torch.uint8), torch.zeros(20).long())
    for dataset in (images, resident):
        whole = collect(dataset, config, 0, 2)
        parts = [collect(dataset, config, 0, 2, rank=rank, world_size=2) for rank in range(2)]
        for step, (both_views, index) in enumerate(whole):
            assert torch.equal(torch.cat([part[step][1] for part in parts]), index)
            for view in range(2):
                joined = torch.cat([part[step][0][view] for part in parts])
                torch.testing.assert_close(joined, both_views[view], atol=1e-5, rtol=1e-5)


def test_workers_change_nothing(root: Path) -> None:
    alone, helped = run_config(root), run_config(root, workers=2)
    assert_equal(collect(train_set(alone), alone, 1, 6), collect(train_set(helped), helped, 1, 6))


def test_global_generator_is_left_alone(root: Path) -> None:
    config = run_config(root)
    before = torch.get_rng_state()
    collect(train_set(config), config, 0, 2)
    list(eval_batches(train_set(config), config, CPU))
    assert torch.equal(torch.get_rng_state(), before)


def test_channels_last(root: Path) -> None:
    config = run_config(root).model_copy(update={"channels_last": True})
    (view, _), _ = collect(train_set(config), config, 0, 1)[0]
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_batch_size_is_checked_at_the_start(root: Path) -> None:
    config = run_config(root).model_copy(update={"batch_size": 21})
    with pytest.raises(ValueError, match="batch_size 21 exceeds the 20 training images"):
        collect(train_set(config), config, 0, 1)


# Bad files while training and evaluating


def test_more_workers_than_cores_give_no_warning(root: Path) -> None:
    config = run_config(root, workers=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(training_batches(load_splits(config.data).train, config, CPU, 0, 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_file_stops_with_one_sentence(root: Path, workers: int) -> None:
    config = run_config(root, workers=workers)
    path = root / "train" / "ant" / "3.png"
    truncate(path)
    with pytest.raises(BadImageError, match=f"cannot decode the image {path}") as error:
        collect(train_set(config), config, 0, 4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_file_is_replaced_by_the_next_and_counted_once(root: Path, workers: int) -> None:
    whole = run_config(root, workers=workers, on_bad_image="skip")
    expected = [index for _, index in collect(train_set(whole), whole, 0, 9)]
    bad = {str(root / "train" / "dog" / f"{number}.png") for number in (8, 9)}
    for path in bad:
        truncate(Path(path))
    skipped: set[str] = set()
    shown = [index for _, index in collect(train_set(whole), whole, 0, 9, skipped=skipped)]
    assert skipped == bad
    replaced = [
        torch.where(index >= 18, 0, index) for index in expected
    ]  # the last two: the first image of all is next
    assert sum(int((index >= 18).sum()) for index in expected) > 2
    assert all(torch.equal(a, b) for a, b in zip(shown, replaced, strict=True))


def test_no_good_file_at_all(root: Path) -> None:
    config = run_config(root, on_bad_image="skip")
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(BadImageError, match="none of the 20 training images can be decoded"):
        collect(train_set(config), config, 0, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_in_order_and_in_shards(root: Path, workers: int) -> None:
    config = run_config(root, workers=workers)
    test = load_folder(config.data)[1]
    images, labels = (torch.cat(parts) for parts in zip(*eval_batches(test, config, CPU, batch_size=3), strict=True))
    assert labels.tolist() == [0] * 4 + [1] * 4
    expected = torch.stack([center_crop(decode(path), 12) for path in paths(test)])
    assert torch.equal(images, evaluation.eval_view(expected, config.views.first, 12))
    shards = [pair for rank in range(3) for pair in eval_batches(test, config, CPU, 2, rank, 3)]
    assert torch.equal(torch.cat([shard[0] for shard in shards]), images)


def test_evaluation_of_a_resident_set(root: Path) -> None:
    config = run_config(root)
    images = torch.randint(0, 256, (5, 3, 12, 12), dtype=torch.uint8)
    shards = [
        p for rank in range(2) for p in eval_batches(ResidentSet(images, torch.arange(5)), config, CPU, 2, rank, 2)
    ]
    assert torch.cat([labels for _, labels in shards]).tolist() == [0, 1, 2, 3, 4]
    got = torch.cat([view for view, _ in shards])
    assert torch.equal(got, evaluation.eval_view(images, config.views.first, 12))


def test_evaluation_leaves_bad_files_out(root: Path) -> None:
    bad = root / "val" / "ant" / "1.png"
    truncate(bad)
    config = run_config(root, on_bad_image="skip")
    skipped: set[str] = set()
    found = list(eval_batches(load_folder(config.data)[1], config, CPU, batch_size=1, skipped=skipped))
    assert skipped == {str(bad)} and torch.cat([labels for _, labels in found]).tolist() == [0] * 3 + [1] * 4
    config = run_config(root)
    with pytest.raises(BadImageError, match=r"val/ant/1\.png"):
        list(eval_batches(load_folder(config.data)[1], config, CPU))


@pytest.mark.parametrize(
    ("shape", "resized"), [((512, 600), (256, 300)), ((240, 300), (240, 300)), ((112, 224), (224, 448))]
)
def test_center_crop(shape: tuple[int, int], resized: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    expected = transforms.center_crop(transforms.resize(image, list(resized), antialias=True), [224, 224])
    assert torch.equal(center_crop(image, 224), expected)


# Signals

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2}


class Masks(Dataset[Any]):
    """Items are the signals blocked in the process that makes them."""

    def __getitem__(self, item: int) -> Any:
        return sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])), []


def test_workers_obey_only_their_parent() -> None:
    """Signals from others leave a worker alive; the SIGTERM with which its parent ends it does not."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    others = set(multiprocessing.active_children())
    items = data_workers.load(Masks(), range(8), 1, CPU, None)
    for _ in range(2):
        (blocked,) = next(items)
        assert set(blocked) >= SIGNALS
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
        (worker,) = set(multiprocessing.active_children()) - others
        for name in ("INT", "TERM", "USR2"):
            subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert len(list(items)) == 6
    items = data_workers.load(Masks(), range(8), 1, CPU, None)
    next(items)
    (worker,) = set(multiprocessing.active_children()) - others
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 0
    items.close()  # type: ignore[attr-defined]


def test_mask_is_restored_after_an_error() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(RuntimeError), signals_blocked():
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) >= SIGNALS
        raise RuntimeError
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
