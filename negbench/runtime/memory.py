"""Memory of the process and its device: the peak of training, and what is kept for reuse."""

import ctypes
import re
from contextlib import suppress
from pathlib import Path

import torch

from negbench.runtime.distributed import gather_objects

_KIBI = 1024
_GLIBC, _M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = "libc.so.6", -1, -3  # malloc.h


class PeakMemory:
    """Bytes at the highest point of training until now, evaluations left out.

    `allocated` is what tensors took on a GPU, and what the process took on a CPU (VmHWM); `reserved` is what the
    caching allocator held on a GPU. None where that is unknown, as `allocated` is with CUDA graphs, whose activations
    no one allocates when they are replayed.
    """

    def __init__(self, device: torch.device, graphs: bool = False) -> None:
        self.device, self.graphs = device, graphs
        self.allocated: int | None = None
        self.reserved: int | None = None

    def start(self) -> None:
        """Drop the peak since the last `update`; on a CPU also return memory that is free but kept."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            release_free_memory()
            with suppress(OSError):  # where it fails, the peak counts from the process's start
                Path("/proc/self/clear_refs").write_text("5")

    def update(self) -> None:
        """Include the peak since `start`."""
        if self.device.type == "cuda":
            if not self.graphs:
                self.allocated = _larger(self.allocated, torch.cuda.max_memory_allocated(self.device))
            self.reserved = _larger(self.reserved, torch.cuda.max_memory_reserved(self.device))
        else:
            self.allocated = _larger(self.allocated, process_bytes("VmHWM"))

    def over_ranks(self) -> dict[str, int | None]:
        """Return `peak_memory_bytes` and `peak_reserved_bytes`, the largest of all ranks. All ranks call it."""
        self.update()
        for allocated, reserved in gather_objects((self.allocated, self.reserved)):
            self.allocated, self.reserved = _larger(self.allocated, allocated), _larger(self.reserved, reserved)
        return {"peak_memory_bytes": self.allocated, "peak_reserved_bytes": self.reserved}


def _larger(a: int | None, b: int | None) -> int | None:
    return max((value for value in (a, b) if value is not None), default=None)


def system_field(path: str, field: str) -> str:
    """Return the first value of a field in a file of /proc; empty on systems without it."""
    try:
        match = re.search(rf"^{field}\s*:\s*(.*)$", Path(path).read_text(), re.MULTILINE)
    except OSError:
        return ""
    return match[1] if match else ""


def process_bytes(field: str, path: str = "/proc/self/status") -> int | None:
    """Return a size of the process, such as VmRSS; None on systems without it."""
    kibibytes = system_field(path, field).removesuffix(" kB")
    return int(kibibytes) * _KIBI if kibibytes else None


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of any size. By default it returns those above 32 MiB to the system.

    Each step of a network on a CPU would then have the same gigabytes of pages mapped and cleared again.
    """
    _set_thresholds(1 << 30, -1)


def return_freed_memory() -> None:
    """Let glibc return blocks of 128 KiB and more as soon as they are free, so that the process holds what is used."""
    _set_thresholds(128 * _KIBI, 128 * _KIBI)


def release_free_memory() -> None:
    """Return the memory that is free now to the system."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(_GLIBC).malloc_trim(0)


def _set_thresholds(mmap: int, trim: int) -> None:
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(_GLIBC)
        if not libc.mallopt(_M_MMAP_THRESHOLD, mmap):  # earlier versions have a limit
            libc.mallopt(_M_MMAP_THRESHOLD, 32 * _KIBI**2)
        libc.mallopt(_M_TRIM_THRESHOLD, trim)
