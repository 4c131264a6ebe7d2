"""Named parts of a step, marked in the code that does them and timed only while somebody records.

On a GPU marks are CUDA events, which are read after the work is done: recording waits for nothing.
"""

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch

PARTS = (
    *("views", "query_forward", "key_forward", "shuffle_gather", "loss"),
    *("backward", "optimizer", "momentum_update", "refresh"),
)
REST = "rest"  # of a step, in no part

Mark = float | torch.cuda.Event


class Recorder(Protocol):
    """Whoever is told of the parts of a step."""

    def inside(self, part: str) -> AbstractContextManager[object]: ...


_nothing: AbstractContextManager[object] = nullcontext()
_recorder: Recorder | None = None


def span(part: str) -> AbstractContextManager[object]:
    """Around the code of one part of a step; nothing happens unless somebody records."""
    return _nothing if _recorder is None else _recorder.inside(part)


def mark(device: torch.device) -> Mark:
    """This moment, in the device's own order of work."""
    if device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    return time.perf_counter()


def seconds_between(a: Mark, b: Mark) -> float:
    """From mark `a` to mark `b`; on a GPU both must have been passed, as after a synchronisation."""
    if isinstance(a, float) or isinstance(b, float):
        return float(b) - float(a)  # type: ignore[arg-type]
    return a.elapsed_time(b) / 1000


@contextmanager
def _told(recorder: Recorder) -> Iterator[None]:
    global _recorder
    assert _recorder is None, "spans are recorded already"
    _recorder = recorder
    try:
        yield
    finally:
        _recorder = None


class _Labels:
    def inside(self, part: str) -> AbstractContextManager[object]:
        return torch.profiler.record_function(part)


def labelled() -> AbstractContextManager[None]:
    """Inside, the parts of a step have their names in torch.profiler's records."""
    return _told(_Labels())


class Spans:
    """Seconds by part while recording. A part's time leaves out that of parts inside it, so all add up to the whole."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._timeline: list[tuple[str, Mark]] = []  # the part that goes on from each mark
        self._open = [REST]

    @contextmanager
    def recording(self) -> Iterator[None]:
        with _told(self):
            self._go_on()
            try:
                yield
            finally:
                self._go_on()

    @contextmanager
    def inside(self, part: str) -> Iterator[None]:
        self._open.append(part)
        self._go_on()
        try:
            yield
        finally:
            self._open.pop()
            self._go_on()

    def seconds(self) -> dict[str, float]:
        """By part, with `rest`. Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        total: Counter[str] = Counter()
        for (part, begin), (_, end) in itertools.pairwise(self._timeline):
            total[part] += seconds_between(begin, end)  # type: ignore[assignment]
        return dict(total)

    def _go_on(self) -> None:
        self._timeline.append((self._open[-1], mark(self.device)))
