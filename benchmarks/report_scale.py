"""How long `negbench report` takes over many long runs.

Writes run folders with made-up figures, by default 1,000 of 200 epochs (5 studies x 4 methods x 10 settings x 5 seeds),
each with a record every 50 steps, an epoch's and, every tenth epoch, an evaluation's, and times the command as a user
starts it: tables alone, and everything.

    python -m benchmarks.report_scale
"""

import argparse
import itertools
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.helpers import records

METHODS = ("adco", "moco", "simclr", "byol")
SWEPT = {
    "adco": "method.adversary_lr",
    "moco": "method.temperature",
    "simclr": "method.temperature",
    "byol": "optimizer.lr",
}


def make(output: Path, epochs: int, studies: int, settings: int, seeds: int) -> int:
    """Run folders in `output`; how many."""
    draw = random.Random(0)
    count = 0
    for study in range(studies):
        text = f"evaluate_every_epochs: 10\nschedule: {{warmup_epochs: {study}}}\n"
        file = records.study(output.parent, f"study{study}", text)
        for method, setting, seed in itertools.product(METHODS, range(settings), range(seeds)):
            curve = [0.9 - 0.6 / (1 + epoch / 20) + draw.gauss(0, 0.005) for epoch in range(epochs + 1)]
            changed = f"{SWEPT[method]}={0.1 * (setting + 1):.1f}"
            seconds = 20 + draw.random()
            records.write(
                output, file, method, seed, curve[-1], f"epochs={epochs}", changed, curve=curve, epoch_seconds=seconds
            )
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("epochs", 200), ("studies", 5), ("settings", 10), ("seeds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "results"
        count = make(output, arguments.epochs, arguments.studies, arguments.settings, arguments.seeds)
        size = sum(path.stat().st_size for path in output.rglob("*.jsonl"))
        print(f"{count} runs of {arguments.epochs} epochs, {size / 2**20:.0f} MiB of records")
        command = [sys.executable, "-m", "negbench.cli", "report", str(output)]
        for title, further in (("tables", ["--tables-only"]), ("everything", []), ("--help", ["--help"])):
            started = time.monotonic()
            subprocess.run([*command, *further], check=True, stdout=subprocess.DEVNULL)
            print(f"{title}: {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
