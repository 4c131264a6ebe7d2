"""Packs: the same images in the same order and the same runs as the folder, and every damage is named."""

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import re
import shutil
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
from negbench.data.files import pack
from negbench.data.files.decode import BadImageError
from negbench.data.files.packing import make_pack, verify_pack
from negbench.data.sets import FolderSet
from negbench.data.workers import EvaluationDataset
from negbench.runtime.failure import Interrupted
from negbench.settings.schema import DataConfig
from tests.helpers import runs

SHARD_BYTES = 4000  # some of the images below
LARGE = "train/bee/large.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of twelve training and four test images, some in folders below, and one larger than a shard."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name in ("ant", "bee"):
            (tmp_path / "images" / split / name / "sub").mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(generator.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8))
                image.save(tmp_path / "images" / split / name / ("sub" if number == 3 else "") / f"{number}.jpg")
    Image.fromarray(generator.integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(tmp_path / "images" / LARGE)
    return tmp_path / "images"


@pytest.fixture
def packed(root: Path) -> Path:
    make_pack(root, root.parent / "pack", SHARD_BYTES, untold)
    return root.parent / "pack"


def untold(num_images: int) -> Callable[[int, int], None]:
    return lambda images, num_bytes: None


def config(root: Path, **settings: object) -> DataConfig:
    return DataConfig.model_validate({"name": "imagefolder", "root": str(root), "image_size": 16} | settings)


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def flip(path: Path, position: int) -> None:
    """Change the byte at `position`."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


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


# Damage


def test_a_damaged_image_is_named_with_its_shard(root: Path, packed: Path) -> None:
    shard = packed / "train" / "00001.pack"
    flip(shard, 300)
    images = load_folder(config(packed))[0]
    position = next(i for i in range(len(images)) if images.path(i).endswith("00001.pack"))
    original = os.path.relpath(load_folder(config(root))[0].path(position), root)
    with pytest.raises(BadImageError, match=f"^cannot decode the image {original} in {shard}: these are not the bytes"):
        images.decode(position)
    images.decode(position - 1)
    with pytest.raises(ValueError, match=rf"^not as packed: {shard} \({original}\): copy it again"):
        verify_pack(packed, untold)
    skipping = EvaluationDataset(load_folder(config(packed, on_bad_image="skip"))[0], 100)
    crops, labels, bad = skipping[0]
    assert bad == [f"{original} in {shard}"] and len(crops) == len(labels) == len(images) - 1


def test_images_that_were_bad_already_are_packed_as_they_are(root: Path) -> None:
    (root / "train" / "ant" / "0.jpg").write_bytes(b"")
    (root / "train" / "ant" / "1.jpg").write_bytes(b"no image")
    make_pack(root, root.parent / "pack", SHARD_BYTES, untold)
    verify_pack(root.parent / "pack", untold)
    images = load_folder(config(root.parent / "pack"))[0]
    for position, kind in enumerate((r"it is empty \(0 bytes\)", "it is a text that begins 'no image'")):
        with pytest.raises(
            BadImageError, match=rf"train/ant/{position}\.jpg in {root.parent}/pack/train/\d+\.pack: {kind}$"
        ):
            images.decode(position)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def rewrite(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A change to the splits of the manifest."""

    def damage(packed: Path) -> None:
        path = packed / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest["splits"])
        path.write_text(json.dumps(manifest))

    return damage


NAMES = ("../secret", "train/../../secret", "/etc/hostname", "train/00001.pack", "train/index.npz", "train/\n.pack")


def rename(name: str) -> Callable[[Path], None]:
    """A manifest whose first shard is called so, of the right size."""
    return rewrite(lambda splits: splits["train"]["shards"][0].update(name=name))


def digits(key: str) -> Callable[[Path], None]:
    """A manifest with a number of 5,000 digits as the first value of a key."""

    def damage(packed: Path) -> None:
        path = packed / "manifest.json"
        text, times = re.subn(rf"\"{key}\": \d+", f'"{key}": {"7" * 5000}', path.read_text(), count=1)
        assert times == 1
        path.write_text(text)

    return damage


def link_out(packed: Path) -> None:
    shard = packed / "train" / "00000.pack"
    shard.rename(packed.parent / "elsewhere")
    shard.symlink_to(packed.parent / "elsewhere")


def folder_for_file(packed: Path) -> None:
    (packed / "val" / "index.npz").unlink()
    (packed / "val" / "index.npz").mkdir()


def replace_index(content: bytes) -> Callable[[Path], None]:
    """A pack whose manifest agrees with another index of the training images."""

    def damage(packed: Path) -> None:
        (packed / "train" / "index.npz").write_bytes(content)
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        rewrite(lambda splits: splits["train"]["index"].update(entry))(packed)

    return damage


def forge(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A change to the arrays of an index, with which the manifest agrees."""

    def damage(packed: Path) -> None:
        with np.load(packed / "train" / "index.npz") as arrays:
            content = dict(arrays)
        change(content)
        file = io.BytesIO()
        np.savez(file, **content)
        replace_index(file.getvalue())(packed)

    return damage


def put(name: str, value: int, position: int = 3) -> Callable[[dict[str, Any]], object]:
    return lambda arrays: arrays[name].__setitem__(position, value)


def bomb() -> bytes:
    """An index of few bytes that unpacks to many."""
    file = io.BytesIO()
    np.savez_compressed(file, class_text=np.zeros(1 << 20, np.uint8))
    return file.getvalue()


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "length beyond the shard": (put("length_N", 1 << 40), "outside of the shards"),
    "length of almost all": (put("length_N", 5000), "overlap, or leave gaps"),
    "negative length": (put("length_N", -1), "length_N has numbers out of"),
    "start beyond the shard": (put("start_N", 1 << 40), "overlap, or leave gaps"),
    "negative start": (put("start_N", -7), "start_N has numbers out of"),
    "overlap": (put("start_N", 0, 1), "overlap, or leave gaps"),
    "shard that is not": (put("shard_N", 999), "outside of the shards"),
    "negative shard": (put("shard_N", -1), "shard_N has numbers out of"),
    "folder that is not": (put("image_folder", 99), "image_folder has numbers out of"),
    "class that is not": (put("folder_class", 9, 1), "folder_class has numbers out of"),
    "image of no class": (put("image_folder", 0), "has no folder, or no class"),
    "text cut": (lambda arrays: arrays.update(name_text=arrays["name_text"][:-1]), "name_ends has numbers out of"),
    "ends in disorder": (put("name_ends", 0), "do not fit name_text"),
    "fewer places": (lambda arrays: arrays.update(checksum_N=arrays["checksum_N"][:-1]), "not each image has a place"),
    "another type": (lambda arrays: arrays.update(start_N=arrays["start_N"].astype(float)), "start_N is no row of"),
    "array missing": (lambda arrays: arrays.pop("length_N"), "length_N"),
    "pickle": (lambda arrays: arrays.update(start_N=np.array([{}])), "allow_pickle=False"),
}


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard cut": (lambda packed: cut(packed / "train/00001.pack"), r"train/00001.pack has [\d,]+ bytes and not"),
    "shard missing": (lambda packed: (packed / "val/00000.pack").unlink(), "val/00000.pack is missing: copy it again"),
    "first shard missing": (lambda packed: (packed / "train/00000.pack").unlink(), "train/00000.pack is missing"),
    "index changed": (lambda packed: flip(packed / "train/index.npz", 500), "train/index.npz is damaged"),
    "index cut": (lambda packed: cut(packed / "val/index.npz"), "val/index.npz has"),
    "manifest missing": (lambda packed: (packed / "manifest.json").unlink(), "manifest.json is missing or damaged"),
    "split lost": (rewrite(lambda splits: splits.pop("val")), "manifest.json is missing or damaged"),
    "split renamed": (rewrite(lambda s: s.update(vol=s.pop("val"))), "manifest.json is missing or damaged"),
    "class renamed": (
        rewrite(lambda s: s["train"].update(classes=["ant", "bea"])),
        "manifest.json is damaged, it does",
    ),
    "images miscounted": (rewrite(lambda s: s["val"].update(images=9)), "manifest.json is damaged, it does not fit"),
    "manifest cut": (lambda packed: os.truncate(packed / "manifest.json", 90), "manifest.json is missing or damaged"),
    **{f"name {name}": (rename(name), "manifest.json is missing or damaged") for name in NAMES},
    "digits in a size": (digits("bytes"), "manifest.json is missing or damaged"),
    "digits in a count": (digits("images"), "manifest.json is missing or damaged"),
    "digits in the version": (digits("version"), "manifest.json is missing or damaged"),
    "link to a file outside": (link_out, "00000.pack is no file that lies in the pack, but leads to"),
    "folder for a file": (folder_for_file, "index.npz is no file that lies in the pack"),
    **{
        f"index, {what}": (forge(change), f"index.npz is no index .*{reason}")
        for what, (change, reason) in FORGERIES.items()
    },
    "index is no archive": (replace_index(b"no archive"), "index.npz is no index"),
    "index is a bomb": (replace_index(bomb()), r"index.npz is no index .*an array is larger than the file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_missing_or_cut_is_noticed_at_the_start(packed: Path, damage: str) -> None:
    break_it, sentence = DAMAGES[damage]
    break_it(packed)
    with pytest.raises(ValueError, match=sentence) as error:
        load_folder(config(packed))
    assert "\n" not in str(error.value)
    code, _, err = invoke("verify", packed)
    assert code == 2 and str(error.value) in err


def test_splits_go_by_their_names(root: Path) -> None:
    (root / "val").rename(root / "test")
    packed = root.parent / "pack"
    make_pack(root, packed, SHARD_BYTES, untold)
    rewrite(lambda splits: splits.update(train=splits.pop("train")))(packed)  # now the last
    train, test, _ = load_folder(config(packed))
    assert (len(train), len(test)) == (25, 8)


def test_verify_compares_each_shard_as_a_whole(packed: Path) -> None:
    rewrite(lambda splits: splits["val"]["shards"][0].update(sha256="0" * 64))(packed)
    load_folder(config(packed))
    with pytest.raises(ValueError, match=r"^not as packed: .*val/00000.pack \(its SHA-256\): copy it again"):
        verify_pack(packed, untold)


def test_folders_that_cannot_be_read_are_one_sentence(root: Path) -> None:
    (root / "train" / "ant" / "loop").symlink_to("loop")
    code, _, err = invoke("pack", root, root.parent / "pack")
    assert code == 2 and err.count("\n") == 1
    assert re.match(r"^negbench: cannot read .*ant/loop: Too many levels of symbolic links$", err.strip())


def test_a_later_version_is_refused(packed: Path) -> None:
    manifest = packed / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="is a pack of version 2, and this negbench reads version 1"):
        load_folder(config(packed))


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
