"""The one training loop. It knows `Method` and no method by name.

One step: views and index, forward, backward, optimizer, `after_step`. The host reads nothing from the device between
logs. `state()` is all that must survive a kill; everything random is derived from (seed, epoch, step).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from negbench.contrast.method import Method, StepOutput
from negbench.data.batches import training_batches
from negbench.data.sets import FolderSet, ResidentSet
from negbench.evaluate.curve import PeriodicEvaluation
from negbench.models.step import optimizer_step
from negbench.records.run import checkpoint
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
from negbench.runtime.memory import PeakMemory
from negbench.settings.schema import RunConfig
from negbench.settings.steps import steps_per_epoch
from negbench.train.clock import Clock
from negbench.train.finite import FiniteCheck
from negbench.train.loggers.base import Loggers
from negbench.train.monitor import Monitor
from negbench.train.optim import learning_rate, set_learning_rate
from negbench.train.rows import Rows
from negbench.train.stopping import Stopping


class Trainer:
    """Trains `method` from its present state to the last step.

    `evaluation` makes the evaluations on the way, `loggers` receive the rows, and `skipped` the paths of undecodable
    files. Raises `Interrupted` after a signal and FloatingPointError at a non-finite loss.
    """

    def __init__(
        self,
        config: RunConfig[Any],
        method: Method,
        optimizer: torch.optim.Optimizer,
        train_set: ResidentSet | FolderSet,
        folder: RunFolder,
        device: torch.device,
        loggers: Loggers,
        evaluation: PeriodicEvaluation | None,
        skipped: set[str],
    ) -> None:
        self.config, self.method, self.optimizer = config, method, optimizer
        self.train_set, self.folder, self.device = train_set, folder, device
        self.loggers, self.evaluation = loggers, evaluation
        self.steps_per_epoch = steps_per_epoch(len(train_set), config.batch_size)
        self.num_steps = self.steps_per_epoch * config.epochs
        self.step = 0
        self.world_sizes: list[int] = []  # numbers of processes that have trained this state
        self.clock = Clock(device, world_size())
        self.monitor = Monitor(folder.path / "stalled" if rank() == 0 else None)
        self.lost_seconds = 0.0
        self.peak_memory = PeakMemory(device, config.execution == "graphs")
        self.peak_memory.start()
        self.negatives_per_query: Tensor | None = None  # of the first step
        self.communicated_bytes: dict[str, int] = {}  # of the last step, by purpose
        views_per_image = len(method.query_views)
        self.rows = Rows(config, self.steps_per_epoch, views_per_image, self.clock, self.peak_memory)
        self.finite = FiniteCheck(method, self.num_steps, device, folder.checkpoints)
        self.evaluated_step = self.saved_step = -1
        self.skipped = skipped
        self.stopping = Stopping(config.checkpoint_every_min, loggers.note)
        self.scaler = torch.amp.GradScaler(device.type, enabled=method.autocast_dtype == torch.float16)
        self.replica: nn.Module = replicate(method, device) if is_distributed() else method

    def train(self) -> None:
        """Train from the current step to the last, and write the final checkpoint."""
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
        self.stopping.restart_clock()
        self.clock.start()
        while self.step < self.num_steps:
            views, index = next(batches)
            output = self.train_step(views, index)
            self._measure(output)
            self.step += 1
            self._at_boundary()
        self.save()
        self.stopping.settle(self.step, self.save, at_the_end=True)

    def train_step(self, views: list[Tensor], index: Tensor) -> StepOutput:
        """Take one step of encoder, key encoder and sources."""
        set_learning_rate(self.optimizer, self._lr(self.step))
        received = received_bytes.copy()
        output: StepOutput = self.replica(views, index, self.step)
        optimizer_step(output.loss, self.optimizer, self.scaler)
        if self.negatives_per_query is None:  # before the sources take this step's keys in
            self.negatives_per_query = self.method.negatives_per_query(output.encoded)
        self.method.after_step(output, self.step)
        self.finite.add(output.metrics["loss"], self.step)
        self.communicated_bytes = dict(received_bytes - received)
        return output

    def _measure(self, output: StepOutput) -> None:
        self.rows.add(output)
        self.clock.step_done()
        self.monitor.step_done()

    def save(self) -> None:
        """Write a checkpoint of this step on rank 0. Raises FloatingPointError if a loss has not been finite."""
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
        self.stopping.restart_clock(time.monotonic() - started)

    def state(self) -> checkpoint.State:
        """Return all that the next step depends on, and the records' length. All ranks call it."""
        peaks = self.peak_memory.over_ranks()
        length, digest = self.folder.metrics_on_disk()
        return {
            "step": self.step,
            "world_size": world_size(),
            "world_sizes": self.world_sizes,
            "precision": str(self.method.autocast_dtype),
            "peak_memory_bytes": peaks["peak_memory_bytes"],
            "peak_reserved_bytes": peaks["peak_reserved_bytes"],
            "negatives_per_query": self.negatives_per_query,
            "communicated_bytes": self.communicated_bytes,
            "method": self.method.state_dict(),
            "optimizer": cast(checkpoint.OptimizerState, self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            **self.rows.state_dict(),
            **self.clock.state_dict(),
            "lost_seconds": self.lost_seconds,
            "evaluated_step": self.evaluated_step,
            "curve": self.evaluation.state_dict() if self.evaluation else {},
            "skipped": sorted(set().union(*gather_objects(self.skipped))),
            "metrics_bytes": length,
            "metrics_sha256": digest,
            "run_id": self.folder.path.name,
        }

    def load_state(self, state: checkpoint.State) -> None:
        """Continue from `state`; rank 0 cuts the records to the length that they had."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        self.scaler.load_state_dict(state["scaler"])
        self.rows.load_state_dict(state, self.device)
        self.step = self.saved_step = state["step"]
        self.world_sizes = state["world_sizes"]
        self.clock.load_state_dict(state)
        self.evaluated_step = state["evaluated_step"]
        if self.evaluation:
            self.evaluation.load_state_dict(state["curve"])
        self.lost_seconds = state["lost_seconds"]
        self.peak_memory.allocated, self.peak_memory.reserved = state["peak_memory_bytes"], state["peak_reserved_bytes"]
        self.negatives_per_query = state["negatives_per_query"]
        self.communicated_bytes = state["communicated_bytes"]
        self.skipped.update(state["skipped"])
        self.discard_records(state["metrics_bytes"])

    def discard_records(self, length: int) -> None:
        """Cut the records to `length` bytes. The training time of the rows cut off counts as lost."""
        if rank() == 0:
            rows = self.folder.truncate_metrics(length)
            spent = max((row["train_seconds"] for row in rows if "train_seconds" in row), default=0.0)
            self.lost_seconds += max(0.0, spent - self.clock.seconds["train"])

    def synchronize_statistics(self) -> None:
        """Give all ranks rank 0's BatchNorm statistics, the only state that differs between ranks."""
        broadcast([b for name, b in self.method.named_buffers() if name.rsplit(".")[-1].startswith("running_")])

    def _at_boundary(self) -> None:
        if self.step % self.config.log_every_steps == 0:
            self._check_finite()
            self.loggers.row(self.rows.train(self.step, self._lr(self.step - 1)))
        if self.step % self.steps_per_epoch == 0:
            self._check_finite()
            self.loggers.row(self.rows.epoch(self.step))
        self._remember_if_due()
        self.stopping.settle(self.step, self.save)
        self._evaluate_if_due()

    def _remember_if_due(self) -> None:
        if self.evaluation is not None and self.evaluation.looks_back_at(self.step):
            with self._off_the_clock():
                self.evaluation.remember(self.step)

    def _evaluate_if_due(self) -> None:
        if self.evaluation is None or not self.evaluation.is_due(self.step) or self.evaluated_step == self.step:
            return
        self._check_finite(weights_too=True)
        if self.step and self.step in self.evaluation.held_out_steps:  # each epoch would be a lot of checkpoints
            self.save()
        self.stopping.settle(self.step, self.save, at_the_end=True)  # rather now than during the evaluation
        nothing_to_lose = self.saved_step == self.step or not self.step
        with self._off_the_clock(), self.stopping.at_once() if nothing_to_lose else nullcontext():
            self.synchronize_statistics()
            figures_by_kind = self.evaluation.rows(self.step)
        self.evaluation.forget(self.step)
        self.evaluated_step, self.saved_step = self.step, -1  # a checkpoint of this step would miss the evaluation
        for kind, figures in figures_by_kind.items():
            self.loggers.row(self.rows.evaluation(kind, self.step, figures))

    @contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        """Count neither time nor memory of what is inside as training."""
        self.peak_memory.update()
        with self.clock.paused("eval"), self.monitor.paused():
            yield
        self.peak_memory.start()

    def _check_finite(self, weights_too: bool = False) -> None:
        self.finite.check(self.step, self._lr, weights_too)

    def _lr(self, step: int) -> float:
        peak = self.config.optimizer.lr
        return learning_rate(step, self.num_steps, self.steps_per_epoch, peak, self.config.schedule)

    def _rehearse(self) -> None:
        """Make a forward and a backward pass and discard them.

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
