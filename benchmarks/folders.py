"""What image folders cost at ImageNet's scale: listing, memory of paths, and reading from a folder and from a pack.

python -m benchmarks.folders                             # a made-up tree of empty files: listed, and from the cache
python -m benchmarks.folders --images DIR --pack DIR     # images/s from a folder and from its pack, in turns
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from negbench.data.datasets.imagefolder import load_folder
from negbench.data.files.listing import list_classes
from negbench.data.sets import FolderSet
from negbench.data.workers import StepDataset
from negbench.runtime.memory import process_bytes, release_free_memory
from negbench.settings.schema import DataConfig, MethodConfig, RunConfig

CLASSES, CHUNK, ROUNDS = 1000, 256, 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200, help="of each of the made-up tree's 1,000 classes")
    parser.add_argument("--images", help="an image folder")
    parser.add_argument("--pack", help="its pack")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.images:
        read(arguments.images, arguments.pack)
    else:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
            make_tree(Path(folder, "train"), arguments.files)
            list_tree(Path(folder, "train"))


def make_tree(root: Path, files: int) -> None:
    for label in range(CLASSES):
        (root / f"n{label:08}").mkdir(parents=True)
        for number in range(files):
            (root / f"n{label:08}" / f"n{label:08}_{number}.JPEG").touch()
    time.sleep(2.5)  # a listing of what has changed just now is not kept


def list_tree(root: Path) -> None:
    before = resident()
    for kind in ("listed", "from the cache"):
        started = time.perf_counter()
        files = list_classes(root)
        print(f"{kind}: {time.perf_counter() - started:.3f} s")
    print(f"{len(files):,} files: {(resident() - before) / 2**20:.0f} MiB")
    images = FolderSet.all_of(files, files.class_N, DataConfig())
    before = resident()
    paths = [images.path(position) for position in range(len(images))]
    print(f"a list of the paths: {(resident() - before) / 2**20:.0f} MiB")
    for name, path in (("tensors", images.path), ("list", paths.__getitem__)):
        context = get_context("fork")
        worker = context.Process(target=touch, args=(name, path, len(paths)))
        worker.start()
        worker.join()


def touch(name: str, path: Callable[[int], str], num_paths: int) -> None:
    before = written()
    for position in range(num_paths):
        path(position)
    print(f"a forked worker that reads every path, {name}: {(written() - before) / 2**20:.1f} MiB more", flush=True)


def read(images: str, pack: str) -> None:
    """Images a second of this process's CPU, which work beside it disturbs little, and the median ratio of rounds."""
    sets = {}
    for root in (images, pack):
        data = DataConfig(name="imagefolder", root=root, image_size=128, validation=0)
        config = RunConfig[MethodConfig](method=MethodConfig(name="any"), batch_size=CHUNK, data=data)
        train = load_folder(data)[0]
        sets[root] = (train, StepDataset(train, config))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    kinds: dict[str, Callable[[Any, int], object]] = {
        "decoded": lambda pair, turn: [pair[0].decode(p) for p in order[turn * CHUNK : (turn + 1) * CHUNK].tolist()],
        "decoded, with two crops": lambda pair, turn: pair[1][turn],
    }
    for kind, function in kinds.items():
        rates: dict[str, list[float]] = {root: [] for root in sets}
        for turn in range(ROUNDS):
            for root in sorted(sets, reverse=bool(turn % 2)):
                started = time.process_time()
                function(sets[root], turn)
                rates[root].append(CHUNK / (time.process_time() - started))
        ratio = statistics.median(b / a for a, b in zip(rates[images], rates[pack], strict=True))
        of_both = ", ".join(f"{root} {statistics.median(values):,.0f} images/s" for root, values in rates.items())
        print(f"{kind}: {of_both}; pack over folder {ratio:.2f}")


def resident() -> int:
    release_free_memory()
    return process_bytes("VmRSS") or 0


def written() -> int:
    """Memory that this process has written to and shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


if __name__ == "__main__":
    main()
