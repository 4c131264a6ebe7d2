"""How a run ends when something goes wrong: one exit code, one message, on all ranks within seconds.

The first rank to fail announces it in the ranks' store. The others look there every half second and end too, even
where their main thread waits in a collective for the one that is gone. Imports no torch before it is needed.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from negbench.runtime.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store


AGAIN = 75  # sysexits.h EX_TEMPFAIL: the same command goes on from the checkpoint
AGAIN_VARIABLE = "NEGBENCH_AGAIN"  # in a job: the exit code that its launcher takes for that
LAUNCHER_VARIABLE = "NEGBENCH_JOB"  # in a job: its launcher
OUT_OF_MEMORY = "out of memory"  # how the reason of such an ending starts
POLL_SECONDS = 0.5
LINGER_SECONDS = 5.0
end_requested = threading.Event()  # by a launcher, of a rank that has failed and first says why it ends
_KEY = "failure"
_ACKNOWLEDGED = "acknowledged"


class Interrupted(Exception):
    """A signal asked for an end, or `stop_after` (signal 0), and a checkpoint has been written."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name if signum else "stop_after")
        self.signum = signum


class StorageError(RuntimeError):
    """A checkpoint or a record could not be written; the message says where and what is whole."""


@dataclass(frozen=True)
class Ending:
    """An exit code and what is printed; nothing if that has been done elsewhere."""

    code: int
    message: str

    @property
    def reason(self) -> str:
        """The message's line that says most: of a traceback the last."""
        lines = self.message.splitlines() or [f"exit code {self.code}"]
        return lines[-1 if self.is_defect else 0]

    @property
    def is_defect(self) -> bool:
        return self.message.startswith("Traceback")

    def show(self, rank: int | None = None) -> None:
        """On standard error: a traceback under the rank that it comes from, anything else as one sentence."""
        if self.message:
            who = f"rank {rank}: " if self.is_defect and rank is not None else ""
            print(f"negbench: {who}{self.message}", file=sys.stderr, flush=True)


def ending_of(error: BaseException) -> Ending:
    """Exit code and message: 2 the user's mistake, 75 requeue or a lost rank, 130 or 143 interrupted, 1 the rest."""
    if isinstance(error, Interrupted) and error.signum == signal.SIGUSR2:
        return Ending(_again(), "the job's time here is over; the requeued job goes on from the checkpoint")
    if isinstance(error, Interrupted):
        return Ending(128 + error.signum, f"interrupted by {error}; the same command goes on from the checkpoint")
    if isinstance(error, KeyboardInterrupt):
        return Ending(130, "interrupted")
    if isinstance(error, SystemExit):
        return Ending(error.code if isinstance(error.code, int) else 1, "")
    if isinstance(error, UserError):
        return Ending(2, str(error))
    if isinstance(error, FloatingPointError | StorageError):
        return Ending(1, str(error))
    if is_out_of_memory(error):
        said = " ".join(str(error).split()).partition(". Of the allocated memory")[0]
        return Ending(1, f"{OUT_OF_MEMORY}: {said or 'the process could not get more'}; choose a smaller batch_size")
    if is_lost_connection(error):
        reason = str(error).splitlines()[0].partition(". This is typically")[0]
        return Ending(_again(), f"another process of this run is gone; the same command goes on ({reason})")
    return Ending(1, "".join(traceback.format_exception(error)).rstrip())


def _again() -> int:
    return int(os.environ.get(AGAIN_VARIABLE, AGAIN))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the GPU, or this process, could not get more memory."""
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from torch import OutOfMemoryError

    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, OutOfMemoryError) or on_cpu


def is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed because a peer was killed or its node died."""
    if "torch" not in sys.modules:
        return False
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


_recorders: list[Callable[[Ending], None]] = []


@contextmanager
def recorded_by(record: Callable[[Ending], None]) -> Iterator[None]:
    """While inside, rank 0's `record` is told of the ending that some rank announced, before the process ends."""
    _recorders.append(record)
    try:
        yield
    finally:
        _recorders.remove(record)


@contextmanager
def end_together(store: "Store", rank: int, world_size: int) -> Iterator[None]:
    """Around a rank's work. An exception ends this process and, through `store`, all others with the same exit code.

    Only the first rank to fail prints.
    """
    end = _End(store, rank, world_size)
    watcher = threading.Thread(target=end.watch, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException as error:
        end.announce(ending_of(error))
    finally:
        end.over.set()
        watcher.join()


class _End:
    def __init__(self, store: "Store", rank: int, world_size: int) -> None:
        self.store, self.rank, self.world_size = store, rank, world_size
        self.over = threading.Event()
        self.only_one = threading.Lock()

    def watch(self) -> None:
        launcher = os.getppid()
        while not self.over.wait(POLL_SECONDS):
            if os.getppid() != launcher:  # killed: nobody else would end this process
                self.exit(_again())
            try:
                if self.store.check([_KEY]):
                    with self.only_one:
                        self.follow()
            except RuntimeError:
                if not self.over.wait(LINGER_SECONDS):  # the store's process is gone; the main thread says it better
                    self.exit(_again())

    def announce(self, ending: Ending) -> None:
        self.only_one.acquire()  # for good: if the watcher has it, that ends this process
        first = True
        with suppress(RuntimeError):  # the store may have gone with the rank that holds it
            mine = f"{self.rank}:{ending.code}:{ending.message}"
            first = self.store.compare_set(_KEY, "", mine).decode() == mine
            if not first:
                self.follow()
        self.record(ending)
        ending.show(self.rank)
        with suppress(RuntimeError):
            deadline = time.monotonic() + LINGER_SECONDS  # this process may hold the store that the others look into
            while self.store.add(_ACKNOWLEDGED, 0) < self.world_size - 1 and time.monotonic() < deadline:
                if end_requested.wait(0.05):
                    break
        self.exit(ending.code)

    def follow(self) -> None:
        _, code, message = self.store.get(_KEY).decode().split(":", 2)
        self.record(Ending(int(code), message))
        self.store.add(_ACKNOWLEDGED, 1)
        self.exit(int(code))

    def record(self, ending: Ending) -> None:
        for record in _recorders if self.rank == 0 else ():
            record(ending)

    def exit(self, code: int) -> None:
        """At once: a process group with a dead member can neither be used nor be destroyed."""
        for worker in multiprocessing.active_children():
            worker.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def client_of(host: str, port: int) -> "Store":
    """An own connection to the ranks' store: the watcher must not wait for the main thread's calls."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=60))
