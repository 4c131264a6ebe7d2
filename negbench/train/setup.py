"""What a run needs before its first step: data and method on the device, checked against each other."""

from dataclasses import dataclass, field
from typing import Any

import torch

from negbench.contrast.build import MethodBuilder, build_method
from negbench.contrast.method import Method
from negbench.data.load import load_splits
from negbench.data.sets import Splits
from negbench.data.splits import split_for_probe
from negbench.runtime.compiling import check_compiler
from negbench.runtime.device import autocast_dtype, set_backends
from negbench.settings.resolve import Resolved


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


def set_up(resolved: Resolved, device: torch.device, build: MethodBuilder | None = None) -> Setup:
    """Data and method on the device; `build` makes another one than the settings'.

    Every mistake of the user is a ValueError.
    """
    config = resolved.config
    dtype = autocast_dtype(config.precision, device)
    set_backends(config.precision, config.deterministic, device)
    check_compiler(config.execution, device)
    splits = load_splits(config.data)
    if splits.validation is None and config.evaluation.test and config.evaluation.linear:
        split_for_probe(splits.train.labels_N)
    splits = splits.to(device)
    method = (build or build_method)(resolved, len(splits.train), device, dtype)
    return Setup(resolved, device, dtype, splits, method)
