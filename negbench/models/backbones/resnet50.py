"""torchvision's ResNet-50."""

from negbench.models.resnet import torchvisions
from negbench.settings.plugins.facts import Backbone

BACKBONE = Backbone(feature_dim=2048, torchvision=True, bottleneck=True)

build = torchvisions
