"""Fine-tuning of backbone and classifier with 1% of the labels."""

from negbench.evaluate.protocols.common import classifier
from negbench.settings.plugins.facts import Protocol

PROTOCOL = Protocol(
    place=8,
    figure="semi_1_top1",
    title="fine-tuned with 1% of the labels",
    settings="negbench.settings.protocol_settings:Semi1",
    takes_labels=True,
    untrained=False,
)

evaluate = classifier.finetune
