"""How a run ends when something goes wrong: one exit code, one message, on all ranks within seconds.

The first rank to fail announces it in the ranks' store. The others look there every half second and end too, even
where their main thread waits in a collective for the one that is gone. Imports no torch before it is needed.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from negbench.runtime.errors import InUseError, UserError
from negbench.runtime.variables import text

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store


AGAIN = 75  # sysexits.h EX_TEMPFAIL: the same command resumes from the checkpoint
AGAIN_VARIABLE = "NEGBENCH_AGAIN"  # in a job: the exit code that its launcher takes for that
LAUNCHER_VARIABLE = "NEGBENCH_JOB"  # in a job: its launcher
POLL_SECONDS = 0.5
LINGER_SECONDS = 5.0
end_requested = threading.Event()  # a launcher asks a rank to end that has failed and is about to say why
_KEY = "failure"
_ACKNOWLEDGED = "acknowledged"


class Interrupted(Exception):
    """A signal asked for an end, or `stop_after` (signal 0), and a checkpoint has been written."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name if signum else "stop_after")
        self.signum = signum


class StorageError(RuntimeError):
    """A checkpoint or a record could not be written. The message says where, and what is whole."""


Kind = Literal[
    "done",
    "user_error",
    "in_use",  # another process has the run
    "defect",
    "out_of_memory",
    "not_finite",  # a loss or a gradient
    "storage",  # a checkpoint or a record could not be written
    "lost_process",  # another rank is gone
    "interrupted",
    "requeued",  # the job's time is over
]


@dataclass(frozen=True)
class Ending:
    """Kind, exit code and signal of an end, and the message to print; empty if it was printed elsewhere."""

    kind: Kind
    code: int
    message: str = ""
    signal: str | None = None  # its name

    @property
    def reason(self) -> str:
        """The first line of the message; the last one of a traceback."""
        lines = self.message.splitlines() or [f"exit code {self.code}"]
        return lines[-1 if self.kind == "defect" else 0]

    def show(self, rank: int | None = None) -> None:
        """Print the message on standard error; a traceback with the rank that it comes from."""
        if self.message:
            who = f"rank {rank}: " if self.kind == "defect" and rank is not None else ""
            print(f"negbench: {who}{self.message}", file=sys.stderr, flush=True)


def ending_of(error: BaseException) -> Ending:
    """Return kind, exit code and message.

    The code is 2 for the user's mistake, 75 for a requeue or a lost rank, 130 or 143 for an interruption, else 1.
    """
    if isinstance(error, Interrupted) and error.signum == signal.SIGUSR2:
        message = "the job's time here is over; the requeued job resumes from the checkpoint"
        return Ending("requeued", _again(), message, str(error))
    if isinstance(error, Interrupted):
        message = f"interrupted by {error}; the same command resumes from the checkpoint"
        return Ending("interrupted", 128 + error.signum, message, _signal_of(128 + error.signum))
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", 130, "interrupted", "SIGINT")
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
        return Ending("defect" if code in (1, 2) else "interrupted", code, signal=_signal_of(code))
    if isinstance(error, InUseError):
        return Ending("in_use", 2, str(error))
    if isinstance(error, UserError):
        return Ending("user_error", 2, str(error))
    if isinstance(error, FloatingPointError):
        return Ending("not_finite", 1, str(error))
    if isinstance(error, StorageError):
        return Ending("storage", 1, str(error))
    if is_out_of_memory(error):
        said = " ".join(str(error).split()).partition(". Of the allocated memory")[0]
        message = f"out of memory: {said or 'the process could not get more'}; choose a smaller batch_size"
        return Ending("out_of_memory", 1, message)
    if is_lost_connection(error):
        reason = str(error).splitlines()[0].partition(". This is typically")[0]
        message = f"another process of this run is gone; the same command resumes ({reason})"
        return Ending("lost_process", _again(), message)
    return Ending("defect", 1, "".join(traceback.format_exception(error)).rstrip())


def _again() -> int:
    code = text(AGAIN_VARIABLE)
    return int(code) if code.isdecimal() else AGAIN


def _signal_of(code: int) -> str | None:
    """Return the name of the signal that an exit code means."""
    return signal.Signals(code - 128).name if code - 128 in list(signal.Signals) else None


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
    """Call `record` with the ending of an exception that leaves the block.

    While inside, rank 0 also records the end that another rank announces, before the process ends.
    """
    _recorders.append(record)
    try:
        yield
    except BaseException as error:
        record(ending_of(error))
        raise
    finally:
        _recorders.remove(record)


@contextmanager
def end_together(store: "Store", rank: int, world_size: int) -> Iterator[None]:
    """End all ranks, through `store`, with the exit code of an exception inside. Only the first rank to fail prints."""
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
            mine = json.dumps({"rank": self.rank, "ending": asdict(ending)})
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
        ending = Ending(**json.loads(self.store.get(_KEY))["ending"])
        self.record(ending)
        self.store.add(_ACKNOWLEDGED, 1)
        self.exit(ending.code)

    def record(self, ending: Ending) -> None:
        for record in _recorders if self.rank == 0 else ():
            record(ending)

    def exit(self, code: int) -> None:
        """End at once: a process group with a dead member can neither be used nor be destroyed."""
        for worker in multiprocessing.active_children():
            worker.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def client_of(host: str, port: int) -> "Store":
    """Return a connection of its own to the ranks' store: the watcher must not wait for the main thread's calls."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=60))
