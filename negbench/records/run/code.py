"""The code that a run is made by, in its folder: its method's files, and what negbench differs in from its commit."""

from pathlib import Path
from typing import Any

from negbench import RESULTS_VERSION
from negbench.records.files import write_atomically
from negbench.records.run_folder import RunFolder
from negbench.runtime.changes import PATCH, changes
from negbench.settings.plugins.code import code_digest, code_files
from negbench.settings.plugins.find import PluginFile


def write_code(folder: RunFolder, method: PluginFile) -> dict[str, Any]:
    """Write the method's files to `code/`, a user's file to `method.py`, and the patch; return what names them."""
    for name, path in code_files(method).items():
        target = folder.method if method.module is None and path == method.path else folder.code / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, path.read_bytes())
    known = {"method_code": code_digest(method), "results_version": RESULTS_VERSION}
    return known | {"changes": _write_patch(folder)}


def _write_patch(folder: RunFolder) -> str | None:
    """Return the name of the file, another than that of an earlier attempt with other changes."""
    if not (patch := changes()):
        return None
    stem, suffix = Path(PATCH).stem, Path(PATCH).suffix
    for path in sorted(folder.path.glob(f"{stem}*{suffix}")):
        if path.read_text() == patch:
            return path.name
    path = folder.path / (PATCH if not (folder.path / PATCH).exists() else f"{stem}-{folder.attempt}{suffix}")
    write_atomically(path, patch)
    return path.name
