"""Batches for training and evaluation, on the device, from either kind of set.

Shape legend: N images of a set, n of this rank's batch, V views, P uniform numbers a view, S side of a view in pixels.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from negbench import views
from negbench.compiling import begin_step
from negbench.config import RunConfig
from negbench.data.decode import BadImageError
from negbench.data.folder import (
    EvaluationDataset,
    FolderSet,
    StepDataset,
    shield_worker,
    signals_blocked,
)
from negbench.data.sets import ResidentSet, batch_index
from negbench.transfer import to_device
from negbench.view_maker import ViewMaker

_PREFETCH = 2  # batches ahead a worker
# A batch in evaluation, at most; the activations of many large images fill memory.
_EVAL_BATCH, _EVAL_PIXELS = 512, 512 * 96 * 96


def training_batches(
    dataset: ResidentSet | FolderSet,
    config: RunConfig[Any],
    device: torch.device,
    start: int,
    stop: int,
    rank: int = 0,
    world_size: int = 1,
    skipped: set[str] | None = None,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """This rank's batches of steps `start` to `stop` - 1: views, float32 [n, 3, S, S], and positions, int64 [n].

    Each batch depends on the seed and its step only. The positions are those of the images shown, which differ from the
    epoch's order where an undecodable file was replaced; the paths of such files are added to `skipped`.
    `waiting()` is entered while workers are waited for; resident sets never wait.
    Raises BadImageError for such a file with on_bad_image "error", ValueError if batches cannot be formed.
    """
    maker, rows = ViewMaker(config), config.batch_size // world_size

    def uniforms_of(step: int) -> Tensor:
        uniforms_VBP = views.uniforms(config.seed, step, config.batch_size, len(maker.kinds))
        return uniforms_VBP[:, rank * rows : (rank + 1) * rows]

    def from_resident(dataset: ResidentSet) -> Iterator[tuple[list[Tensor], Tensor]]:
        dataset = dataset.to(device)
        for step in range(start, stop):
            begin_step(config.execution)
            index_n = batch_index(step, len(dataset), config.batch_size, config.seed, rank, world_size)
            index_n = to_device(index_n, device)
            yield maker.augment(dataset.images_NCHW.index_select(0, index_n), uniforms_of(step)), index_n

    def from_folder(dataset: FolderSet) -> Iterator[tuple[list[Tensor], Tensor]]:
        steps = range(start, stop)
        loader = _load(StepDataset(dataset, config, rank, world_size), steps, dataset.workers, device, skipped)
        for step, (crops, index_n) in zip(steps, _within(waiting, loader), strict=True):
            begin_step(config.execution)
            crops = [to_device(crop, device) for crop in crops]
            yield maker.finish(crops, uniforms_of(step)), to_device(index_n, device)

    yield from from_resident(dataset) if isinstance(dataset, ResidentSet) else from_folder(dataset)


def eval_batches(
    dataset: ResidentSet | FolderSet,
    config: RunConfig[Any],
    device: torch.device,
    batch_size: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    skipped: set[str] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Centre views (normalised as the first view, float32 [n, 3, S, S]) and labels (int64 [n]) in the set's order.

    Rank r has the r-th of `world_size` contiguous parts, so the ranks' batches one after another are the whole set.
    Without `batch_size` it is `eval_batch_size`.
    With on_bad_image "skip" an undecodable file is left out and its path added to `skipped`.
    """
    shard, batch_size = dataset, batch_size or eval_batch_size(config.data.image_size)
    if world_size > 1:
        first, last = len(dataset) * rank // world_size, len(dataset) * (rank + 1) // world_size
        shard = dataset.subset(torch.arange(first, last))
    if isinstance(shard, ResidentSet):
        shard = shard.to(device)
        pairs: Iterator[tuple[Tensor, Tensor]] = zip(
            torch.split(shard.images_NCHW, batch_size), torch.split(shard.labels_N, batch_size), strict=True
        )
    else:
        evaluation = EvaluationDataset(shard, batch_size)
        pairs = _load(evaluation, range(len(evaluation)), shard.workers, device, skipped)
    for images, labels_n in pairs:
        if len(images):
            view = views.eval_view(to_device(images, device), config.views.first, config.data.image_size)
            yield _in_format(view, config), to_device(labels_n, device)


def eval_batch_size(image_size: int) -> int:
    return max(1, min(_EVAL_BATCH, _EVAL_PIXELS // image_size**2))


def _within(waiting: Callable[[], AbstractContextManager[None]], items: Iterator[Any]) -> Iterator[Any]:
    """`items`, each fetched inside `waiting()`."""
    end = object()
    while True:
        with waiting():
            item = next(items, end)
        if item is end:
            return
        yield item


class _Guarded(Dataset[Any]):
    """Hands a bad file's error over as an item: DataLoader would bury its one sentence in a worker's traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, item: int) -> Any:
        try:
            return self.dataset[item]
        except BadImageError as error:
            return error


def _load(
    dataset: Dataset[Any], items: Sequence[int], workers: int, device: torch.device, skipped: set[str] | None
) -> Iterator[Any]:
    """The `items` of `dataset` in order, without their last element, the bad paths, which go to `skipped`.

    Training asks for all its steps at once, so its workers live from the first step to the last and know no epochs.
    What is ahead, pinned memory included, is bounded by `_PREFETCH` items a worker. An evaluation starts workers of its
    own: that takes a fraction of a second, and between evaluations they would only hold memory.
    At most one worker a core that this process may use: more decode no faster, and torch warns of them.
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


def _in_format(images: Tensor, config: RunConfig[Any]) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last) if config.channels_last else images
