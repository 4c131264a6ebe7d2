"""The run's own records: every row is a line of `metrics.jsonl`."""

from negbench.records.run_folder import RunFolder
from negbench.train.loggers.base import Logger, Row


class Records(Logger):
    """Appends each row to `metrics.jsonl`. StorageError, which ends the run, if it cannot be written."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def row(self, row: Row) -> None:
        self.folder.append(row)
