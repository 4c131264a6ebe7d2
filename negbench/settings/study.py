"""Study files: the settings of all runs, of each method, of the cluster and of the tuning."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from negbench.runtime.errors import UserError
from negbench.runtime.words import did_you_mean
from negbench.settings.keys import Flat, flatten_raw, name_of, read_yaml
from negbench.settings.plugins.find import list_methods


class StudyFile(NamedTuple):
    base: Flat
    per_method: dict[str, Flat]
    cluster: Flat  # as it is written
    tuning: Flat  # as it is written; `space.py` reads it


def read_study(path: Path) -> StudyFile:
    """Return the parts of a study file. UserError if it cannot be read, or a block has another form."""
    raw = read_yaml(path)
    cluster = raw.pop("cluster", None) or {}
    if not isinstance(cluster, dict):
        raise UserError(f"{path}: cluster must hold keys and values")
    tuning = raw.pop("tuning", None) or {}
    if not isinstance(tuning, dict):
        raise UserError(f"{path}: tuning must hold keys and lists of values")
    blocks = pop_blocks(raw, path)
    return StudyFile(flatten_raw(raw), blocks, cluster, tuning)


def check_blocks(blocks: Iterable[str], where: str, methods: Iterable[str]) -> None:
    """Raise UserError if a block is neither of a known method, nor of one of `methods`, nor of a FILE.py."""
    known = list_methods()
    for block in blocks:
        if block not in known and block not in set(map(name_of, methods)) and not block.endswith(".py"):
            raise UserError(f"{where} names the unknown method {block!r}{did_you_mean(block, known)}")


def block_of(blocks: dict[str, Flat], method: str) -> Flat:
    """Return the settings of `method` in `blocks`, whose keys are names or FILE.py."""
    return next((block for name, block in blocks.items() if name_of(name) == method), {})


def pop_blocks(raw: dict[str, Any], where: object) -> dict[str, Flat]:
    """Remove `per_method` from `raw` and return the flat settings of each method. UserError names `where`."""
    blocks = raw.pop("per_method", None) or {}
    if not isinstance(blocks, dict) or not all(isinstance(block, dict | None) for block in blocks.values()):
        raise UserError(f"{where}: per_method must map method names to settings")
    return {str(name): flatten_raw(block or {}) for name, block in blocks.items()}
