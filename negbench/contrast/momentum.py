"""The momentum key encoder: its settings and its update."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from negbench.settings.group import setting
from negbench.settings.schema import MethodConfig


class MomentumConfig(MethodConfig):
    """Settings of methods with a momentum key encoder."""

    symmetric: bool = setting(False, "keys of both views, not of the second alone: more back-propagated views")
    key_momentum: float = setting(0.99, "m in key <- m key + (1 - m) query, at the start", ge=0, le=1)
    key_momentum_schedule: Literal["constant", "cosine"] = setting(
        "constant", "constant, or rising along half a cosine (BYOL, arXiv:2006.07733, section 3.2)"
    )
    key_momentum_end: float = setting(1.0, "m at the end of the cosine", ge=0, le=1)

    def momentum(self, num_steps: int) -> Callable[[int], float]:
        """Return the function that gives the momentum of a step."""
        if self.key_momentum_schedule == "constant":
            return lambda step: self.key_momentum
        rise = self.key_momentum_end - self.key_momentum
        return lambda step: self.key_momentum_end - rise * (math.cos(math.pi * step / num_steps) + 1) / 2


def ema_update_(key_encoder: nn.Module, query_encoder: nn.Module, momentum: float) -> None:
    """Set each key parameter to m key + (1 - m) query, in place (MoCo, arXiv:1911.05722, eq. 2)."""
    torch._foreach_lerp_(list(key_encoder.parameters()), list(query_encoder.parameters()), 1 - momentum)
