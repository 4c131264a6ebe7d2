"""The encoder: a backbone, whose features are evaluated, and a projector, whose embeddings are contrasted.

Shape suffixes: N images, C channels, H height, W width, F features, D embedding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from negbench.config import ModelConfig, RunConfig
from negbench.seeding import derive_seed


class Encoder(nn.Module):
    """projector(backbone(images)). The embedding is not normalised; a method does that in fp32."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.feature_dim = feature_dim

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Images [N, 3, H, W] to embeddings [N, D]."""
        embedding_ND: Tensor = self.projector(self.backbone(images_NCHW))
        return embedding_ND


def build_encoder(config: RunConfig[Any]) -> Encoder:
    """The untrained encoder of a run, on the CPU, with plain BatchNorm.

    The backbone's weights come from (seed, "backbone") and the projector's from (seed, "projector"), so every method
    of a seed starts from the same backbone whatever its projector. Raises ValueError for resnet8 with another stem
    than cifar.
    """
    with initial_weights(config.seed, "backbone"):
        backbone, feature_dim = build_backbone(config.model)
    with initial_weights(config.seed, "projector"):
        head = config.projector
        projector = mlp(feature_dim, head.hidden, head.dim, head.layers, head.batch_norm, head.output_batch_norm)
    return Encoder(backbone, projector, feature_dim)


@contextmanager
def initial_weights(*key: object) -> Iterator[None]:
    """Modules built inside are on the CPU with weights from the stream named by `key`; the global generator is kept."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed, which would seed the accelerators' generators too.
        torch.default_generator.manual_seed(derive_seed(*key))
        yield


def build_backbone(config: ModelConfig) -> tuple[nn.Module, int]:
    """The backbone, images [N, 3, H, W] to features [N, F], and F. Raises ValueError as `build_encoder`."""
    if config.name == "resnet8":
        if config.stem != "cifar":
            raise ValueError(f"model.stem of resnet8 must be 'cifar', not {config.stem!r}")
        return _resnet8(), 64
    resnet = getattr(torchvision.models, config.name)()
    feature_dim = resnet.fc.in_features
    resnet.fc = nn.Identity()
    if config.stem == "cifar":
        resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        resnet.maxpool = nn.Identity()
        _initialise_convolutions(resnet.conv1)
    return resnet, feature_dim


def mlp(
    in_dim: int, hidden: int, out_dim: int, layers: int, batch_norm: bool, output_batch_norm: bool = False
) -> nn.Sequential:
    """`layers` linear layers with [BatchNorm and] ReLU between them; nothing [or BatchNorm] follows the last.

    Layers before a BatchNorm have no bias, which it would cancel. Raises ValueError for fewer than 1 layer.
    """
    if layers < 1:
        raise ValueError(f"an MLP needs at least 1 layer, not {layers}")
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules.append(nn.Linear(in_dim, hidden, bias=not batch_norm))
        if batch_norm:
            modules.append(nn.BatchNorm1d(hidden))
        modules.append(nn.ReLU(inplace=True))
        in_dim = hidden
    modules.append(nn.Linear(in_dim, out_dim, bias=not output_batch_norm))
    if output_batch_norm:
        modules.append(nn.BatchNorm1d(out_dim))
    return nn.Sequential(*modules)


def _resnet8() -> nn.Sequential:
    """A ResNet of three stages of one basic block, 64 features; 12.5 M multiply-adds at 32x32."""
    resnet = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        BasicBlock(16, 16),
        BasicBlock(16, 32, 2, nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))),
        BasicBlock(32, 64, 2, nn.Sequential(nn.Conv2d(32, 64, 1, 2, bias=False), nn.BatchNorm2d(64))),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    _initialise_convolutions(resnet)
    return resnet


def _initialise_convolutions(module: nn.Module) -> None:
    """Kaiming's normal by fan-out, as torchvision initialises its ResNets (arXiv:1502.01852, equation 14)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
