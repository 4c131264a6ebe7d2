"""`--cluster`: check, submit, print what to do next."""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from negbench.launch.jobs import preflight
from negbench.launch.jobs.logs import JOB_POLL_SECONDS, follow_log, log_of, waits_or_runs
from negbench.launch.jobs.snapshot import take_snapshot
from negbench.launch.jobs.submission import Submission
from negbench.launch.processes import check_gpus
from negbench.records.jobs import is_active, jobs_of, read_note, release_held, released, watched_jobs
from negbench.records.locks import exclusive
from negbench.records.run_folder import RunFolder, is_locked
from negbench.records.status import status_of
from negbench.runtime.errors import InUseError, UserError
from negbench.runtime.variables import GPUS, outside
from negbench.runtime.words import command
from negbench.settings.cluster import ClusterConfig
from negbench.settings.resolve import Resolved

SUBMISSION_LOCK = ".submission.lock"  # in the folder of runs, while jobs for them are submitted


def submit_runs(submission: Submission, *, dry_run: bool = False, wait: bool = False, fresh: bool = False) -> None:
    """Submit all runs at once; `wait` and `fresh` are for a single one. UserError, and no job, if a check fails."""
    cluster, output = submission.cluster, submission.output
    resolved = [run for run, _ in submission.runs]
    first = output / resolved[0].run_id
    preflight.check_path(output)
    if dry_run:
        print(submission.script(submission.new_folder()), end="")
        return
    if not (submission.study or fresh) and (first / "done").exists():
        from negbench.data.reuse import Reuse

        Reuse(print).check(RunFolder(first), resolved[0])
        print(f"{first} is finished; --fresh runs it again")
        return
    if cluster.launcher == "slurm":
        preflight.check_cluster(cluster, output)
    else:
        check_gpus(cluster)
    preflight.check_runs(resolved, cluster, output)
    if cluster.launcher == "slurm":
        preflight.check_script(submission.script(submission.new_folder()))
    with _taking_turns(output):
        _refuse_active(resolved, output)
        if fresh:
            folder = RunFolder(first)
            folder.open(fresh=True)
            folder.close()
        job_ids = submission.submit(submission.new_folder())
    kind = "Slurm job" if cluster.launcher == "slurm" else "background job"
    for run, job_id in zip(resolved, job_ids, strict=True):
        print(f"{kind} {job_id}: {output / run.run_id}")
    print(f"watch: {command('status', '--output', output, '--watch')}; {command('logs', first, '-f')}")
    if wait:
        _wait(first)


def submit_command(
    arguments: Sequence[str], cluster: ClusterConfig, output: Path, study: str, after: Sequence[str], dry_run: bool
) -> None:
    """Submit `negbench ARGUMENTS` as a Slurm job of one process that starts when all jobs in `after` have ended."""
    submission = Submission([], cluster, output, "cpu", study)
    preflight.check_path(output)
    if dry_run:
        print(submission.follow_up(submission.new_folder(), arguments, after), end="")
        return
    with _taking_turns(output), outside(*GPUS):
        folder = submission.new_folder()
        take_snapshot(folder / "code")
        path = folder / "submission.sh"
        path.write_text(submission.follow_up(folder, arguments, after))
        done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the sweep is submitted, but not {shlex.join(arguments)!r} after it: {done.stderr.strip()}")
    print(f"Slurm job {done.stdout.strip()}: negbench {shlex.join(arguments)}, when they have ended")


@contextmanager
def _taking_turns(output: Path) -> Iterator[None]:
    """Hold the lock under which jobs for runs in `output` are looked for, submitted and noted."""
    with preflight.writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
    with exclusive(output / SUBMISSION_LOCK, f"submits jobs for {output}"):
        yield


def _refuse_active(runs: Sequence[Resolved], output: Path) -> None:
    """UserError if one of them has a job that waits or runs."""
    notes = {output / run.run_id: read_note(output / run.run_id) for run in runs}
    known = jobs_of(notes.values())
    if held := release_held(notes.values(), known):
        raise UserError(released(held))
    for path, note in notes.items():
        if is_active(note, known):
            raise UserError(
                f"{path} already has job {note['job_id']}; `{command('cancel', path)}` ends it, "
                f"`{command('logs', path, '-f')}` shows it"
            )
        if is_locked(path):
            raise InUseError(
                f"{path} is in use by a process that runs it; wait for it, or end it with `{command('cancel', path)}`"
            )


def _wait(path: Path) -> None:
    """Follow a run's log to its job's end; exit with 1 if the run is not finished then, with 130 after Ctrl-C."""
    try:
        follow_log(path, log_of(path))
    except KeyboardInterrupt:
        print(f"\nthe job continues; `{command('logs', path, '-f')}` follows it, `{command('cancel', path)}` ends it")
        sys.exit(130)
    if not (path / "done").exists():
        print(f"{path} is not finished; the same command resumes")
        sys.exit(1)


def wait_for_all(runs: Sequence[Resolved], output: Path) -> bool:
    """Print each run's state when it changes, until none waits or runs; return whether all are done.

    Jobs that Slurm holds after a failed launch are released. Exits with 130 after Ctrl-C.
    """
    paths = [output / run.run_id for run in runs]
    printed: dict[str, str] = {}
    try:
        while True:
            known = watched_jobs([read_note(path) for path in paths], lambda text: print(text, flush=True))
            states = {path.name: status_of(path, known).state for path in paths}
            for name, state in states.items():
                if printed.get(name) != state:
                    print(f"{name}: {state}", flush=True)
            printed = states
            if not any(waits_or_runs(state, known is not None) for state in states.values()):
                break
            time.sleep(JOB_POLL_SECONDS)
    except KeyboardInterrupt:
        hint = f"`{command('status', '--output', output, '--watch')}` shows them, `negbench cancel` ends them"
        print(f"\nthe jobs continue; {hint}")
        sys.exit(130)
    if set(states.values()) != {"done"}:
        print(f"{sum(state != 'done' for state in states.values())} of {len(runs)} runs are not done")
        return False
    return True
