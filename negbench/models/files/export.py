"""Export from a run folder or a file of weights to a file for other libraries, with a file of facts beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from negbench.models.files.formats import FORMATS, write
from negbench.models.files.source import find_source
from negbench.models.files.weight_file import facts_beside
from negbench.records.files import write_atomically, write_json
from negbench.runtime.errors import UserError


@dataclass(frozen=True)
class Export:
    path: Path
    lines: list[str]  # of Python that load it; for detectron2, of its configuration


def export(path: Path, format: str, output: Path | None, force: bool, warn: Callable[[str], None]) -> Export:
    """Write the backbone of the query encoder, whole or not at all, and `FILE.json` beside it.

    UserError if it cannot be done, or if one of the two files exists, unless `force`.
    """
    source = find_source(path, warn)
    chosen = FORMATS[format]
    target = output or source.folder / f"{source.name}{chosen.suffix}"
    if target.is_dir():
        raise UserError(f"--output {target} is a folder; name a file")
    facts = facts_beside(target)
    if target.resolve() == path.resolve():
        raise UserError(f"{target} is what is exported; name another file with --output")
    for file in (target, facts):
        if file.exists() and not force:
            raise UserError(f"{file} exists; --force replaces it, and --output FILE writes another")
    content = write(source, format)
    try:
        if output is None:
            source.folder.mkdir(exist_ok=True)
        write_atomically(target, content)
        write_json(facts, source.facts | {"format": format, "load": chosen.lines(source, Path(target.name))})
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
    return Export(target, chosen.lines(source, target))
