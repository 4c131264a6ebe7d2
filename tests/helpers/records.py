"""Run folders with figures that a test chooses, as a finished run would have left them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from negbench.records.run.outcome import DONE, outcome_of
from negbench.records.run_folder import RunFolder
from negbench.runtime.failure import Ending, Kind
from negbench.settings.keys import to_yaml
from negbench.settings.resolve import Resolved, resolve

EPOCH_SECONDS = 10.0
STEPS_PER_EPOCH = 7


def study(folder: Path, name: str = "golden", text: str = "") -> Path:
    """A study file of 4 epochs."""
    path = folder / f"{name}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(f"epochs: 4\nbatch_size: 100\n{text}")
    return path


def write(
    output: Path,
    study_file: Path,
    method: str,
    seed: int,
    knn: float,
    *settings: str,
    linear: float | None = None,
    curve: Sequence[float] = (),
    epoch_seconds: float = EPOCH_SECONDS,
    state: str = "done",
    error: str | None = None,
    kind: Kind = "defect",
    negatives: float = 4096.0,
    diagnostics: Sequence[dict[str, Any]] = (),
    summary: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
) -> RunFolder:
    """A run in `output`. `curve` and `diagnostics` are by epoch, from the untrained encoder on."""
    resolved: Resolved = resolve(method, str(study_file), settings, seed)
    folder = RunFolder(output / resolved.run_id)
    folder.path.mkdir(parents=True)
    folder.config.write_text(to_yaml(resolved.config))
    place = {
        "device": "Test GPU",
        "device_type": "cuda",
        "world_size": 1,
        "precision": "bfloat16",
        "torch_version": "2.14",
    }
    place |= {"git_revision": "0123456789abcdef", "negbench_version": "0.1.0", "reproduce": resolved.command}
    place["changed"] = resolved.changed
    place |= {"attempts": [{"world_size": 1}]} | (environment or {})
    folder.environment.write_text(json.dumps(place))
    epochs, views = resolved.config.epochs, 2 * resolved.config.batch_size
    seconds = epochs * epoch_seconds
    told: dict[str, Any] = {
        "schema_version": 2,
        "run_id": resolved.run_id,
        **resolved.description,
        "epochs": epochs,
        **outcome_of(DONE if state == "done" else Ending(kind, 1, error or "")),
        "torch_version": "2.14",
        "num_images": 50_000,
        "num_classes": 10,
        "knn_top1": knn if state == "done" else None,
        "knn200_top1": None,
        "linear_top1": linear,
        "knn_top1_untrained": 0.25 if state == "done" else None,
        "knn_top1_validation": curve[-1] if curve else None,
        "views_per_step": views,
        "negatives_per_query": negatives,
        "train_seconds": seconds,
        "eval_seconds": 12.0,
        "checkpoint_seconds": 4.0,
        "lost_seconds": 0.0,
        "device_hours": seconds / 3600,
        "energy_joules": None,
        "data_wait_share": 0.0,
        "loader_bound": False,
        "images_per_second": 700 / epoch_seconds,
        "views_per_second": 1400 / epoch_seconds,
        "peak_memory_bytes": 2**30,
        "peak_reserved_bytes": 2**31,
        "source_state_bytes": 2**20,
        "communicated_bytes_per_step": {"negatives": 0, "batch_norm": 0, "gradients": 0},
    }
    folder.summary.write_text(json.dumps(told | (summary or {})))
    rows: list[dict[str, Any]] = []
    for epoch in range(epochs + 1):
        now = {"step": epoch * STEPS_PER_EPOCH, "epoch": epoch, "train_seconds": epoch * epoch_seconds}
        now["device_hours"] = now["train_seconds"] / 3600
        if epoch:
            rows.append({"kind": "train", "loss": 1.0} | now)
            rows.append({"kind": "epoch", "loss": 1.0, "epoch_seconds": epoch_seconds} | now)
        if curve:
            rows.append({"kind": "evaluation", "knn_top1": curve[epoch], "knn200_top1": curve[epoch]} | now)
        if epoch < len(diagnostics):
            rows.append({"kind": "diagnostics"} | now | diagnostics[epoch])
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if state == "done":
        folder.done.touch()
    return folder
