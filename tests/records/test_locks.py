"""Locks: readers are no obstacle, file systems without them are named, and links and folders where files are due."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from negbench.records import locks
from negbench.records.run import checkpoint
from negbench.records.run.outcome import recorded
from negbench.records.run_folder import LOCK, RunFolder, is_locked
from negbench.runtime.errors import InUseError, UserError
from tests.cli.test_cli import arguments, invoke


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "quick-moco-s0-12345678")
    folder.open()
    folder.close()
    return folder


def held(path: Path, kind: int) -> int:
    """A descriptor that holds the file's lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, kind)
    return descriptor


def test_a_run_starts_while_it_is_looked_at(run: RunFolder) -> None:
    reader = held(run.path / LOCK, fcntl.LOCK_SH)
    later = threading.Timer(0.1, os.close, [reader])
    later.start()
    run.open()
    later.join()
    assert is_locked(run.path) and run.read_lock()["attempt"] == 2
    run.close()
    assert not is_locked(run.path)


@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_run_in_use_is_not_recorded_as_failed(kind: int, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "READERS_SECONDS", 0.1)
    other = held(run.path / LOCK, kind)
    with pytest.raises(InUseError, match="in use by process"), recorded(run, dict):
        try:
            run.open()
        finally:
            os.close(other)  # it has gone by the time that an ending would be recorded
    assert not run.summary.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("options", [[], ["--cluster", "local"]])
def test_a_file_system_without_locks_is_named(
    code: int, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, kind: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    words = arguments(tmp_path / "out")
    if options:
        words = ["sweep", "--methods", *words[2:]]
    exit_code, stdout, stderr = invoke(*words, *options)
    assert (exit_code, stdout) == (2, "")
    told = next(line for line in stderr.splitlines() if line.startswith("negbench: "))
    assert f"locks (flock) do not work on the file system of {tmp_path / 'out'}" in told
    assert os.strerror(code) in told and "another file system" in told
    assert not options or not (tmp_path / "out").exists()


def test_a_lock_for_a_while_leaves_no_file_and_is_anothers_only_once(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(5):
            with locks.exclusive(path, "works"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 20 and max(most) == 1
    assert not path.exists()


def test_a_fresh_run_keeps_a_link_to_a_folder_of_checkpoints(run: RunFolder, tmp_path: Path) -> None:
    scratch, other = tmp_path / "scratch", tmp_path / "other"
    for folder in (scratch, other):
        folder.mkdir()
        (folder / "of_the_user.txt").touch()
    for name in ("step-00000012.pt", "step-00000012.pt.sha256", "step-00000004.pt.damaged", ".step-1.pt.7.partial"):
        (scratch / name).touch()
    run.checkpoints.rmdir()
    run.checkpoints.symlink_to(scratch)
    run.evaluations.symlink_to(other)
    run.open(fresh=True)
    run.close()
    assert run.checkpoints.is_symlink() and [path.name for path in scratch.iterdir()] == ["of_the_user.txt"]
    assert not run.evaluations.is_symlink() and len(list(other.iterdir())) == 1


def test_a_link_to_a_folder_of_checkpoints_that_is_gone_is_told(run: RunFolder, tmp_path: Path) -> None:
    run.checkpoints.rmdir()
    run.checkpoints.symlink_to(tmp_path / "purged")
    with pytest.raises(UserError, match=r"is a link to .*purged, which is not there; make it, or remove the link"):
        run.open()
    run.close()
    run.open(fresh=True)
    run.close()
    assert run.checkpoints.is_dir() and not run.checkpoints.is_symlink()


def named(folder: Path, name: str) -> None:
    (folder / name).mkdir()


def dangling(folder: Path, name: str) -> None:
    (folder / name).symlink_to("nowhere")


@pytest.mark.parametrize("make", [named, dangling])
@pytest.mark.parametrize("name", ["step-00000099.pt", "step-00000012.pt"])
def test_a_folder_or_a_broken_link_is_no_checkpoint(
    make: Callable[[Path, str], None], name: str, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    make(run.checkpoints, name)
    make(run.checkpoints, "step-00000008.pt.sha256")
    make(run.path, ".summary.json.7.partial")
    assert checkpoint.find(run.checkpoints) == []
    assert checkpoint.find_whole(run.checkpoints, print) is None
    run.open()
    run.close()
