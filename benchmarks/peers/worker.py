"""One side of a comparison: a process that takes a turn whenever it is told to. Imports nothing of negbench.

It says when it is ready, reads lines `UNTIMED TIMED`, makes so many steps and answers with the mean seconds of the
timed ones. Its answers start with a word of their own, since libraries print too.
"""

import sys
import time
from collections.abc import Callable

ANSWER = "answer"


def serve(step: Callable[[], object], warmup: int = 2, read: Callable[[], float] | None = None) -> None:
    """Take turns with `step`, which must not return before its work is done. With `read`, answer what that says."""
    for _ in range(warmup):
        step()
    print(ANSWER, "ready", flush=True)
    for line in sys.stdin:
        untimed, timed = map(int, line.split())
        for _ in range(untimed):
            step()
        begin = time.perf_counter()
        for _ in range(timed):
            step()
        seconds = (time.perf_counter() - begin) / timed
        print(ANSWER, read() if read else seconds, flush=True)
