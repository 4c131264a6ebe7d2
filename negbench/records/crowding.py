"""Whether a machine had other work when something was timed on it, by the environment that is recorded."""

from typing import Any

FOR_BENCHES = 0.5  # load a core; a bench or a plan starts on an idle machine, or others' work takes part of its cores
FOR_RUNS = 1.0  # in a sweep the last minute's load is that of the run before, one a core


def is_crowded(environment: dict[str, Any], load_a_core: float) -> bool:
    """Return whether the load average at the start was above `load_a_core`. False where it is unknown."""
    load, cores = environment.get("load_average"), environment.get("num_cpus")
    if not load or not cores:
        return False
    return bool(load > load_a_core * cores)
