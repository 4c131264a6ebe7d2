"""kNN as in lightly's benchmarks, at the end of every epoch."""

from typing import Any

from negbench.evaluate.protocols.common.knn_anchors import bank_and_queries, record
from negbench.evaluate.subject import Subject
from negbench.settings.plugins.facts import Protocol

PROTOCOL = Protocol(
    place=4,
    figure="knn_lightly_highest_test_top1",
    title="kNN as lightly's (highest of all epochs on the test set)",
    every_epoch=True,
)


def evaluate(subject: Subject) -> dict[str, Any]:
    """Return the record of one epoch, on the backbone's features; lightly publishes the highest of all epochs."""
    bank, queries = bank_and_queries(subject)
    return record(bank, queries, subject, "backbone, L2-normalised")
