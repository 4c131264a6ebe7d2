"""Batches for training and evaluation, on the device, from either kind of set.

Shape legend: N images of a set, n of this rank's batch, V views, P uniform numbers a view, S side of a view in pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from negbench.data.order import batch_index
from negbench.data.sets import FolderSet, ResidentSet
from negbench.data.views.crops import uniforms
from negbench.data.views.evaluation import eval_view
from negbench.data.views.maker import ViewMaker
from negbench.data.workers import EvaluationDataset, StepDataset, load
from negbench.runtime.compiling import begin_step
from negbench.runtime.device import to_device
from negbench.settings.schema import SharedConfig

# The largest batch in evaluation; the activations of many large images fill memory.
_EVAL_BATCH, _EVAL_PIXELS = 512, 512 * 96 * 96


def training_batches(
    dataset: ResidentSet | FolderSet,
    config: SharedConfig,
    device: torch.device,
    start: int,
    stop: int,
    rank: int = 0,
    world_size: int = 1,
    skipped: set[str] | None = None,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield this rank's batches of steps `start` to `stop` - 1: views, float32 [n, 3, S, S], and positions, int64 [n].

    Each batch depends on the seed and its step only. The positions are those of the images shown; an undecodable file
    is replaced and its path added to `skipped`, or raises BadImageError with on_bad_image "error".
    `waiting()` is entered while a batch of the workers is awaited. UserError if batches cannot be formed.
    """
    maker, rows = ViewMaker(config), config.batch_size // world_size

    def uniforms_of(step: int) -> Tensor:
        uniforms_VBP = uniforms(config.seed, step, config.batch_size, len(maker.kinds))
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
        loader = load(StepDataset(dataset, config, rank, world_size), steps, dataset.workers, device, skipped)
        for step, (crops, index_n) in zip(steps, _within(waiting, loader), strict=True):
            begin_step(config.execution)
            crops = [to_device(crop, device) for crop in crops]
            yield maker.finish(crops, uniforms_of(step)), to_device(index_n, device)

    yield from from_resident(dataset) if isinstance(dataset, ResidentSet) else from_folder(dataset)


def eval_batches(
    dataset: ResidentSet | FolderSet,
    config: SharedConfig,
    device: torch.device,
    batch_size: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    skipped: set[str] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield centre views (normalised as the first view, float32 [n, 3, S, S]) and labels (int64 [n]) in order.

    Rank r has the r-th of `world_size` contiguous parts. The default of `batch_size` is `eval_batch_size`.
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
        pairs = load(evaluation, range(len(evaluation)), shard.workers, device, skipped)
    for images, labels_n in pairs:
        if len(images):
            view = eval_view(to_device(images, device), config.views.first, config.data.image_size)
            yield _in_format(view, config), to_device(labels_n, device)


def eval_batch_size(image_size: int) -> int:
    return max(1, min(_EVAL_BATCH, _EVAL_PIXELS // image_size**2))


def _within(waiting: Callable[[], AbstractContextManager[None]], items: Iterator[Any]) -> Iterator[Any]:
    """Yield `items`, each fetched inside `waiting()`."""
    end = object()
    while True:
        with waiting():
            item = next(items, end)
        if item is end:
            return
        yield item


def _in_format(images: Tensor, config: SharedConfig) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last) if config.channels_last else images
