"""What is exported: a backbone in evaluation mode, with the facts that its user needs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import negbench
from negbench.models.files.layout import FileEncoder, read_encoder, read_newest, run_of
from negbench.records.files import read_json
from negbench.records.run import checkpoint
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from negbench.settings.keys import flatten_raw, read_yaml
from negbench.settings.schema import ModelConfig


@dataclass(frozen=True)
class Source:
    """A backbone and `facts`: of the run, the images that it was trained on, and the file that it comes from."""

    model: ModelConfig
    backbone: nn.Module
    facts: dict[str, Any]
    folder: Path  # of the export by default
    name: str  # of the file by default, without the format's suffix

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """Return the weights by torchvision's names (our own for ResNet-8), contiguous, fp32."""
        return {name: tensor.contiguous() for name, tensor in self.backbone.state_dict().items()}

    @property
    def normalisation(self) -> dict[str, list[float]] | None:
        """Return channel `mean` and `std` of images in [0, 1], if they are known."""
        return self.facts["normalisation"]


def find_source(path: Path, warn: Callable[[str], None]) -> Source:
    """Return the encoder of a run folder's newest checkpoint, or of a file. UserError if there is none."""
    encoder = read_newest(path, "export", warn) if path.is_dir() else read_encoder(path)
    path = encoder.file.path
    run, built = run_of(path), encoder.build()
    facts: dict[str, Any] = dict.fromkeys(("run_id", "step", "image_size", "view_policy", "normalisation"))
    facts |= _facts_of_run(run, encoder) if run else {key: encoder.file.facts.get(key) for key in facts}
    facts |= {
        "model": encoder.model.model_dump(),
        "num_features": built.feature_dim,
        "from": {"file": path.name, "sha256": encoder.file.sha256},
        "negbench_version": negbench.__version__,
    }
    folder = run.path / "exports" if run else path.parent
    return Source(encoder.model, built.backbone, facts, folder, path.name.partition(".")[0])


def _facts_of_run(run: RunFolder, encoder: FileEncoder) -> dict[str, Any]:
    settings = flatten_raw(read_yaml(run.config))
    try:
        view = {key: settings[f"views.first.{key}"] for key in ("mean", "std")}
        known = {"image_size": settings["data.image_size"], "view_policy": settings["views.policy"]}
    except KeyError as error:
        raise UserError(f"{run.config} lacks {error.args[0]}") from None
    run_id = read_json(run.summary).get("run_id", run.path.name)
    return known | {"run_id": run_id, "step": checkpoint.step_of(encoder.file.content), "normalisation": view}
