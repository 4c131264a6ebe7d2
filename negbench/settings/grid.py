"""The runs of a study: methods x seeds x grid."""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from negbench.runtime.errors import UserError
from negbench.runtime.words import parts
from negbench.settings.cluster import ClusterConfig
from negbench.settings.keys import parse_yaml, shown
from negbench.settings.resolve import Resolved, resolve


@dataclass(frozen=True)
class Planned:
    """One run of a sweep, with what `negbench run` needs for it."""

    resolved: Resolved
    method: str
    study: str
    overrides: tuple[str, ...]

    def command(self, cluster: ClusterConfig, output: Path, device: str, smoke: bool) -> list[str]:
        processes = [f"--gpus-per-node={cluster.num_gpus}"]
        if not cluster.num_gpus:
            processes.append(f"--processes-per-node={cluster.num_processes}")
        return [
            *(sys.executable, "-m", "negbench.cli", "run", "--cluster=none", *processes),
            *("--method", self.method, "--config", self.study, "--seed", str(self.resolved.config.seed)),
            *(part for text in self.overrides for part in ("--set", text)),
            *("--device", device, "--output", str(output), *(["--smoke"] if smoke else [])),
        ]


def plan(
    methods: Sequence[str], study: str, settings: Sequence[str], grid: Sequence[str], seeds: Sequence[int]
) -> list[Planned]:
    """Return every combination, all methods of a seed before the next seed. UserError if a run would appear twice."""
    planned: dict[str, Planned] = {}
    for combination, seed, method in itertools.product(combinations(grid), seeds, methods):
        overrides = (*settings, *combination)
        run = Planned(resolve(method, study, overrides, seed), method, study, overrides)
        if run.resolved.run_id in planned:
            raise UserError(f"the sweep holds {run.resolved.label} with seed {seed} twice; see --methods and --grid")
        planned[run.resolved.run_id] = run
    return list(planned.values())


def combinations(grid: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the `key=value` texts of every point of the grid. UserError if an axis is not KEY=VALUE,VALUE..."""
    axes = []
    for text in grid:
        key, _, rest = text.partition("=")
        try:
            values = parse_yaml(f"[{rest}]") if key else None
        except UserError:
            values = None
        if not values:
            raise UserError(f"--grid {shown(text)} must have the form KEY=VALUE,VALUE, as optimizer.lr=0.03,0.06")
        axes.append([f"{key}={value if isinstance(value, str) else json.dumps(value)}" for value in values])
    return list(itertools.product(*axes))


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0:3` (0, 1, 2), `0,2,5`, or one number. UserError for anything else, or for no seed."""
    seeds: list[int] = []
    try:
        for part in parts(text):
            first, colon, last = part.partition(":")
            seeds += range(int(first or 0), int(last)) if colon else [int(part)]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise UserError(f"--seeds must look like 0:3 (0, 1 and 2) or 0,2,5, not {text!r}")
    return list(dict.fromkeys(seeds))
