"""Queries against negatives: all that a method file needs.

from negbench.contrast import Method, MethodConfig, setting
"""

from negbench.contrast.losses import Columns, info_nce, negative_cosine
from negbench.contrast.method import Method, Probe, RunShape, StepOutput
from negbench.contrast.momentum import MomentumConfig
from negbench.contrast.passes import unit_norm
from negbench.contrast.source import Contrast, Encoded, InBatch, NegativeSource
from negbench.models.encoder import Encoder, initial_weights, mlp
from negbench.runtime.distributed import (
    all_gather,
    all_gather_with_gradient,
    all_reduce_mean,
    all_reduce_mean_,
    all_reduce_sum,
    rank,
    world_size,
)
from negbench.runtime.errors import UserError
from negbench.runtime.seeding import stream
from negbench.runtime.span import span
from negbench.settings.group import setting
from negbench.settings.schema import MethodConfig

__all__ = [
    "Columns",
    "Contrast",
    "Encoded",
    "Encoder",
    "InBatch",
    "Method",
    "MethodConfig",
    "MomentumConfig",
    "NegativeSource",
    "Probe",
    "RunShape",
    "StepOutput",
    "UserError",
    "all_gather",
    "all_gather_with_gradient",
    "all_reduce_mean",
    "all_reduce_mean_",
    "all_reduce_sum",
    "info_nce",
    "initial_weights",
    "mlp",
    "negative_cosine",
    "rank",
    "setting",
    "span",
    "stream",
    "unit_norm",
    "world_size",
]
