"""BYOL: no negatives; a predictor regresses the momentum encoder's key.

Grill et al., NeurIPS 2020, arXiv:2006.07733
"""

from typing import Literal

from torch import Tensor

from negbench.contrast import (
    Encoded,
    Encoder,
    Method,
    MomentumConfig,
    RunShape,
    initial_weights,
    mlp,
    negative_cosine,
    setting,
)


class Config(MomentumConfig):
    symmetric: bool = setting(
        True, "both directions of the pair, summed (eq. 2); the paper's online and target networks"
    )
    key_momentum: float = setting(0.99, "the paper's tau at the start", ge=0, le=1)
    key_momentum_schedule: Literal["constant", "cosine"] = setting("cosine", "cosine: rises to 1 as in the paper")
    predictor_hidden: int = setting(512, "width of the predictor's hidden layer; 4096 on ImageNet", ge=1)


class BYOL(Method):
    def pair_loss(self, encoded: Encoded, query_view: int, key_view: int, temperature: float) -> Tensor:
        return negative_cosine(encoded.queries[query_view], encoded.keys[key_view])


def build(config: Config, encoder: Encoder, shape: RunShape) -> Method:
    with initial_weights(shape.seed, "predictor"):
        predictor = mlp(shape.dim, config.predictor_hidden, shape.dim, layers=2, batch_norm=True)
    momentum = config.momentum(shape.num_steps)
    return BYOL(encoder, shape.pairs(config.symmetric), key_momentum=momentum, predictor=predictor, reduction="sum")
