"""The linear classifier of MoCo's code, on random crops."""

from negbench.evaluate.protocols.common import classifier
from negbench.settings.plugins.facts import Protocol

PROTOCOL = Protocol(
    place=5,
    figure="linear_moco_top1",
    title="linear as MoCo's",
    settings="negbench.settings.protocol_settings:LinearMoco",
    untrained=False,
)

evaluate = classifier.linear
