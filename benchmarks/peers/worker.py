"""One side of a comparison: a process that takes a turn whenever it is told to. Imports nothing of negbench.

It writes a line when it is ready, reads lines `UNTIMED TIMED`, makes so many steps and answers with the mean seconds of
the timed ones.
"""

import sys
import time
from collections.abc import Callable


def serve(step: Callable[[], object], warmup: int = 2) -> None:
    """Take turns with `step`, which must not return before its work is done."""
    for _ in range(warmup):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        untimed, timed = map(int, line.split())
        for _ in range(untimed):
            step()
        begin = time.perf_counter()
        for _ in range(timed):
            step()
        print((time.perf_counter() - begin) / timed, flush=True)
