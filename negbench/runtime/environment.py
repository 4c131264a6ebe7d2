"""Where a run happens: machine, versions, the checkout's commit."""

import os
import platform
import sys
import time
from importlib.metadata import version
from typing import Any

import torch

import negbench
from negbench.runtime.changes import git_revision
from negbench.runtime.device import cpu_info
from negbench.runtime.nvml import Gpu


def describe(device: torch.device, world_size: int, precision: torch.dtype | None) -> dict[str, Any]:
    """Return the machine and software for `environment.json`. `load_average` is the last minute's, in cores."""
    gpu = Gpu(device)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["negbench", *sys.argv[1:]],
        "negbench_version": negbench.__version__,
        "git_revision": git_revision(),
        "python_version": platform.python_version(),
        "torch_version": torch.__version__,
        "torchvision_version": version("torchvision"),
        "decoders": f"simplejpeg {version('simplejpeg')}, Pillow {version('pillow')}",
        "cuda_version": torch.version.cuda if device.type == "cuda" else None,
        "cudnn_version": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "nccl_version": ".".join(map(str, torch.cuda.nccl.version())) if device.type == "cuda" else None,
        "driver_version": gpu.driver_version(),
        "power_limit_watts": gpu.power_limit_watts(),
        "device": device_name(device),
        "device_type": device.type,
        "world_size": world_size,
        "precision": str(precision or torch.float32).removeprefix("torch."),
        "cpu": cpu_info("model name"),
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
    return f"{cpu_info('model name') or platform.processor()}, {threads} thread{'s' if threads > 1 else ''}"
