"""Change the code in one place, and see whether a test fails.

    python -m benchmarks.mutants                 # all mutants of benchmarks/mutants.json
    python -m benchmarks.mutants 12 follow       # some, by number or name
    python -m benchmarks.mutants --survivors     # those that no test has killed yet
    python -m benchmarks.mutants --unmutated     # the killers of every room on the code as it is: all must pass
    python -m benchmarks.mutants --draw 60 --seed 1

A mutant is a piece of text of a module that must occur there exactly once, and what stands there instead; where the
code has moved on, the script says so and ends. Each runs in a copy of the tree, child processes included. `killed`
names the first test that failed, `timeout` says that the killers took too long. Outcomes are written to the list.
`equivalent` is a person's word, with the reason, and stays unless a test fails.

`ROOMS` gives each room's module by its dotted name and its killers, the tests that are to fail: the quickest first, and
none that start processes where another kills. A module that moves changes one line there.

`--draw` replaces the numbered mutants by a sample of all that benchmarks/mutations.py makes of all rooms.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.mutations import changes

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".json")
TREE = ("negbench", "methods", "configs", "tests", "benchmarks", "pyproject.toml")

ALONE = "not ranks and not maximize[2 and not group_of_split and not number_of_processes"  # no further processes
FEW = f"{ALONE} and not adco] and not byol] and not simclr] and not undisturbed_one and not other_optim"  # whole runs
SHORT = f"{FEW} and not full_disk and not smoke and not cluster"


@dataclass(frozen=True)
class Room:
    module: str
    killers: str  # files of tests
    only: str = ALONE  # those of their tests, as pytest's -k has it


ROOMS = {
    "losses": Room("negbench.contrast.losses", "losses methods diagnostics"),
    "method": Room("negbench.contrast.method", "moco losses methods multi_crop probing measurements models", FEW),
    "adco": Room("negbench.methods.adco", "adco methods"),
    "byol": Room("negbench.methods.byol", "losses methods models"),
    "momentum": Room("negbench.contrast.momentum", "moco methods", FEW),
    "passes": Room("negbench.contrast.passes", "multi_crop methods measurements", FEW),
    "source": Room("negbench.contrast.source", "losses methods moco", FEW),
    "moco": Room("negbench.methods.moco", "moco losses methods probing"),
    "simclr": Room("negbench.methods.simclr", "losses methods"),
    "batch_norm": Room("negbench.models.batch_norm", "batch_norm methods", only=""),
    "distributed": Room("negbench.runtime.distributed", "distributed batch_norm methods measurements", only=""),
    "trainer": Room("negbench.train.trainer", "resume measurements run failures", SHORT),
    "finite": Room("negbench.train.finite", "run failures", SHORT),
    "rows": Room("negbench.train.rows", "measurements resume run", SHORT),
    "clock": Room("negbench.train.clock", "measurements resume run", SHORT),
    "checkpoint": Room("negbench.records.run.checkpoint", "storage resume run", FEW),
    "checkpoint_files": Room("negbench.records.run.checkpoint_files", "storage resume run", FEW),
    "stopping": Room("negbench.train.stopping", "resume run failures", SHORT),
    "knn": Room("negbench.evaluate.protocols.knn", "knn"),
    "linear": Room("negbench.evaluate.protocols.linear", "linear"),
    "statistics": Room("negbench.report.read.statistics", "report_statistics"),
    "sets": Room("negbench.data.sets", "splits"),
    "splits": Room("negbench.data.splits", "splits"),
    "order": Room("negbench.data.order", "splits"),
    "load": Room("negbench.data.load", "splits"),
    "patterns": Room("negbench.data.datasets.patterns", "patterns splits"),
    "steps": Room("negbench.settings.steps", "splits"),
    "optim": Room("negbench.train.optim", "optim"),
    "files": Room("negbench.records.files", "storage resume failures run status", SHORT),
    "records": Room("negbench.records.run_folder", "storage resume failures run status", SHORT),
}

Mutant = dict[str, Any]  # number or name, room, function, before, after, outcome, by


def draw(count: int, seed: int) -> tuple[list[Mutant], str]:
    """A sample, and which it is."""
    pool = [
        {"room": name, **change._asdict()}
        for name, room in ROOMS.items()
        for change in changes(path_of(room.module, ROOT).read_text())
    ]
    sample = random.Random(seed).sample(pool, count)
    drawn = f"{count} of {len(pool)} mutants, seed {seed}"
    return [{"name": str(number)} | mutant for number, mutant in enumerate(sample, 1)], drawn


def path_of(module: str, root: Path) -> Path:
    """The module's file, in the packages that pyproject.toml maps to other folders too."""
    parts = module.split(".")
    under = parts[1:] if parts[1] in ("methods", "configs") else parts
    return root.joinpath(*under).with_suffix(".py")


def copied(folder: Path) -> dict[str, str]:
    """Copies the tree to `folder`. Returns the environment in which it is imported, which is made sure of."""
    for name in TREE:
        copy: Any = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for name in ("methods", "configs"):
        (folder / "negbench" / name).symlink_to(folder / name)
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    modules = [room.module for room in ROOMS.values()]
    ask = f"import {', '.join(modules)}; print(*(sys.modules[name].__file__ for name in {modules}), sep='\\n')"
    command = [sys.executable, "-c", f"import sys; {ask}"]
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
    imported = [Path(line).resolve() for line in answer.splitlines()]
    assert imported == [path_of(module, folder) for module in modules], answer
    return environment


def outcome(room: Room, folder: Path, environment: dict[str, str], seconds: float) -> tuple[str, str]:
    """killed, survived or timeout, and by which test."""
    files = [
        str(path.relative_to(ROOT))
        for name in room.killers.split()
        for path in Path(ROOT, "tests").rglob(f"test_{name}.py")
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-xrfE",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        *files,
        "-k",
        room.only,
    ]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return "timeout", f"{seconds:.0f} s"
    finally:
        process.wait()
    if process.returncode == 0:
        return "survived", ""
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    if failed is None and "ImportError while loading conftest" not in output:
        raise SystemExit(output)
    return "killed", failed.group(1) if failed else "import"


def run(mutant: Mutant, folder: Path, environment: dict[str, str], seconds: float) -> None:
    """Sets the mutant's outcome."""
    room = ROOMS[mutant["room"]]
    path = path_of(room.module, folder)
    text = path.read_text()
    if (count := text.count(mutant["before"])) != 1:
        raise SystemExit(f"mutant {mutant['name']}: {room.module} has {count} times\n{mutant['before']}")
    path.write_text(text.replace(mutant["before"], mutant["after"]))
    try:
        found, by = outcome(room, folder, environment, seconds)
    finally:
        path.write_text(text)
    if found == "survived" and mutant.get("outcome") == "equivalent":
        return
    once = "survived" in mutant.get("outcome", "") and found == "killed"
    mutant |= {"outcome": "killed, though it survived at first" if once else found, "by": by}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--survivors", action="store_true")
    parser.add_argument("--unmutated", action="store_true")
    parser.add_argument("--draw", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60, help="at most for one mutant")
    arguments = parser.parse_args()
    listed = json.loads(LIST.read_text())
    mutants: list[Mutant] = listed["mutants"]
    if arguments.draw:
        drawn, listed["drawn"] = draw(arguments.draw, arguments.seed)
        listed["mutants"] = [mutant for mutant in mutants if not mutant["name"].isdigit()] + drawn
        write(listed)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        environment = copied(folder)
        if arguments.unmutated:
            for title, room in ROOMS.items():
                started = time.monotonic()
                print(
                    title, *outcome(room, folder, environment, 3600), f"{time.monotonic() - started:.0f} s", flush=True
                )
            return
        for mutant in mutants:
            chosen = mutant["name"] in arguments.names or not arguments.names
            if chosen and (not arguments.survivors or mutant.get("outcome") == "survived"):
                started = time.monotonic()
                run(mutant, folder, environment, arguments.seconds)
                line = (mutant["name"], mutant["room"], mutant["outcome"], mutant["by"])
                print(*line, f"{time.monotonic() - started:.0f} s", flush=True)
                write(listed)
    print(
        *(f"{number} {kind}" for kind, number in Counter(m.get("outcome", "not run") for m in mutants).items()),
        sep=", ",
    )


def write(listed: dict[str, Any]) -> None:
    rows = ",\n".join(json.dumps(mutant) for mutant in listed["mutants"])
    LIST.write_text(f'{{"drawn": {json.dumps(listed["drawn"])},\n"mutants": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    main()
