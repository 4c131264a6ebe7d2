"""Packs: the same images in the same order and the same runs as the folder."""

import json
import multiprocessing
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from negbench.data.datasets.imagefolder import load_folder
from negbench.data.files import pack
from negbench.data.files.packing import make_pack
from negbench.data.sets import FolderSet
from negbench.runtime.failure import Interrupted
from tests.helpers import runs
from tests.helpers.packs import LARGE, SHARD_BYTES, config, flip, invoke, untold


# The same as the folder
def test_a_pack_holds_the_same_images_in_the_same_order(root: Path, packed: Path) -> None:
    for of_folder, of_pack in zip(load_folder(config(root))[:2], load_folder(config(packed))[:2], strict=True):
        assert isinstance(of_folder, FolderSet) and isinstance(of_pack, FolderSet)
        assert torch.equal(of_folder.labels_N, of_pack.labels_N)
        for position in range(len(of_folder)):
            name = os.path.relpath(of_folder.path(position), root)
            assert of_pack.path(position).partition(" in ")[0] == name
            assert torch.equal(of_folder.decode(position), of_pack.decode(position))
    assert load_folder(config(root))[2] == load_folder(config(packed))[2] == ("ant", "bee")


def test_shards_have_at_most_their_size_but_hold_whole_files(root: Path, packed: Path) -> None:
    sizes = [path.stat().st_size for path in sorted((packed / "train").glob("*.pack"))]
    largest = (root / LARGE).stat().st_size
    assert len(sizes) > 3 and largest > SHARD_BYTES
    assert [size for size in sizes if size > SHARD_BYTES] == [largest]
    files = [path.read_bytes() for path in (root / "train").rglob("*.*")]
    assert sum(sizes) == sum(map(len, files))
    together = [path.read_bytes() for path in (packed / "train").glob("*.pack")]
    assert all(any(data in shard for shard in together) for data in files)


def test_classes_that_are_not_tested_and_the_name_test(root: Path) -> None:
    shutil.rmtree(root / "val" / "ant")
    (root / "val").rename(root / "test")
    make_pack(root, root.parent / "pack", SHARD_BYTES, untold)
    for where in (root, root.parent / "pack"):
        assert load_folder(config(where))[1].labels_N.tolist() == [1] * 4
    assert list(json.loads((root.parent / "pack" / "manifest.json").read_text())["splits"]) == ["train", "test"]


def test_a_run_is_the_same_from_either_and_goes_on_from_the_other(root: Path, packed: Path) -> None:
    settings = ["data.name=imagefolder", "data.num_images=null", "batch_size=8", "data.image_size=16"]
    settings += ["data.workers=2", "views=moco-v2", "epochs=2", "evaluation.linear=false"]
    from_folder = runs.short("moco", *settings, f"data.root={root}")
    from_pack = runs.short("moco", *settings, f"data.root={packed}")
    assert from_folder.run_id == from_pack.run_id
    outcomes = []
    for name, resolved in (("folder", from_folder), ("pack", from_pack)):
        runs.start(resolved, root.parent / name)
        outcomes.append(runs.outcome(runs.folder(resolved, root.parent / name)))
    with pytest.raises(Interrupted):
        runs.start(from_folder, root.parent / "both", runs.StopAt(2))
    runs.start(from_pack, root.parent / "both")
    resumed = runs.outcome(runs.folder(from_pack, root.parent / "both"))
    runs.assert_same(outcomes[0], outcomes[1])
    runs.assert_same(outcomes[0], resumed)


# Processes
def read_by_a_worker(files: pack.Pack, answer: "multiprocessing.connection.Connection") -> None:
    before = len(files._open)
    answer.send((before, files.read(0), len(files._open)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_opens_the_shards_that_it_reads(packed: Path, method: str) -> None:
    files, _ = pack.open_pack(packed)
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=read_by_a_worker, args=(files, theirs))
    process.start()
    assert ours.recv() == (0, files.read(0), 1)
    process.join()
    assert len(pickle.loads(pickle.dumps(files))._open) == 0


def test_no_more_shards_are_open_than_a_process_may_have(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "_MOST_OPEN", 2)
    files, _ = pack.open_pack(packed)
    for position in (*range(len(files)), *range(len(files))):
        assert files.is_whole(position, files.read(position))
        assert len(files._open) <= 2


def test_folders_that_cannot_be_read_are_one_sentence(root: Path) -> None:
    (root / "train" / "ant" / "loop").symlink_to("loop")
    code, _, err = invoke("pack", root, root.parent / "pack")
    assert code == 2 and err.count("\n") == 1
    assert re.match(r"^negbench: cannot read .*ant/loop: Too many levels of symbolic links$", err.strip())


# Making one
def test_the_commands(root: Path) -> None:
    out = root.parent / "pack"
    code, shown, told = invoke("pack", root, out)
    assert code == 0 and f"data.root={out}" in shown and "33 of 33 images" in told
    code, shown, told = invoke("verify", out)
    assert code == 0 and "as it was packed" in shown
    flip(out / "train" / "00000.pack", 10)
    flip(out / "train" / "00000.pack", (out / "train" / "00000.pack").stat().st_size - 10)
    code, _, told = invoke("verify", out)
    assert code == 2 and f"{out / 'train/00000.pack'} (train/ant/0.jpg and 1 more)" in told


def test_an_interrupted_pack_leaves_nothing(root: Path) -> None:
    def interrupt(num_images: int) -> Callable[[int, int], None]:
        def progress(images: int, num_bytes: int) -> None:
            assert list((root.parent / "pack.partial" / "train").iterdir())
            raise KeyboardInterrupt

        return progress

    before = sorted(root.parent.iterdir())
    with pytest.raises(KeyboardInterrupt):
        make_pack(root, root.parent / "pack", SHARD_BYTES, interrupt)
    assert sorted(root.parent.iterdir()) == before


def test_nothing_is_overwritten(root: Path, packed: Path) -> None:
    content = sorted((path, path.stat().st_mtime_ns) for path in packed.rglob("*"))
    code, _, err = invoke("pack", root, packed)
    assert code == 2 and "exists already" in err
    assert sorted((path, path.stat().st_mtime_ns) for path in packed.rglob("*")) == content
    empty = root.parent / "empty"
    empty.mkdir()
    assert invoke("pack", root, empty)[0] == 2 and not list(empty.iterdir())
    killed = root.parent / "other.partial"
    killed.mkdir()
    code, _, err = invoke("pack", root, root.parent / "other")
    assert code == 2 and f"{killed} is of a pack that was killed" in err and killed.is_dir()


def test_what_appears_meanwhile_is_not_overwritten(root: Path) -> None:
    out = root.parent / "pack"

    def appear(num_images: int) -> Callable[[int, int], None]:
        return lambda images, num_bytes: out.mkdir(exist_ok=True)

    with pytest.raises(ValueError, match="has been made meanwhile"):
        make_pack(root, out, SHARD_BYTES, appear)
    assert not list(out.iterdir()) and not out.with_name("pack.partial").exists()


def test_mistakes_are_one_sentence(root: Path, packed: Path) -> None:
    (root.parent / "file").touch()
    link = root / "train" / "bee" / "gone.jpg"
    mistakes = [
        (packed, root.parent / "again", "is a pack already"),
        (root.parent / "nowhere", root.parent / "again", "has no folders train/CLASS"),
        (root, root / "train" / "again", "would be taken for a class"),
        (root, root.parent / "file" / "again", "cannot write"),
    ]
    for source, out, sentence in mistakes:
        code, shown, err = invoke("pack", source, out)
        assert code == 2 and sentence in err and err.count("\n") == 1 and not shown
    link.symlink_to("nothing")
    code, _, err = invoke("pack", root, root.parent / "again")
    assert code == 2 and f"cannot read {link}: No such file or directory; mend or delete it" in err
    assert not list(root.parent.glob("again*"))
    code, _, err = invoke("verify", root)
    assert code == 2 and f"{root} is no pack" in err


def test_files_that_are_no_images_are_packed_and_named(root: Path) -> None:
    classes = sorted((root / "train").iterdir())
    (classes[0] / "0.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (classes[-1] / "0.png").write_text("<html><body>404</body></html>")
    said = make_pack(root, root.parent / "odd", SHARD_BYTES, untold)
    assert any("0.jpg is a Git LFS pointer" in text and text.endswith("so are 1 more") for text in said)
