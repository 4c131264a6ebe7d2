"""The device: which one, its arithmetic, and copies to it that the host does not wait for."""

import os

import torch
from torch import Tensor

from negbench.runtime.errors import UserError
from negbench.runtime.memory import keep_freed_memory, system_field
from negbench.runtime.variables import text


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device for auto, cpu or cuda. UserError if CUDA is asked for and absent."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is visible to PyTorch; use --device cpu, or auto")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the encoders' autocast type, None for fp32 and tf32. UserError for fp16 on a CPU."""
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 needs a GPU; on a CPU use bf16, fp32 or auto")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def set_backends(precision: str, deterministic: bool, device: torch.device) -> None:
    """Set TF32, for convolutions alone, so that contrast and evaluation stay fp32, and deterministic kernels.

    On a CPU the process keeps the memory that it frees.
    """
    if device.type == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = not deterministic
    # cuBLAS needs it for deterministic kernels
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = text("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 and does not only emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = cpu_info("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cpu_info(field: str) -> str:
    return system_field("/proc/cpuinfo", field)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor without waiting for the device: from pinned memory, which torch keeps until it is read."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
