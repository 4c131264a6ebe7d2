"""AdCo: negatives are K learned adversaries that ascend the contrastive loss.

Hu et al., CVPR 2021, arXiv:2011.08435
"""

from typing import Literal

import torch
from torch import Tensor

from negbench.contrast import (
    Columns,
    Contrast,
    Encoded,
    Encoder,
    InBatch,
    Method,
    MomentumConfig,
    NegativeSource,
    RunShape,
    all_gather,
    all_reduce_mean_,
    setting,
    stream,
    unit_norm,
    world_size,
)

_BLOCK = 1 << 16  # adversaries moved at a time, so that temporaries stay small


class Config(MomentumConfig):
    temperature: float = setting(0.12, "temperature of the encoder's contrast; 0.12 on ImageNet", gt=0)
    num_negatives: int = setting(4096, "K, adversaries; 65,536 on ImageNet", ge=1)
    in_batch_negatives: bool = setting(
        True, "keys of the batch share the softmax with the adversaries, as in the authors' code; off: adversaries only"
    )
    adversary_temperature: float = setting(0.02, "temperature of the adversaries' ascent; 0.02 on ImageNet", gt=0)
    adversary_lr: float = setting(3.0, "learning rate of the adversaries, constant; 3 on ImageNet", gt=0)
    adversary_momentum: float = setting(0.9, "momentum of the adversaries", ge=0, lt=1)
    adversary_weight_decay: float = setting(1e-4, "weight decay of the adversaries", ge=0)
    start: Literal["keys", "random"] = setting("keys", "adversaries start as encoded keys, or as random directions")
    update: Literal["ascend", "descend", "none"] = setting(
        "ascend", "ascend as published; descend or none (frozen where they started) are controls"
    )


class Adversaries(NegativeSource):
    """K free vectors, normalised on use, that ascend the contrast after each step of the encoder (eqs. 5 to 7).

    The ascent uses the step's own embeddings at its own temperature; its gradient is averaged over ranks. With
    `start: keys` the keys of the first ceil(K / keys a step) steps become the vectors; then the ascent begins.
    Difference from the authors' code: there those steps come before the schedule starts, and the key encoder is reset
    to the query encoder after them.
    """

    learned = True
    vectors_KD: Tensor  # not normalised, as in the authors' code
    velocity_KD: Tensor

    def __init__(self, config: Config, dim: int, seed: int) -> None:
        super().__init__()
        self.config = config
        start_KD = unit_norm(torch.randn(config.num_negatives, dim, generator=stream(seed, "adversaries")))
        self.register_buffer("vectors_KD", start_KD)
        if config.update != "none":
            self.register_buffer("velocity_KD", torch.zeros_like(start_KD))
        self._directions_KD: Tensor | None = None  # during the ascent, the leaf that the contrast is differentiated by

    def columns(self, query_ND: Tensor, encoded: Encoded, query_view: int, key_view: int) -> list[Columns]:
        index_K = encoded.index.new_full((len(self.vectors_KD),), -1)
        directions_KD = unit_norm(self.vectors_KD) if self._directions_KD is None else self._directions_KD
        return [Columns(directions_KD, index_M=index_K)]

    def refresh(self, encoded: Encoded, contrast: Contrast, step: int) -> None:
        num_keys = len(encoded.keys) * len(encoded.index) * world_size()
        if self.config.start == "keys" and step * num_keys < len(self.vectors_KD):
            place = self.vectors_KD[step * num_keys : (step + 1) * num_keys]
            keys_MD = torch.cat([all_gather(key_ND) for key_ND in encoded.keys.values()])
            place.copy_(keys_MD[: len(place)])
        elif self.config.update != "none":
            self._climb(encoded, contrast)

    def _climb(self, encoded: Encoded, contrast: Contrast) -> None:
        with torch.enable_grad():
            self._directions_KD = unit_norm(self.vectors_KD).requires_grad_(True)
            loss = contrast(encoded, self.config.adversary_temperature)
            (slope_KD,) = torch.autograd.grad(loss, self._directions_KD)
        directions_KD, self._directions_KD = self._directions_KD.detach(), None
        all_reduce_mean_(slope_KD)
        # The gradient by a vector is the part of the slope that is orthogonal to it, divided by its length.
        for vectors, direction, slope, velocity in zip(
            *(t.split(_BLOCK) for t in (self.vectors_KD, directions_KD, slope_KD, self.velocity_KD)), strict=True
        ):
            slope.sub_(direction * (slope * direction).sum(1, keepdim=True)).div_(vectors.norm(dim=1, keepdim=True))
            uphill = slope if self.config.update == "ascend" else slope.neg_()
            force = uphill.sub_(vectors, alpha=self.config.adversary_weight_decay)
            velocity.mul_(self.config.adversary_momentum).add_(force)
            vectors.add_(velocity, alpha=self.config.adversary_lr)


def build(config: Config, encoder: Encoder, shape: RunShape) -> Method:
    adversaries = Adversaries(config, shape.dim, shape.seed)
    sources = [InBatch(), adversaries] if config.in_batch_negatives else [adversaries]
    return Method(encoder, shape.pairs(config.symmetric), sources, config.temperature, config.momentum(shape.num_steps))
