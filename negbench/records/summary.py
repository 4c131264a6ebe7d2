"""`summary.json`: its figures by name, and what makes one unfit. Imports no torch."""

import math
from typing import Any

from negbench.settings.protocols import NAMED, PROTOCOLS

LOADER_BOUND_SHARE = 0.05  # of the training time spent waiting for data
NUMBERS = (  # of summary.json, always known
    *("num_images", "num_classes", "views_per_step", "source_state_bytes"),
    *("train_seconds", "eval_seconds", "checkpoint_seconds", "lost_seconds", "device_hours"),
)
MAY_BE_NONE = (
    *("knn_top1", "knn200_top1", "linear_top1", "knn_top1_validation", "negatives_per_query", "energy_joules"),
    *("images_per_second", "views_per_second", "peak_memory_bytes", "peak_reserved_bytes", "data_wait_share"),
)


def top1_figures(evaluations: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Accuracies by their names in `summary.json`; None where a protocol of every run was not run.

    Protocols that are asked for by name have their figure where they were made, and those of `negbench evaluate` alone
    the untrained encoder's besides.
    """
    named = {name: PROTOCOLS[name] for name in evaluations if PROTOCOLS[name].figure}

    def figure(protocol: str, *path: str) -> float | None:
        value: Any = evaluations.get(protocol, {})
        for key in path:
            value = value.get(key, {})
        return value if value != {} else None

    return {
        "knn_top1": figure("knn", "trained", "top1", "20"),
        "knn200_top1": figure("knn", "trained", "top1", "200"),
        "linear_top1": figure("linear", "trained", "top1"),
        "knn_top1_untrained": figure("knn", "untrained", "top1", "20"),
        "knn200_top1_untrained": figure("knn", "untrained", "top1", "200"),
        "linear_top1_untrained": figure("linear", "untrained", "top1"),
        "knn_top1_pixels": figure("knn", "without_network", "pixels"),
        "knn_top1_histogram": figure("knn", "without_network", "histogram"),
        **{protocol.figure: figure(name, "trained", protocol.key) for name, protocol in named.items()},
        **{
            f"{protocol.figure}_untrained": figure(name, "untrained", protocol.key)
            for name, protocol in named.items()
            if not protocol.at_end and "untrained" in evaluations[name]
        },
    }


def changed_in(*records: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings that the run's command set, by the first of its records that says so."""
    return next((known for record in records if isinstance(known := record.get("changed"), dict)), None)


def damage_of(summary: dict[str, Any]) -> str:
    """What makes a summary unfit for figures, or nothing."""
    published = [protocol.figure for protocol in NAMED.values() if protocol.figure in summary]
    for name in (*NUMBERS, *MAY_BE_NONE, *published):
        if name not in summary:
            return f"summary.json lacks {name}"
        value = summary[name]
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if not is_number and (value is not None or name in NUMBERS):
            return f"summary.json: {name} is {value}"
    communicated = summary.get("communicated_bytes_per_step")
    if not isinstance(communicated, dict) or "negatives" not in communicated:
        return "summary.json lacks communicated_bytes_per_step"
    return ""
