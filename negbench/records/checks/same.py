"""Whether a run on disk is what is asked for: made on the same data, and by the same code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from negbench import RESULTS_VERSION
from negbench.records.checks.consistency import misfits, read_records
from negbench.records.checks.manifest import changed_records
from negbench.records.files import DamagedError
from negbench.records.forms import read_form
from negbench.records.run.data import DATA, DataRecord
from negbench.records.run_folder import ENVIRONMENT, RunFolder
from negbench.runtime.errors import UserError
from negbench.settings.plugins.code import code_digest
from negbench.settings.plugins.find import PluginFile

ANEW = (
    "give the data as it was, or name this data by --set data.version=NAME, or choose another --output, or make the "
    "run anew with --fresh"
)
Note = Callable[[str], None]


def check_data(folder: RunFolder, now: DataRecord | None, remedy: str = ANEW, note: Note | None = None) -> None:
    """Raise UserError if the run in `folder` has other data on record than `now`; what is not known is not compared.

    A record that cannot be read is an UserError too, or a `note`.
    """
    content = _compared(folder.data, DATA, note)
    before = DATA.validate_python(content) if content else None
    if before and now and (difference := now.difference(before)):
        raise UserError(f"{folder.path} was made on other data: {difference}; {remedy}")


def check_code(folder: RunFolder, method: PluginFile, remedy: str = "", note: Note | None = None) -> None:
    """Raise UserError if the run in `folder` was made by other code of its method, or under another RESULTS_VERSION.

    As `check_data` otherwise.
    """
    environment = _compared(folder.environment, ENVIRONMENT, note)
    version, before = environment.get("results_version"), environment.get("method_code")
    anew = "make it anew with --fresh, choose another --output, or"
    if version is not None and version != RESULTS_VERSION:
        raise UserError(
            f"{folder.path} was made by a negbench of results version {version}, and this one has {RESULTS_VERSION}: "
            f"their results cannot be compared (CHANGELOG.md); {remedy or f'{anew} use the negbench that made it'}"
        )
    if before and before != code_digest(method):
        raise UserError(
            f"{folder.path} was made by another code than {method.path} has now; "
            f"{remedy or f'{anew} give the changed method a name of its own'}"
        )


def check_records(folder: RunFolder, note: Note) -> None:
    """Raise UserError if the summary of a finished run is damaged or not what the run wrote; note what else is not."""
    found = [*misfits(read_records(folder.path)), *changed_records(folder.path)]
    for text in found:
        if text.startswith(folder.summary.name):
            raise UserError(
                f"{folder.path} is marked done, but its {folder.summary.name} is damaged ({text}); put the file back, "
                "or make the run anew with --fresh"
            )
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        note(f"caution: {folder.path} does not verify: {found[0]}{more}; `negbench verify` says what it finds")


def _compared(path: Path, form: TypeAdapter[Any], note: Note | None) -> dict[str, Any]:
    """Return the record in a file, empty if there is none."""
    try:
        return read_form(path, form)
    except DamagedError as error:
        if note is None:
            raise UserError(
                f"{error}; delete the file to use the run without comparing it, or make the run anew with --fresh"
            ) from None
        note(f"{error}; it is written anew, and the run not compared with it")
        return {}
