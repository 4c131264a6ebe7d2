"""negbench beside its own bare step, lightly, kornia, Pillow and torchvision: ratios within rounds, and their goals.

Every side is a process of its own that is frozen while another has its turn. Groups of sides run one after another.
The other libraries have an environment of their own (`make bench` makes it); sides that need it are left out without.

    python -m benchmarks.peers [--groups moco,views] [--device cpu] [--images FOLDER] [--output FILE.json]
    python -m benchmarks.peers --show FILE.json
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks.peers import groups, pictures, record, table, turns
from benchmarks.peers.side import ROOT
from negbench.runtime.device import autocast_dtype, choose_device
from negbench.runtime.environment import describe

PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
VERSIONS = """
import importlib.metadata, json, platform
names = ("lightly", "kornia", "torch", "torchvision", "pillow")
print(json.dumps({name: importlib.metadata.version(name) for name in names} | {"Python": platform.python_version()}))
"""


def main() -> int:
    arguments = _parser().parse_args()
    try:
        if arguments.show is not None:
            table.show(record.read(arguments.show), Console(width=120))
            return 0
        return _measure(arguments)
    except ValueError as error:
        print(f"benchmarks.peers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _measure(arguments: argparse.Namespace) -> int:
    """Exit code: 130 if interrupted, 1 if a side died."""
    for name, least in (("rounds", 1), ("batch", 2)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name}: at least {least}, not {value}")
    device = choose_device(arguments.device)
    chosen = groups.choose(arguments.groups, device.type, arguments.batch, len(os.sched_getaffinity(0)))
    if arguments.output is not None:
        record.check_new(arguments.output)
    peer_python = _peer_python(arguments.peer_python)
    peers = None if peer_python is None else _versions(peer_python)
    environment = describe(device, 1, autocast_dtype("auto", device))
    del environment["command"]  # it would hold paths of this machine
    code = 0
    with _images(arguments.images, any(group.reads_images for group in chosen)) as (folder, images):
        kept = record.Record(arguments.rounds, images, environment, peers)
        try:
            for group in chosen:
                measured = turns.measure(group, arguments.rounds, turns.Pythons(sys.executable, peer_python), folder)
                kept.groups.append(measured)
                if arguments.output is not None:
                    kept.write(arguments.output)
                if set(measured.left_out.values()) - {turns.NO_PEERS}:
                    code = 1
        except KeyboardInterrupt:
            print(f"interrupted; {len(kept.groups)} of {len(chosen)} groups are done", file=sys.stderr)
            code = 130
    if kept.groups:
        table.show(kept, Console(width=120))
    return code


def _peer_python(given: str | None) -> str | None:
    """None if none is given and the usual one is absent. ValueError if the one given is absent."""
    if given is None:
        return str(PEER_PYTHON) if PEER_PYTHON.exists() else None
    found = shutil.which(given)
    if found is None:
        raise ValueError(f"--peer-python: there is no program {given}")
    return os.path.abspath(found)


def _versions(peer_python: str) -> dict[str, str]:
    done = subprocess.run([peer_python, "-c", VERSIONS], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"--peer-python: {peer_python} lacks a library of benchmarks/peers/requirements.txt: {reason}")
    found: dict[str, str] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def _images(given: str | None, needed: bool) -> Iterator[tuple[str, str | None]]:
    """A folder of JPEGs and what is said about it."""
    if given is not None:
        pictures.chosen(given)
        yield os.path.abspath(given), f"{pictures.NUM_IMAGES} of {'/'.join(Path(given).resolve().parts[-2:])}"
    elif needed:
        with tempfile.TemporaryDirectory() as folder:
            pictures.make(Path(folder))
            yield folder, f"{pictures.NUM_IMAGES} made up"
    else:
        yield "", None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", help="with commas; all by default")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--peer-python", help="Python of the peers' environment (default: that of .venv-peers)")
    parser.add_argument("--images", metavar="FOLDER", help="JPEGs to decode (default: some are made up)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="new file for all that is measured")
    parser.add_argument("--show", type=Path, metavar="FILE.json", help="the tables of such a file; nothing is measured")
    parser.add_argument("--batch", type=int, help="images a step, to try something out: the goals are for the default")
    return parser


def _end(signum: int, _frame: object) -> None:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _end)
    sys.exit(main())
