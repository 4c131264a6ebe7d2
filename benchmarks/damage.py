"""Damages one file of some run folders at a time and asks `status` and `report` for all of their runs.

python -m benchmarks.damage --n 2000

Prints what came of each kind of damage, and how to repeat each traceback or change of another run's row.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

from tests.helpers import damage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2000, help="damages")
    parser.add_argument("--first", type=int, default=0, help="number of the first; each number is one damage")
    arguments = parser.parse_args()
    found: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as output:
        looks = {folder: damage.look(folder) for folder in damage.make_folders(Path(output))}
        for number in range(arguments.first, arguments.first + arguments.n):
            random = Random(number)
            folder = random.choice(list(looks))
            path = random.choice(damage.files_of(folder))
            kind, content = damage.damaged(path, random)
            try:
                found[kind, damage.check(folder, path, content, looks[folder]) or "no run's file"] += 1
            except Exception as error:
                found[kind, "FAULT"] += 1
                why = f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}"
                print(f"--first {number} --n 1: {path.relative_to(output)}, {kind}: {why}")
    states = sorted({state for _, state in found})
    print(f"{'damage':8}" + "".join(f"{state:>16}" for state in states))
    for kind in damage.KINDS:
        print(f"{kind:8}" + "".join(f"{found[kind, state]:16}" for state in states))
    print(f"{arguments.n} damages, {sum(found[kind, 'FAULT'] for kind in damage.KINDS)} faults")


if __name__ == "__main__":
    main()
