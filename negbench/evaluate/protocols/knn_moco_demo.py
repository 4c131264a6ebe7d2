"""kNN as in the notebook of MoCo's demo."""

from typing import Any

from negbench.evaluate.protocols.common.knn_anchors import bank_and_queries, record
from negbench.evaluate.subject import Subject
from negbench.settings.plugins.facts import Protocol

PROTOCOL = Protocol(
    place=3,
    figure="knn_moco_demo_top1",
    title="kNN as in MoCo's demo",
    projector=True,
)


def evaluate(subject: Subject) -> dict[str, Any]:
    """Return the record on the output of the query encoder's projector, before any predictor.

    The demo's projector is one linear layer. The published 82.6% is its last epoch's: its log ends with 82.58, and the
    highest is 82.73 at epoch 190.
    """
    bank, queries = (subject.embedded(part) for part in bank_and_queries(subject))
    return record(bank, queries, subject, "output of the query encoder's projector, L2-normalised")
