"""Losses and weights that are not finite: they end a run before a checkpoint holds them."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from negbench.contrast.method import Method
from negbench.records.run import checkpoint
from negbench.runtime.distributed import is_distributed


class FiniteCheck:
    """Remembers the first step with a non-finite loss. The device is waited for only in `check`."""

    def __init__(self, method: Method, num_steps: int, device: torch.device, checkpoints: Path) -> None:
        self.method, self.num_steps, self.checkpoints = method, num_steps, checkpoints
        self.first_bad_step = torch.full((), num_steps, device=device)

    def add(self, loss: Tensor, step: int) -> None:
        self.first_bad_step = torch.where(
            torch.isfinite(loss), self.first_bad_step, self.first_bad_step.clamp(max=step)
        )

    def check(self, step: int, learning_rate: Callable[[int], float], weights_too: bool = False) -> None:
        """Raise FloatingPointError if a loss before `step` has not been finite. All ranks call it.

        `weights_too`: also for weights, which the last step may have broken before a loss shows it.
        """
        bad_step = self.first_bad_step.clone()
        if weights_too:
            finite = torch.stack([p.isfinite().all() for p in self.method.parameters()]).all()
            bad_step = torch.where(finite, bad_step, bad_step.clamp(max=step))
        if is_distributed():
            dist.all_reduce(bad_step, dist.ReduceOp.MIN)
        first = int(bad_step)
        if first >= self.num_steps:
            return
        sources = [
            f"{type(source).__name__}.{name} largest {buffer.abs().max().item():.3g}"
            for source in self.method.sources
            for name, buffer in source.named_buffers()
            if buffer.is_floating_point()
        ]
        kept = checkpoint.find(self.checkpoints)
        raise FloatingPointError(
            f"the loss is not finite from step {first} on (learning rate {learning_rate(first):.4g}; sources: "
            f"{', '.join(sources) or 'none'}); last good checkpoint: {kept[0] if kept else 'none yet'}"
        )
