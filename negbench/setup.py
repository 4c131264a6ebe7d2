"""What a run needs before its first step: data and method on the device, checked against each other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from negbench import environment
from negbench.batch_norm import convert
from negbench.compiling import check_compiler, compile_encoder
from negbench.config import RunConfig
from negbench.data.sets import Splits, load_splits, steps_per_epoch
from negbench.evaluate.linear import split_for_probe
from negbench.method import Facts, Method
from negbench.models import build_encoder
from negbench.study import Resolved


@dataclass
class Setup:
    """What a run trains and evaluates, built before anything is written."""

    resolved: Resolved
    device: torch.device
    dtype: torch.dtype | None
    splits: Splits
    method: Method
    skipped: set[str] = field(default_factory=set)  # undecodable files met so far

    @property
    def config(self) -> Any:
        return self.resolved.config


MethodBuilder = Callable[[Resolved, int, torch.device, torch.dtype | None], Method]


def set_up(resolved: Resolved, device: torch.device, build: MethodBuilder | None = None) -> Setup:
    """Data and method on the device; `build` makes another one than the settings'.

    Every mistake of the user is a ValueError.
    """
    config = resolved.config
    dtype = environment.autocast_dtype(config.precision, device)
    environment.set_backends(config.precision, config.deterministic, device)
    check_compiler(config.execution, device)
    splits = load_splits(config.data)
    if splits.validation is None and config.evaluation.test and config.evaluation.linear:
        split_for_probe(splits.train.labels_N)
    splits = splits.to(device)
    method = (build or build_method)(resolved, len(splits.train), device, dtype)
    return Setup(resolved, device, dtype, splits, method)


def check_batch(config: RunConfig[Any], num_processes: int) -> None:
    """ValueError if the processes cannot share the batch, or its groups for BatchNorm, equally."""
    if config.batch_size % num_processes:
        raise ValueError(f"batch_size {config.batch_size} is not divisible by the {num_processes} processes")
    if config.batch_norm == "shuffled" and num_processes == 1:
        raise ValueError(
            "batch_norm: shuffled exchanges images among processes and there is one; use batch_norm: split, or several "
            "processes (--gpus-per-node)"
        )
    groups = config.batch_norm_splits if config.batch_norm == "split" else 1
    images = config.batch_size // num_processes
    if images % groups or images // groups < 2:
        raise ValueError(
            f"batch_norm: {config.batch_norm} takes statistics over {groups} group(s) of a process's {images} images; "
            "choose batch_size (and batch_norm_splits) so that each group has the same number, at least 2"
        )


def build_method(resolved: Resolved, num_images: int, device: torch.device, dtype: torch.dtype | None) -> Method:
    config = resolved.config
    num_steps = steps_per_epoch(num_images, config.batch_size) * config.epochs
    num_views = len(config.views.all)
    facts = Facts(num_images, config.batch_size, num_steps, config.projector.dim, config.seed, num_views)
    method: Method = resolved.module.build(config.method, build_encoder(config), facts)
    if len({view for pair in method.pairs for view in pair}) < num_views:
        raise ValueError(f"method {config.method.name} contrasts only two views; leave views.crops empty for it")
    method.autocast_dtype, method.batch_norm, method.seed = dtype, config.batch_norm, config.seed
    for encoder in (method.query_encoder, method.key_encoder):
        compile_encoder(encoder, config.execution)
    return prepare(method, config, device)


M = TypeVar("M", bound=nn.Module)


def prepare(module: M, config: RunConfig[Any], device: torch.device) -> M:
    """`module` itself on the device, with the BatchNorm layers and the memory format that the run has."""
    convert(module, config.batch_norm, config.batch_norm_splits, device.type)
    if config.channels_last:
        module.to(memory_format=torch.channels_last)
    return module.to(device)
