"""Named parts of a step: marked in the code that does them, and timed only during a recording.

On a GPU marks are CUDA events, which are read after the work is done: recording waits for nothing.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

PARTS = (
    *("views", "query_forward", "key_forward", "shuffle_gather", "loss"),
    *("backward", "optimizer", "momentum_update", "refresh"),
)
REST = "rest"  # of a step, in no part

Mark = float | torch.cuda.Event


Recorder = Callable[[str], AbstractContextManager[object]]  # what surrounds the part of that name

_nothing: AbstractContextManager[object] = nullcontext()
_recorder: Recorder | None = None


def span(part: str) -> AbstractContextManager[object]:
    """Surround the code of one part of a step. Outside a recording nothing happens."""
    return _nothing if _recorder is None else _recorder(part)


def mark(device: torch.device) -> Mark:
    """Return this moment in the device's own order of work."""
    if device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    return time.perf_counter()


def seconds_between(a: Mark, b: Mark) -> float:
    """Return the time from `a` to `b`. A GPU must have passed both, as after a synchronisation."""
    if isinstance(a, float) or isinstance(b, float):
        return float(b) - float(a)  # type: ignore[arg-type]
    return a.elapsed_time(b) / 1000


@contextmanager
def _recorded_by(recorder: Recorder) -> Iterator[None]:
    global _recorder
    assert _recorder is None, "spans are recorded already"
    _recorder = recorder
    try:
        yield
    finally:
        _recorder = None


def labelled() -> AbstractContextManager[None]:
    """Give the parts of the steps inside their names in torch.profiler's records."""
    return _recorded_by(torch.profiler.record_function)


class Spans:
    """Seconds by part during a recording. A part's leave out the parts inside it, so that all add up to the whole."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._timeline: list[tuple[str, Mark]] = []  # the part that begins or resumes at each mark
        self._open = [REST]

    @contextmanager
    def recording(self) -> Iterator[None]:
        with _recorded_by(self.inside):
            self._mark()
            try:
                yield
            finally:
                self._mark()

    @contextmanager
    def inside(self, part: str) -> Iterator[None]:
        self._open.append(part)
        self._mark()
        try:
            yield
        finally:
            self._open.pop()
            self._mark()

    def seconds(self) -> dict[str, float]:
        """Return the seconds by part, with `rest`. Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        total: Counter[str] = Counter()
        for (part, begin), (_, end) in itertools.pairwise(self._timeline):
            total[part] += seconds_between(begin, end)  # type: ignore[assignment]
        return dict(total)

    def _mark(self) -> None:
        self._timeline.append((self._open[-1], mark(self.device)))
