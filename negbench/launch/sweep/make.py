"""Make all runs of a study that are missing: here, in the background, or on Slurm."""

import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from negbench.launch.jobs.submission import Submission
from negbench.launch.jobs.submit import submit_runs
from negbench.launch.sweep.missing import check_finished, missing
from negbench.launch.sweep.pool import Pool
from negbench.runtime.errors import UserError
from negbench.settings.cluster import ClusterConfig, seconds_of
from negbench.settings.grid import Planned

OUT_OF_TIME = 124  # as of timeout(1)


def make_missing(
    runs: Sequence[Planned],
    where: ClusterConfig,
    output: Path,
    device: str,
    *,
    retry_failed: bool = False,
    smoke: bool = False,
    max_parallel: int | None = None,
    within: str | None = None,
    began: float = 0.0,
    dry_run: bool = False,
    started: Callable[[], None] = lambda: None,
) -> int:
    """Make the missing runs, or submit them as jobs, and return the exit code.

    0: all are made, submitted or shown; 1: some are not done; 124: `within` is over, counted from `began` of
    time.monotonic; 128 + signal: it was stopped. UserError, and nothing started, if a check fails; `started` is called
    when all have passed.
    """
    if within is not None and where.launcher != "none":
        raise UserError("--within is for runs here; a job's limit is --time")
    seconds = None if within is None else _seconds_left(within, began)
    check_finished(runs, output, lambda text: print(text, file=sys.stderr))
    chosen, left_alone = missing(runs, output, retry_failed)
    for state, count in left_alone.items():
        hint = "; --retry-failed makes them again" if state == "failed" else ""
        print(f"{count} of {len(runs)} runs are {state}{hint}", file=sys.stderr)
    if where.launcher != "none":
        if chosen:
            pairs, study = [(run.resolved, run.overrides) for run in chosen], runs[0].resolved.config.study
            submit_runs(Submission(pairs, where, output, device, study, max_parallel, smoke), dry_run=dry_run)
        if not dry_run:
            started()
        return 0
    if dry_run:
        for run in chosen:
            print(shlex.join(run.command(where, output, device, smoke)))
        return 0
    pool = Pool(where, output, device, smoke, max_parallel or 1, seconds)
    pool.check(chosen)
    started()
    stopped_by = pool.make(chosen)
    if stopped_by is not None:
        print(f"stopped by {signal.Signals(stopped_by).name}; the same command resumes")
        return 128 + stopped_by
    unfinished = [run.resolved.run_id for run in runs if not (output / run.resolved.run_id / "done").exists()]
    if pool.is_out_of_time:
        print(f"within {within}: {len(unfinished)} of {len(runs)} runs are left; the same command resumes")
        return OUT_OF_TIME
    if unfinished:
        print(f"{len(unfinished)} of {len(runs)} runs are not finished: {', '.join(unfinished)}; see their run.log")
    return 1 if unfinished else 0


def _seconds_left(within: str, began: float) -> float:
    try:
        return max(0.0, began + seconds_of(within) - time.monotonic())
    except UserError as error:
        raise UserError(f"--within: {error}") from None
