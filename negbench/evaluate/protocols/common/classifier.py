"""Classifiers trained on random crops of labelled images: linear on a frozen backbone, or together with the backbone.

Shape suffixes: N images of a set, n of a batch, F features, S side of a view in pixels.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from negbench.data.batches import training_batches
from negbench.evaluate.protocols.common.labels import choose_labels
from negbench.evaluate.request import Request
from negbench.evaluate.subject import Dataset, Features, Subject
from negbench.models.batch_norm import SplitBatchNorm
from negbench.models.encoder import initial_weights
from negbench.models.step import optimizer_step
from negbench.runtime.errors import UserError
from negbench.runtime.seeding import derive_seed
from negbench.settings.protocol_settings import ClassifierSettings, Finetune
from negbench.settings.schema import SharedConfig
from negbench.settings.steps import steps_per_epoch
from negbench.settings.views import ViewConfig, ViewsConfig

_HEAD_STD = 0.01
_SELECTION = "none: the last epoch's; the published code reports the highest of all epochs on the test set"


class OneView(ViewsConfig):
    """One view of each image, `first`."""

    @property
    def all(self) -> tuple[ViewConfig, ...]:
        return (self.first,)

    def sizes(self, image_size: int) -> tuple[int, ...]:
        return (image_size,)


def linear(subject: Subject, request: Request) -> dict[str, Any]:
    """Return the record of a linear classifier on the frozen backbone, from random crops of all training images."""
    images, backbone = subject.splits.all_training, subject.encoder.backbone
    test = subject.features("test")  # before time is spent: they may not be finite
    head = make_head(subject, _HEAD_STD)
    training = backbone.training
    facts = train(backbone.eval(), head, images, subject, request)
    backbone.train(training)
    return {
        "top1": top1(head, test),
        "features": "backbone, frozen and in evaluation mode, of one random crop an epoch, flipped at random",
        "classifier": f"linear, weights from N(0, {_HEAD_STD}), bias 0",
        "test": len(test.labels_N),
        **facts,
    }


def finetune(subject: Subject, request: Request) -> dict[str, Any]:
    """Return the record of a linear classifier and a copy of the backbone, trained on random crops of labelled images.

    BatchNorm's statistics are over the whole batch, whatever the run's policy was.
    """
    everything = subject.splits.all_training
    subject.features("test")  # before time is spent: they may not be finite
    index_M, labels = choose_labels(everything, subject.num_classes, request)
    images = everything if len(index_M) == len(everything) else everything.subset(index_M)
    backbone = copy.deepcopy(subject.encoder.backbone).requires_grad_(True)
    for module in backbone.modules():
        if isinstance(module, SplitBatchNorm):
            module.num_splits = 1
    head = make_head(subject)
    facts = train(backbone.train(), head, images, subject, request)
    try:
        test = subject.extract(backbone, subject.splits.test, "test features")
    except FloatingPointError:
        raise _diverged(request, request.settings.epochs) from None
    return {
        "top1": top1(head, test),
        "features": "backbone, trained with the classifier on one random crop an epoch, flipped at random",
        "classifier": "linear, initialised as torch.nn.Linear",
        "test": len(test.labels_N),
        **labels,
        **facts,
    }


def make_head(subject: Subject, std: float | None = None) -> nn.Linear:
    """Return a linear layer from features to classes, drawn by the seed: from N(0, std) with bias 0, or as torch's."""
    with initial_weights(subject.config.seed, "classifier"):
        head = nn.Linear(subject.encoder.feature_dim, subject.num_classes)
        if std is not None:
            nn.init.normal_(head.weight, std=std)
            nn.init.zeros_(head.bias)
    return head.to(subject.setup.device)


def train(backbone: nn.Module, head: nn.Linear, images: Dataset, subject: Subject, request: Request) -> dict[str, Any]:
    """Train `head`, and `backbone` if the settings have a rate for it. Return what the record says of the training.

    The backbone has the run's precision and keeps its mode; the classifier and the loss are fp32. An epoch has as many
    whole batches as fit. UserError if training diverges.
    """
    settings: ClassifierSettings = request.settings
    name = request.protocol.name
    device, dtype = subject.setup.device, subject.setup.dtype
    config = training_config(subject.config, settings, len(images))
    steps = steps_per_epoch(len(images), config.batch_size)
    groups: list[dict[str, Any]] = [{"params": head.parameters(), "lr": settings.lr}]
    learns = isinstance(settings, Finetune)
    if isinstance(settings, Finetune):
        groups.append({"params": backbone.parameters(), "lr": settings.backbone_lr})
    optimizer = torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay)
    peaks = [group["lr"] for group in optimizer.param_groups]
    scaler = torch.amp.GradScaler(device.type, enabled=learns and dtype is torch.float16)
    labels_N = images.labels_N.to(device)
    batches = training_batches(images, config, device, 0, steps * settings.epochs, skipped=subject.setup.skipped)
    for step, ((view_n3SS,), index_n) in enumerate(batches):
        epoch, within = divmod(step, steps)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * decay(settings, epoch)
        with torch.set_grad_enabled(learns), torch.autocast(device.type, dtype, enabled=dtype is not None):
            features_nF = backbone(view_n3SS)
        optimizer_step(F.cross_entropy(head(features_nF.float()), labels_N[index_n]), optimizer, scaler)
        subject.progress(f"{name}, steps", step + 1, steps * settings.epochs)
        if within == steps - 1 and not all(parameter.isfinite().all() for parameter in head.parameters()):
            raise _diverged(request, epoch + 1)
    return {
        "selection": _SELECTION,
        "train": len(images),
        "images_a_step": config.batch_size,
        "steps": steps * settings.epochs,
        "seed_of_crops_and_order": config.seed,
    }


def _diverged(request: Request, epoch: int) -> UserError:
    smaller = f"--set lr={request.settings.lr / 10:g}"
    return UserError(f"{request.protocol.name} diverged in epoch {epoch}; try a smaller rate, as {smaller}")


def training_config(config: SharedConfig, settings: ClassifierSettings, num_images: int) -> SharedConfig:
    """Return the run's settings with the classifier's batches and view: a random crop, flipped at random.

    Order and crops have a seed of their own, the same for all protocols.
    """
    first = ViewConfig(
        crop_scale=settings.crop_scale,
        jitter_probability=0,
        grayscale_probability=0,
        blur_probability=0,
        mean=config.views.first.mean,
        std=config.views.first.std,
    )
    changes = {
        "views": OneView(first=first),
        "batch_size": min(settings.batch_size, num_images),
        "seed": derive_seed(config.seed, "classifier"),
        "execution": "eager",
    }
    return config.model_copy(update=changes)


def decay(settings: ClassifierSettings, epoch: int) -> float:
    """Return the factor of the first learning rates in `epoch`, from 0.

    steps: gamma to the number of steps up to it. cosine, as in MoCo's and AdCo's code, with T epochs:
    (final_lr + (lr - final_lr) * (1 + cos(pi * epoch / T)) / 2) / lr, so that the last epoch is still above final_lr.
    """
    if settings.schedule == "steps":
        return float(settings.gamma ** sum(epoch >= step for step in settings.steps))
    cosine = 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
    return (settings.final_lr + (settings.lr - settings.final_lr) * cosine) / settings.lr


@torch.no_grad()
def top1(head: nn.Linear, features: Features) -> float:
    """Return the accuracy of the classifier, a fraction."""
    predicted_N: Tensor = head(features.features_NF).argmax(1)
    return (predicted_N == features.labels_N).double().mean().item()
