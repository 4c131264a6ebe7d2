"""A small ResNet of negbench's own."""

from torch import nn
from torchvision.models.resnet import BasicBlock

from negbench.models.resnet import initialise_convolutions
from negbench.settings.plugins.facts import Backbone
from negbench.settings.schema import ModelConfig

BACKBONE = Backbone(feature_dim=64, stems=("cifar",))


def build(config: ModelConfig) -> nn.Sequential:
    """Return a ResNet of three stages of one basic block, 64 features; 12.5 M multiply-adds at 32x32."""
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
    initialise_convolutions(resnet)
    return resnet
