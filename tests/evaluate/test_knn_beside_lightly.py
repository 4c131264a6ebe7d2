"""kNN gives the classes that lightly's function gives; features and lightly's predictions are stored."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from negbench.evaluate.protocols.knn import knn_predict

STORED = json.loads((Path(__file__).parent / "golden" / "lightly_knn.json").read_text())


def predict(k: int, temperature: float) -> list[int]:
    bank, queries = torch.tensor(STORED["bank"]), torch.tensor(STORED["queries"])
    labels = torch.tensor(STORED["bank_labels"])
    return knn_predict(bank, labels, queries, (k,), temperature, num_classes=4)[k].tolist()


@pytest.mark.parametrize("case", STORED["predicted"], ids=lambda case: f"k={case['k']}, t={case['temperature']}")
def test_classes_are_lightlys(case: dict[str, Any]) -> None:
    assert predict(case["k"], case["temperature"]) == case["predictions"]


def test_a_k_beyond_the_bank_is_lightlys_of_the_whole_bank() -> None:
    (whole,) = (case for case in STORED["predicted"] if case["k"] == len(STORED["bank"]))
    assert predict(200, whole["temperature"]) == whole["predictions"]


def test_stored_predictions_depend_on_k_and_temperature() -> None:
    """Else they would say nothing of either."""
    cases = STORED["predicted"]
    assert len({tuple(case["predictions"]) for case in cases}) == len(cases)
    assert all(predict(case["k"], 0.17 - case["temperature"]) != case["predictions"] for case in cases)
