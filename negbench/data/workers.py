"""Image folders in worker processes, which make the views of one training step or evaluation batch, as uint8.

Shape legend: N images of a set, B images of the global batch, n of this rank's, V views, P uniform
numbers a view, S side of a view in pixels, H x W pixels of a file.
"""

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from negbench.data.files.decode import BadImageError
from negbench.data.order import batch_index
from negbench.data.sets import FolderSet
from negbench.data.views.crops import crop_boxes, uniforms
from negbench.data.views.evaluation import center_crop, squeezed
from negbench.runtime.signals import shield_worker, signals_blocked
from negbench.settings.schema import SharedConfig
from negbench.settings.steps import steps_per_epoch

_CHUNK = 16  # decoded images held at once, whose crops are drawn in one call, as fast as that of one image
_PREFETCH = 2  # batches ahead a worker


def decode_or_next(images: FolderSet, position: int) -> tuple[Tensor, int, list[str]]:
    """Return the image at `position`, uint8 [3, H, W], its position and the paths that failed before it.

    With on_bad_image "skip" an undecodable file is replaced by the next decodable image of the set, so that batches
    stay full and repetitions of the run are equal; with "error" it raises BadImageError.
    """
    failed: list[str] = []
    for offset in range(len(images)):
        candidate = (position + offset) % len(images)
        try:
            return images.decode(candidate), candidate, failed
        except BadImageError:
            if images.on_bad_image != "skip":
                raise
            failed.append(images.path(candidate))
    raise BadImageError(f"none of the {len(images)} training images can be decoded; the first is {images.path(0)}")


class StepDataset(Dataset[tuple[list[Tensor], Tensor, list[str]]]):
    """Training as a sequence of steps: item `step` is this rank's part of that step's global batch.

    An item is a list with one uint8 [n, 3, S, S] a view (cropped and resized, neither flipped nor coloured), the
    positions of the images shown (int64 [n]), and the paths that could not be decoded. It depends on the seed and the
    step only, and all ranks' items concatenated do not depend on the number of ranks.
    """

    def __init__(self, images: FolderSet, config: SharedConfig, rank: int = 0, world_size: int = 1) -> None:
        steps_per_epoch(len(images), config.batch_size)  # raises its UserError here and not in a worker
        self.images = images
        self.kinds = list(zip(config.views.all, config.views.sizes(config.data.image_size), strict=True))
        self.seed = config.seed
        self.batch_size = config.batch_size
        self.rank, self.world_size = rank, world_size

    def __getitem__(self, step: int) -> tuple[list[Tensor], Tensor, list[str]]:
        index_n = batch_index(step, len(self.images), self.batch_size, self.seed, self.rank, self.world_size).clone()
        rows = len(index_n)
        uniforms_VBP = uniforms(self.seed, step, self.batch_size, len(self.kinds))
        uniforms_VnP = uniforms_VBP[:, self.rank * rows : (self.rank + 1) * rows]
        batch = [torch.empty(rows, 3, size, size, dtype=torch.uint8) for _, size in self.kinds]
        bad_paths: list[str] = []
        for chunk in torch.split(torch.arange(rows), _CHUNK):
            images: list[Tensor] = []
            for row in chunk.tolist():
                image_3HW, index_n[row], failed = decode_or_next(self.images, int(index_n[row]))
                images.append(image_3HW)
                bad_paths += failed
            heights, widths = torch.tensor([image_3HW.shape[1:] for image_3HW in images]).unbind(dim=1)
            for view_n3SS, (view_config, size), uniforms_nP in zip(batch, self.kinds, uniforms_VnP, strict=True):
                boxes = crop_boxes(view_config, uniforms_nP[chunk], heights, widths).tolist()
                for row, image_3HW, (top, left, height, width) in zip(chunk.tolist(), images, boxes, strict=True):
                    crop_3HW = image_3HW[:, top : top + height, left : left + width]
                    view_n3SS[row] = F.interpolate(crop_3HW[None], (size, size), mode="bilinear", antialias=True)[0]
        return batch, index_n, bad_paths


class EvaluationDataset(Dataset[tuple[Tensor, Tensor, list[str]]]):
    """Item i is a batch of evaluation views: uint8 [n, 3, S, S], labels (int64 [n]) and paths left out as bad."""

    def __init__(self, images: FolderSet, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor, list[str]]:
        crops: list[Tensor] = []
        labels: list[Tensor] = []
        bad_paths: list[str] = []
        view = squeezed if self.images.whole else center_crop
        for position in range(item * self.batch_size, min((item + 1) * self.batch_size, len(self.images))):
            try:
                crops.append(view(self.images.decode(position), self.images.image_size))
                labels.append(self.images.labels_N[position])
            except BadImageError:
                if self.images.on_bad_image != "skip":
                    raise
                bad_paths.append(self.images.path(position))
        if not crops:
            size = self.images.image_size
            return torch.empty(0, 3, size, size, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), bad_paths
        return torch.stack(crops), torch.stack(labels), bad_paths


class _Guarded(Dataset[Any]):
    """Returns a bad file's error as an item; DataLoader would put its sentence into a worker's traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, item: int) -> Any:
        try:
            return self.dataset[item]
        except BadImageError as error:
            return error


def load(
    dataset: Dataset[Any], items: Sequence[int], workers: int, device: torch.device, skipped: set[str] | None
) -> Iterator[Any]:
    """Yield the `items` of `dataset` in order, without their last element, the bad paths, which go to `skipped`.

    Training asks for all its steps at once, so its workers live from the first step to the last. `_PREFETCH` items a
    worker bound the memory. An evaluation starts its own workers within a fraction of a second, which hold memory only
    meanwhile. There is at most one worker a core of this process, since more decode no faster and torch warns of them.
    """
    workers = min(workers, _num_cores())
    loader = DataLoader(
        _Guarded(dataset),
        sampler=items,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_PREFETCH if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=shield_worker,
        generator=torch.Generator(),  # otherwise each start would draw a number from the global one
    )
    with signals_blocked():
        iterator = iter(loader)
    for item in iterator:
        if isinstance(item, BadImageError):
            raise item
        *tensors, bad_paths = item
        if skipped is not None:
            skipped.update(bad_paths)
        yield tensors


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
