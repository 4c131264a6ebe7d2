"""A smoke test before a run: steps, evaluations, a checkpoint and a resume."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from negbench.evaluate.final import evaluate_on_test, protocols_of
from negbench.evaluate.subject import Dataset
from negbench.runtime.distributed import rank
from negbench.runtime.failure import Interrupted, recorded_by
from negbench.settings.resolve import Resolved
from negbench.train.loggers.base import Logger, Loggers
from negbench.train.run import execute
from negbench.train.setup import set_up

STEPS = 20
IMAGES = 512


def smoke(resolved: Resolved, output: Path, device: torch.device, loggers: Sequence[Logger] = ()) -> None:
    """Make half of `STEPS` steps, then the other half from the checkpoint, in a folder that is removed.

    All ranks call it. It evaluates as the run does at step 0 and, on few images, as it does at its end. An exception of
    the run passes through. The loggers that the run's settings name receive nothing.
    """
    every = max(1, resolved.config.evaluate_every_epochs)
    config = resolved.config.model_copy(update={"evaluate_every_epochs": every, "loggers": ()})
    scratch = output / resolved.run_id / "smoke"
    started = time.monotonic()

    def remove() -> None:
        if rank() == 0:
            shutil.rmtree(scratch, ignore_errors=True)

    remove()
    with recorded_by(lambda ending: remove()):
        for last_step in (STEPS // 2, STEPS):
            try:
                execute(replace(resolved, config=config), scratch, device, loggers, stop_after=last_step)
            except Interrupted as interruption:
                if interruption.signum:
                    raise
    remove()
    _evaluate_as_at_the_end(resolved, device)
    passed = f"{STEPS} steps, checkpoint, resume, evaluation"
    Loggers(loggers).note(f"smoke test passed in {time.monotonic() - started:.0f} s: {passed}")


def _evaluate_as_at_the_end(resolved: Resolved, device: torch.device) -> None:
    """Evaluate new weights by the run's protocols, on at most `IMAGES` images of each part."""
    if not protocols_of(resolved.config):
        return
    setup = set_up(resolved, device)
    splits = setup.splits
    validation = _few(splits.validation) if splits.validation is not None else None
    setup.splits = replace(splits, train=_few(splits.train), validation=validation, test=_few(splits.test))
    evaluate_on_test(setup, setup.method.query_encoder, protocols_of(resolved.config))


def _few(part: Dataset) -> Dataset:
    """Return few images, of the most frequent class first: the linear probe must hold some of a class out."""
    others_N = part.labels_N != part.labels_N.mode().values
    return part.subset(others_N.int().argsort(stable=True)[:IMAGES])
