"""Which runs of a sweep are missing."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from negbench.records.jobs import is_active, jobs_of, read_note, release_held, released
from negbench.records.run_folder import RunFolder
from negbench.records.status import status_of
from negbench.settings.grid import Planned


def missing(runs: Sequence[Planned], output: Path, retry_failed: bool) -> tuple[list[Planned], Counter[str]]:
    """Return the runs to make now, and the number of the others by state: done, waiting or running, failed.

    Jobs that Slurm holds after a failed launch are released.
    """
    notes = [read_note(output / run.resolved.run_id) for run in runs]
    known = jobs_of(notes)
    if held := release_held(notes, known):
        print(released(held), file=sys.stderr)
    states = [status_of(output / run.resolved.run_id, known).state for run in runs]
    left_alone = {"done", "pending", "running", "stalled"} | (set() if retry_failed else {"failed"})
    chosen = [run for run, state in zip(runs, states, strict=True) if state not in left_alone]
    return chosen, Counter(state for state in states if state in left_alone)


def check_finished(runs: Sequence[Planned], output: Path, note: Callable[[str], None]) -> None:
    """Raise UserError if a finished run was made by another code of its method, or on other data."""
    finished = [run for run in runs if RunFolder(output / run.resolved.run_id).is_done()]
    if finished:
        from negbench.data.reuse import Reuse

        reuse = Reuse(note)
        for run in finished:
            reuse.check(RunFolder(output / run.resolved.run_id), run.resolved)


def active_jobs(runs: Sequence[Planned], output: Path) -> list[str]:
    """Return the ids of these runs' jobs that wait or run, whichever call submitted them."""
    notes = [read_note(output / run.resolved.run_id) for run in runs]
    known = jobs_of(notes)
    return [note["job_id"] for note in notes if is_active(note, known)]
