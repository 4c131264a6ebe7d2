"""How fast the evaluations of a run are on this device."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from negbench.cost.bench.workloads import random_images
from negbench.cost.plan.extent import Extent
from negbench.data.batches import eval_batch_size
from negbench.evaluate.protocols.knn import KNN_K, knn_top1
from negbench.evaluate.protocols.linear import train_probes
from negbench.evaluate.subject import extract
from negbench.runtime.device import autocast_dtype
from negbench.runtime.seeding import stream
from negbench.settings.schema import RunConfig

BANK, QUERIES = 8192, 512  # a block of kNN's arithmetic
PROBE_STEPS = 3
REPETITIONS, LONG = 3, 5.0


@dataclass(frozen=True)
class Evaluating:
    feature_dim: int
    encoded_images_per_second: float
    knn_seconds_per_pair: float  # of a query and a bank image
    probe_seconds_per_step: float  # 0 without linear probes


def time_evaluations(backbone: nn.Module, config: RunConfig[Any], device: torch.device, extent: Extent) -> Evaluating:
    """Time a batch through the backbone in evaluation mode, a block of kNN, and some steps of the linear probes."""
    dtype = autocast_dtype(config.precision, device)
    num_images = min(config.batch_size, eval_batch_size(config.data.image_size))
    images = random_images(config, device).subset(torch.arange(num_images))
    encode = partial(extract, backbone, images, config, device, dtype, set())
    dim, settings = encode().features_NF.shape[1], config.evaluation
    encoding = _seconds(device, encode)

    bank, queries = min(BANK, extent.train), min(QUERIES, max(1, extent.test))
    rows = max(bank, queries, PROBE_STEPS * settings.linear_batch_size)
    random_ND = torch.randn(rows, dim, generator=stream("forecast", "features")).to(device)
    labels_N = (torch.arange(rows) % extent.num_classes).to(device)

    knn = partial(
        knn_top1,
        *(random_ND[:bank], labels_N[:bank], random_ND[:queries], labels_N[:queries]),
        ks=KNN_K,
        temperature=settings.knn_temperature,
        num_classes=extent.num_classes,
    )
    knn()
    pair = _seconds(device, knn) / (bank * queries)
    step = 0.0
    if settings.test and settings.linear:
        size = settings.linear_batch_size
        some_ND, some_N = random_ND[: PROBE_STEPS * size], labels_N[: PROBE_STEPS * size]
        probes = partial(train_probes, some_ND, some_N, extent.num_classes, epochs=1, batch_size=size, seed=0)
        probes()
        step = _seconds(device, probes) / PROBE_STEPS
    return Evaluating(dim, num_images / encoding, pair, step)


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Return the median of three repetitions, or of as many as `LONG` seconds permit."""
    taken: list[float] = []
    while not taken or (len(taken) < REPETITIONS and sum(taken) < LONG):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return median(taken)
