"""`negbench run`: one run, here or as a job."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from negbench.cli import options
from negbench.runtime.errors import UserError


@options.with_cluster_options
def run(
    cluster: dict[str, Any],
    method: options.Method = None,
    config: options.Study = "quickstart",
    settings: options.Settings = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    output: options.Output = Path("results"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run's folder and start again.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, result only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="First 20 steps, a save, a resume and evaluations.")] = False,
    dry_run: options.DryRun = False,
    wait: options.Wait = False,
) -> None:
    """Train one method, evaluate it, and record it. The same command resumes, or reports a finished run."""
    from negbench.runtime.place import was_launched
    from negbench.settings.resolve import resolve

    resolved = resolve(method, config, settings or [], seed)
    where = options.cluster_of(resolved, cluster)
    options.check_submits_alone(where)
    if where.launcher != "none":
        from negbench.launch.jobs.submission import Submission
        from negbench.launch.jobs.submit import submit_runs

        if quiet or as_json:
            option = "--json" if as_json else "--quiet"
            raise UserError(f"{option} belongs to a run here; a job's result is in its folder's summary.json")
        submission = Submission([(resolved, settings or [])], where, output, device, smoke=smoke)
        submit_runs(submission, fresh=fresh, dry_run=dry_run, wait=wait)
        return
    if dry_run or wait:
        raise UserError(f"{'--dry-run' if dry_run else '--wait'} belongs to a job; add --cluster slurm or local")
    if where.num_processes > 1 and not was_launched():
        from negbench.launch.processes import check_gpus, launch

        check_gpus(where)
        raise typer.Exit(launch(where.num_processes, sys.argv[1:]))
    from negbench.launch.here import run_here

    run_here(resolved, output, device, fresh=fresh, smoke=smoke, quiet=quiet, as_json=as_json)
