"""Short real runs: patterns at 8 x 8 pixels, two convolutions, 12 steps."""

import os
import signal
from pathlib import Path
from typing import Any

import torch

from negbench.records.run import checkpoint
from negbench.records.run_folder import RunFolder, without_timings
from negbench.settings.resolve import Resolved, resolve
from negbench.train.loggers.base import Logger, Row
from negbench.train.run import execute

CPU = torch.device("cpu")
SHORT = [
    "model.name=two-convolutions",
    "data.image_size=8",
    "data.num_images=70",
    "batch_size=16",
    "batch_norm_splits=2",
    "epochs=3",
    "projector.hidden=16",
    "projector.dim=8",
    "evaluate_every_epochs=1",
    "log_every_steps=2",
    "evaluation.linear_epochs=2",
    "precision=fp32",
]
STEPS = 12
SMALL = {
    "adco": ["method.num_negatives=40"],
    "moco": ["method.num_negatives=40"],
    "byol": ["method.predictor_hidden=8"],
}


class StopAt(Logger):
    """Sends this process a signal at `step`, or at the first step after it that is logged."""

    def __init__(self, step: int, signum: int = signal.SIGINT) -> None:
        self.step = step
        self.signum: int | None = signum

    def row(self, row: Row) -> None:
        if row["step"] >= self.step and self.signum is not None:
            signum, self.signum = self.signum, None
            os.kill(os.getpid(), signum)


class Notes(Logger):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def short(method: str = "moco", *settings: str) -> Resolved:
    return resolve(method, "quickstart", [*SHORT, *SMALL.get(method, []), *settings])


def start(resolved: Resolved, output: Path, *loggers: Logger, fresh: bool = False) -> dict[str, Any]:
    return execute(resolved, output, CPU, loggers, fresh)


def folder(resolved: Resolved, output: Path) -> RunFolder:
    return RunFolder(output / resolved.run_id)


def outcome(run: RunFolder) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What two equal runs agree on: the final state without its clocks, and the records without theirs."""
    state: dict[str, Any] = {**checkpoint.load(checkpoint.find(run.checkpoints)[0])}
    for clock in (
        "seconds",
        "lost_seconds",
        "epoch_start_seconds",
        "metrics_bytes",
        "metrics_sha256",
        "peak_memory_bytes",
        "peak_reserved_bytes",
        "joules",
    ):
        del state[clock]
    return state, [without_timings(row) for row in run.read_metrics()]


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Bitwise equality of nested states."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{number}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b, where
