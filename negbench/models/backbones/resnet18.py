"""torchvision's ResNet-18."""

from negbench.models.resnet import torchvisions
from negbench.settings.plugins.facts import Backbone

BACKBONE = Backbone(feature_dim=512, torchvision=True)

build = torchvisions
