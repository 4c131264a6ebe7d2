"""Signals that only the main process may act on."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block SIGINT, SIGTERM, SIGCONT and SIGUSR2, for good in the threads and processes that are started within.

    A Ctrl-C and a scheduler's warning go to the whole process group, but only the main process may act on them.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def shield_worker(_worker: int = 0) -> None:
    """A worker's first act: block the signals, yet exit on SIGTERM from the process that asked for the worker.

    That is how multiprocessing ends workers at exit, and it waits for them. The mask is set once more because
    forkserver and spawn do not hand it on.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_when_told, args=(parent.pid,), daemon=True).start()


def _exit_when_told(by: int | None) -> None:
    if hasattr(signal, "sigwaitinfo"):
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != by:
            pass
    else:  # macOS, where a sender is not known
        signal.sigwait([signal.SIGTERM])
    os._exit(0)
