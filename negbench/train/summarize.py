"""`summary.json`: one run in one flat record."""

import statistics
from typing import Any

import torch

from negbench.contrast.method import Method
from negbench.evaluate.request import is_constant
from negbench.records.run.summary import LOADER_BOUND_SHARE, figures_of, top1_figures
from negbench.records.run_folder import SCHEMA_VERSION, RunFolder
from negbench.runtime import environment
from negbench.runtime.changes import git_revision
from negbench.runtime.distributed import world_size
from negbench.train.setup import Setup
from negbench.train.trainer import Trainer


def summarize(
    setup: Setup, folder: RunFolder, trainer: Trainer | None, evaluations: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return `records.summary.FIELDS` without those of `outcome_of`; what an unfinished run does not know is None."""
    rows = folder.read_metrics()
    of_rows = figures_of(rows)
    epochs = [row for row in rows if row["kind"] == "epoch"]
    step_seconds = [row["step_seconds"] for row in rows if row.get("step_seconds")]
    resolved, method, config = setup.resolved, setup.method, setup.config
    seconds = trainer.clock.seconds if trainer else {}
    images_per_second = config.batch_size / statistics.median(step_seconds) if step_seconds else None
    per_query = trainer.negatives_per_query if trainer else None
    waited = of_rows["data_wait_seconds"] or 0.0
    data_wait_share = waited / epochs[-1]["train_seconds"] if epochs else None
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": resolved.run_id,
        **resolved.description,
        "track": config.track,
        "restarts": len(folder.read_environment().get("attempts", [None])) - 1,
        "epochs": config.epochs,
        "steps": trainer.step if trainer else None,
        "world_size": world_size(),
        "world_sizes": trainer.world_sizes if trainer else None,  # more than one: not bitwise as undisturbed
        "num_images": len(setup.splits.train)
        + (len(setup.splits.validation) if setup.splits.validation is not None else 0),
        "num_classes": len(setup.splits.classes),
        "num_negatives": getattr(config.method, "num_negatives", None),
        "negatives_per_query": float(per_query) if per_query is not None else None,
        "views_per_step": config.batch_size * len(method.query_views),
        **top1_figures(evaluations),
        "knn_top1_validation": of_rows["knn_top1_validation"],
        **{f"{kind}_seconds": seconds.get(kind) for kind in ("train", "eval", "checkpoint")},
        "data_wait_seconds": of_rows["data_wait_seconds"],
        "lost_seconds": trainer.lost_seconds if trainer else None,
        "device_hours": seconds["device"] / 3600 if seconds else None,
        "energy_joules": of_rows["energy_joules"],
        "data_wait_share": data_wait_share,
        "loader_bound": data_wait_share is not None and data_wait_share > LOADER_BOUND_SHARE,
        "epoch_seconds_median": of_rows["epoch_seconds_median"],
        "images_per_second": images_per_second,
        "views_per_second": images_per_second * len(method.query_views) if images_per_second else None,
        "peak_memory_bytes": trainer.peak_memory.allocated if trainer else None,
        "peak_reserved_bytes": trainer.peak_memory.reserved if trainer else None,
        "encoder_replaced": method.replaced is not None,
        "constant_features": any(is_constant(evaluation) for evaluation in evaluations.values())
        if evaluations
        else None,
        "parameters": sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad),
        "source_state_bytes": sum(b.nbytes for b in method.sources.buffers()),
        "communicated_bytes_per_step": _communicated_bytes(method, trainer) if trainer else None,
        "skipped_files": setup.splits.skipped + len(setup.skipped),
        "device": environment.device_name(setup.device),
        "torch_version": torch.__version__,
        "git_revision": git_revision(),
    }


def _communicated_bytes(method: Method, trainer: Trainer) -> dict[str, int]:
    """Return the bytes that a process receives in a step: for the negatives, for BatchNorm (keys shuffled among ranks,
    and our own SyncBatchNorm; torch's is not counted), and for the gradients, as a ring's all_reduce moves them."""
    gradients = sum(p.nbytes for p in method.parameters() if p.requires_grad)
    moved = {"gradients": 2 * (world_size() - 1) * gradients // world_size()}
    return {"negatives": 0, "batch_norm": 0} | trainer.communicated_bytes | moved
