"""The rows of a run, in the form that loggers receive: what training measured since the last row."""

import time
from typing import Any

import torch

from negbench.contrast.method import StepOutput
from negbench.records.run.checkpoint import RowsState
from negbench.runtime.distributed import gather_objects
from negbench.runtime.memory import PeakMemory
from negbench.settings.schema import RunConfig
from negbench.train.clock import Clock
from negbench.train.loggers.base import Row
from negbench.train.meter import Meter


class Rows:
    """Collects measurements and makes rows of them. All ranks make the rows of training together."""

    def __init__(
        self,
        config: RunConfig[Any],
        steps_per_epoch: int,
        views_per_image: int,
        clock: Clock,
        peak_memory: PeakMemory,
    ) -> None:
        self.config, self.steps_per_epoch, self.views_per_image = config, steps_per_epoch, views_per_image
        self.clock, self.peak_memory = clock, peak_memory
        self.step_meter, self.epoch_meter = Meter(), Meter()
        self.epoch_start_seconds = dict(clock.seconds)

    def add(self, output: StepOutput) -> None:
        """Add a step's metrics."""
        self.step_meter.add(output.metrics)
        self.epoch_meter.add({"loss": output.metrics["loss"]})

    def train(self, step: int, lr: float) -> Row:
        """Return the means since the last such row; `lr` is that of the last step."""
        means, step_seconds = self.step_meter.read(), self.clock.step_seconds()
        row = means | {"lr": lr, "train_seconds": self.clock.read(), "step_seconds": step_seconds}
        if step_seconds:
            row["images_per_second"] = self.config.batch_size / step_seconds
        return _row("train", step, step / self.steps_per_epoch, row)

    def epoch(self, step: int) -> Row:
        """Return the epoch's cost, with the evaluations and checkpoints since the last epoch's row."""
        train_seconds = self.clock.read()
        spent = {kind: seconds - self.epoch_start_seconds[kind] for kind, seconds in self.clock.seconds.items()}
        self.epoch_start_seconds = dict(self.clock.seconds)
        spent["data_wait"] = max(gather_objects(spent["data_wait"]))
        num_images = self.steps_per_epoch * self.config.batch_size
        row = {
            **self.epoch_meter.read(),
            "epoch_seconds": spent["train"],
            **{f"{kind}_seconds": spent[kind] for kind in ("data_wait", "eval", "checkpoint")},
            "images_per_second": num_images / spent["train"],
            "views_per_second": num_images * self.views_per_image / spent["train"],
            "train_seconds": train_seconds,
            "device_hours": self.clock.seconds["device"] / 3600,
            "energy_joules": self.clock.joules_of_all_ranks(),
            **self.peak_memory.over_ranks(),
        }
        return _row("epoch", step, step // self.steps_per_epoch, row)

    def evaluation(self, kind: str, step: int, figures: Row) -> Row:
        """Return an evaluation's `figures` with the cost of the training before it."""
        seconds = self.clock.seconds
        spent = {"train_seconds": seconds["train"], "device_hours": seconds["device"] / 3600}
        return _row(kind, step, step // self.steps_per_epoch, figures | spent)

    def state_dict(self) -> RowsState:
        """Return what the next rows depend on. All ranks call it."""
        return {
            "step_meter": self.step_meter.state_dict(),
            "epoch_meter": self.epoch_meter.state_dict(),
            "epoch_start_seconds": self.epoch_start_seconds,
        }

    def load_state_dict(self, state: RowsState, device: torch.device) -> None:
        self.step_meter.load_state_dict(state["step_meter"], device)
        self.epoch_meter.load_state_dict(state["epoch_meter"], device)
        self.epoch_start_seconds = state["epoch_start_seconds"]


def _row(kind: str, step: int, epoch: float, content: Row) -> Row:
    moment = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    return {"kind": kind, "step": step, "epoch": epoch} | content | moment
