"""What is evaluated while a run trains: kNN on the held-out images, and diagnostics."""

from collections.abc import Collection
from typing import Any

from negbench.evaluate.protocol import knn
from negbench.evaluate.test_set import encode
from negbench.probing import Prober
from negbench.setup import Setup


class Curve:
    """Gives the rows of an evaluation. What it must know of earlier steps is in its state."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        parts = setup.config, setup.method, setup.splits.train, setup.device
        self.prober = Prober(*parts) if setup.config.diagnostics else None

    def rows(self, step: int) -> dict[str, dict[str, Any]]:
        """Figures by kind of record. All ranks call it."""
        setup = self.setup
        assert setup.splits.validation is not None
        backbone = setup.method.query_encoder.backbone
        bank, queries = (encode(setup, backbone, part) for part in (setup.splits.train, setup.splits.validation))
        top1 = knn(bank, queries, setup.config, len(setup.splits.classes))
        rows: dict[str, dict[str, Any]] = {"evaluation": {"knn_top1": top1[20], "knn200_top1": top1[200]}}
        if self.prober is not None:
            rows["diagnostics"] = self.prober.figures(step, bank.features_NF, bank.labels_N)
        return rows

    def looks_back_at(self, step: int, evaluated: Collection[int]) -> bool:
        """Whether an evaluation after one of the steps `evaluated` needs to know of `step`."""
        return self.prober is not None and self.prober.looks_back_at(step, evaluated)

    def remember(self, step: int) -> None:
        assert self.prober is not None
        self.prober.remember(step)

    def forget(self, evaluated: Collection[int]) -> None:
        """Drop what no evaluation after one of the steps `evaluated` needs."""
        if self.prober is not None:
            self.prober.forget(evaluated)

    def state_dict(self) -> dict[int, dict[str, Any]]:
        return self.prober.remembered if self.prober is not None else {}

    def load_state_dict(self, state: dict[int, dict[str, Any]]) -> None:
        if self.prober is not None:
            self.prober.remembered = dict(state)
