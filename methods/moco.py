"""MoCo v2: negatives are a queue of the last K keys of a momentum encoder.

He et al., CVPR 2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297
"""

import math

import torch
from torch import Tensor

from negbench.contrast import (
    Columns,
    Contrast,
    Encoded,
    Encoder,
    Method,
    MomentumConfig,
    NegativeSource,
    RunShape,
    setting,
    stream,
    unit_norm,
)


class Config(MomentumConfig):
    temperature: float = setting(0.2, "temperature of the contrast; 0.2 in v2, 0.07 in v1", gt=0)
    num_negatives: int = setting(4096, "K, keys in the queue; 65,536 on ImageNet", ge=1)
    mask_own_image: bool = setting(False, "leave out queue entries that show the query's own image; off as published")


class Queue(NegativeSource):
    """The last K keys, oldest overwritten first; random unit vectors until the first K are in.

    A step's keys enter after they were scored, in rank order, all key views (MoCo's symmetric CIFAR-10 demo). If a step
    has more than K keys, the last K stay. The dataset index of each key is kept: a queue that is long compared with the
    data set holds keys of the query's own image from the last epoch, and `mask_own_image` leaves those out.
    """

    reads_keys = True
    vectors_KD: Tensor
    index_K: Tensor
    cursor: Tensor

    def __init__(self, num_negatives: int, dim: int, seed: int, mask_own_image: bool = False) -> None:
        super().__init__()
        self.mask_own_image = mask_own_image
        start_KD = unit_norm(torch.randn(num_negatives, dim, generator=stream(seed, "queue")))
        self.register_buffer("vectors_KD", start_KD)
        self.register_buffer("index_K", torch.full((num_negatives,), -1))
        self.register_buffer("cursor", torch.tensor(0))

    def oldest_age(self, keys_per_step: int) -> int:
        return math.ceil(len(self.vectors_KD) / keys_per_step)

    def columns(self, query_ND: Tensor, encoded: Encoded, query_view: int, key_view: int) -> list[Columns]:
        return [Columns(self.vectors_KD, index_M=self.index_K, mask_own=self.mask_own_image)]

    def refresh(self, encoded: Encoded, contrast: Contrast, step: int) -> None:
        size = len(self.vectors_KD)
        keys_MD = torch.cat(list(encoded.all_keys.values()))[-size:]
        index_M = encoded.all_index.repeat(len(encoded.all_keys))[-size:]
        place_M = (self.cursor + torch.arange(len(keys_MD), device=self.cursor.device)) % size
        self.vectors_KD.index_copy_(0, place_M, keys_MD.to(self.vectors_KD.dtype))
        self.index_K.index_copy_(0, place_M, index_M)
        self.cursor.add_(len(keys_MD)).remainder_(size)


def build(config: Config, encoder: Encoder, shape: RunShape) -> Method:
    queue = Queue(config.num_negatives, shape.dim, shape.seed, config.mask_own_image)
    return Method(encoder, shape.pairs(config.symmetric), [queue], config.temperature, config.momentum(shape.num_steps))
