"""One step of an optimizer."""

import torch
from torch import Tensor

from negbench.runtime.span import span


def optimizer_step(loss: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Back-propagate `loss` and update the weights once; `scaler` is enabled for fp16 only."""
    with span("optimizer"):
        optimizer.zero_grad(set_to_none=True)
    with span("backward"):
        scaler.scale(loss).backward()
    with span("optimizer"):
        scaler.step(optimizer)
        scaler.update()
