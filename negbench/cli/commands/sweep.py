"""`negbench sweep`: a study's runs, all that are missing."""

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from negbench.cli import options
from negbench.runtime.errors import UserError


@options.with_cluster_options
def sweep(
    context: typer.Context,
    cluster: dict[str, Any],
    methods: options.Methods,
    seeds: Annotated[str, typer.Option(help="0:3 means 0, 1, 2; or 0,2,5.")] = "0",
    config: options.Study = "quickstart",
    settings: options.Settings = None,
    grid: Annotated[
        list[str] | None, typer.Option("--grid", metavar="KEY=V1,V2", help="Values to combine; repeatable.")
    ] = None,
    device: options.Device = "auto",
    output: options.Output = Path("results"),
    max_parallel: options.MaxParallel = None,
    retry_failed: options.RetryFailed = False,
    smoke: options.Smoke = False,
    then: Annotated[str | None, typer.Option(metavar="COMMAND", help="A negbench command to follow it.")] = None,
    within: options.Within = None,
    dry_run: options.DryRun = False,
    wait: options.WaitForAll = False,
) -> None:
    """Make every run of methods x seeds x grid that is missing. Finished runs are left alone, others resumed."""
    began = time.monotonic()
    from negbench.launch.jobs.submit import submit_command, wait_for_all
    from negbench.launch.sweep.make import make_missing
    from negbench.launch.sweep.missing import active_jobs
    from negbench.settings.grid import parse_seeds, plan

    group: Any = context.find_root().command
    known = list(group.commands)
    follow_up = shlex.split(then) if then else []
    if follow_up and follow_up[0] not in known:
        raise UserError(f"--then {then}: negbench has no command {follow_up[0]!r}; it has {', '.join(known)}")
    runs = plan(options.names_in("--methods", methods), config, settings or [], grid or [], parse_seeds(seeds))
    first = runs[0].resolved
    where = options.cluster_of_many("sweep", first, cluster, wait)
    is_here = where.launcher == "none"
    if follow_up and where.launcher == "local":
        raise UserError("--then follows a sweep on Slurm or one in the foreground, not --cluster local")
    code = make_missing(
        runs,
        where,
        output,
        device,
        retry_failed=retry_failed,
        smoke=smoke,
        max_parallel=max_parallel,
        within=within,
        began=began,
        dry_run=dry_run,
    )
    if is_here:
        if follow_up and not dry_run and code in (0, 1):
            sys.stdout.flush()
            subprocess.run([sys.executable, "-m", "negbench.cli", *follow_up])  # says itself what is wrong with it
        raise typer.Exit(code)
    if follow_up:
        submit_command(follow_up, where, output, first.config.study, active_jobs(runs, output), dry_run)
    if wait and not dry_run:
        raise typer.Exit(0 if wait_for_all([run.resolved for run in runs], output) else 1)
