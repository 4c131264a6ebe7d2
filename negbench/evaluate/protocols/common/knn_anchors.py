"""kNN as in the code behind published figures: votes of exp(cosine / 0.1) among k = 200 neighbours.

Sources: facebookresearch/moco, branch colab-notebook, colab/moco_cifar10_demo.ipynb (`test`, `knn_predict`);
lightly-ai/lightly, lightly/utils/benchmarking/benchmark_module.py and knn.py.
"""

from typing import Any

from negbench.evaluate.protocols.knn import fitting, knn_top1, left_out_of
from negbench.evaluate.subject import Features, Subject

_K = 200
_TEMPERATURE = 0.1


def bank_and_queries(subject: Subject) -> tuple[Features, Features]:
    return subject.all_training_features(), subject.features("test")


def record(bank: Features, queries: Features, subject: Subject, features: str) -> dict[str, Any]:
    """Return the record; one of a bank of fewer than k images has no figure, and says so."""
    return _figure(bank, queries, subject) | {
        "k": _K,
        "features": features,
        "similarity": "cosine",
        "temperature": _TEMPERATURE,
        "bank": f"training images{' and those held out' if subject.holds_out else ''}, {len(bank.labels_N)}",
        "queries": f"test images, {len(queries.labels_N)}",
    }


def _figure(bank: Features, queries: Features, subject: Subject) -> dict[str, Any]:
    if not fitting([_K], bank):
        return left_out_of([_K], bank)
    top1 = knn_top1(
        bank.features_NF,
        bank.labels_N,
        queries.features_NF,
        queries.labels_N,
        ks=(_K,),
        temperature=_TEMPERATURE,
        num_classes=subject.num_classes,
    )
    return {"top1": top1[_K]}
