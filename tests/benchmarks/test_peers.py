"""benchmarks.peers without the libraries that it compares with: ratios, goals, its file, its sentences, its ends."""

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console

from benchmarks.peers import groups, record, table, turns
from benchmarks.peers.__main__ import main
from benchmarks.peers.plan import Comparison, Group, Measured, Side, at_least, at_most
from benchmarks.peers.side import ROOT
from negbench.report import text
from negbench.settings.resolve import resolve
from tests.helpers import warm_python

COMMAND = ["-m", "benchmarks.peers", "--device", "cpu"]
SPEEDS = (
    Comparison("B / A", "B", "A", at_least(2)),
    Comparison("A / B", "A", "B", at_most(0.45)),
    Comparison("C / A", "C", "A", at_least(1)),
    Comparison("B / A, no goal", "B", "A"),
)


def _record() -> record.Record:
    sides = tuple(Side(name, "ours", ("method",), images=10) for name in "ABC")
    speed = Group("speed", "three sides", sides, SPEEDS)
    # B / A is 2, 3 and 2.5 in the rounds; the ratio of the medians would be 3
    values = {"A": [1.0, 3.0, 4.0], "B": [2.0, 9.0, 10.0]}
    memory = Group("memory", "two", sides[:2], (Comparison("more", "B", "A", at_most(2.5)),), unit="bytes")
    measured = [
        Measured(speed, values, {"C": "it died [here]"}),
        Measured(memory, {"A": [2.0**30], "B": [4.0 * 2**30]}, {}),
    ]
    environment = {"device": "a machine", "torch_version": "2", "precision": "float32", "load_average": 0.0}
    return record.Record(3, None, environment, {"lightly": "1.6.0"}, measured)


def _run(*arguments: object) -> tuple[int, str, str]:
    """`python -m benchmarks.peers ARGUMENTS` in this process: exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    argv = mock.patch.object(sys, "argv", [*COMMAND[1:], *map(str, arguments)])
    with argv, contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main()
    return code, out.getvalue(), err.getvalue()


def test_ratios_are_of_the_same_round() -> None:
    speed, memory = _record().groups
    assert [table.compared(speed, comparison).centre for comparison in SPEEDS[:2]] == [2.5, 0.4]
    assert table.compared(speed, SPEEDS[2]).n == 0  # of a side that was left out
    assert table.compared(memory, memory.group.comparisons[0]).centre == 3  # GiB


def test_the_tables_are_made_again_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    _record().write(path)
    assert record.read(path) == _record()
    console = Console(width=120)
    with console.capture() as shown:
        table.show(_record(), console)
    code, again, _ = _run("--show", path)
    assert (code, again) == (0, shown.get())
    reached = [line.split("│")[-2].strip() for line in again.splitlines() if "at most" in line or "at least" in line]
    assert reached == ["yes", "yes", "not measured", "no"]
    assert "speed: C was left out: it died [here]" in again


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--groups", "moco,vews"], "--groups: 'vews' is no group on cpu; there are moco, simclr, adco,"),
        (["--peer-python", "no/python"], "--peer-python: there is no program no/python"),
        (["--output", "pyproject.toml"], "--output: pyproject.toml exists; choose another name"),
        (["--images", "docs"], "--images: docs holds 0 JPEGs, and 256 are decoded"),
        (["--rounds", "0"], "--rounds: at least 1, not 0"),
        (["--show", "pyproject.toml"], "--show: pyproject.toml is no file that --output has written"),
    ],
)
def test_mistakes_are_one_sentence(arguments: Sequence[str], sentence: str) -> None:
    code, shown, told = _run(*arguments)
    assert (code, shown) == (2, "") and told.startswith(f"benchmarks.peers: {sentence}") and told.count("\n") == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_group_is_whole(device: str) -> None:
    for group in groups.choose(None, device, None, workers=2):
        names = [side.name for side in group.sides]
        assert len(set(names)) == len(names)
        for comparison in group.comparisons:
            assert {comparison.above, comparison.below} <= set(names)
        for side in group.sides:
            assert (ROOT / "benchmarks" / "peers" / f"{side.module}.py").exists()
            if side.module == "ours" and side.arguments[0] != "folder":
                _, method, study, _, *settings = side.arguments
                resolve(method, study, settings)


def test_a_side_that_dies_is_left_out_with_its_last_words(capfd: pytest.CaptureFixture[str]) -> None:
    broken = Side("broken", "ours", ("method", "moco", "quickstart", "cpu", "no_such_key=1"), images=1)
    peer = Side("peer", "kornia_views", ("8",), images=8, peer=True)
    group = Group("some", "none of which can be measured", (broken, peer), (Comparison("?", "broken", "peer"),))
    measured = turns.measure(group, 2, turns.Pythons(warm_python.executable(), None), "")
    assert measured.values == {} and measured.left_out["peer"] == turns.NO_PEERS
    assert "UserError: unknown key no_such_key" in measured.left_out["broken"]
    assert "some: broken ended: negbench.runtime.errors.UserError" in capfd.readouterr().err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left_when_it_is_interrupted(signum: signal.Signals, code: int) -> None:
    read, write = os.pipe()
    with os.fdopen(read) as told:
        command = [*COMMAND, "--groups", "adco", "--batch", "8"]
        process = warm_python.Process(command, os.environ, str(ROOT), write, write)
        os.close(write)
        for line in told:
            if "starting MoCo" in line:  # AdCo is frozen by now
                break
        _wait_until(lambda: bool(_children(process.pid)))
        sides = _children(process.pid)
        os.kill(process.pid, signum)
        rest = told.read()
    assert process.wait() == code, rest
    _wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in sides))


def _wait_until(holds: Callable[[], bool]) -> None:
    """The machine may be busy."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = path.read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid:
                found.append(int(path.parent.name))
    return found


def test_the_published_ratios_are_those_of_the_record() -> None:
    """docs/results.md's table has a row for each comparison, with the ratio that follows from what was measured."""
    published = record.read(ROOT / "results" / "reference" / "peers" / "peers.json")
    results = (ROOT / "docs" / "results.md").read_text()
    for measured in published.groups:
        for comparison in measured.group.comparisons:
            ratio = text.ratio(table.compared(measured, comparison))
            assert f"| {comparison.label} | {ratio} | {comparison.goal or ''} |" in results, comparison.label
