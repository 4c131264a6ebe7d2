"""torch.compile for what is the same in every step: the views and the encoders' passes.

Contrast, sources and what follows the optimizer stay eager: compiling would fix their schedules, and a source may do
anything.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from negbench.runtime.errors import UserError

_TORCH_MODES = {"compiled": "default", "graphs": "reduce-overhead"}
_VARIANTS = 64  # of one function, by shapes and modes; beyond, torch would not compile, without an error


def compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """Return `function` compiled for the shapes that it is called with."""
    torch._dynamo.config.recompile_limit = _VARIANTS
    return torch.compile(function, mode=_TORCH_MODES[mode], dynamic=False)


def compile_encoder(encoder: nn.Module | None, mode: str) -> None:
    """Compile the forward and backward pass of `encoder`, in place; names in its state stay."""
    if encoder is not None and mode != "eager":
        torch._dynamo.config.recompile_limit = _VARIANTS
        encoder.compile(mode=_TORCH_MODES[mode], dynamic=False)


def begin_step(mode: str) -> None:
    """Release the tensors that graphs gave in the last step. Call it before a step's first compiled function."""
    if mode == "graphs":
        torch.compiler.cudagraph_mark_step_begin()


def check_compiler(mode: str, device: torch.device) -> None:
    """UserError if nothing can be compiled for `device` here."""
    if mode == "eager":
        return
    try:
        compiled(torch.sin, mode)(torch.ones(2, device=device))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if not line.endswith("raised:")), type(error).__name__)
        needed = "triton" if device.type == "cuda" else "a C++ compiler (g++ or clang++)"
        raise UserError(
            f"execution: {mode} could not compile, for which it needs {needed}; use execution: eager. "
            f"torch.compile says: {reason}"
        ) from error
