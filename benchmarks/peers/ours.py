"""negbench's sides: a method's step, its bare step, its views, an image folder's crops, or what a method's step takes.

python -m benchmarks.peers.ours {method,bare,views,memory} METHOD STUDY DEVICE [SETTING ...]
python -m benchmarks.peers.ours folder METHOD STUDY DEVICE IMAGES
"""

import itertools
import sys
from collections.abc import Callable

import torch

from benchmarks.peers.pictures import chosen
from benchmarks.peers.worker import serve
from negbench.cost.bench.workloads import BareWorkload, MethodWorkload, passes_of, random_images
from negbench.data.batches import training_batches
from negbench.data.files.listing import Listing
from negbench.data.sets import FolderSet
from negbench.data.workers import StepDataset
from negbench.runtime.device import autocast_dtype, choose_device, set_backends
from negbench.runtime.memory import process_bytes
from negbench.settings.resolve import Resolved, resolve

WARMUP = 10  # steps that cost little: what is compiled meets batches of several kinds first


def main() -> None:
    kind, method, study, device_name, *settings = sys.argv[1:]
    device = choose_device(device_name)
    if kind == "folder":
        serve(_crops(settings[0], method, study))
        return
    resolved = resolve(method, study, settings)
    set_backends(resolved.config.precision, resolved.config.deterministic, device)
    step = _views(resolved, device) if kind == "views" else _subject(kind, resolved, device)

    def finished_step() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    cheap = kind == "views" or device.type == "cuda"
    serve(finished_step, WARMUP if cheap else 2, _peak_bytes if kind == "memory" else None)


def _subject(kind: str, resolved: Resolved, device: torch.device) -> Callable[[], object]:
    dtype = autocast_dtype(resolved.config.precision, device)
    workload = MethodWorkload(resolved, device, dtype)
    if kind == "bare":
        return BareWorkload(resolved.config, passes_of(workload.method), device, dtype).step
    return workload.step


def _views(resolved: Resolved, device: torch.device) -> Callable[[], object]:
    config = resolved.config
    batches = training_batches(random_images(config, device), config, device, 0, sys.maxsize)
    return lambda: next(batches)


def _crops(folder: str, method: str, study: str) -> Callable[[], object]:
    """A step decodes every image of the folder that is compared, once, for two uint8 views."""
    paths = chosen(folder)
    config = resolve(method, study, [f"batch_size={len(paths)}"]).config
    labels = torch.zeros(len(paths), dtype=torch.int64)
    dataset = StepDataset(FolderSet.all_of(Listing.of(paths), labels, config.data), config)
    numbers = itertools.count()
    return lambda: dataset[next(numbers)]


def _peak_bytes() -> float:
    peak = process_bytes("VmHWM")
    if peak is None:
        raise SystemExit("this system does not tell a process's peak memory (VmHWM)")
    return peak


if __name__ == "__main__":
    main()
