"""Evaluation while a run trains: kNN on the held-out images with diagnostics, and protocols of every epoch."""

from collections.abc import Iterable
from typing import Any

from negbench.contrast.method import Method
from negbench.data.load import RunData
from negbench.evaluate.diagnostics.probing import Prober
from negbench.evaluate.protocols.knn import knn
from negbench.evaluate.request import make_record
from negbench.evaluate.subject import Subject
from negbench.runtime.errors import UserError
from negbench.settings.plugins.protocols import of_every_epoch
from negbench.settings.steps import steps_per_epoch

_CURVE = {"knn_top1": 20, "knn200_top1": 200}  # k by the name in the rows


class PeriodicEvaluation:
    """The steps at which to evaluate, and the rows of an evaluation; its state is what it needs of earlier steps."""

    def __init__(self, data: RunData, method: Method) -> None:
        self.data, self.method = data, method
        config = data.config
        epoch = steps_per_epoch(len(data.splits.train), config.batch_size)
        last = epoch * config.epochs
        every = config.evaluate_every_epochs * epoch if data.splits.validation is not None else 0
        if every and len(data.splits.train) < _CURVE["knn_top1"]:
            raise UserError(
                f"the curve of held-out images takes kNN's {_CURVE['knn_top1']} nearest of the training images, and "
                f"there are {len(data.splits.train)}; give more, or train without a curve by --set "
                "evaluate_every_epochs=0"
            )
        self.held_out_steps = {*range(0, last, every), last} if every else set()
        self.protocols = of_every_epoch(config.evaluation.protocols) if config.evaluation.test else []
        self.test_steps = {*range(epoch, last + 1, epoch)} if self.protocols else set()
        parts = config, method, data.splits.train, data.device
        self.prober = Prober(*parts) if config.diagnostics and self.held_out_steps else None

    @property
    def steps(self) -> frozenset[int]:
        return frozenset(self.held_out_steps | self.test_steps)

    def is_due(self, step: int) -> bool:
        return step in self.steps

    def rows(self, step: int) -> dict[str, dict[str, Any]]:
        """Return figures by kind of record; a protocol of every epoch is a kind by its name. All ranks call it."""
        subject = Subject(self.data, self.method.query_encoder)
        rows: dict[str, dict[str, Any]] = {}
        if step in self.held_out_steps:
            bank = subject.features("train")
            top1 = knn(bank, subject.features("validation"), self.data.config, subject.num_classes)
            rows["evaluation"] = {name: top1[k] for name, k in _CURVE.items() if k in top1}
            if self.prober is not None:
                rows["diagnostics"] = self.prober.figures(step, bank.features_NF, bank.labels_N)
        if step in self.test_steps:
            records = {protocol.name: make_record(protocol, subject) for protocol in self.protocols}
            rows |= {name: {"test_top1": made["top1"]} for name, made in records.items() if "top1" in made}
        return rows

    def looks_back_at(self, step: int) -> bool:
        """Return whether a later evaluation needs to remember `step`."""
        return self.prober is not None and self.prober.looks_back_at(step, self.held_out_steps)

    def remember(self, step: int) -> None:
        assert self.prober is not None
        self.prober.remember(step)

    def forget(self, step: int) -> None:
        """Drop what no evaluation after `step` needs."""
        if self.prober is not None:
            self.prober.forget({later for later in self.held_out_steps if later > step})

    def state_dict(self) -> dict[int, dict[str, Any]]:
        return self.prober.remembered if self.prober is not None else {}

    def load_state_dict(self, state: dict[int, dict[str, Any]]) -> None:
        if self.prober is not None:
            self.prober.remembered = dict(state)


def highest(record: dict[str, Any], epoch: float, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return `record`, that of `epoch`, with the highest figure of it and of earlier epochs in the run's `rows`.

    Of equal figures the earliest epoch's is taken. A record without a figure is returned as it is.
    """
    if "top1" not in record:
        return record
    earlier = (row for row in rows if row["kind"] == record["protocol"] and row["epoch"] < epoch)
    by_epoch = {row["epoch"]: row["test_top1"] for row in earlier} | {epoch: record["top1"]}
    best = max(by_epoch, key=lambda number: by_epoch[number])
    if len(by_epoch) > 1:
        selection = (
            f"chosen on the test set: the highest of {len(by_epoch)} epochs, epoch {best}; the last one evaluated, "
            f"epoch {epoch}, has {record['top1']:.4f}"
        )
    else:
        selection = (
            f"of epoch {epoch} alone, for the run has no records of others; the protocol is the highest of all epochs "
            "on the test set"
        )
    chosen = {"top1": by_epoch[best], "epoch": best, "last_top1": record["top1"], "last_epoch": epoch}
    return record | chosen | {"epochs_evaluated": len(by_epoch), "selection": selection}
