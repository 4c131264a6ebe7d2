"""The reference study: four sources of negatives on CIFAR-10, in stages that go on where they stopped.

    python -m benchmarks.reference --data DIR --within 9m            # the stages in order, as far as 9 minutes go
    python -m benchmarks.reference tuning comparison --data DIR      # some of them
    python -m benchmarks.reference --size small --data DIR           # a smaller study, for a CPU
    python -m benchmarks.reference --data DIR --dry-run              # the commands

Each stage is a few negbench commands, which are printed. What is done is left alone, so the same call goes on; a run
that would not end in time is not started. docs/study.md says what is measured, and what was decided before.
"""

import argparse
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from negbench.launch.sweep.make import OUT_OF_TIME
from negbench.records.benches import BENCHES
from negbench.records.files import read_json
from negbench.records.tunings import TUNINGS
from negbench.settings.cluster import seconds_of

Command = list[str]
METHODS = "adco,moco,simclr,byol"
ADVERSARIES_ALONE = ["--set", "method.in_batch_negatives=false"]


@dataclass(frozen=True)
class Size:
    """How large the study is. `num_negatives` are those of the sweep, without the study's own."""

    study: str
    tuning_epochs: int
    epochs: int
    long_epochs: int
    num_negatives: str
    bench_num_negatives: str
    bench_minutes: float  # a bench is not cut: it is not started with less
    anchors: tuple[tuple[str, ...], ...] = ()  # methods, study, settings
    methods: str = METHODS
    num_trials: int = 6
    seeds: str = "0:3"
    more_seeds: str = "3:5"


SIZES = {
    "full": Size(
        "cifar10",
        tuning_epochs=25,
        epochs=50,
        long_epochs=200,
        num_negatives="256,1024,16384,32768",
        bench_num_negatives="256:1048576",
        bench_minutes=6,
        anchors=(
            ("moco", "paper/moco-demo-cifar10", "--set", "precision=tf32"),
        ),  # as PyTorch's convolutions by default
    ),
    "small": Size(
        "cifar10-small",
        tuning_epochs=6,
        epochs=12,
        long_epochs=48,
        num_negatives="64,256,4096",
        bench_num_negatives="64:65536",
        bench_minutes=6,
    ),
}
STAGES = (
    *("tuning", "comparison", "more-seeds", "alone", "anchors", "bench"),
    *("why", "why-with-batch", "num-negatives", "one-way", "long", "report"),
)


def commands(stage: str, size: Size, output: Path) -> list[Command]:
    """What the stage calls negbench with, but for where it runs and the data."""
    tuned = str(tuned_study(size, output / stage if stage == "alone" else output))

    def tune(methods: str, folder: Path, *options: str) -> Command:
        budget = ["--trials", str(size.num_trials), "--set", f"epochs={size.tuning_epochs}"]
        return ["tune", "--methods", methods, "--config", size.study, *budget, *options, "--output", str(folder)]

    def sweep(methods: str, epochs: int, *options: str, seeds: str = size.seeds) -> Command:
        named = ["sweep", "--methods", methods, "--seeds", seeds, "--config", tuned]
        folder = "comparison" if stage == "more-seeds" else stage
        return [*named, "--set", f"epochs={epochs}", *options, "--output", str(output / folder)]

    if stage == "tuning":
        return [tune(size.methods, output)]
    if stage == "alone":
        return [
            tune("adco", output / stage, *ADVERSARIES_ALONE),
            sweep("adco", size.epochs, *ADVERSARIES_ALONE),
        ]
    if stage in ("comparison", "more-seeds"):
        seeds = size.seeds if stage == "comparison" else size.more_seeds
        return [
            sweep(size.methods, size.epochs, seeds=seeds),
            sweep("adco", size.epochs, *ADVERSARIES_ALONE, seeds=seeds),
        ]
    if stage == "anchors":
        return [
            ["sweep", "--methods", methods, "--config", study, *settings, "--output", str(output / stage)]
            for methods, study, *settings in size.anchors
        ]
    if stage in ("why", "why-with-batch"):
        batch = ADVERSARIES_ALONE if stage == "why" else []
        at_random = ["--set", "method.start=random", "--set", "method.update=none"]
        return [
            sweep("adco", size.epochs, *batch, "--grid", "method.update=none,descend"),
            sweep("adco", size.epochs, *batch, *at_random),
        ]
    if stage == "num-negatives":
        grid = ["--grid", f"method.num_negatives={size.num_negatives}"]
        return [sweep("adco,moco", size.epochs, *grid, seeds="0")]
    if stage == "one-way":
        return [sweep("adco,moco", size.epochs, "--set", "method.symmetric=false")]
    if stage == "bench":
        swept = ["--num-negatives", size.bench_num_negatives]
        return [["bench", "--methods", size.methods, "--config", tuned, *swept, "--output", str(output)]]
    if stage == "long":
        return [sweep(size.methods, size.long_epochs, seeds="0")]
    return _reports(size, output)


def tuned_study(size: Size, output: Path) -> Path:
    """The study with the settings that the stage `tuning` chose."""
    name = Path(size.study).stem
    return output / f"{name}-tuning" / f"{name}-tuned.yaml"


def _reports(size: Size, output: Path) -> list[Command]:
    """Of what is there: the comparison, with what rows of it are compared with; the controls beside AdCo's adversaries
    alone; and everything else beside the comparison."""
    tuning = tuned_study(size, output).parent
    comparison = output / "comparison"
    whole = [comparison, *(path for path in (tuning,) if TUNINGS.has(path)), *sorted(output.glob("bench-*"))]
    others = [output / name for name in ("alone", "why-with-batch", "num-negatives", "one-way", "long", "anchors")]
    reports = {
        "report": (whole, []),
        "report-why": ([comparison, output / "why"], ["--baseline", "adco (in_batch_negatives=false)"]),
        "report-more": ([comparison, *(path for path in others if path.is_dir())], []),
    }
    return [
        ["report", *map(str, folders), *options, "--output", str(output / name)]
        for name, (folders, options) in reports.items()
        if all(folder.is_dir() for folder in folders) and (name == "report" or len(folders) > 1)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 if all is done, 124 if the time is over, otherwise that of the command that did not end well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"default: all, {', '.join(STAGES)}")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--data", required=True, metavar="DIR", help="CIFAR-10, as data.root takes it")
    parser.add_argument("--output", type=Path, help="default: results/STUDY")
    parser.add_argument("--within", metavar="TIME", help="end after 9m, 600s, ...")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-parallel", type=int, default=1, help="runs at once, but for their times")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    options = parser.parse_args(arguments)
    if unknown := [stage for stage in options.stages if stage not in STAGES]:
        parser.error(f"there is no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    try:
        limit = seconds_of(options.within) if options.within else None
    except ValueError as error:
        parser.error(f"--within: {error}")
    size = SIZES[options.size]
    return run(options.stages or STAGES, size, options, limit)


def run(stages: Sequence[str], size: Size, options: argparse.Namespace, limit: float | None) -> int:
    end = None if limit is None else time.monotonic() + limit
    output = options.output or Path("results") / size.study
    codes = [0]
    for stage in stages:
        for command in commands(stage, size, output):
            kind, where = command[0], ["--device", options.device]
            if kind in ("sweep", "tune"):
                where += ["--set", f"data.root={options.data}", "--max-parallel", str(options.max_parallel)]
            shown = command if kind == "report" else command + where
            print(f"{stage}: negbench {shlex.join(shown)}", flush=True)
            if options.dry_run or (kind == "bench" and any(map(_is_whole, output.glob("bench-*")))):
                continue
            missing = [part for part in command if part.endswith("-tuned.yaml") and not Path(part).exists()]
            if missing:
                print(f"{stage} needs a finished tuning, which writes {missing[0]}", file=sys.stderr)
                return OUT_OF_TIME if OUT_OF_TIME in codes else 2
            left = None if end is None else end - time.monotonic()
            if left is not None and left < (60 * size.bench_minutes if kind == "bench" else 1):
                print(f"{stage} is left: {max(left, 0):.0f} s are too little; the same command goes on")
                codes.append(OUT_OF_TIME)
                continue
            if left is not None and kind in ("sweep", "tune"):
                shown = [*shown, "--within", f"{left:.0f}s"]
            code = _negbench(shown)
            if code not in (0, 1, OUT_OF_TIME):
                return code
            codes.append(code)
    return max(codes)


def _negbench(arguments: Sequence[str]) -> int:
    """The command's exit code. Signals are its business: it ends in order, and this process after it."""
    process = subprocess.Popen([sys.executable, "-m", "negbench.cli", *arguments])
    before = [
        signal.signal(signal.SIGINT, lambda *_: None),  # a terminal's Ctrl-C reaches the command itself
        signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    ]
    try:
        code = process.wait()
    finally:
        for signum, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(signum, handler)
    return 128 - code if code < 0 else code


def _is_whole(bench: Path) -> bool:
    return bool(read_json(bench / BENCHES.record).get("complete"))


if __name__ == "__main__":
    sys.exit(main())
