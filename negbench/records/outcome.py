"""How a run ended, in its `summary.json`, also where it ended before there was anything else to record.

Imports no torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from negbench.records.files import write_json
from negbench.records.run_folder import SCHEMA_VERSION, RunFolder
from negbench.records.status import is_locked
from negbench.runtime.failure import Ending, ending_of, recorded_by


def outcome_of(ending: Ending) -> dict[str, str]:
    """`status` and `error` of the summary."""
    return {"status": "failed" if ending.code in (1, 2) else "interrupted", "error": ending.reason}


@contextmanager
def recorded(path: Path, **known: Any) -> Iterator[None]:
    """An exception inside, or the end that another rank announces, is recorded in the summary of the run folder `path`.

    It joins what the summary holds and what is `known` of the run. Nothing is written where there is no such folder
    (a mistake made at a terminal leaves nothing), where the run is done, or while a process holds it.
    """

    def record(ending: Ending) -> None:
        folder = RunFolder(path)
        with suppress(OSError):  # the error itself matters more than its record
            if path.is_dir() and not folder.done.exists() and not is_locked(path / "run.lock"):
                content = folder.read_summary() | known | {"schema_version": SCHEMA_VERSION} | outcome_of(ending)
                write_json(folder.summary, content)

    try:
        with recorded_by(record):
            yield
    except BaseException as error:
        record(ending_of(error))
        raise
