"""`negbench tune`: equal numbers of random trials, and a study file with the best."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from negbench.cli.errors import mistakes_of_the_user
from negbench.cli.options import (
    DEVICES,
    Device,
    DryRun,
    MaxParallel,
    Output,
    RetryFailed,
    Settings,
    Study,
    WaitForAll,
    Within,
    check_choice,
    with_cluster_options,
)
from negbench.cli.tables import print_table, wide_console
from negbench.runtime.errors import UserError

if TYPE_CHECKING:
    from negbench.records.tunings import Tuning


@with_cluster_options
def tune(
    cluster: dict[str, Any],
    methods: Annotated[str, typer.Option(help="Methods, with commas: names or FILE.py.")],
    trials: Annotated[int, typer.Option(min=1, max=10_000, help="Trials of each method.")] = 6,
    config: Study = "quickstart",
    settings: Settings = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw and of every trial.")] = 0,
    device: Device = "auto",
    output: Output = Path("results"),
    max_parallel: MaxParallel = None,
    retry_failed: RetryFailed = False,
    within: Within = None,
    dry_run: DryRun = False,
    wait: WaitForAll = False,
) -> None:
    """Choose settings by as many random trials for each method, on held-out images; the test set is not used.

    The study's `tuning` block says what is drawn. All trials are kept in OUTPUT/STUDY-tuning, with a study file of the
    best settings; called again, it makes what is missing.
    """
    began = time.monotonic()
    with mistakes_of_the_user():
        from negbench.launch.jobs.submit import wait_for_all
        from negbench.launch.sweep import tuning as trial_runs
        from negbench.launch.sweep.make import make_missing
        from negbench.records.run_folder import RunFolder
        from negbench.records.tunings import load
        from negbench.settings.cluster import cluster_flags, resolve_cluster

        check_choice("--device", device, DEVICES)
        names = [name for name in methods.split(",") if name]
        if not names:
            raise UserError("--methods names no method")
        planned, runs = trial_runs.plan_trials(names, config, settings or [], trials, seed)
        first = runs[0].resolved
        where = resolve_cluster(first.cluster_of_study, first.cluster_overrides, cluster_flags(cluster))
        if wait and where.launcher == "none":
            raise UserError("--wait belongs to jobs; add --cluster slurm or local")
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
            print(f"every trial of {', '.join(lost)} failed; `negbench logs {folder}/RUN` shows why")
            raise typer.Exit(1)
        study = trial_runs.write_tuned_study(first.study_file, tuning)
        others = [f" --set {shlex.quote(text)}" for text in settings or [] if not text.startswith("epochs=")]
        print(f"written: {study}")
        print(f"next: negbench sweep --methods {methods} --seeds 0:3 --config {study}{''.join(others)}")
        raise typer.Exit(0)


def _waiting(tuning: "Tuning", names: set[str], trials: int, are_jobs: bool) -> str:
    """What has not ended, and what makes it."""
    waiting = {
        tuning.record.methods[method.method].file or method.method: sum(not trial.has_ended for trial in method.trials)
        for method in tuning.methods
        if not method.has_ended
    }
    told = ", ".join(f"{count} of {method}" for method, count in waiting.items())
    num_trials = max(len(method.trials) for method in tuning.methods)
    then = "tells what they chose when they have" if are_jobs else "goes on"
    is_wider = num_trials > trials or not waiting.keys() <= names
    other = f", with --methods {','.join(waiting)} --trials {num_trials}," if is_wider else ""
    return f"trials that have not ended: {told}; the same command{other} {then}"


def _show(tuning: "Tuning") -> None:
    from negbench.report.tables.tunings import tuning_cautions, tuning_table

    console = wide_console()
    for caution in tuning_cautions(tuning):
        console.print(f"! {caution}", style="yellow", markup=False)
    print_table(console, tuning_table(tuning))
