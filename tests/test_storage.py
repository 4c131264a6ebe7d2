"""A disk that fills up while a run writes."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from negbench import checkpoint
from negbench.failure import Interrupted, StorageError
from tests import runs


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 16 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted, which takes root: {mounted.stderr.splitlines()[0]}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    resolved = runs.short()
    with pytest.raises(Interrupted):
        runs.start(resolved, tmp_path, runs.StopAt(5))
    run = runs.folder(resolved, tmp_path)
    run.evaluations.mkdir()
    leftovers = [run.evaluations / ".knn.json.1.partial", run.checkpoints / ".step-00000009.pt.1.partial"]
    leftovers += [run.path / ".summary.json.1.partial", run.checkpoints / "step-00000009.pt.sha256"]
    for path in leftovers:
        path.touch()
    before = checkpoint.find_whole(run.checkpoints, pytest.fail)
    run.open()
    run.close()
    assert not [path for path in leftovers if path.exists()]
    assert checkpoint.find_whole(run.checkpoints, pytest.fail) == before


def test_a_full_disk_leaves_the_checkpoint_before_and_the_run_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    resolved = runs.short()
    runs.start(resolved, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        runs.start(resolved, small_disk, runs.StopAt(5))
    run = runs.folder(resolved, small_disk)
    kept = checkpoint.find(run.checkpoints)[0]
    content = kept.read_bytes()
    fill(small_disk / "filler")
    with open(small_disk / "filler", "r+b") as file:
        file.truncate(file.seek(0, 2) - 64 * 1024)  # room for records, not for a checkpoint
    with pytest.raises(StorageError, match=rf"cannot write .*No space left.*{kept.name} is whole"):
        runs.start(resolved, small_disk)
    assert kept.read_bytes() == content
    assert checkpoint.find_whole(run.checkpoints, pytest.fail) == kept
    assert not list(run.path.rglob("*.partial"))
    assert {file.name for file in run.checkpoints.iterdir()} == {
        name for path in checkpoint.find(run.checkpoints) for name in (path.name, f"{path.name}.sha256")
    }
    (small_disk / "filler").unlink()
    runs.start(resolved, small_disk)
    runs.assert_same(runs.outcome(run), runs.outcome(runs.folder(resolved, tmp_path / "undisturbed")))
