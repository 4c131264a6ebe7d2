"""Memory: what a workload takes alone, and how a bench survives running out of it."""

import gc
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from negbench.data.views.maker import compiled_view
from negbench.runtime.failure import is_out_of_memory
from negbench.runtime.memory import (
    PeakMemory,
    keep_freed_memory,
    process_bytes,
    release_free_memory,
    return_freed_memory,
)

T = TypeVar("T")
_CGROUPS = (  # limit, usage, and the name in memory.stat of file pages that make room: version 2, and version 1
    ("/sys/fs/cgroup{}/memory.max", "/sys/fs/cgroup{}/memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory{}/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory{}/memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def release(device: torch.device) -> None:
    """Give back what nothing refers to, so that it is not counted for what comes next.

    Compiled code goes too: it keeps the memory of its graphs, and torch compiles only so many variants of a function.
    """
    if "torch._dynamo" in sys.modules:  # its import takes seconds
        torch.compiler.reset()
        compiled_view.cache_clear()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        return
    release_free_memory()


@contextmanager
def without_reuse(device: torch.device) -> Iterator[None]:
    """Give back freed blocks at once on a CPU.

    Otherwise the peak holds what glibc keeps to reuse: up to twice what tensors took, and varying by a tenth.
    """
    if device.type != "cpu":
        yield
        return
    return_freed_memory()
    try:
        yield
    finally:
        keep_freed_memory()


class AddedMemory(PeakMemory):
    """The peak over what was held when this was made, in bytes; None where it is unknown.

    On a GPU `allocated` is what tensors take and `reserved` what the allocator holds; on a CPU `allocated` is the
    process's resident memory.
    """

    def __init__(self, device: torch.device, graphs: bool = False) -> None:
        super().__init__(device, graphs)
        on_gpu = device.type == "cuda"
        self.allocated_before = torch.cuda.memory_allocated(device) if on_gpu else process_bytes("VmRSS")
        self.reserved_before = torch.cuda.memory_reserved(device) if on_gpu else None

    def read(self) -> dict[str, int | None]:
        """Return `peak_memory_bytes` and `peak_reserved_bytes`."""
        self.update()
        return {
            "peak_memory_bytes": _difference(self.allocated, self.allocated_before),
            "peak_reserved_bytes": _difference(self.reserved, self.reserved_before),
        }


def _difference(peak: int | None, before: int | None) -> int | None:
    return None if peak is None or before is None else max(0, peak - before)


def unless_out_of_memory(work: Callable[[], T]) -> tuple[T | None, str | None]:
    """Return what `work` returns, or how it ran out of memory, in one line. Other exceptions pass through."""
    try:
        return work(), None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None, " ".join(str(error).split()).partition(". Of the allocated memory")[0] or "out of memory"


@contextmanager
def limited_to_free_memory(device: torch.device) -> Iterator[None]:
    """Let a request for more than is free fail on a CPU, where the kernel would kill the process instead."""
    size, free = process_bytes("VmSize"), free_bytes()
    if device.type != "cpu" or size is None or free is None:
        yield
        return
    before = soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [size + free, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def free_bytes() -> int | None:
    """Return what this process can still take of the machine and its control group; None where it is unknown."""
    free = process_bytes("MemAvailable", "/proc/meminfo")
    if free is None:
        return None
    own = re.findall(r"^\d+:(?:memory)?:(/.*)$", _read("/proc/self/cgroup"), re.MULTILINE)
    for group in ("", *(path.rstrip("/") for path in own)):
        for limit_path, usage_path, file_pages in _CGROUPS:
            limit, usage = _read(limit_path.format(group)).strip(), _read(usage_path.format(group)).strip()
            if limit.isdigit() and usage.isdigit():
                stat = _read(str(Path(usage_path.format(group)).with_name("memory.stat")))
                cache = re.search(rf"^{file_pages} (\d+)", stat, re.MULTILINE)
                free = min(free, int(limit) - int(usage) + (int(cache[1]) if cache else 0))
    return max(free, 0)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
