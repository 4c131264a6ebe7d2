"""BatchNorm over different sets of images, and the shuffling of keys that goes with it.

- process: this process's batch; plain BatchNorm.
- sync: the global batch.
- shuffled: this process's batch, but keys are exchanged among ranks before encoding (MoCo, arXiv:1911.05722, 3.3).
- split: groups of this process's batch, keys permuted before encoding: the same idea on one device.

Shape suffixes: N images on this rank, G of all ranks, C channels, H height, W width, D embedding, R ranks, S splits.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from negbench.runtime.device import to_device
from negbench.runtime.distributed import all_gather, all_gather_with_gradient, is_distributed, rank, world_size
from negbench.runtime.errors import UserError
from negbench.runtime.seeding import stream


class _BatchNorm1d2d(_BatchNorm):
    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise UserError(f"expected [N, C] or [N, C, H, W], got {list(input.shape)}")


class SyncBatchNorm(_BatchNorm1d2d):
    """BatchNorm over the global batch: outputs, gradients and running statistics are those of one large process.

    It consists of plain operations, for CPUs, which torch's own refuses. Input is [N, C] or [N, C, H, W]; ranks may
    hold different N. Statistics are at least fp32, also under autocast.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and is_distributed():
            return self._synchronised(input)
        return super().forward(input)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _synchronised(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = [0, *range(2, x.dim())]
        var_C, mean_C = torch.var_mean(wide, dims, correction=0)
        # Each rank's mean and variance, not sums of squares, which cancel where the mean is large beside the spread.
        count_1 = mean_C.new_full((1,), x.numel() // x.shape[1])
        all_RX = all_gather_with_gradient(torch.cat([mean_C, var_C, count_1])[None], "batch_norm")
        means_RC, vars_RC, counts_R1 = torch.split(all_RX, [len(mean_C), len(mean_C), 1], dim=1)
        count = counts_R1.sum()
        mean_C = (counts_R1 * means_RC).sum(0) / count
        var_C = (counts_R1 * (vars_RC + (means_RC - mean_C) ** 2)).sum(0) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var_C * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        scale_C = self.weight * (var_C + self.eps).rsqrt()
        broadcast = (1, -1, *[1] * (x.dim() - 2))
        normalised: Tensor = (wide - mean_C.view(broadcast)) * scale_C.view(broadcast) + self.bias.view(broadcast)
        return normalised.to(x.dtype)


class SplitBatchNorm(_BatchNorm1d2d):
    """In training, BatchNorm over each of `num_splits` groups of consecutive images of the batch.

    Running statistics move towards the mean over groups of the groups' mean and unbiased variance. That leaves out the
    variance of the groups' means, as in MoCo's CIFAR-10 notebook. In evaluation it is plain BatchNorm. Raises
    UserError for a batch that num_splits does not divide.
    """

    def __init__(self, num_features: int, num_splits: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.num_splits = num_splits

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        if len(input) % self.num_splits:
            raise UserError(
                f"batch_norm: split needs a batch that {self.num_splits} splits divide, not {len(input)} images"
            )
        # Slices of the batch are contiguous in every memory format; folding groups into channels would copy.
        groups = input.chunk(self.num_splits)
        means_SC, variances_SC = (s.repeat(self.num_splits, 1) for s in (self.running_mean, self.running_var))
        normalised = [
            F.batch_norm(group, mean_C, variance_C, self.weight, self.bias, True, self.momentum, self.eps)
            for group, mean_C, variance_C in zip(groups, means_SC, variances_SC, strict=True)
        ]
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.copy_(means_SC.mean(0))
            self.running_var.copy_(variances_SC.mean(0))
        return torch.cat(normalised)


def convert(module: nn.Module, policy: str, num_splits: int, device_type: str = "cpu") -> nn.Module:
    """Return `module` with its BatchNorm layers replaced in place as `policy` says; a BatchNorm layer's replacement.

    `device_type` is where it will run: on GPUs `sync` is torch's own SyncBatchNorm. Parameters, buffers and
    `state_dict` keys stay, so checkpoints load under any policy. UserError for an unknown policy.
    """
    if policy not in ("process", "sync", "shuffled", "split"):
        raise UserError(f"unknown batch_norm policy {policy!r}; known: process, sync, shuffled, split")
    if policy in ("process", "shuffled"):
        return module
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return _converted(module, policy, num_splits, device_type)
    for name, child in module.named_children():
        setattr(module, name, convert(child, policy, num_splits, device_type))
    return module


def _converted(layer: _BatchNorm, policy: str, num_splits: int, device_type: str) -> _BatchNorm:
    new: _BatchNorm
    if policy == "sync":
        sync = nn.SyncBatchNorm if device_type == "cuda" else SyncBatchNorm
        new = sync(layer.num_features, layer.eps, layer.momentum)
    else:
        new = SplitBatchNorm(layer.num_features, num_splits, layer.eps, layer.momentum)
    new.weight, new.bias = layer.weight, layer.bias
    new.running_mean, new.running_var = layer.running_mean, layer.running_var
    new.num_batches_tracked = layer.num_batches_tracked
    return new.train(layer.training)


def shuffle(
    images_NCHW: Tensor, policy: str, seed_key: tuple[object, ...]
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the key images in the order of encoding, and the function that puts their embeddings [N, D] back in order.

    shuffled: the images of all ranks are permuted and divided anew (arXiv:1911.05722, section 3.3). split: this rank's
    images are permuted. Other policies: the order stays. The permutation is drawn from the stream named by `seed_key`,
    which must be equal on all ranks; restoring keeps gradients. UserError for shuffled with one process, where
    shuffling changes no statistics.
    """
    device, num_images = images_NCHW.device, len(images_NCHW)
    if policy == "split":
        order_N = torch.randperm(num_images, generator=stream(*seed_key, rank()))
        there_N, back_N = to_device(order_N, device), to_device(order_N.argsort(), device)
        return images_NCHW[there_N], lambda embeddings_ND: embeddings_ND[back_N]
    if policy != "shuffled":
        return images_NCHW, lambda embeddings_ND: embeddings_ND
    if not is_distributed():
        raise UserError("batch_norm: shuffled needs two or more processes; with one, use batch_norm: split")
    own = slice(rank() * num_images, (rank() + 1) * num_images)
    order_G = torch.randperm(world_size() * num_images, generator=stream(*seed_key))
    there_N, back_N = to_device(order_G[own], device), to_device(order_G.argsort()[own], device)
    return (
        all_gather(images_NCHW, "batch_norm")[there_N],
        lambda embeddings_ND: all_gather_with_gradient(embeddings_ND, "batch_norm")[back_N],
    )
