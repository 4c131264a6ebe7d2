"""The file that holds all that was measured, from which the tables can be made again."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.plan import Measured, from_json

SCHEMA = 1


@dataclass
class Record:
    rounds: int
    images: str | None  # which JPEGs were decoded
    environment: dict[str, Any]
    peers: dict[str, str] | None  # versions in the peers' environment
    groups: list[Measured] = field(default_factory=list)

    def write(self, path: Path) -> None:
        text = json.dumps({"schema": SCHEMA} | dataclasses.asdict(self), indent=1)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(f"{text}\n")
        partial.replace(path)


def check_new(path: Path) -> None:
    if path.exists():
        raise ValueError(f"--output: {path} exists; choose another name")
    if not path.parent.is_dir():
        raise ValueError(f"--output: there is no folder {path.parent}")


def read(path: Path) -> Record:
    """ValueError if the file cannot be read or is none of these."""
    try:
        values = json.loads(path.read_text())
        if values.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        return Record(**values | {"groups": [from_json(group) for group in values["groups"]]})
    except OSError as error:
        raise ValueError(f"--show: {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"--show: {path} is no file that --output has written") from None
