"""Backbones: torchvision's ResNets with the stem for small images, and a small one of our own."""

import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock

from negbench.runtime.errors import UserError
from negbench.settings.schema import ModelConfig


def build_backbone(config: ModelConfig) -> tuple[nn.Module, int]:
    """The backbone, images [N, 3, H, W] to features [N, F], and F. Raises UserError as `build_encoder`."""
    if config.name == "resnet8":
        if config.stem != "cifar":
            raise UserError(f"model.stem of resnet8 must be 'cifar', not {config.stem!r}")
        return _resnet8(), 64
    resnet = getattr(torchvision.models, config.name)()
    feature_dim = resnet.fc.in_features
    resnet.fc = nn.Identity()
    if config.stem == "cifar":
        resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        resnet.maxpool = nn.Identity()
        _initialise_convolutions(resnet.conv1)
    return resnet, feature_dim


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
