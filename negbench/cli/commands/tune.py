"""`negbench tune`: equal numbers of random trials, and a study file with the best."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negbench.cli import options
from negbench.cli.tables import print_cautions, print_table, wide_console
from negbench.runtime.words import command

if TYPE_CHECKING:
    from negbench.records.tunings import Tuning


@options.with_cluster_options
def tune(
    cluster: dict[str, Any],
    methods: options.Methods,
    trials: Annotated[int, typer.Option(min=1, max=10_000, help="Trials of each method.")] = 6,
    config: options.Study = "quickstart",
    settings: options.Settings = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw and of every trial.")] = 0,
    device: options.Device = "auto",
    output: options.Output = Path("results"),
    max_parallel: options.MaxParallel = None,
    retry_failed: options.RetryFailed = False,
    within: options.Within = None,
    dry_run: options.DryRun = False,
    wait: options.WaitForAll = False,
) -> None:
    """Choose settings by as many random trials for each method, on held-out images; the test set is not used.

    The study's `tuning` block says what is drawn. All trials are kept in OUTPUT/STUDY-tuning, with a study file of the
    best settings. The same command makes what is missing.
    """
    began = time.monotonic()
    from negbench.launch.jobs.submit import wait_for_all
    from negbench.launch.sweep import tuning as trial_runs
    from negbench.launch.sweep.make import make_missing
    from negbench.records.run_folder import RunFolder
    from negbench.records.tunings import load

    names = options.names_in("--methods", methods)
    planned, runs = trial_runs.plan_trials(names, config, settings or [], trials, seed)
    first = runs[0].resolved
    where = options.cluster_of_many("tune", first, cluster, wait)
    folder = output / f"{planned.study}-tuning"
    RunFolder(folder).check_writable()
    trial_runs.joined(folder, planned)
    code = make_missing(
        runs,
        where,
        folder,
        device,
        retry_failed=retry_failed,
        max_parallel=max_parallel,
        within=within,
        began=began,
        dry_run=dry_run,
        started=lambda: trial_runs.write_joined(folder, planned),
    )
    if dry_run or code >= 128:
        raise typer.Exit(code)
    if wait:
        wait_for_all([run.resolved for run in runs], folder)
    tuning = load(folder)
    _show(tuning)
    if not tuning.has_ended:
        are_jobs = where.launcher != "none"
        print(_waiting(tuning, set(names), trials, are_jobs))
        raise typer.Exit(0 if are_jobs and not wait else code or 1)
    if lost := [method.method for method in tuning.methods if not method.best]:
        print(f"every trial of {', '.join(lost)} failed; `{command('logs', folder / 'RUN')}` shows why")
        raise typer.Exit(1)
    study = trial_runs.write_tuned_study(first.study_file, tuning)
    others = [part for text in settings or [] if not text.startswith("epochs=") for part in ("--set", text)]
    print(f"written: {study}")
    next_sweep = command("sweep", "--methods", ",".join(names), "--seeds", "0:3", "--config", study, *others)
    print(f"next: {next_sweep}")


def _waiting(tuning: "Tuning", names: set[str], trials: int, are_jobs: bool) -> str:
    """Return how many trials of which method have not ended, and the command that makes them."""
    waiting = {
        tuning.record.methods[method.method].file or method.method: sum(not trial.has_ended for trial in method.trials)
        for method in tuning.methods
        if not method.has_ended
    }
    counts = ", ".join(f"{count} of {method}" for method, count in waiting.items())
    num_trials = max(len(method.trials) for method in tuning.methods)
    then = "shows what they chose when they have" if are_jobs else "resumes them"
    is_wider = num_trials > trials or not waiting.keys() <= names
    other = f", with --methods {shlex.quote(','.join(waiting))} --trials {num_trials}," if is_wider else ""
    return f"trials that have not ended: {counts}; the same command{other} {then}"


def _show(tuning: "Tuning") -> None:
    from negbench.report.tables.tunings import tuning_cautions, tuning_table

    console = wide_console()
    print_cautions(console, tuning_cautions(tuning))
    print_table(console, tuning_table(tuning))
