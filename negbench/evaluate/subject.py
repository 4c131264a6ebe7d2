"""What is evaluated: an encoder, with its features of each part of the data.

Shape suffixes: N images, F features, D embedding.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from negbench.config import RunConfig
from negbench.data.batches import eval_batches
from negbench.data.decode import BadImageError
from negbench.data.folder import FolderSet
from negbench.data.sets import ResidentSet
from negbench.distributed import gather_rows, rank, world_size
from negbench.models import Encoder
from negbench.setup import Setup

Dataset = ResidentSet | FolderSet
Part = Literal["train", "validation", "test"]
_CHUNK = 4096  # features at a time through the projector


@dataclass(frozen=True)
class Features:
    features_NF: Tensor
    labels_N: Tensor


class Subject:
    """An encoder under evaluation. Features are made when they are first asked for; all ranks ask for the same."""

    def __init__(self, setup: Setup, encoder: Encoder) -> None:
        self.setup, self.encoder = setup, encoder
        self._features: dict[Part, Features] = {}

    @property
    def config(self) -> RunConfig[Any]:
        config: RunConfig[Any] = self.setup.config
        return config

    @property
    def num_classes(self) -> int:
        return len(self.setup.splits.classes)

    @property
    def holds_out(self) -> bool:
        """Whether there is the part `validation`."""
        return self.setup.splits.validation is not None

    def features(self, part: Part) -> Features:
        """The backbone's features [N, F] of the test view, fp32, and labels [N], on every rank."""
        if part not in self._features:
            dataset = getattr(self.setup.splits, part)
            setup = self.setup
            backbone = self.encoder.backbone
            self._features[part] = extract(backbone, dataset, setup.config, setup.device, setup.dtype, setup.skipped)
        return self._features[part]

    def all_training_features(self) -> Features:
        """Of all training images, those held out too."""
        if not self.holds_out:
            return self.features("train")
        train, validation = self.features("train"), self.features("validation")
        return Features(
            torch.cat([train.features_NF, validation.features_NF]), torch.cat([train.labels_N, validation.labels_N])
        )

    @torch.no_grad()
    def embedded(self, features: Features) -> Features:
        """The output [N, D] of the encoder's projector, fp32, not normalised, before any predictor."""
        projector, device, dtype = self.encoder.projector, self.setup.device, self.setup.dtype
        training = projector.training
        projector.eval()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            embeddings = [projector(chunk_NF).float() for chunk_NF in features.features_NF.split(_CHUNK)]
        projector.train(training)
        return Features(torch.cat(embeddings), features.labels_N)


@torch.no_grad()
def extract(
    backbone: nn.Module,
    dataset: Dataset,
    config: RunConfig[Any],
    device: torch.device,
    dtype: torch.dtype | None,
    skipped: set[str],
) -> Features:
    """Features [N, F] of the test view, fp32, and labels [N], on every rank; each rank encodes its share.

    Paths of files that cannot be decoded are added to `skipped`. The backbone is in evaluation mode inside and back in
    its own mode after.
    """
    training = backbone.training
    backbone.eval()
    features, labels = [], []
    for images, label in eval_batches(dataset, config, device, rank=rank(), world_size=world_size(), skipped=skipped):
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            features.append(backbone(images).float())
        labels.append(label)
    backbone.train(training)
    if not features:
        raise BadImageError(f"none of the {len(dataset)} images to evaluate on can be decoded")
    return Features(gather_rows(torch.cat(features)), gather_rows(torch.cat(labels)))
