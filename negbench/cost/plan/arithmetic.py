"""The figures of a forecast, one small function each. Units are in the names."""

import math
from collections.abc import Sequence
from statistics import quantiles

from negbench.train.stopping import CHECKPOINT_SHARE

RECORD_BYTES = 350  # a row of metrics.jsonl: 349.9 on average in results/reference/quickstart


def quartiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile of two or more, interpolated linearly."""
    lower, middle, upper = quantiles(seconds, n=4, method="inclusive")
    return lower, middle, upper


def ring_bytes(tensor_bytes: int, num_processes: int) -> int:
    """Return what a process receives while a ring sums a tensor over all: 2 (n - 1) / n of its bytes."""
    return 2 * (num_processes - 1) * tensor_bytes // num_processes


def transfer_seconds(num_bytes: int, gigabytes_per_second: float) -> float:
    """Return the time to receive so many bytes, without latency and arithmetic; a gigabyte is 10^9 bytes."""
    return num_bytes / (1e9 * gigabytes_per_second)


def hours(num_steps: int, step_seconds: float) -> float:
    return num_steps * step_seconds / 3600


def num_evaluations(epochs: int, every_epochs: int, has_validation: bool) -> int:
    """Return how many evaluations are on held-out images: at the start, each `every_epochs`, and at the end."""
    return len({*range(0, epochs, every_epochs), epochs}) if every_epochs and has_validation else 0


def num_checkpoints(train_seconds: float, every_min: float, save_seconds: float, evaluations: int) -> int:
    """Count one before each evaluation but the start's, those between by the clock or their own cost, and the last."""
    parts = max(1, evaluations - 1)
    by_the_clock = math.floor(train_seconds / parts / max(60 * every_min, CHECKPOINT_SHARE * save_seconds))
    return parts * by_the_clock + max(0, evaluations - 1) + 1


def record_bytes(num_steps: int, every_steps: int, epochs: int, evaluations: int) -> int:
    """Return the bytes of rows: loss and speed, one an epoch, and two an evaluation (figures, diagnostics)."""
    return RECORD_BYTES * (num_steps // every_steps + epochs + 2 * evaluations)


def decoding_cores(images_per_second: float, images_per_second_a_core: float) -> float:
    """Return how many cores decode and crop as fast as the devices take images."""
    return images_per_second / images_per_second_a_core
