"""Whether a run on disk is what is asked for: made on the same data, and by the same code."""

from negbench.records.data import DataRecord, read_data_record
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from negbench.settings.code import code_digest
from negbench.settings.plugins import PluginFile


def check_data(folder: RunFolder, now: DataRecord | None) -> None:
    """Raise UserError if the run in `folder` has other data on record than `now`; what is not known is not compared."""
    before = read_data_record(folder.data)
    if before and now and (difference := now.difference(before)):
        raise UserError(
            f"{folder.path} was made on other data: {difference}; give the data as it was, or name this data by "
            "--set data.version=NAME, or choose another --output, or make the run anew with --fresh"
        )


def check_code(folder: RunFolder, method: PluginFile) -> None:
    """Raise UserError if the run in `folder` was made by another code of its method; an unknown one is not compared."""
    before = folder.read_environment().get("method_code")
    if before and before != code_digest(method):
        raise UserError(
            f"{folder.path} was made by another code than {method.path} has now; make it anew with --fresh, choose "
            "another --output, or give the changed method a name of its own"
        )
