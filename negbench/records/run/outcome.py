"""How a run ended, in its `summary.json`, also before there was anything else to record. Imports no torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from negbench.records.files import write_json
from negbench.records.run import earlier
from negbench.records.run_folder import SCHEMA_VERSION, RunFolder
from negbench.runtime.failure import Ending, recorded_by

DONE = Ending("done", 0)
_STATUS = {"done": "done", "lost_process": "interrupted", "interrupted": "interrupted", "requeued": "interrupted"}


def outcome_of(ending: Ending) -> dict[str, Any]:
    """Return `status`, `error` and `ending` of the summary."""
    return {
        "status": _STATUS.get(ending.kind, "failed"),
        "error": None if ending.kind == "done" else ending.reason,
        "ending": {"kind": ending.kind, "code": ending.code, "signal": ending.signal},
    }


def ending_in(summary: dict[str, Any]) -> dict[str, Any]:
    """Return kind, exit code and signal of the recorded end; those that are unknown are missing."""
    ending = summary.get("ending")
    return ending if isinstance(ending, dict) else earlier.ending_of(summary)


@contextmanager
def recorded(folder: RunFolder, facts: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Record an exception that leaves the block, or the end that another rank announces, in the run's summary.

    The record is joined with `facts()` and the summary that exists. Nothing is written without such a folder (a mistake
    at a terminal leaves nothing), if the run is done, or if another process holds it or has held it at the start.
    """

    def record(ending: Ending) -> None:
        with suppress(OSError):  # the error itself matters more than its record
            if ending.kind != "in_use" and folder.takes_an_ending():
                content = folder.read_summary() | facts() | {"schema_version": SCHEMA_VERSION} | outcome_of(ending)
                write_json(folder.summary, content)

    with recorded_by(record):
        yield
