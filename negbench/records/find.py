"""Find the folders of records below a folder, at any depth. Imports no torch."""

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

OF_RUNS = ("config.yaml", "job.json", "run.log", "summary.json")  # a run's folder holds any of them
BENCH, TUNING = "bench.json", "tuning.json"
PUBLISHED = ".published"  # in a folder of published records, which is searched only if it is named
_SUBMISSIONS = "submissions"  # of jobs, beside runs or in them, with copies of the code
_IN_RUNS = ("checkpoints", "evaluations", "code")


def search(top: Path) -> Iterator[tuple[Path, set[str]]]:
    """Yield the folders below `top`, each with the names in it, and once though links lead to it again.

    Hidden folders, what a run keeps in folders of its own, and what lies in benches, tunings and published records are
    passed over. A folder that cannot be read is left out, with a line on standard error.
    """
    waiting, seen = [top], set[tuple[int, int]]()
    while waiting:
        folder = waiting.pop()
        try:
            known = folder.stat()
            if (place := (known.st_dev, known.st_ino)) in seen:
                continue
            seen.add(place)
            with os.scandir(folder) as listing:
                entries = {entry.name: entry for entry in listing}
        except FileNotFoundError:  # it is gone meanwhile
            continue
        except OSError as error:
            _warn(f"{folder} cannot be read and is left out: {error.strerror}")
            continue
        if folder != top:
            if PUBLISHED in entries:
                continue
            yield folder, set(entries)
            if BENCH in entries or TUNING in entries:
                continue
        own = {_SUBMISSIONS, *(() if entries.keys().isdisjoint(OF_RUNS) else _IN_RUNS)}
        for name, entry in entries.items():
            if not name.startswith(".") and name not in own and _leads_on(entry, top):
                waiting.insert(0 if entry.is_symlink() else len(waiting), folder / name)  # links come last


def _leads_on(entry: os.DirEntry[str], top: Path) -> bool:
    """Whether it is a folder, or a link to one that does not hold `top`."""
    if not entry.is_symlink():
        return entry.is_dir()
    return os.path.isdir(entry.path) and not top.resolve().is_relative_to(os.path.realpath(entry.path))


@functools.cache  # once a folder
def _warn(text: str) -> None:
    print(f"negbench: {text}", file=sys.stderr, flush=True)
