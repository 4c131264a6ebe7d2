"""The code a job runs: a copy of what was there when it was submitted."""

import shutil
from pathlib import Path

import negbench
from negbench.records.files import write_atomically
from negbench.runtime.environment import git_revision
from negbench.runtime.errors import UserError
from negbench.settings.plugins import package_folder
from negbench.settings.resolve import Resolved

_NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc", "methods", "configs")


def take_snapshot(folder: Path) -> None:
    """The package into `folder/negbench` in its installed layout: `methods` and `configs` lie inside.

    A checkout has them beside the package, and a copy without them would import the live ones. UserError if the
    folder cannot be made.
    """
    package = folder / "negbench"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with --output") from None
    shutil.copytree(Path(negbench.__file__).parent, package, ignore=_NOT_CODE)
    for name in ("methods", "configs"):
        shutil.copytree(
            package_folder(f"negbench.{name}"), package / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    write_atomically(folder / "revision", git_revision() or "")


def copy_request(resolved: Resolved, folder: Path) -> tuple[str, str]:
    """Method and study as the job names them: the study's copy in `folder`, and that of the user's own method file."""
    folder.mkdir(exist_ok=True)
    method, file = resolved.method_file.name, resolved.method_file
    if file.module is None:
        method = str(shutil.copy(file.path, folder / file.path.name))
    return method, str(shutil.copy(resolved.study_file, folder / resolved.study_file.name))
