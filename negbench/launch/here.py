"""One rank's share of a run: join the others, run, and print the result on rank 0."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from negbench.launch.smoke import smoke as make_smoke_test
from negbench.records.run.outcome import recorded
from negbench.records.run_folder import RunFolder
from negbench.runtime.device import choose_device
from negbench.runtime.distributed import process_group, rank
from negbench.runtime.place import find_place
from negbench.settings.resolve import Resolved
from negbench.train.loggers.console import cost_line, displayed, summary_table
from negbench.train.run import execute


def run_here(
    resolved: Resolved,
    output: Path,
    device: str,
    *,
    fresh: bool = False,
    smoke: bool = False,
    quiet: bool = False,
    as_json: bool = False,
) -> None:
    """Train, evaluate and record as `train.run.execute`, whose errors pass through, and print the result on rank 0."""
    summary = execute_here(resolved, output, device, fresh=fresh, smoke=smoke, quiet=quiet)
    if find_place().rank > 0:
        return
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    console = Console()
    title = f"{summary['label']}, study {summary['study']}, seed {summary['seed']}"
    console.print(title, highlight=False, soft_wrap=True)
    console.print(summary_table(summary))
    console.print(cost_line(summary), highlight=False, soft_wrap=True)
    console.print(f"records: {output / resolved.run_id}", highlight=False, soft_wrap=True)


def execute_here(
    resolved: Resolved, output: Path, device: str, *, fresh: bool = False, smoke: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Return the summary of `train.run.execute`; a `smoke` test comes first."""
    path = output / resolved.run_id
    with recorded(RunFolder(path), lambda: {"run_id": path.name} | resolved.description):
        chosen = choose_device(device, find_place().local_rank)
        with process_group(chosen), displayed(quiet or rank() > 0) as shown:
            loggers = shown if rank() == 0 else []
            if smoke and not RunFolder(path).metrics.exists():
                make_smoke_test(resolved, output, chosen, loggers)
            return execute(resolved, output, chosen, loggers, fresh)
