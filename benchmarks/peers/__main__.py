"""Training steps of negbench beside the bare step and beside lightly's own parts, in turns: ratios within rounds.

Every side is a process of its own that is frozen (SIGSTOP) while another has its turn, its data workers too. A round
is a turn of each side, in order. lightly has an environment of its own, which `--peer-python` names.

    python -m benchmarks.peers --peer-python .venv-peers/bin/python [--device cpu] [--rounds 15]
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from negbench.environment import choose_device, device_name
from negbench.report import text
from negbench.report.statistics import Interval, median_interval

BATCH = 128
SETTINGS = [f"batch_size={BATCH}", "method.symmetric=false", "method.num_negatives=4096"]
HERE = Path(__file__).resolve().parent


class Side:
    """A process that waits, frozen, for its turns."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=HERE.parent.parent,
        )
        self._answer()
        self._signal(signal.SIGSTOP)

    def take_turn(self, untimed: int, timed: int) -> None:
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        self.process.stdin.write(f"{untimed} {timed}\n")
        self.process.stdin.flush()
        self.seconds.append(float(self._answer()))
        self._signal(signal.SIGSTOP)

    def end(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self.process.wait()}")
        return line

    def _signal(self, signum: int) -> None:
        os.killpg(self.process.pid, signum)


def commands(peer_python: str, device: str, workers: int) -> dict[str, list[str]]:
    """By name, in the order of turns."""
    found = {}
    for method in ("moco", "simclr"):
        settings = SETTINGS if method == "moco" else SETTINGS[:1]
        for kind, precision in (("method", "auto"), ("bare", "auto"), ("method", "fp32")):
            own = [sys.executable, "-m", "benchmarks.peers.ours", kind, method, device, *settings]
            found[_name(method, kind, precision)] = [*own, f"precision={precision}"]
        loop = [peer_python, str(HERE / "lightly_loop.py"), method, device, str(BATCH), str(workers)]
        found[f"{method}, lightly, fp32"] = loop
    return found


def _name(method: str, kind: str, precision: str) -> str:
    whose = "negbench" if kind == "method" else "bare step"
    return f"{method}, {whose}, {precision}"


def ratio(sides: dict[str, Side], slower: str, faster: str) -> Interval:
    """Median over rounds of seconds of `slower` over those of `faster`: how many times as fast the latter is."""
    pairs = zip(sides[slower].seconds, sides[faster].seconds, strict=True)
    return median_interval([a / b for a, b in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1, help="timed steps a turn, after one untimed")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    sides: dict[str, Side] = {}
    try:
        for name, command in commands(arguments.peer_python, device.type, os.cpu_count() or 1).items():
            sides[name] = Side(name, command)
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
            for side in sides.values():
                side.take_turn(1, arguments.steps)
    finally:
        for side in sides.values():
            side.end()
    console = Console(width=120)
    table = Table(title=f"{device_name(device)}, torch {torch.__version__}, batch {BATCH}, {arguments.rounds} rounds")
    for column in ("side", "step, s", "images/s", "negbench auto is faster by", "negbench fp32 is faster by"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for name, side in sides.items():
        method = name.partition(",")[0]
        ours = [_name(method, "method", precision) for precision in ("auto", "fp32")]
        ratios = ["" if name == own else text.ratio(ratio(sides, name, own)) for own in ours]
        step = median_interval(side.seconds).centre
        table.add_row(name, text.number(step), text.number(BATCH / step), *ratios)
    console.print(table)


if __name__ == "__main__":
    main()
