"""What a data set is, in a record that is equal for equal data: in a folder, in the folder moved, and in a pack of it.

Images in memory count pixel by pixel, in any order: CIFAR-10's archive and its PNG files are equal. Of files count the
names, class by class, and the bytes of 256 that a fixed seed draws, so that a million take no longer than 256: that
another image was put in the place of one of a million, under its name, goes unseen unless `full` reads all. Sizes do
not count: a folder knows them by a look at each file alone, and a change of a file that is read shows anyway.

Shape legend: N images of a set.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import torch

from negbench.data.sets import Files, FolderSet, Loaded, ResidentSet
from negbench.records.run.data import DataRecord, PartRecord
from negbench.runtime.seeding import stream

NUM_COMPARED = 256
_BYTES = 16  # of a digest


def describe(loaded: Loaded, full: bool = False) -> DataRecord:
    """Return the record of a data set as `load_whole` returns it. `full` reads every file too."""
    train, test, classes, _ = loaded
    return DataRecord(classes=classes, train=_part(train, full), test=_part(test, full))


def _part(images: ResidentSet | FolderSet, full: bool) -> PartRecord:
    return _of_pixels(images) if isinstance(images, ResidentSet) else _of_files(images.files, full)


def _of_pixels(images: ResidentSet) -> PartRecord:
    pixels, labels = images.images_NCHW.contiguous().cpu().numpy(), images.labels_N.tolist()
    shape = str(pixels.shape[1:]).encode()
    digests = sorted(
        hashlib.blake2b(image.tobytes(), digest_size=_BYTES, salt=np.int64(label).tobytes()).digest()
        for image, label in zip(pixels, labels, strict=True)
    )
    contents = _digest(shape, *digests)
    return PartRecord(images=len(images), names=None, contents=contents, num_compared=len(images), left_out=())


def _of_files(files: Files, full: bool) -> PartRecord:
    chosen = torch.randperm(len(files), generator=stream("fingerprint"))[:NUM_COMPARED].sort().values.tolist()
    return PartRecord(
        images=len(files),
        names=_digest(*files.names_in_bytes()),
        contents=_contents(files, chosen),
        num_compared=len(chosen),
        all_contents=_contents(files, range(len(files))) if full else None,
        left_out=files.left_out,
    )


def _contents(files: Files, positions: Iterable[int]) -> str:
    return _digest(*(_content(files, position) for position in positions))


def _content(files: Files, position: int) -> bytes:
    """Return a digest of a file, or nothing of one that cannot be read, which training reports by its own rule."""
    try:
        return hashlib.blake2b(files.read(position), digest_size=_BYTES).digest()
    except OSError:
        return b""


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
