"""Optimizers of the encoder and the learning rate over a run."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from negbench.runtime.errors import UserError
from negbench.settings.schema import OptimizerConfig, ScheduleConfig


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (arXiv:1708.03888, algorithm 1), as SimCLR and BYOL train with it.

    For each parameter w with gradient g, u = g + weight_decay * w and

        velocity = momentum * velocity + lr * trust * u,    w = w - velocity,
        trust = trust_coefficient * |w| / |u|, and 1 where either norm is 0.

    The learning rate enters the velocity, as in the paper; torch.optim.SGD applies it outside. The denominator is |u|,
    as in SimCLR's code, where the paper has |g| + weight_decay * |w|. With `clip` a layer's rate lr * trust is
    min(lr, trust) instead (LARC). Groups with `adapt=False` have trust 1 and no weight decay. Raises UserError for
    settings out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        clip: bool = False,
        adapt: bool = True,
    ) -> None:
        if lr < 0 or weight_decay < 0 or trust_coefficient <= 0 or not 0 <= momentum < 1:
            raise UserError(
                f"LARS needs lr >= 0, 0 <= momentum < 1, weight_decay >= 0 and trust_coefficient > 0, "
                f"not {lr}, {momentum}, {weight_decay} and {trust_coefficient}"
            )
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"trust_coefficient": trust_coefficient, "clip": clip, "adapt": adapt})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; reads nothing back from the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        updates = [cast(Tensor, p.grad) for p in params]
        for p in params:
            if "velocity" not in self.state[p]:
                self.state[p]["velocity"] = torch.zeros_like(p)
        velocities = [self.state[p]["velocity"] for p in params]
        torch._foreach_mul_(velocities, group["momentum"])
        rate = lr = group["lr"]
        if group["adapt"]:
            updates = list(torch._foreach_add(updates, params, alpha=group["weight_decay"]))
            weight_norms = torch.stack(torch._foreach_norm(params))
            update_norms = torch.stack(torch._foreach_norm(updates))
            trusts, unscaled = group["trust_coefficient"] * weight_norms / update_norms, 1.0
            if group["clip"]:
                trusts, unscaled, rate = trusts.clamp(max=lr), lr, 1.0
            trusts = torch.where((weight_norms > 0) & (update_norms > 0), trusts, unscaled)
            updates = list(torch._foreach_mul(updates, trusts.unbind()))
        torch._foreach_add_(velocities, updates, alpha=rate)
        torch._foreach_sub_(params, velocities)


def param_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the trainable parameters of `module` as an optimizer's groups.

    With `exclude: norm-and-bias` parameters of at most one dimension (biases and the weights of normalisation) have no
    weight decay. With LARS that always holds, and they are not scaled either.
    """
    params = [p for p in module.parameters() if p.requires_grad]
    if config.exclude == "none" and config.name != "lars":
        return [{"params": params, "weight_decay": config.weight_decay}]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.name == "lars":
        groups[0]["adapt"], groups[1]["adapt"] = True, False
    return [group for group in groups if group["params"]]


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimizer `config.name` of the trainable parameters of `module`, at the peak learning rate."""
    groups = param_groups(module, config)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
    if config.name == "lars":
        trust, clip = config.trust_coefficient, config.clip
        return LARS(groups, config.lr, config.momentum, trust_coefficient=trust, clip=clip)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def learning_rate(step: int, num_steps: int, steps_per_epoch: int, lr: float, config: ScheduleConfig) -> float:
    """Return the learning rate of step 0 <= step < num_steps, in the unit of `lr`, the peak.

    With t the step, W = warmup_epochs * steps_per_epoch and T = num_steps - 1:

        t < W:   lr * (t + 1) / (W + 1)
        t >= W:  final_lr + (lr - final_lr) * (1 + cos(pi * (t - W) / (T - W))) / 2

    so a whole W is the one step at the peak, and the last step has final_lr (a run with T = W ends at the peak).
    `per_epoch`: t is the epoch, W = warmup_epochs and T the number of epochs. Without warm-up that is what MoCo's and
    AdCo's code do, whose last epoch is therefore still above final_lr.
    """
    assert 0 <= step < num_steps, f"step {step} of {num_steps}"
    time, warmup, end = float(step), config.warmup_epochs * steps_per_epoch, num_steps - 1.0
    if config.per_epoch:
        time, warmup, end = float(step // steps_per_epoch), config.warmup_epochs, num_steps / steps_per_epoch
    if time < warmup:
        return lr * (time + 1) / (warmup + 1)
    progress = (time - warmup) / (end - warmup) if time > warmup else 0.0
    return config.final_lr + (lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
