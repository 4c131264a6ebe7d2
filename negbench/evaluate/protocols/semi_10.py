"""Fine-tuning of backbone and classifier with 10% of the labels."""

from negbench.evaluate.protocols.common import classifier
from negbench.settings.plugins.facts import Protocol

PROTOCOL = Protocol(
    place=9,
    figure="semi_10_top1",
    title="fine-tuned with 10% of the labels",
    settings="negbench.settings.protocol_settings:Semi10",
    takes_labels=True,
    untrained=False,
)

evaluate = classifier.finetune
