"""What is evaluated: an encoder, with its features of each part of the data.

Shape suffixes: N images, F features, D embedding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from negbench.data.batches import eval_batch_size, eval_batches
from negbench.data.files.decode import BadImageError
from negbench.data.load import RunData
from negbench.data.sets import FolderSet, ResidentSet, Splits
from negbench.models.encoder import Encoder
from negbench.runtime import environment
from negbench.runtime.distributed import gather_rows, rank, world_size
from negbench.settings.schema import SharedConfig

Dataset = ResidentSet | FolderSet
Part = Literal["train", "validation", "test"]
Progress = Callable[[str, int, int], None]  # reports work: what it is, how much is done, of how much
_CHUNK = 4096  # features at a time through the projector


def silent(what: str, done: int, of: int) -> None: ...


@dataclass(frozen=True)
class Features:
    features_NF: Tensor
    labels_N: Tensor


class Subject:
    """An encoder under evaluation, on the data of `setup` or on other `splits`.

    Features are computed at their first use; all ranks use the same. `progress` reports how far long work is.
    """

    def __init__(
        self, setup: RunData, encoder: Encoder, progress: Progress = silent, splits: Splits | None = None
    ) -> None:
        self.setup, self.encoder, self.progress = setup, encoder, progress
        self.splits = setup.splits if splits is None else splits
        self.constant = False  # whether all images of a part have the same features
        self._features: dict[Part, Features] = {}

    @property
    def config(self) -> SharedConfig:
        return self.setup.config

    @property
    def num_classes(self) -> int:
        return len(self.splits.classes)

    @property
    def holds_out(self) -> bool:
        """Return whether there is a part `validation`."""
        return self.splits.validation is not None

    def described(self) -> dict[str, Any]:
        """Return what every figure depends on: images, arithmetic and seed."""
        config, view = self.config, self.config.views.first
        return {
            "image_size": config.data.image_size,
            "mean": list(view.mean),
            "std": list(view.std),
            "precision": str(self.setup.dtype or torch.float32).removeprefix("torch."),
            "seed": config.seed,
            "undecodable_images": len(self.setup.skipped),
            "evaluated_on": environment.device_name(self.setup.device),
            "torch": torch.__version__,
        }

    def on(self, splits: Splits) -> "Subject":
        """Return the same encoder on other data, in the run's view of it."""
        return _Moved(self, splits)

    def features(self, part: Part) -> Features:
        """Return the backbone's features [N, F] of the test view, fp32, and labels [N], on every rank.

        FloatingPointError if they are not finite.
        """
        if part not in self._features:
            made = self.extract(self.encoder.backbone, getattr(self.splits, part), f"{part} features")
            self._features[part] = made
            self.note_constant(made.features_NF)
        return self._features[part]

    def note_constant(self, features_NF: Tensor) -> None:
        self.constant |= is_constant(features_NF)

    def extract(self, backbone: nn.Module, dataset: Dataset, what: str) -> Features:
        """Return features and labels as `features`, of any backbone and images."""
        setup, progress = self.setup, partial(self.progress, what)
        made = extract(backbone, dataset, setup.config, setup.device, setup.dtype, setup.skipped, progress)
        check_finite(what, made.features_NF)
        return made

    def all_training_features(self) -> Features:
        """Return features and labels of all training images, with those held out."""
        if not self.holds_out:
            return self.features("train")
        train, validation = self.features("train"), self.features("validation")
        return Features(
            torch.cat([train.features_NF, validation.features_NF]), torch.cat([train.labels_N, validation.labels_N])
        )

    @torch.no_grad()
    def embedded(self, features: Features) -> Features:
        """Return the output [N, D] of the encoder's projector, fp32, not normalised, before any predictor.

        FloatingPointError if it is not finite.
        """
        projector, device, dtype = self.encoder.projector, self.setup.device, self.setup.dtype
        training = projector.training
        projector.eval()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            embeddings = [projector(chunk_NF).float() for chunk_NF in features.features_NF.split(_CHUNK)]
        projector.train(training)
        embeddings_ND = torch.cat(embeddings)
        check_finite("embeddings", embeddings_ND)
        self.note_constant(embeddings_ND)
        return Features(embeddings_ND, features.labels_N)


class _Moved(Subject):
    """A subject on other data, whose constant features count as the first one's too."""

    def __init__(self, first: Subject, splits: Splits) -> None:
        super().__init__(first.setup, first.encoder, first.progress, splits)
        self.first = first

    def note_constant(self, features_NF: Tensor) -> None:
        super().note_constant(features_NF)
        self.first.constant |= self.constant


def check_finite(what: str, features_NF: Tensor) -> None:
    """Raise FloatingPointError unless the length of each image's features is finite in their precision."""
    if num_bad := int((~features_NF.norm(dim=1).isfinite()).sum()):
        raise FloatingPointError(
            f"the encoder's {what} of {num_bad} of {len(features_NF)} images are not finite, or overflow in "
            "float32; the training that made it has diverged"
        )


def is_constant(features_NF: Tensor) -> bool:
    """Return whether several images all have the same features but for rounding, 2^-20 of the largest."""
    low_F, high_F = features_NF.aminmax(dim=0)
    largest = torch.maximum(low_F.abs(), high_F.abs()).max()
    return len(features_NF) > 1 and bool((high_F - low_F).max() <= largest * 2**-20)


@torch.no_grad()
def extract(
    backbone: nn.Module,
    dataset: Dataset,
    config: SharedConfig,
    device: torch.device,
    dtype: torch.dtype | None,
    skipped: set[str],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Features:
    """Return features [N, F] of the test view, fp32, and labels [N], on every rank; each rank encodes its share.

    Paths of files that cannot be decoded are added to `skipped`. The backbone is in evaluation mode meanwhile.
    `progress(done, of)` counts batches.
    """
    training = backbone.training
    backbone.eval()
    features, labels = [], []
    batch = eval_batch_size(config.data.image_size)
    num_batches = math.ceil(len(dataset) / world_size() / batch)
    for images, label in eval_batches(dataset, config, device, batch, rank(), world_size(), skipped):
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            features.append(backbone(images).float())
        labels.append(label)
        progress(len(labels), num_batches)
    backbone.train(training)
    if not features:
        raise BadImageError(f"none of the {len(dataset)} images to evaluate on can be decoded")
    return Features(gather_rows(torch.cat(features)), gather_rows(torch.cat(labels)))
