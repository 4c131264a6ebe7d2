"""`negbench sweep`: a study's runs, all that are missing."""

import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from negbench.cli_options import DEVICES, Device, DryRun, Output, Settings, Study, check_choice, with_cluster_options


def register(app: typer.Typer) -> None:
    app.command()(with_cluster_options(sweep))


def sweep(
    cluster: dict[str, Any],
    methods: Annotated[str, typer.Option(help="Methods, with commas: names or FILE.py.")],
    seeds: Annotated[str, typer.Option(help="0:3 means 0, 1, 2; or 0,2,5.")] = "0",
    config: Study = "quickstart",
    settings: Settings = None,
    grid: Annotated[
        list[str] | None, typer.Option("--grid", metavar="KEY=V1,V2", help="Values to combine; repeatable.")
    ] = None,
    device: Device = "auto",
    output: Output = Path("results"),
    max_parallel: Annotated[int | None, typer.Option(min=1, help="Runs at once. Default: 1; on Slurm all.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also runs that ended with an error.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="A smoke test before each run's start.")] = False,
    then: Annotated[str | None, typer.Option(metavar="COMMAND", help="A negbench command to follow it.")] = None,
    dry_run: DryRun = False,
    wait: Annotated[bool, typer.Option("--wait", help="Tell where the jobs stand until all have ended.")] = False,
) -> None:
    """Make every run of methods x seeds x grid that is missing. Finished runs are left alone, others resumed."""
    from negbench.cli import app, mistakes_of_the_user

    with mistakes_of_the_user():
        from negbench.launch.cluster import cluster_flags, resolve_cluster
        from negbench.launch.command import submit_command, submit_runs, wait_for_all
        from negbench.launch.sweep import Pool, active_jobs, missing, parse_seeds, plan

        check_choice("--device", device, DEVICES)
        known = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
        follow_up = shlex.split(then) if then else []
        if follow_up and follow_up[0] not in known:
            raise ValueError(f"--then {then}: negbench has no command {follow_up[0]!r}; it has {', '.join(known)}")
        names = [name for name in methods.split(",") if name]
        runs = plan(names, config, settings or [], grid or [], parse_seeds(seeds))
        first = runs[0].resolved
        where = resolve_cluster(first.cluster_of_study, first.cluster_overrides, cluster_flags(cluster))
        chosen, left_alone = missing(runs, output, retry_failed)
        for state, count in left_alone.items():
            hint = "; --retry-failed makes them again" if state == "failed" else ""
            print(f"{count} of {len(runs)} runs are {state}{hint}", file=sys.stderr)
        if follow_up and where.launcher == "local":
            raise ValueError("--then follows a sweep on Slurm or one in the foreground, not --cluster local")
        if where.launcher != "none":
            pairs = [(run.resolved, run.overrides) for run in chosen]
            study = first.config.study
            if chosen:
                submit_runs(
                    pairs, where, output, device, smoke=smoke, dry_run=dry_run, name=study, max_parallel=max_parallel
                )
            if follow_up:
                submit_command(follow_up, where, output, study, active_jobs(runs, output), dry_run)
            if wait and not dry_run:
                wait_for_all([run.resolved for run in runs], output)
            return
        if wait:
            raise ValueError("--wait belongs to jobs; add --cluster slurm or local")
        if dry_run:
            for run in chosen:
                print(shlex.join(run.command(where, output, device, smoke)))
            return
        pool = Pool(where, output, device, smoke, max_parallel or 1, print)
        pool.check(chosen)
        stopped_by = pool.make(chosen)
        if stopped_by is not None:
            print(f"stopped by {signal.Signals(stopped_by).name}; the same command goes on")
            raise typer.Exit(128 + stopped_by)
        unfinished = [run.resolved.run_id for run in runs if not (output / run.resolved.run_id / "done").exists()]
        if unfinished:
            print(f"{len(unfinished)} of {len(runs)} runs are not finished: {', '.join(unfinished)}; see their run.log")
        if follow_up:
            sys.stdout.flush()
            subprocess.run([sys.executable, "-m", "negbench.cli", *follow_up])  # says itself what is wrong with it
        raise typer.Exit(1 if unfinished else 0)
