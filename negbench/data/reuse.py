"""Whether a finished run may stand for the one that is asked for."""

from collections.abc import Callable

from negbench.data.fingerprint import describe
from negbench.data.load import load_whole
from negbench.records.checks.same import check_code, check_data, check_records
from negbench.records.run.data import DataRecord
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from negbench.settings.resolve import Resolved
from negbench.settings.schema import DataConfig


class Reuse:
    """Compares finished runs with the code and the data that are there now, and looks at each data set once.

    `note` receives a sentence about data that cannot be read here; it is then not compared.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self._seen: dict[str, DataRecord | None] = {}

    def check(self, folder: RunFolder, resolved: Resolved) -> None:
        """Raise UserError if the run was made by another code or on other data, or its summary is damaged."""
        check_code(folder, resolved.method_file)
        check_records(folder, self.note)
        data = resolved.config.data
        if data.root is not None and folder.data.exists():
            check_data(folder, self._described(data))

    def _described(self, config: DataConfig) -> DataRecord | None:
        key = config.model_dump_json()
        if key not in self._seen:
            try:
                self._seen[key] = describe(load_whole(config), config.fingerprint == "full")
            except UserError as error:
                self._seen[key] = None
                self.note(f"finished runs are not compared with the data that they were made on: {error}")
        return self._seen[key]
