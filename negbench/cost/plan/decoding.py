"""How fast one core makes a training step's crops from files, and how large files are."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import simplejpeg
import torch
import torch.nn.functional as F

from negbench.data.files.listing import Listing
from negbench.data.sets import FolderSet
from negbench.data.workers import StepDataset
from negbench.runtime.seeding import stream
from negbench.settings.schema import DataConfig, RunConfig

SAMPLE, SYNTHETIC = 128, 32  # files
HEIGHT, WIDTH = 375, 500  # pixels of a synthetic file, as most of ImageNet's
IMAGENET_MEAN_BYTES = 110_000
PASSES = 3


@dataclass(frozen=True)
class Decoding:
    """Facts of a forecast, by their keys."""

    mean_file_bytes: float
    mean_file_source: str
    decoded_images_per_second_per_core: float
    decoding_source: str


def measure_decoding(config: RunConfig[Any], files: FolderSet | None) -> Decoding:
    """Time a training step's work on files (read, decode, crop and resize each view) in one thread, as a worker's.

    Without `files` it times JPEGs that it makes, of ImageNet's common size. BadImageError as in training.
    """
    if files is not None:
        order_N = torch.randperm(len(files), generator=stream("forecast", "files"))
        sample = files.subset(order_N[:SAMPLE])
        size = mean(map(sample.num_bytes, range(len(sample))))
        these = f"{len(sample)} files of {config.data.root}"
        return Decoding(size, f"mean of {these}", _images_per_second(config, sample), f"measured on {these}")
    with tempfile.TemporaryDirectory() as folder:
        sample = _synthetic(Path(folder), config.data)
        size = mean(map(sample.num_bytes, range(len(sample))))
        rate = _images_per_second(config, sample)
    source = f"measured on {SYNTHETIC} synthetic JPEGs of {WIDTH} x {HEIGHT} pixels, {size / 1000:.0f} kB each"
    return Decoding(IMAGENET_MEAN_BYTES, "about ImageNet's mean", rate, source)


def _images_per_second(config: RunConfig[Any], sample: FolderSet) -> float:
    """Return the rate of the median pass over the sample; the first pass warms up."""
    steps = StepDataset(sample, config.model_copy(update={"batch_size": len(sample)}))
    seconds, num_threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for step in range(1 + PASSES):
            started = time.perf_counter()
            steps[step]
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(num_threads)
    return len(sample) / median(seconds[1:])


def _synthetic(folder: Path, config: DataConfig) -> FolderSet:
    """Return smooth colours under grain: files of this size and quality have as many bytes as ImageNet's mean."""
    generator = stream("forecast", "synthetic")
    coarse = torch.rand(SYNTHETIC, 3, HEIGHT // 16, WIDTH // 16, generator=generator)
    grain = torch.randn(SYNTHETIC, 1, HEIGHT, WIDTH, generator=generator)
    images = (255 * F.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic") + 10 * grain).clamp(0, 255).byte()
    paths = [str(folder / f"{number}.jpeg") for number in range(SYNTHETIC)]
    for path, image_3HW in zip(paths, images, strict=True):
        Path(path).write_bytes(simplejpeg.encode_jpeg(image_3HW.permute(1, 2, 0).contiguous().numpy(), quality=90))
    return FolderSet.all_of(Listing.of(paths), torch.zeros(SYNTHETIC, dtype=torch.int64), config)
