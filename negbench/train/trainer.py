"""The one training loop. It knows `Method` and no method by name.

One step: views and index, forward, backward, optimizer, `after_step`. The host reads nothing from the device between
logs. What must survive a kill is in `state()`; everything random is derived from (seed, epoch, step).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from negbench.contrast.method import Method, StepOutput
from negbench.data.batches import training_batches
from negbench.data.sets import FolderSet, ResidentSet
from negbench.evaluate.curve import Curve
from negbench.models.step import optimizer_step
from negbench.records import checkpoint
from negbench.records.run_folder import RunFolder
from negbench.runtime.distributed import (
    broadcast,
    gather_objects,
    is_distributed,
    rank,
    received_bytes,
    replicate,
    synchronize,
    world_size,
)
from negbench.runtime.failure import Interrupted
from negbench.runtime.memory import PeakMemory
from negbench.settings.schema import RunConfig
from negbench.settings.steps import steps_per_epoch
from negbench.train.clock import Clock
from negbench.train.loggers.base import Display
from negbench.train.meter import Meter
from negbench.train.monitor import Monitor
from negbench.train.optim import learning_rate, set_learning_rate
from negbench.train.stopping import Agreement

CHECKPOINT_SHARE = 50  # training goes on at least this many times as long as the last checkpoint took


class Trainer:
    """Trains `method` from the newest state to the last step.

    `curve` gives the records of evaluations on the way, `display` is told of progress, the paths of undecodable
    files are added to `skipped`. Raises `Interrupted` after a signal and FloatingPointError at a non-finite loss.
    """

    def __init__(
        self,
        config: RunConfig[Any],
        method: Method,
        optimizer: torch.optim.Optimizer,
        train_set: ResidentSet | FolderSet,
        folder: RunFolder,
        device: torch.device,
        display: Display,
        curve: Curve | None,
        skipped: set[str],
    ) -> None:
        self.config, self.method, self.optimizer = config, method, optimizer
        self.train_set, self.folder, self.device = train_set, folder, device
        self.display, self.curve = display, curve
        self.steps_per_epoch = steps_per_epoch(len(train_set), config.batch_size)
        self.num_steps = self.steps_per_epoch * config.epochs
        self.step = 0
        self.world_sizes: list[int] = []  # numbers of processes that have trained the present state
        self.clock = Clock(device, world_size())
        self.monitor = Monitor(folder.path / "stalled" if rank() == 0 else None)
        self.lost_seconds = 0.0
        self.peak_memory = PeakMemory(device, config.execution == "graphs")
        self.peak_memory.start()
        self.negatives_per_query: Tensor | None = None  # of the first step
        self.communicated_bytes: dict[str, int] = {}  # of the last step, by what for
        self.step_meter, self.epoch_meter = Meter(), Meter()
        self.first_bad_step = torch.full((), self.num_steps, device=device)
        self.evaluated_step = self.saved_step = -1
        self.epoch_start_seconds = dict(self.clock.seconds)
        self.request = Agreement.NOTHING  # set by a signal handler, acted on after the step
        self.stop_after: int | None = None  # the step to stop after, though it is not the last
        self.stops_at_once = False  # while nothing would be lost
        self.skipped = skipped
        self.agreement = Agreement()
        self.scaler = torch.amp.GradScaler(device.type, enabled=method.autocast_dtype == torch.float16)
        self.replica: nn.Module = replicate(method, device) if is_distributed() else method
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0  # the last checkpoint's cost

    def train(self) -> None:
        """All steps from the current one; at the end the final checkpoint is on disk."""
        self.method.train()
        if is_distributed():
            self._rehearse()
        self._remember_if_due()
        self._evaluate_if_due()
        batches = training_batches(
            self.train_set,
            self.config,
            self.device,
            self.step,
            self.num_steps,
            rank(),
            world_size(),
            self.skipped,
            self.clock.waiting_for_data,
        )
        if self.step < self.num_steps and world_size() not in self.world_sizes:
            self.world_sizes.append(world_size())
        self._saved_at = time.monotonic()
        self.clock.start()
        while self.step < self.num_steps:
            views, index = next(batches)
            output = self.train_step(views, index)
            self._measure(output)
            self.step += 1
            self._at_boundary()
        self.save()
        self._settle(self.agreement.at_the_end(self._request()))

    def train_step(self, views: list[Tensor], index: Tensor) -> StepOutput:
        """One step of encoder, key encoder and sources."""
        set_learning_rate(self.optimizer, self._lr(self.step))
        received = received_bytes.copy()
        output: StepOutput = self.replica(views, index, self.step)
        optimizer_step(output.loss, self.optimizer, self.scaler)
        if self.negatives_per_query is None:  # before the sources take this step's keys in
            self.negatives_per_query = self.method.negatives_per_query(output.encoded)
        self.method.after_step(output, self.step)
        bad = ~torch.isfinite(output.metrics["loss"])
        self.first_bad_step = torch.where(bad, self.first_bad_step.clamp(max=self.step), self.first_bad_step)
        self.communicated_bytes = dict(received_bytes - received)
        return output

    def _measure(self, output: StepOutput) -> None:
        self.step_meter.add(output.metrics)
        self.epoch_meter.add({"loss": output.metrics["loss"]})
        self.clock.step_done()
        self.monitor.step_done()

    def save(self) -> None:
        """A checkpoint of this step, by rank 0. Raises FloatingPointError instead if a loss has not been finite."""
        if self.saved_step == self.step:
            return
        self._check_finite(weights_too=True)
        started = time.monotonic()
        with self.clock.paused("checkpoint"), self.monitor.paused():
            self.synchronize_statistics()
            state = self.state()
            if rank() == 0:
                self.folder.check_still_ours()
                checkpoint.save(self.folder.checkpoints, self.step, state, self.config.checkpoints.keep)
            synchronize()  # inside: a rank that waits for rank 0 has not stalled
        self.saved_step = self.step
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - started

    def state(self) -> checkpoint.State:
        """Everything that the next step depends on, and the records' length. All ranks call it."""
        return {
            "step": self.step,
            "world_size": world_size(),
            "world_sizes": self.world_sizes,
            "precision": str(self.method.autocast_dtype),
            **self.peak_memory.over_ranks(),
            "negatives_per_query": self.negatives_per_query,
            "communicated_bytes": self.communicated_bytes,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step_meter": self.step_meter.state_dict(),
            "epoch_meter": self.epoch_meter.state_dict(),
            "seconds": dict(self.clock.seconds),
            "joules": gather_objects(self.clock.joules),
            "lost_seconds": self.lost_seconds,
            "epoch_start_seconds": self.epoch_start_seconds,
            "evaluated_step": self.evaluated_step,
            "curve": self.curve.state_dict() if self.curve else {},
            "skipped": sorted(set().union(*gather_objects(self.skipped))),
            "metrics_bytes": self.folder.metrics_length(),
        }

    def load_state(self, state: checkpoint.State) -> None:
        """Continue from `state`; rank 0 cuts the records to their length at that time."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step_meter.load_state_dict(state["step_meter"], self.device)
        self.epoch_meter.load_state_dict(state["epoch_meter"], self.device)
        self.step = self.saved_step = state["step"]
        self.world_sizes = state.get("world_sizes", [state["world_size"]])  # earlier versions knew the last one
        self.clock.seconds = dict(state["seconds"])
        self.clock.joules = _share_of_sum(state["joules"])
        self.epoch_start_seconds = state["epoch_start_seconds"]
        self.evaluated_step = state["evaluated_step"]
        if self.curve:
            self.curve.load_state_dict(state.get("curve", {}))  # earlier versions had none
        self.lost_seconds = state["lost_seconds"]
        self.peak_memory.allocated, self.peak_memory.reserved = state["peak_memory_bytes"], state["peak_reserved_bytes"]
        self.negatives_per_query = state["negatives_per_query"]
        self.communicated_bytes = state["communicated_bytes"]
        self.skipped.update(state["skipped"])
        self.discard_records(state["metrics_bytes"])

    def discard_records(self, length: int) -> None:
        """Cut the records to `length` bytes; what those cut off took is spent again and counts as lost."""
        if rank() == 0:
            rows = self.folder.truncate_metrics(length)
            spent = max((row["train_seconds"] for row in rows if "train_seconds" in row), default=0.0)
            self.lost_seconds += max(0.0, spent - self.clock.seconds["train"])

    def energy_joules(self) -> float | None:
        """What the GPUs of all ranks took in training; None if one of them does not tell. All ranks call it."""
        joules = [rank_joules for rank_joules in gather_objects(self.clock.joules) if rank_joules is not None]
        return sum(joules) if len(joules) == world_size() else None

    def synchronize_statistics(self) -> None:
        """Give all ranks rank 0's BatchNorm statistics, the only state that differs between ranks."""
        statistics = [b for name, b in self.method.named_buffers() if name.rsplit(".")[-1].startswith("running_")]
        broadcast(statistics)

    def _at_boundary(self) -> None:
        epoch_ends = self.step % self.steps_per_epoch == 0
        if self.step % self.config.log_every_steps == 0:
            self._log()
        row = self._log_epoch() if epoch_ends else None
        self._remember_if_due()
        self._settle(self.agreement.settle(self._request()))
        self._evaluate_if_due()
        if row is not None:
            self.display.epoch(row)

    def _request(self) -> int:
        if self.request >= Agreement.STOP:
            return self.request
        if self.stop_after is not None and self.step >= self.stop_after:
            return Agreement.STOP
        if self.request == Agreement.NOTHING and not self._checkpoint_is_due():
            return Agreement.NOTHING
        self.request = Agreement.NOTHING
        self._saved_at = time.monotonic()  # asked for once, though the others learn of it a step later
        return Agreement.SAVE

    def _checkpoint_is_due(self) -> bool:
        """By the clock of rank 0 alone, which writes and so knows what a checkpoint costs."""
        interval = max(60 * self.config.checkpoint_every_min, CHECKPOINT_SHARE * self._save_seconds)
        return rank() == 0 and time.monotonic() - self._saved_at >= interval

    def _settle(self, agreed: int) -> None:
        if agreed > Agreement.STOP:
            self.display.note("stopping: a checkpoint is written; once more quits at once")
        if agreed != Agreement.NOTHING:
            self.save()
        if agreed >= Agreement.STOP:
            raise Interrupted(agreed - Agreement.STOP)

    def _log(self) -> None:
        self._check_finite()
        row: dict[str, Any] = {"kind": "train", "step": self.step, "epoch": self.step / self.steps_per_epoch}
        row |= self.step_meter.read() | {"lr": self._lr(self.step - 1)}
        step_seconds = self.clock.step_seconds()
        row |= {"train_seconds": self.clock.read(), "step_seconds": step_seconds}
        if step_seconds:
            row["images_per_second"] = self.config.batch_size / step_seconds
        self._write(row)
        self.display.progress(**row)

    def _log_epoch(self) -> dict[str, Any]:
        """What the epoch took; of evaluations and checkpoints those since the last epoch's row."""
        self._check_finite()
        train_seconds = self.clock.read()
        spent = {kind: seconds - self.epoch_start_seconds[kind] for kind, seconds in self.clock.seconds.items()}
        self.epoch_start_seconds = dict(self.clock.seconds)
        spent["data_wait"] = max(gather_objects(spent["data_wait"]))
        num_images = self.steps_per_epoch * self.config.batch_size
        row: dict[str, Any] = {
            "kind": "epoch",
            "step": self.step,
            "epoch": self.step // self.steps_per_epoch,
            **self.epoch_meter.read(),
            "epoch_seconds": spent["train"],
            **{f"{kind}_seconds": spent[kind] for kind in ("data_wait", "eval", "checkpoint")},
            "images_per_second": num_images / spent["train"],
            "views_per_second": num_images * len(self.method.query_views) / spent["train"],
            "train_seconds": train_seconds,
            "device_hours": self.clock.seconds["device"] / 3600,
            "energy_joules": self.energy_joules(),
            **self.peak_memory.over_ranks(),
        }
        self._write(row)
        self.display.progress(**row)
        return row

    def _remember_if_due(self) -> None:
        if self.curve is not None and self.curve.looks_back_at(self.step):
            with self._off_the_clock():
                self.curve.remember(self.step)

    def _evaluate_if_due(self) -> None:
        if self.curve is None or not self.curve.is_due(self.step) or self.evaluated_step == self.step:
            return
        self._check_finite(weights_too=True)
        if self.step and self.step in self.curve.held_out_steps:  # each epoch would be a lot of checkpoints
            self.save()
        self._settle(self.agreement.at_the_end(self._request()))  # rather now than in the midst of it
        nothing_to_lose = self.saved_step == self.step or not self.step
        with self._off_the_clock(), self.stopping_at_once() if nothing_to_lose else nullcontext():
            self.synchronize_statistics()
            rows = self.curve.rows(self.step)
        self.curve.forget(self.step)
        self.evaluated_step, self.saved_step = self.step, -1  # a checkpoint of this step would miss the evaluation
        now: dict[str, Any] = {"step": self.step, "epoch": self.step // self.steps_per_epoch}
        spent = {"train_seconds": self.clock.seconds["train"], "device_hours": self.clock.seconds["device"] / 3600}
        for kind, figures in rows.items():
            self._write({"kind": kind} | now | figures | spent)
            if kind != "diagnostics":
                self.display.progress(step=self.step, **figures)

    @contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        """Around what is no training: neither its time nor its memory counts as such."""
        self.peak_memory.update()
        with self.clock.paused("eval"), self.monitor.paused():
            yield
        self.peak_memory.start()

    @contextmanager
    def stopping_at_once(self) -> Iterator[None]:
        """Around what needs no checkpoint: a signal ends it where it is."""
        self.stops_at_once = True
        if self.request >= Agreement.STOP:
            raise Interrupted(self.request - Agreement.STOP)
        yield
        self.stops_at_once = False

    def _write(self, row: dict[str, Any]) -> None:
        if rank() == 0:
            self.folder.append(row | {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z")})

    def _check_finite(self, weights_too: bool = False) -> None:
        bad_step = self.first_bad_step.clone()
        if weights_too:  # weights that the last step broke show in the loss of the next
            finite = torch.stack([p.isfinite().all() for p in self.method.parameters()]).all()
            bad_step = torch.where(finite, bad_step, bad_step.clamp(max=self.step))
        if is_distributed():
            dist.all_reduce(bad_step, dist.ReduceOp.MIN)
        step = int(bad_step)
        if step >= self.num_steps:
            return
        sources = {
            f"{type(source).__name__}.{name}": f"largest {buffer.abs().max().item():.3g}"
            for source in self.method.sources
            for name, buffer in source.named_buffers()
            if buffer.is_floating_point()
        }
        kept = checkpoint.find(self.folder.checkpoints)
        raise FloatingPointError(
            f"the loss is not finite from step {step} on (learning rate {self._lr(min(step, self.num_steps - 1)):.4g}; "
            f"sources: {', '.join(f'{name} {value}' for name, value in sources.items()) or 'none'}); "
            f"last good checkpoint: {kept[0] if kept else 'none yet'}"
        )

    def _lr(self, step: int) -> float:
        peak = self.config.optimizer.lr
        return learning_rate(step, self.num_steps, self.steps_per_epoch, peak, self.config.schedule)

    def _rehearse(self) -> None:
        """One discarded forward and backward.

        DDP rebuilds its buckets after a process's first backward, and another order of summation would make a resumed
        run differ in the last bits from an undisturbed one.
        """
        buffers = {name: buffer.clone() for name, buffer in self.method.named_buffers()}
        views, index = next(
            iter(training_batches(self.train_set, self.config, self.device, 0, 1, rank(), world_size()))
        )
        self.replica(views, index, 0).loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        for name, buffer in self.method.named_buffers():
            buffer.copy_(buffers[name])


def _share_of_sum(joules: list[float | None]) -> float | None:
    """This rank's share of what all ranks' GPUs had taken, which the number of ranks may have changed since."""
    known = [rank_joules for rank_joules in joules if rank_joules is not None]
    return sum(known) / world_size() if len(known) == len(joules) else None
