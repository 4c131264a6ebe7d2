"""The training images whose labels a protocol uses: a class-balanced share of our choice, or a published list."""

import hashlib
from collections import defaultdict
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from negbench.data.sets import FolderSet, ResidentSet
from negbench.data.splits import balanced_subset
from negbench.evaluate.request import Request
from negbench.runtime.errors import UserError


def choose_labels(images: ResidentSet | FolderSet, num_classes: int, request: Request) -> tuple[Tensor, dict[str, Any]]:
    """Return positions (ascending) of the images whose labels are used, and what the record says of the choice.

    Our own choice depends on the images' labels only, so all runs on the same images share it, and a larger share
    contains a smaller one. It has at least one image of each class. UserError if a list cannot be used.
    """
    labels_N = images.labels_N.cpu()
    if request.labels_file is not None:
        index_M = listed(images, request.labels_file)
        choice = f"the {len(index_M):,} file names of {request.labels_file.name}"
        facts = {"labels_digest": hashlib.sha256(request.labels_file.read_bytes()).hexdigest()[:8]}
    else:
        share = request.settings.share
        num_images = max(num_classes, round(share * len(images)))
        index_M = balanced_subset(labels_N, num_images, "labels") if share < 1 else torch.arange(len(images))
        choice, facts = f"{100 * share:.4g}% of the training images, class-balanced by negbench's own draw", {}
    counts_C = labels_N[index_M].bincount(minlength=num_classes)
    per_class = [int(counts_C.min()), int(counts_C.max())]
    return index_M, facts | {"labels": choice, "labels_per_class": per_class, "unlabelled": len(images) - len(index_M)}


def listed(images: ResidentSet | FolderSet, file: Path) -> Tensor:
    """Return positions (ascending) of the images that `file` lists: `NAME`, or `CLASS/NAME` where names repeat.

    UserError for a name that none or several of the images have, or that is listed twice.
    """
    if not isinstance(images, FolderSet):
        raise UserError(f"--labels-file {file} lists names of files, and only image folders have these")
    positions = defaultdict(list)
    for position in range(len(images)):
        parts = PurePath(images.path(position)).parts
        positions[parts[-1]].append(position)
        positions["/".join(parts[-2:])].append(position)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--labels-file {file} cannot be read: {error}") from None
    chosen: dict[int, str] = {}
    for number, name in enumerate(map(str.strip, lines), 1):
        if not name:
            continue
        found = positions.get(name, [])
        if len(found) != 1:
            what = f"is the name of {len(found)}" if found else "is none"
            rest = f"; write CLASS/{name}" if found else ""
            raise UserError(
                f"--labels-file {file}, line {number}: {name} {what} of the {len(images):,} training images{rest}"
            )
        if found[0] in chosen:
            raise UserError(f"--labels-file {file}, line {number}: {name} is listed twice")
        chosen[found[0]] = name
    if len(chosen) < 2:
        raise UserError(f"--labels-file {file} names {len(chosen)} images; at least two are needed")
    return torch.tensor(sorted(chosen), dtype=torch.int64)
