"""What a run needs before its first step: its data and its method on the device, checked against each other."""

from dataclasses import dataclass, field
from typing import Any

import torch

from negbench.contrast.build import build_method
from negbench.contrast.method import Method
from negbench.data.load import RunData, load_data
from negbench.evaluate.final import protocols_of
from negbench.evaluate.request import import_protocol
from negbench.settings.resolve import Resolved
from negbench.settings.schema import RunConfig


@dataclass
class Setup(RunData):
    """What a run trains and evaluates, built before anything is written."""

    config: RunConfig[Any]
    resolved: Resolved = field(kw_only=True)
    method: Method = field(kw_only=True)


def set_up(resolved: Resolved, device: torch.device) -> Setup:
    """Return data and method on the device. Every mistake of the user is a UserError."""
    for name in protocols_of(resolved.config):
        import_protocol(name)  # so that a broken one is not found out after training
    data = load_data(resolved.config, device, trains=True)
    method = build_method(resolved, len(data.splits.train), device, data.dtype)
    return Setup(**vars(data) | {"config": resolved.config}, resolved=resolved, method=method)
