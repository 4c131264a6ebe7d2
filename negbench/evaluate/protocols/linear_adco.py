"""The linear classifier of AdCo's code, on random crops."""

from negbench.evaluate.protocols.common import classifier
from negbench.settings.plugins.facts import Protocol

PROTOCOL = Protocol(
    place=6,
    figure="linear_adco_top1",
    title="linear as AdCo's",
    settings="negbench.settings.protocol_settings:LinearAdco",
    untrained=False,
)

evaluate = classifier.linear
