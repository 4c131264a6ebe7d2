"""Two convolutions: what the short runs of tests train, since the time of so small a network goes by its layers."""

from torch import nn

from negbench.models.resnet import initialise_convolutions
from negbench.settings.plugins.facts import Backbone
from negbench.settings.schema import ModelConfig

BACKBONE = Backbone(feature_dim=32, stems=("cifar",))


def build(config: ModelConfig) -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    initialise_convolutions(layers)
    return layers
