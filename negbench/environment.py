"""Where a run happens: device, precision, versions."""

import functools
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import negbench
from negbench.memory import keep_freed_memory
from negbench.nvml import Gpu


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """auto, cpu or cuda to a device. ValueError if CUDA is asked for and absent."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is visible to PyTorch; use --device cpu, or auto")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The encoders' autocast type, None for fp32 and tf32. ValueError for fp16 on a CPU."""
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision fp16 needs a GPU; on a CPU use bf16, fp32 or auto")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def set_backends(precision: str, deterministic: bool, device: torch.device) -> None:
    """TF32 for convolutions alone, so that contrast and evaluation stay fp32; kernels as `deterministic` says.

    On a CPU memory that the process frees stays with it.
    """
    if device.type == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = not deterministic
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it where kernels must repeat
    torch.use_deterministic_algorithms(deterministic)


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16, not merely emulates it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = _cpu_info("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def describe(device: torch.device, world_size: int, precision: torch.dtype | None) -> dict[str, Any]:
    """What `environment.json` holds of this machine and its software. `load_average` is the last minute's, in cores."""
    gpu = Gpu(device)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["negbench", *sys.argv[1:]],
        "negbench_version": negbench.__version__,
        "git_revision": git_revision(),
        "python_version": platform.python_version(),
        "torch_version": torch.__version__,
        "torchvision_version": version("torchvision"),
        "cuda_version": torch.version.cuda if device.type == "cuda" else None,
        "cudnn_version": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "nccl_version": ".".join(map(str, torch.cuda.nccl.version())) if device.type == "cuda" else None,
        "driver_version": gpu.driver_version(),
        "power_limit_watts": gpu.power_limit_watts(),
        "device": device_name(device),
        "device_type": device.type,
        "world_size": world_size,
        "precision": str(precision or torch.float32).removeprefix("torch."),
        "cpu": _cpu_info("model name"),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "hostname": platform.node(),
        "platform": platform.platform(),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_info('model name') or platform.processor()}, {threads} thread{'s' if threads > 1 else ''}"


@functools.cache
def git_revision() -> str | None:
    """The checkout's commit, with `+changes` where files differ from it; None outside a checkout.

    A job's snapshot of the code has the commit in a file.
    """
    folder = Path(__file__).resolve().parent
    noted = folder.parent / "revision"
    if noted.exists():
        return noted.read_text() or None

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return result.stdout.strip()

    revision = git("rev-parse", "HEAD")
    tracked = git("ls-files", "--", str(Path(__file__).name)) if revision else None
    if not tracked:
        return None
    return f"{revision}+changes" if git("status", "--porcelain", "--untracked-files=no") else revision


def _cpu_info(field: str) -> str:
    try:
        match = re.search(rf"^{field}\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return match[1] if match else ""
