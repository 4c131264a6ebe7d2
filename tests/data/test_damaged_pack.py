"""Every damage of a pack is named."""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from negbench.data.datasets.imagefolder import load_folder
from negbench.data.files.decode import BadImageError
from negbench.data.files.packing import make_pack, verify_pack
from negbench.data.workers import EvaluationDataset
from tests.helpers.packs import SHARD_BYTES, config, flip, invoke, untold


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
    "manifest missing": (
        lambda packed: (packed / "manifest.json").unlink(),
        "manifest.json cannot be read .No such file",
    ),
    "split lost": (
        rewrite(lambda splits: splits.pop("val")),
        "manifest.json is damaged .splits must be train and one of .*, not train",
    ),
    "split renamed": (rewrite(lambda s: s.update(vol=s.pop("val"))), "manifest.json is damaged .*, not train, vol"),
    "class renamed": (
        rewrite(lambda s: s["train"].update(classes=["ant", "bea"])),
        "manifest.json is damaged, it does",
    ),
    "images miscounted": (rewrite(lambda s: s["val"].update(images=9)), "manifest.json is damaged, it does not fit"),
    "manifest cut": (lambda packed: os.truncate(packed / "manifest.json", 90), "manifest.json is damaged ."),
    **{
        f"name {name}": (rename(name), "manifest.json is damaged .the files of train must be train/index.npz")
        for name in NAMES
    },
    "digits in a size": (digits("bytes"), "manifest.json is damaged ."),
    "digits in a count": (digits("images"), "manifest.json is damaged ."),
    "digits in the version": (digits("version"), "manifest.json is damaged ."),
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


def test_a_later_version_is_refused(packed: Path) -> None:
    manifest = packed / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="is a pack of version 2, and this negbench reads version 1"):
        load_folder(config(packed))
