"""What a run leaves on a disk: while it writes, after it was killed, and where there is no room."""

import io
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import negbench
from negbench.evaluate.source import run_source
from negbench.records.checks.manifest import digest
from negbench.records.files import storage_error, write_atomically
from negbench.records.run import checkpoint
from negbench.records.run.checkpoint_files import read_whole
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from negbench.runtime.failure import Interrupted, StorageError
from tests.helpers import runs


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


def test_leftovers_that_vanish_meanwhile_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that has lost the run may rename its file between the listing and the removal."""
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    leftover = run.checkpoints / ".step-00000009.pt.1.partial"
    glob = Path.glob

    def vanishing(folder: Path, pattern: str) -> list[Path]:
        found = list(glob(folder, pattern))
        for path in found:
            path.unlink()
        return found

    leftover.touch()
    monkeypatch.setattr(Path, "glob", vanishing)
    run.open()
    run.close()
    assert not leftover.exists()


def test_all_may_read_a_lock_and_its_owner_alone_may_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "run.lock"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    mask = os.umask(0)
    try:
        for restarts in ("0", "1"):  # the second takes the run over, with a lock of its own
            monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
            RunFolder(tmp_path).open()
            assert stat.S_IMODE(lock.stat().st_mode) == 0o644
    finally:
        os.umask(mask)


def test_a_storage_error_tells_the_room_where_there_is_a_folder(tmp_path: Path) -> None:
    error = OSError(28, "No space left on device")
    told = str(storage_error(tmp_path / "x", error, "free some"))
    assert told.startswith(f"cannot write {tmp_path}/x: No space left on device (") and "MiB free); free some" in told
    absent = tmp_path / "absent" / "x"
    assert (
        str(storage_error(absent, error, "free some")) == f"cannot write {absent}: No space left on device; free some"
    )


STATE: dict[str, Any] = {
    "step": 7,
    "world_size": 1,
    "world_sizes": [1],
    "precision": "None",
    "method": {"a": torch.zeros(2)},
    "peak_memory_bytes": None,
    "peak_reserved_bytes": None,
    "negatives_per_query": None,
    "communicated_bytes": {},
    "optimizer": {"state": {}, "param_groups": []},
    "scaler": {},
    "lost_seconds": 0.0,
    "evaluated_step": -1,
    "curve": {},
    "skipped": [],
    "metrics_bytes": 0,
    "seconds": {},
    "joules": [None],
    "epoch_start_seconds": {},
    **{name: {"names": [], "sums": None, "count": 0} for name in ("step_meter", "epoch_meter")},
}


def test_a_checkpoint_is_whole_at_every_moment_at_which_it_can_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def write(path: Path, content: str | bytes) -> None:
        write_atomically(path, content)
        whole = [read_whole(found) for found in checkpoint.find(tmp_path)]
        seen.append([torch.load(io.BytesIO(content), weights_only=True)["value"] for content in whole])

    monkeypatch.setattr(checkpoint, "write_atomically", write)
    for value in (1, 2):
        checkpoint.save(tmp_path, 7, {"value": value}, keep=2)
    assert seen == [[], [1], [1], [2], [2]]


def test_a_checkpoint_without_its_checksum_counts_as_damaged(tmp_path: Path) -> None:
    earlier, newest = (checkpoint.save(tmp_path, step, {**STATE, "step": step}, keep=2) for step in (6, 7))
    newest.with_name(f"{newest.name}.sha256").unlink()
    with pytest.raises(ValueError, match=rf"checkpoint {newest} is damaged: {newest.name}\.sha256 is missing"):
        checkpoint.load(newest)
    assert checkpoint.find_whole(tmp_path, lambda warning: None) == earlier


DAMAGES: dict[str, Any] = {
    "a list": [1],
    "a tensor": torch.zeros(2),
    "no key": {},
    "code": {**STATE, "curve": print},
    "version": {**STATE, "negbench_version": "0", "version": "3"},
    "step of text": {**STATE, "step": "7"},
    "step below 0": {**STATE, "step": -1},
    "step NaN": {**STATE, "step": float("nan")},
    "step true": {**STATE, "step": True},
    "step of another name": {**STATE, "step": 6},
    "seconds NaN": {**STATE, "seconds": {"train": float("nan")}},
    "no optimizer": {**STATE, "optimizer": None},
    "groups of text": {**STATE, "optimizer": {"state": {}, "param_groups": "x"}},
    "weights of text": {**STATE, "method": {"a": "x"}},
    "weights NaN": {**STATE, "method": {"a": torch.tensor(float("nan"))}},
    "processes of text": {**STATE, "world_sizes": "12"},
    "negative bytes": {**STATE, "metrics_bytes": -1},
    "other run's id": {**STATE, "run_id": [1]},
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_a_checkpoint_that_holds_no_state_counts_as_damaged(content: Any, tmp_path: Path) -> None:
    earlier = checkpoint.save(tmp_path, 6, {**STATE, "step": 6}, keep=2)
    newest, told = tmp_path / "step-00000007.pt", list[str]()
    torch.save(content, newest)
    newest.with_name(f"{newest.name}.sha256").write_text(f"{digest(newest)}  {newest.name}\n")
    assert checkpoint.find_whole(tmp_path, told.append, set_aside=True) == earlier
    (text,) = told
    assert text.startswith(f"checkpoint {newest} is damaged: ") and text.endswith("; an earlier one is used")
    assert newest.with_name(f"{newest.name}.damaged").exists()


@pytest.mark.parametrize("what", ["folder", "pipe", "link", "checksum of bytes", "folder of checksum", "another name"])
def test_what_lies_beside_checkpoints_is_none(what: str, tmp_path: Path) -> None:
    whole = checkpoint.save(tmp_path, 7, {**STATE, "step": 7}, keep=2)
    other = tmp_path / "step-00000099.pt"
    checksum = other.with_name(f"{other.name}.sha256")
    if what == "folder":
        other.mkdir()
    elif what == "pipe":
        os.mkfifo(other)
    elif what == "link":
        other.symlink_to("nowhere")
    elif what == "another name":
        shutil.copy(whole, tmp_path / "step-9.pt")
        shutil.copy(whole, tmp_path / f"step-{99:030d}.pt")
    else:
        shutil.copy(whole, other)
        checksum.write_bytes(b"\xff\xfe") if what == "checksum of bytes" else checksum.mkdir()
    assert checkpoint.find_whole(tmp_path, lambda text: None) == whole


def test_what_stands_where_checkpoints_belong_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("kept")
    with pytest.raises(UserError, match="checkpoints is no folder, and checkpoints would be written there; move it"):
        RunFolder(tmp_path).open()
    assert (tmp_path / "checkpoints").read_text() == "kept"


@pytest.mark.parametrize("versions", [(1, 2), (4, 5)], ids=["newer", "older"])
def test_a_checkpoint_of_a_version_that_is_not_read_is_refused(
    versions: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = runs.short()
    with monkeypatch.context() as writer:
        writer.setattr(negbench, "__version__", "7.8.9")
        with pytest.raises(Interrupted):
            runs.start(resolved, tmp_path, runs.StopAt(2))
    run = runs.folder(resolved, tmp_path)
    (path,) = checkpoint.find(run.checkpoints)
    monkeypatch.setattr(checkpoint, "OLDEST", versions[0])
    monkeypatch.setattr(checkpoint, "VERSION", versions[1])
    told = (
        f"checkpoint {path} is of version 3, written by negbench 7.8.9, and negbench {negbench.__version__} reads "
        f"versions {versions[0]} to {versions[1]}; use negbench 7.8.9, or start the run again with --fresh"
    )
    for use in (lambda: runs.start(resolved, tmp_path), lambda: run_source(run.path)):
        with pytest.raises(UserError) as error:
            use()
        assert str(error.value) == told
    assert run.read_summary()["ending"] == {"kind": "user_error", "code": 2, "signal": None}
    assert path.exists()


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
