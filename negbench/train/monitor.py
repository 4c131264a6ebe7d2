"""Watch that steps keep coming: a run that hangs reports it, with the place, instead of looking busy."""

import faulthandler
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from negbench.runtime.distributed import rank
from negbench.runtime.signals import signals_blocked

STALLED_MEDIANS = 10
FIRST_STEPS = 20


class Monitor:
    """Reports a step that takes ten times the median: the stacks on standard error, a note in the file `mark`.

    `mark` (None on all ranks but 0) exists while the run is stalled. Evaluations, checkpoints and steps shorter than
    `shortest_stall_s` do not count. A thread looks every `poll_s`.
    """

    def __init__(self, mark: Path | None, shortest_stall_s: float = 30.0, poll_s: float = 1.0) -> None:
        self.mark, self.shortest_stall_s, self.poll_s = mark, shortest_stall_s, poll_s
        self.stalled = False
        self._durations: deque[float] = deque(maxlen=100)
        self._last: float | None = None  # None while paused
        self._over = threading.Event()

    def step_done(self) -> None:
        now = time.monotonic()
        if self._last is not None:
            self._durations.append(now - self._last)
        self._last = now

    @contextmanager
    def running(self) -> Iterator[None]:
        self._remove_mark()
        thread = threading.Thread(target=self._watch, daemon=True)
        with signals_blocked():
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            self._remove_mark()

    @contextmanager
    def paused(self) -> Iterator[None]:
        before, self._last = self._last, None
        yield
        self._last = None if before is None else time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(self.poll_s):
            last = self._last
            if last is None or len(self._durations) < FIRST_STEPS:
                continue
            limit = max(STALLED_MEDIANS * statistics.median(list(self._durations)), self.shortest_stall_s)
            waited = time.monotonic() - last
            if waited > limit and not self.stalled:
                self._report(waited)
            elif waited <= limit and self.stalled:
                self._remove_mark()

    def _report(self, waited: float) -> None:
        self.stalled = True
        since = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - waited))
        print(f"negbench: rank {rank()}: no step since {since}; it is in:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        if self.mark is not None:
            with suppress(OSError):
                self.mark.write_text(f"no step since {since}\n")

    def _remove_mark(self) -> None:
        self.stalled = False
        if self.mark is not None:
            with suppress(OSError):
                self.mark.unlink(missing_ok=True)
