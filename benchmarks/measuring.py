"""What measuring costs: its time over 10,000 steps as a share of the quickstart's median step.

Trains the quickstart study for 100 steps, takes the median of the last 80, and then does all that a run does for its
records 10,000 times without training: meters, clocks and counters at each step, a record every `log_every_steps` and
one at each epoch's end, written to disk.

    python -m benchmarks.measuring
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from negbench.data.batches import training_batches
from negbench.records.run_folder import RunFolder
from negbench.runtime.device import choose_device
from negbench.runtime.distributed import received_bytes
from negbench.runtime.environment import device_name
from negbench.settings.resolve import resolve
from negbench.train.loggers.base import Loggers
from negbench.train.loggers.records import Records
from negbench.train.optim import build_optimizer
from negbench.train.setup import set_up
from negbench.train.trainer import Trainer

TRAINED, WARMUP, MEASURED = 100, 20, 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="adco")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    resolved = resolve(arguments.method, "quickstart")
    config, device = resolved.config, choose_device(arguments.device)
    setup = set_up(resolved, device)
    with tempfile.TemporaryDirectory() as output:
        folder = RunFolder(Path(output) / resolved.run_id)
        folder.open()
        optimizer = build_optimizer(setup.method, config.optimizer)
        loggers, images = Loggers([Records(folder)]), setup.splits.train
        trainer = Trainer(config, setup.method, optimizer, images, folder, device, loggers, None, set())
        setup.method.train()
        steps = []
        for views, index in training_batches(setup.splits.train, config, device, 0, TRAINED):
            started = time.perf_counter()
            step_output = trainer.train_step(views, index)
            step_output.metrics["loss"].item()  # the device is done
            steps.append(time.perf_counter() - started)
        step_seconds = statistics.median(steps[WARMUP:])
        trainer.step = TRAINED
        trainer.clock.start()
        started = time.perf_counter()
        for step in range(1, MEASURED + 1):
            before = received_bytes.copy()
            trainer.communicated_bytes = dict(received_bytes - before)
            trainer._measure(step_output)
            if step % config.log_every_steps == 0:
                trainer._check_finite()
                loggers.row(trainer.rows.train(TRAINED, trainer._lr(TRAINED - 1)))
            if step % trainer.steps_per_epoch == 0:
                trainer._check_finite()
                loggers.row(trainer.rows.epoch(TRAINED))
        measuring_seconds = (time.perf_counter() - started) / MEASURED
        folder.close()
    share = measuring_seconds / step_seconds
    print(
        f"{1e6 * measuring_seconds:.0f} us of measuring a step, {1e3 * step_seconds:.1f} ms a step ({resolved.label}, "
        f"{device_name(device)}): {share:.3%}"
    )


if __name__ == "__main__":
    main()
