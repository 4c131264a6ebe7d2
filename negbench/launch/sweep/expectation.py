"""How long a run is expected to take, by the finished runs of its study. Imports no torch."""

from pathlib import Path
from typing import Any, NamedTuple

from negbench.records.run_folder import RunFolder
from negbench.records.status import find_runs, status_of
from negbench.settings.resolve import Resolved

START_SECONDS = 20.0  # for imports, data and the untrained encoder, if nothing better is known
Kind = tuple[str, str]  # study and method


class _Seen(NamedTuple):
    per_epoch: float  # seconds of training
    others: float  # seconds of everything else


class Expectation:
    """The longest time of runs of the same study and method: of this call, else of earlier ones.

    If none has the method, of any method. Without runs nothing is expected.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._measured: dict[Kind, list[_Seen]] = {}
        self._recorded: dict[Kind, list[_Seen]] = {}
        for path in find_runs(output) if output.is_dir() else []:
            if (folder := RunFolder(path)).done.exists():
                _note(self._recorded, folder.read_summary(), None)

    def learn(self, run: Resolved, seconds: float) -> None:
        """Take into account that a run of this call took `seconds`, its start included."""
        summary = RunFolder(self._output / run.run_id).read_summary()
        resumed = bool(summary.get("restarts"))
        _note(self._recorded if resumed else self._measured, summary, None if resumed else seconds)

    def seconds(self, run: Resolved) -> float | None:
        """Return the expected time of what is left of a run; None if nothing is known."""
        study, method = run.config.study, run.config.method.name
        seen = self._measured.get((study, method)) or self._recorded.get((study, method))
        if not seen:
            known = [*self._measured.items(), *self._recorded.items()]
            seen = [one for kind, ones in known if kind[0] == study for one in ones]
        if not seen:
            return None
        epochs = run.config.epochs - self._epochs_done(run)
        return max(one.per_epoch for one in seen) * epochs + max(one.others for one in seen)

    def _epochs_done(self, run: Resolved) -> float:
        path = self._output / run.run_id
        if not any((path / "checkpoints").glob("step-*.pt")):
            return 0.0
        return min(status_of(path, None).epoch or 0.0, float(run.config.epochs))


def _note(known: dict[Kind, list[_Seen]], summary: dict[str, Any], seconds: float | None) -> None:
    """Add the times of a summary; a damaged one adds nothing."""
    try:
        train = float(summary["train_seconds"])
        if seconds is None:
            seconds = train + float(summary["eval_seconds"]) + float(summary["checkpoint_seconds"]) + START_SECONDS
        seen = _Seen(train / int(summary["epochs"]), max(0.0, seconds - train))
        known.setdefault((str(summary["study"]), str(summary["method"])), []).append(seen)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return
