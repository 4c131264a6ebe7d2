"""The code that a job runs: a copy made when it was submitted."""

import shutil
from pathlib import Path

import negbench
from negbench.launch.jobs.preflight import writing_to
from negbench.records.files import write_atomically
from negbench.runtime.changes import PATCH, changes, git_revision
from negbench.settings.plugins.find import package_folder
from negbench.settings.resolve import Resolved

_CACHE = shutil.ignore_patterns("__pycache__")
_NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc", "methods", "configs")


def take_snapshot(folder: Path) -> None:
    """Copy the package to `folder/negbench` in its installed layout, with `methods` and `configs` inside.

    A checkout has them beside the package, and a copy without them would import the live ones. UserError if the
    folder cannot be made.
    """
    package = folder / "negbench"
    with writing_to(folder):
        folder.mkdir(parents=True)
    shutil.copytree(Path(negbench.__file__).parent, package, ignore=_NOT_CODE)
    for name in ("methods", "configs"):
        shutil.copytree(package_folder(f"negbench.{name}"), package / name, ignore=_CACHE)
    write_atomically(folder / "revision", git_revision() or "")
    write_atomically(folder / PATCH, changes())


def copy_request(resolved: Resolved, folder: Path) -> tuple[str, str]:
    """Copy the study, and a user's method file, to `folder`; return method and study as the job names them."""
    folder.mkdir(exist_ok=True)
    method, file = resolved.method_file.name, resolved.method_file
    if file.module is None:
        method = str(shutil.copy(file.path, folder / file.path.name))
    return method, str(shutil.copy(resolved.study_file, folder / resolved.study_file.name))
