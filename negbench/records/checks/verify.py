"""Whether a run's records are what the run wrote, and fit each other. Runs no code of the run, and imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from negbench.records.checks.consistency import problems
from negbench.records.checks.manifest import MANIFEST, changed_records, digest, read_manifest, rewritten_records
from negbench.records.run.checkpoint_files import find, read_checksum
from negbench.records.run_folder import RunFolder


@dataclass(frozen=True)
class Verdict:
    """`problems` are sentences about what does not fit, `unknown` about what cannot be checked."""

    problems: list[str]
    unknown: list[str]


def verify(path: Path) -> Verdict:
    """Recompute the run's id, its summary's figures, and the digests of its records and of its newest checkpoint."""
    folder = RunFolder(path)
    found = [*problems(path), *(changed_records(path) if folder.is_done() else [])]
    unknown = []
    if not folder.is_done():
        unknown.append(f"it is not finished, so that it has no {MANIFEST}")
    elif not (path / MANIFEST).exists():
        unknown.append(f"it has no {MANIFEST}, so that a change of its records does not show")
    elif not read_manifest(path):
        found.append(f"{MANIFEST} is damaged")
    unknown += [f"{name} differs in bytes from what the run wrote, not in content" for name in rewritten_records(path)]
    environment = folder.read_environment()
    unknown += [f"its {what} is not on record" for what, known in _described(folder, environment) if not known]
    newest = newest_checkpoint(path)
    if newest is not None and not _fits_checksum(newest):
        found.append(f"checkpoints/{newest.name} does not have its checksum")
    return Verdict(found, unknown)


def newest_checkpoint(path: Path) -> Path | None:
    return next(iter(find(path / "checkpoints")), None)


def _described(folder: RunFolder, environment: dict[str, object]) -> list[tuple[str, bool]]:
    return [("data", folder.data.exists()), ("method's code", bool(environment.get("method_code")))]


def _fits_checksum(path: Path) -> bool:
    return digest(path) in read_checksum(path).split()
