"""Listings of image folders: the cache is used while it is good and never beyond, and no process grows by reading."""

import os
import pickle
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from negbench.data.datasets.imagefolder import load_folder
from negbench.data.files import listing
from negbench.data.files.listing import Listing, list_classes
from negbench.data.files.strings import Strings
from negbench.data.load import load_splits
from negbench.data.sets import FolderSet
from negbench.settings.schema import DataConfig

NAMES = ["ant/0.png", "ant/1.jpg", "ant/sub/0.jpg", "ant/sub/deep/a.webp", "bee/z.jpeg", "bee/é.png"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six empty files, of a folder that counts as settled."""
    monkeypatch.setattr(listing, "_SETTLED_NS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in NAMES:
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "train"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are read, and not only looked at."""
    read: list[str] = []
    original = listing._read_folder

    def noted(path: str) -> Any:
        read.append(path)
        return original(path)

    monkeypatch.setattr(listing, "_read_folder", noted)
    return read


def caches(root: Path) -> list[Path]:
    return sorted((root.parent / "cache" / "negbench" / "listings").glob("*"))


def paths(files: Listing) -> list[str]:
    return [os.path.relpath(files.path(position), files.root) for position in range(len(files))]


def test_strings_come_back_as_they_were() -> None:
    words = ["", "a", "", "é€", os.fsdecode(b"\xff\xfe"), "b" * 300]
    strings = Strings.of(words)
    assert [strings[position] for position in range(len(strings))] == words
    assert len(Strings.of([])) == 0


def test_second_listing_reads_no_folder_and_is_the_same(root: Path, reads: list[str]) -> None:
    first = list_classes(root)
    assert paths(first) == NAMES and len(reads) == 5 and len(caches(root)) == 1
    reads.clear()
    second = list_classes(root)
    assert reads == []
    assert paths(second) == NAMES and second.classes == ("ant", "bee")
    assert second.class_N.tolist() == [0] * 4 + [1] * 2
    assert second.root == str(root)


def test_two_ways_to_a_folder_share_a_listing_and_keep_their_names(root: Path, reads: list[str]) -> None:
    list_classes(root)
    reads.clear()
    (root.parent / "link").symlink_to(root)
    assert list_classes(root.parent / "link").path(0) == str(root.parent / "link" / "ant" / "0.png")
    assert reads == []


def outside(root: Path) -> Path:
    (root.parent / "outside").mkdir()
    (root.parent / "outside" / "o.jpg").touch()
    (root / "bee" / "link").symlink_to(root.parent / "outside")
    return root.parent / "outside"


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file more": lambda root: (root / "ant" / "sub" / "deep" / "b.png").touch(),
    "a file less": lambda root: (root / "bee" / "z.jpeg").unlink(),
    "another name": lambda root: (root / "ant" / "0.png").rename(root / "ant" / "2.png"),
    "a class more": lambda root: (root / "cat").mkdir(),
    "a class less": lambda root: (root / "ant").rename(root.parent / "ant"),
    "a folder behind a link": lambda root: (root.parent / "outside" / "p.jpg").touch(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen_though_the_time_of_change_is_set_back(root: Path, change: str) -> None:
    outside(root)
    before = paths(list_classes(root))
    folders = [Path(folder) for folder, _, _ in os.walk(root, followlinks=True)]
    times = {folder: folder.stat() for folder in folders}
    CHANGES[change](root)
    for folder in folders:
        if folder.exists():
            os.utime(folder, ns=(times[folder].st_atime_ns, times[folder].st_mtime_ns))
    after = list_classes(root)
    assert paths(after) != before or after.classes != ("ant", "bee")


def test_a_folder_that_changed_just_now_is_not_cached(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change within the same tick of the file system's clock would leave its time as it is."""
    monkeypatch.setattr(listing, "_SETTLED_NS", 2_000_000_000)
    list_classes(root)
    assert caches(root) == []
    later = time.time_ns() + 3_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: later)
    list_classes(root)
    assert len(caches(root)) == 1


def test_hidden_folders_and_what_is_no_file_are_no_images(root: Path) -> None:
    before = [list_classes(root).path(position) for position in range(len(list_classes(root)))]
    (root / "ant" / ".ipynb_checkpoints").mkdir()
    (root / "ant" / ".ipynb_checkpoints" / "copy.jpg").touch()
    os.mkfifo(root / "ant" / "pipe.jpg")
    listing = list_classes(root)
    assert [listing.path(position) for position in range(len(listing))] == before


def test_a_link_to_nothing_is_not_cached(root: Path) -> None:
    """Its target may appear, as an unmounted disk's folder, without a trace in the folder that holds the link."""
    (root / "cat").symlink_to(root.parent / "elsewhere")
    assert list_classes(root).classes == ("ant", "bee")
    (root.parent / "elsewhere").mkdir()
    assert list_classes(root).classes == ("ant", "bee", "cat")


def other_format(path: Path) -> None:
    with np.load(path) as arrays:
        content = dict(arrays)
    np.savez(path, **content | {"format": np.array(0)})


def other_folder(path: Path) -> None:
    with np.load(path) as arrays:
        content = dict(arrays)
    np.savez(path, **content | {"resolved": np.frombuffer(b"/elsewhere", np.uint8)})


def one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"sub/deep") + 1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "one byte": one_byte,
    "text": lambda path: path.write_text("no listing"),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"format": 1})),
    "array": lambda path: np.zeros(3).tofile(path),
    "lacks arrays": lambda path: np.savez(path, format=np.array(listing._FORMAT)),
    "other format": other_format,
    "other folder": other_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_caches_are_listed_afresh(root: Path, reads: list[str], damage: str) -> None:
    list_classes(root)
    (cache,) = caches(root)
    DAMAGES[damage](cache)
    reads.clear()
    assert paths(list_classes(root)) == NAMES and len(reads) == 5
    reads.clear()
    assert paths(list_classes(root)) == NAMES and reads == []


def test_no_cache_where_none_can_be_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.parent / "file").touch()
    for home in (str(root.parent / "file"), "/proc", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        assert paths(list_classes(root)) == NAMES
    assert not Path("relative").exists()


def test_the_newest_listings_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_KEPT", 2)
    for number in range(4):
        other = root.parent / f"other{number}" / "ant"
        other.mkdir(parents=True)
        list_classes(other.parent)
        for age, cache in enumerate(sorted(caches(root), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(cache, (age, age))
    assert len(caches(root)) == 2


def test_loops_and_unreadable_folders_are_one_sentence(root: Path, tmp_path: Path) -> None:
    config = DataConfig(name="imagefolder", root=str(tmp_path))
    (tmp_path / "val").symlink_to(root)
    (root / "ant" / "sub" / "again").symlink_to(root / "ant")
    with pytest.raises(ValueError, match=r"ant/sub/again is a link to a folder that it lies in"):
        load_splits(config)
    (root / "ant" / "sub" / "again").unlink()
    (root / "ant" / "odd").symlink_to("odd")
    with pytest.raises(ValueError, match=r"cannot read .*ant/odd: "):
        load_splits(config)


# Memory

NUM_PATHS = 100_000
FOLDERS = 100


def made_up() -> FolderSet:
    """A listing of 100,000 names as long as ImageNet's."""
    files = Listing(
        "/datasets/imagenet/train",
        tuple(f"n{number:08}" for number in range(FOLDERS)),
        Strings.of(f"n{number:08}" for number in range(FOLDERS)),
        torch.arange(FOLDERS),
        torch.arange(NUM_PATHS, dtype=torch.int32) % FOLDERS,
        Strings.of(f"n{number % FOLDERS:08}_{number}.JPEG" for number in range(NUM_PATHS)),
    )
    return FolderSet.all_of(files, files.class_N, DataConfig())


def own_bytes() -> int:
    """Memory of this process that it shares with no other and has written to."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


def growth_by_reading(path: Callable[[int], str], answer: Any) -> None:
    path(0)
    before = own_bytes()
    for position in range(NUM_PATHS):
        path(position)
    answer.send(own_bytes() - before)


def growth_in_a_fork(path: Callable[[int], str]) -> int:
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=growth_by_reading, args=(path, theirs))
    process.start()
    growth: int = ours.recv()
    process.join()
    return growth


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no /proc/self/smaps_rollup, which Linux has")
def test_a_worker_that_reads_every_path_stays_as_small_as_it_was() -> None:
    images = made_up()
    as_list = [images.path(position) for position in range(NUM_PATHS)]
    in_list = growth_in_a_fork(as_list.__getitem__)
    assert in_list > 8e6  # the paths' own size: what the measurement would show of a list
    assert growth_in_a_fork(images.path) < in_list / 4
    assert growth_in_a_fork(images.subset(torch.arange(NUM_PATHS).flip(0)).path) < in_list / 4


def test_a_subset_shares_the_files(root: Path) -> None:
    (root.parent / "val").symlink_to(root)
    train, _, _ = load_folder(DataConfig(name="imagefolder", root=str(root.parent)))
    part = train.subset(torch.tensor([5, 0])).subset(torch.tensor([1, 0]))
    assert [Path(part.path(position)).name for position in range(2)] == ["0.png", "é.png"]
    assert part.labels_N.tolist() == [0, 1] and part.files is train.files
