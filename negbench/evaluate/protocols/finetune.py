"""Fine-tuning of backbone and classifier with all labels."""

from negbench.evaluate.protocols.common import classifier
from negbench.settings.plugins.facts import Protocol

PROTOCOL = Protocol(
    place=7,
    figure="finetune_top1",
    title="fine-tuned with all labels",
    settings="negbench.settings.protocol_settings:Finetune",
    untrained=False,
)

evaluate = classifier.finetune
