"""torch.compile for what is the same in every step: the views and the encoders' passes.

Contrast, sources and what follows the optimizer stay eager: their schedules would be baked in, and sources are free to
do as they like.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from negbench.models import Encoder

_TORCH_MODES = {"compiled": "default", "graphs": "reduce-overhead"}


def compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """`function` compiled for the shapes that it is called with."""
    return torch.compile(function, mode=_TORCH_MODES[mode], dynamic=False)


def compile_encoders(module: nn.Module, mode: str) -> None:
    """Compile the forward and backward passes of all encoders in `module`, in place; names in its state stay."""
    if mode == "eager":
        return
    for encoder in module.modules():
        if isinstance(encoder, Encoder):
            encoder.compile(mode=_TORCH_MODES[mode], dynamic=False)


def begin_step(mode: str) -> None:
    """To be called before a step's first compiled function: tensors that graphs gave in the last step may go."""
    if mode == "graphs":
        torch.compiler.cudagraph_mark_step_begin()


def check_compiler(mode: str, device: torch.device) -> None:
    """ValueError if nothing can be compiled for `device` here."""
    if mode == "eager":
        return
    try:
        compiled(torch.sin, mode)(torch.ones(2, device=device))
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        needed = "triton" if device.type == "cuda" else "a C++ compiler (g++ or clang++)"
        raise ValueError(
            f"execution: {mode} needs {needed}; use execution: eager. torch.compile says: {reason}"
        ) from error
