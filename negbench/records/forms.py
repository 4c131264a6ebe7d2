"""What the records of benches and tunings have in common. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from negbench.records.files import read_json


def reason_of(error: ValidationError) -> str:
    """Return where a record is wrong and how, in a few words."""
    first = error.errors()[0]
    where = "".join(f"{place}: " for place in [".".join(map(str, first["loc"]))] if place)
    return f"{where}{first['msg'].removeprefix('Value error, ')}"


@dataclass(frozen=True)
class RecordedFolders:
    """Folders that are known by the file `record` in them, an object that names its study."""

    record: str

    def has(self, path: Path) -> bool:
        """Whether `path` is one of them."""
        return (path / self.record).exists()

    def inside(self, folder: Path) -> list[Path]:
        """Return those in `folder`, by name."""
        return sorted(path for path in folder.iterdir() if self.has(path)) if folder.is_dir() else []

    def studies(self, folder: Path) -> dict[Path, str]:
        """Return the studies of those in `folder`; empty if a record cannot be read."""
        return {path: str(read_json(path / self.record).get("study", "")) for path in self.inside(folder)}

    def find(self, arguments: Sequence[str], default: Path) -> list[Path]:
        """Return those named, those in folders named, and those of studies named, which `default` holds."""
        found: list[Path] = []
        for argument in arguments or [str(default)]:
            path = Path(argument)
            if path.is_dir():
                found += [path] if self.has(path) else self.inside(path)
            else:
                found += [known for known, study in self.studies(default).items() if study == argument]
        return list(dict.fromkeys(found))
