"""How long a run will take, by the finished runs of its study. Imports no torch."""

from pathlib import Path
from typing import Any, NamedTuple

from negbench.records import RunFolder
from negbench.status import find_runs
from negbench.study import Resolved

START_SECONDS = 20.0  # for imports, data and the untrained encoder, where nothing better is known


class _Seen(NamedTuple):
    per_epoch: float  # seconds of training
    others: float  # seconds of everything else


class Expectation:
    """The longest of what runs of the same study and method took: those of this call, else those on record.

    Without one of the same method, of any; without any, nothing is expected.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._recorded: dict[tuple[str, str], list[_Seen]] = {}
        self._measured: dict[tuple[str, str], list[_Seen]] = {}
        for path in find_runs(output) if output.is_dir() else []:
            if (folder := RunFolder(path)).done.exists():
                _note(self._recorded, folder.read_summary(), None)

    def learn(self, run: Resolved, seconds: float) -> None:
        """A run of this call took `seconds`, its start included."""
        _note(self._measured, RunFolder(self._output / run.run_id).read_summary(), seconds)

    def seconds(self, run: Resolved) -> float | None:
        key = run.config.study, run.config.method.name
        for known in (self._measured, self._recorded):
            for seen in (
                known.get(key),
                [one for (study, _), some in known.items() if study == key[0] for one in some],
            ):
                if seen:
                    longest = max(one.per_epoch for one in seen) * run.config.epochs
                    return longest + max(one.others for one in seen)
        return None


def _note(known: dict[tuple[str, str], list[_Seen]], summary: dict[str, Any], seconds: float | None) -> None:
    """Add what a summary tells; nothing if it is damaged."""
    try:
        train = float(summary["train_seconds"])
        if seconds is None:
            seconds = train + float(summary["eval_seconds"]) + float(summary["checkpoint_seconds"]) + START_SECONDS
        seen = _Seen(train / int(summary["epochs"]), max(0.0, seconds - train))
        known.setdefault((str(summary["study"]), str(summary["method"])), []).append(seen)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return
