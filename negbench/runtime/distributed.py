"""The collectives that negbench needs. With one process each is the identity, so callers need no special case."""

import inspect
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from negbench.runtime.failure import client_of, end_together
from negbench.runtime.place import Place, find_place
from negbench.runtime.variables import text

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
TOLD_AFTER_SECONDS = 5.0  # that ranks wait for others before they say so
received_bytes: Counter[str] = Counter()  # by this process until now, by purpose: negatives, batch_norm


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def all_gather(tensor: Tensor, purpose: str = "negatives") -> Tensor:
    """Return the equally shaped `tensor` [N, ...] of all ranks as [world * N, ...] in rank order, without gradient."""
    if not is_distributed():
        return tensor.detach()
    received_bytes[purpose] += (world_size() - 1) * tensor.nbytes
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def gather_rows(tensor: Tensor) -> Tensor:
    """Return what `all_gather` does, for tensors [N, ...] whose N differs between ranks."""
    if not is_distributed():
        return tensor.detach()
    counts = all_gather(torch.tensor([len(tensor)], device=tensor.device)).tolist()
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    shares = all_gather(padded).split(max(counts))
    return torch.cat([share[:count] for share, count in zip(shares, counts, strict=True)])


def gather_objects(value: Any) -> list[Any]:
    """Return every rank's `value`, which pickle must take, in rank order."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, purpose: str) -> Tensor:
        ctx.num_rows, ctx.purpose = len(tensor), purpose
        return all_gather(tensor, purpose)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = all_reduce_sum(grads[0], ctx.purpose)
        return grad.narrow(0, rank() * ctx.num_rows, ctx.num_rows), None


def all_gather_with_gradient(tensor: Tensor, purpose: str = "negatives") -> Tensor:
    """Return what `all_gather` does; its backward gives each rank the sum of all ranks' gradients on its rows.

    Under DDP, which averages gradients over ranks, this gives the gradient of the mean loss over the global batch.
    """
    return _GatherWithGradient.apply(tensor, purpose) if is_distributed() else tensor


def all_reduce_sum(tensor: Tensor, purpose: str = "negatives") -> Tensor:
    """Return a new tensor, the sum over ranks. Its traffic counts as a ring's: 2 (world - 1) / world of its bytes."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    if is_distributed():
        received_bytes[purpose] += 2 * (world_size() - 1) * total.nbytes // world_size()
        dist.all_reduce(total)
    return total


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Return a new tensor, the mean over ranks."""
    return all_reduce_sum(tensor) / world_size()


def all_reduce_mean_(tensor: Tensor, purpose: str = "negatives") -> Tensor:
    """Replace `tensor` by its mean over ranks, without a copy, and return it."""
    if is_distributed():
        received_bytes[purpose] += 2 * (world_size() - 1) * tensor.nbytes // world_size()
        dist.all_reduce(tensor)
        tensor /= world_size()
    return tensor


def broadcast(tensors: list[Tensor]) -> None:
    """Overwrite `tensors` in place with rank 0's."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def broadcast_objects(objects: list[Any]) -> None:
    """Overwrite the elements of `objects` with rank 0's, which pickle must take."""
    if is_distributed():
        dist.broadcast_object_list(objects, 0)


def synchronize() -> None:
    """Wait until all ranks are here."""
    if is_distributed():
        dist.barrier()


def replicate(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Return `module` under DDP: equal state on all ranks at the start, averaged gradients, no buffers sent in a step.

    Sources of negatives are buffers, so sending them would broadcast whole queues.
    """
    options: dict[str, Any] = {"device_ids": [device.index] if device.type == "cuda" else None}
    known = inspect.signature(DistributedDataParallel).parameters  # torch 2.15 renames the option
    options["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False
    return DistributedDataParallel(module, gradient_as_bucket_view=True, **options)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the run's processes, which `find_place` knows. An exception on any rank ends all of them."""
    place = find_place()
    if place.world_size == 1:
        yield
        return
    place.export()
    with _waiting_is_told(place):
        store, rank, size = next(dist.rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT))  # type: ignore[attr-defined]
    attempt = text("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives the processes it restarts
    store = dist.PrefixStore(f"negbench/{attempt}", store)  # type: ignore[attr-defined]
    client = client_of(place.master_addr, place.master_port)
    watched = dist.PrefixStore(f"negbench/{attempt}", client)  # type: ignore[attr-defined]
    with end_together(watched, rank, size):
        with _waiting_is_told(place):
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=dist.PrefixStore("group", store),  # type: ignore[attr-defined]
                rank=rank,
                world_size=size,
            )
        yield
        dist.barrier()  # the process that holds the store leaves last
        dist.destroy_process_group()


@contextmanager
def _waiting_is_told(place: Place) -> Iterator[None]:
    """Say on standard error what is waited for, if the block takes seconds. Ctrl-C ends the process at once."""
    told = threading.Timer(TOLD_AFTER_SECONDS, lambda: print(f"negbench: {place.waiting}", file=sys.stderr, flush=True))
    told.daemon = True
    told.start()
    handler = signal.getsignal(signal.SIGINT)
    can_be_ended = handler is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if can_be_ended:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would wait for PyTorch's call
    try:
        yield
    finally:
        told.cancel()
        if can_be_ended:
            signal.signal(signal.SIGINT, handler)
