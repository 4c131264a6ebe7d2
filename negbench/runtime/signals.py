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
    """Block SIGINT, SIGTERM, SIGCONT and SIGUSR2; threads and processes started inside keep them blocked.

    The whole process group receives a Ctrl-C or a scheduler's warning, but only the main process may act on it.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def shield_worker(_worker: int = 0) -> None:
    """Block the signals in a new worker, which still exits on SIGTERM from its parent process.

    That is how multiprocessing ends workers at exit, and it waits for them. The mask is set once more because
    workers of forkserver and spawn do not inherit it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_on_sigterm, args=(parent.pid,), daemon=True).start()


def _exit_on_sigterm(by: int | None) -> None:
    if hasattr(signal, "sigwaitinfo"):
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != by:
            pass
    else:  # macOS, where a sender is not known
        signal.sigwait([signal.SIGTERM])
    os._exit(0)
