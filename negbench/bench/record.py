"""A bench's folder: `bench.json`, written anew after each group. Imports no torch."""

import json
import time
from pathlib import Path
from typing import Any

from negbench.records import RunFolder, storage_error, write_json

BENCH_SCHEMA_VERSION = 1
RECORD = "bench.json"


class BenchFolder:
    """A new folder in `output`; it is made when there is something to keep."""

    def __init__(self, output: Path, study: str, device_type: str) -> None:
        base = output / f"bench-{study}-{device_type}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.path, number = base, 1
        while self.path.exists():
            number += 1
            self.path = base.with_name(f"{base.name}-{number}")
        self.num_groups = self.num_timed = 0  # on disk

    def check_writable(self) -> None:
        """ValueError if the folder cannot be made, before time is spent on measuring."""
        RunFolder(self.path).check_writable()

    def write(self, facts: dict[str, Any], groups: list[dict[str, Any]], num_timed: int) -> None:
        """Everything measured until now; the first `num_timed` groups have times. `StorageError` if it fails."""
        complete = num_timed == facts["num_groups"]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            content = {"schema_version": BENCH_SCHEMA_VERSION, "complete": complete, **facts, "groups": groups}
            write_json(self.path / RECORD, content)
        except OSError as error:
            raise storage_error(self.path / RECORD, error, f"it holds {self.kept}") from None
        self.num_groups, self.num_timed = len(groups), num_timed

    @property
    def kept(self) -> str:
        return f"memory of {self.num_groups} groups and times of {self.num_timed}"


def is_bench(path: Path) -> bool:
    return (path / RECORD).exists()


def benches_in(folder: Path) -> list[Path]:
    """By name."""
    return sorted(path for path in folder.iterdir() if is_bench(path)) if folder.is_dir() else []


def study_of(path: Path) -> str:
    """The study of a bench; empty if its record cannot be read."""
    try:
        return str(json.loads((path / RECORD).read_text())["study"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
