"""`summary.json`: one run in one flat record."""

import statistics
from typing import Any

import torch

from negbench import environment
from negbench.distributed import world_size
from negbench.records import RunFolder
from negbench.setup import Setup
from negbench.trainer import Trainer

SCHEMA_VERSION = 1


def summarize(
    setup: Setup, folder: RunFolder, trainer: Trainer | None, evaluations: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """`summary.json` but for `status` and `error`; what an unfinished run does not know is None. Accuracies are
    fractions."""
    rows = folder.read_metrics()
    epoch_seconds = [row["epoch_seconds"] for row in rows if "epoch_seconds" in row]
    step_seconds = [row["step_seconds"] for row in rows if row.get("step_seconds")]
    curve = [row["knn_top1"] for row in rows if row["kind"] == "evaluation"]
    resolved, method, config = setup.resolved, setup.method, setup.config
    seconds = trainer.clock.seconds if trainer else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": resolved.run_id,
        "study": config.study,
        "track": config.track,
        "method": config.method.name,
        "label": resolved.label,
        "seed": config.seed,
        "restarts": len(folder.read_environment().get("attempts", [None])) - 1,
        "epochs": config.epochs,
        "steps": trainer.step if trainer else None,
        "world_size": world_size(),
        "num_negatives": getattr(config.method, "num_negatives", None),
        "views_per_step": config.batch_size * len(method.query_views),
        **top1_figures(evaluations),
        "knn_top1_validation": curve[-1] if curve else None,
        **{f"{kind}_seconds": seconds.get(kind) for kind in ("train", "eval", "checkpoint", "data_wait")},
        "lost_seconds": trainer.lost_seconds if trainer else None,
        "epoch_seconds_median": statistics.median(epoch_seconds) if epoch_seconds else None,
        "images_per_second": config.batch_size / statistics.median(step_seconds) if step_seconds else None,
        "peak_memory_bytes": trainer.peak_memory_bytes if trainer else None,
        "parameters": sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad),
        "source_state_bytes": sum(b.numel() * b.element_size() for b in method.sources.buffers()),
        "skipped_files": setup.splits.skipped + len(setup.skipped),
        "device": environment.device_name(setup.device),
        "torch_version": torch.__version__,
        "git_revision": environment.git_revision(),
    }


def top1_figures(evaluations: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Accuracies by their names in `summary.json`; None where a protocol was not run."""

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
    }
