"""torchvision's ResNets, with their stem or one for small images."""

import torchvision
from torch import nn

from negbench.settings.schema import ModelConfig


def torchvisions(config: ModelConfig) -> nn.Module:
    """Return torchvision's ResNet `config.name`, from images [N, 3, H, W] to features, with the stem `config.stem`."""
    resnet: nn.Module = getattr(torchvision.models, config.name)()
    resnet.fc = nn.Identity()
    if config.stem == "cifar":
        resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        resnet.maxpool = nn.Identity()
        initialise_convolutions(resnet.conv1)
    return resnet


def initialise_convolutions(module: nn.Module) -> None:
    """Draw weights from Kaiming's normal by fan-out, as torchvision's ResNets do (arXiv:1502.01852, equation 14)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
