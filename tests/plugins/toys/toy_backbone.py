"""One convolution."""

from torch import nn

from negbench.settings.plugins.facts import Backbone
from negbench.settings.schema import ModelConfig

BACKBONE = Backbone(feature_dim=6, stems=("cifar",))


def build(config: ModelConfig) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
