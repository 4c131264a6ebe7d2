"""Profiles of single steps by torch.profiler, the parts of the step marked in them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from negbench.cost.bench.measure import WARMUP_STEPS, Entry, Progress, attempt
from negbench.cost.bench.space import release
from negbench.runtime.span import labelled

STEPS, OPERATIONS = 2, 40


def write_traces(entries: Sequence[Entry], device: torch.device, folder: Path, progress: Progress) -> None:
    """Write `trace-NAME.json.gz`, for https://ui.perfetto.dev or chrome://tracing, and `trace-NAME.txt`, the operations
    that take longest, of each method and bare step. What has run out of memory before has none.
    """
    for entry in entries:
        if entry.measurement["kind"] != "matrices" and not entry.measurement.get("out_of_memory"):
            progress(entry.measurement["name"])
            path = folder / f"trace-{entry.measurement['name'].replace(' ', '-')}"
            _, reason = attempt(entry, partial(_write_trace, entry, device, path))
            if reason:
                progress(f"{entry.measurement['name']} has none: {reason}")
            release(device)


def _write_trace(entry: Entry, device: torch.device, path: Path) -> None:
    workload = entry.build()
    for _ in range(WARMUP_STEPS):
        workload.step()
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with labelled(), profile(activities=activities) as found:
        for _ in range(STEPS):
            workload.step()
        if on_gpu:
            torch.cuda.synchronize(device)
    found.export_chrome_trace(f"{path}.json.gz")
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    table = found.key_averages().table(sort_by=order, row_limit=OPERATIONS, max_name_column_width=60)
    Path(f"{path}.txt").write_text(f"{STEPS} steps of {entry.measurement['name']}\n{table}\n")
