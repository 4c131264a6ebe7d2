"""Streaming: what an interrupted run shows of each epoch, and that memory stays as it is."""

import json
import multiprocessing
import signal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from negbench.data.batches import training_batches
from negbench.data.datasets.imagefolder import load_folder
from negbench.data.sets import FolderSet
from negbench.runtime.failure import LAUNCHER_VARIABLE
from negbench.settings.schema import DataConfig, MethodConfig, RunConfig
from tests.helpers import runs
from tests.helpers.processes import finished

RECORDER = '''"""recorder: as MoCo's; notes which images each step shows, and sends its process signals."""
import json
import os
from pathlib import Path
from negbench.methods.moco import Config, Method, Queue

class Recorder(Method):
    def after_step(self, output, step):
        super().after_step(output, step)
        rank = os.environ.get("RANK", "0")
        note = Path(os.environ["RECORD"]) / f"{step:04}-{rank}"
        note.write_text(" ".join(map(str, output.encoded.index.tolist())))
        signum = json.loads(os.environ.get("SIGNALS", "{}")).get(f"{step}-{rank}")
        if signum is not None:
            os.kill(os.getpid(), signum)

def build(config, encoder, facts):
    queue = Queue(config.num_negatives, facts.dim, facts.seed)
    momentum = config.momentum(facts.num_steps)
    return Recorder(encoder, facts.pairs(config.symmetric), [queue], config.temperature, momentum)
'''
NUM_IMAGES, BATCH, EPOCHS = 30, 8, 8
STEPS = NUM_IMAGES // BATCH  # an epoch


def image_folder(root: Path, num_images: int, size: int) -> None:
    """Two classes of photographs of noise, to train on, and one image of each to test."""
    generator = np.random.default_rng(0)
    for split, count in (("train", num_images // 2), ("val", 1)):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8))
                image.save(root / split / name / f"{number:04}.jpg")


def shown(record: Path, num_ranks: int) -> dict[int, list[int]]:
    """The positions shown by step, of all ranks in their order; without steps that a rank has not done."""
    of_steps: dict[int, list[int]] = {}
    for step in sorted({int(note.name.partition("-")[0]) for note in record.iterdir()}):
        notes = [record / f"{step:04}-{rank}" for rank in range(num_ranks)]
        if all(note.exists() for note in notes):
            of_steps[step] = [int(word) for note in notes for word in note.read_text().split()]
    return of_steps


def test_killed_and_resumed_ranks_show_of_each_epoch_what_an_undisturbed_run_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks save in the midst of an epoch, and one is killed in another; the undisturbed run has one process."""
    image_folder(tmp_path / "images", NUM_IMAGES, 20)
    method = tmp_path / "recorder.py"
    method.write_text(RECORDER)
    settings = [f"data.root={tmp_path / 'images'}", "data.name=imagefolder", "data.num_images=null", "data.workers=1"]
    settings += [f"batch_size={BATCH}", f"epochs={EPOCHS}", "data.validation=0", "evaluation.test=false"]
    settings += ["data.image_size=16", "views=moco-v2", "method.num_negatives=40"]
    records = [tmp_path / name for name in ("whole", "killed", "resumed")]
    for record in records:
        record.mkdir()
    monkeypatch.setenv("RECORD", str(records[0]))
    runs.start(runs.short(str(method), *settings), tmp_path / "undisturbed")

    arguments = ["run", "--method", str(method), "--processes-per-node", "2", "--device", "cpu"]
    arguments += ["--output", str(tmp_path / "disturbed")]
    arguments += [part for setting in [*runs.SHORT, *settings] for part in ("--set", setting)]
    signals = json.dumps({"3-0": signal.SIGTERM, "12-1": signal.SIGKILL})
    of_scheduler = {LAUNCHER_VARIABLE: "slurm"}  # whose SIGTERM asks for a checkpoint alone
    code, _, err = finished(*arguments, RECORD=str(records[1]), SIGNALS=signals, **of_scheduler)
    assert code == 137, err
    code, _, err = finished(*arguments, RECORD=str(records[2]))
    assert code == 0, err
    undisturbed, killed, resumed = (
        shown(record, num_ranks) for record, num_ranks in zip(records, (1, 2, 2), strict=True)
    )
    start = min(resumed)
    assert min(killed) == 0 and start % STEPS != 0 and 3 < start < 11 <= max(killed)
    assert {step: positions for step, positions in killed.items() if step < start} | resumed == undisturbed
    for step in range(start, 12):  # lost with the rank, and shown again
        assert killed[step] == resumed[step]

    assert list(undisturbed) == list(range(STEPS * EPOCHS))
    epochs = [
        [position for step in range(first, first + STEPS) for position in undisturbed[step]]
        for first in range(0, STEPS * EPOCHS, STEPS)
    ]
    assert all(len(epoch) == len(set(epoch)) == STEPS * BATCH for epoch in epochs)
    tails = [set(range(NUM_IMAGES)) - set(epoch) for epoch in epochs]
    assert all(len(tail) == NUM_IMAGES % BATCH for tail in tails)
    assert all(tail != following for tail, following in pairwise(tails))


def bytes_of(process: Path, file: str, field: str) -> int:
    lines = (process / file).read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no /proc/self/smaps_rollup, which Linux has")
@pytest.mark.parametrize("leak", [False, True])
def test_memory_is_the_same_after_ten_epochs_as_after_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leak: bool
) -> None:
    """Of this process and its worker. With a leak of every decoded image the worker is seen to grow.

    The worker's own memory: it starts with what earlier tests left free, which a leak would fill unseen.
    """
    num_images, batch, side = 768, 64, 64
    image_folder(tmp_path, num_images, side)
    data = DataConfig(name="imagefolder", root=str(tmp_path), image_size=side // 2, validation=0, workers=1)
    config = RunConfig[MethodConfig](method=MethodConfig(name="any"), batch_size=batch, data=data)
    if leak:
        kept: list[torch.Tensor] = []
        decode = FolderSet.decode

        def keeping(self: FolderSet, position: int) -> torch.Tensor:
            kept.append(decode(self, position))
            return kept[-1]

        monkeypatch.setattr(FolderSet, "decode", keeping)
    others = set(multiprocessing.active_children())
    steps = num_images // batch
    batches = training_batches(load_folder(data)[0], config, torch.device("cpu"), 0, 10 * steps + 1)
    sizes = []
    for epochs in (2, 8):
        for _ in range(epochs * steps):
            next(batches)
        (worker,) = set(multiprocessing.active_children()) - others
        resident = bytes_of(Path("/proc/self"), "status", "VmRSS")
        sizes.append((resident, bytes_of(Path(f"/proc/{worker.pid}"), "smaps_rollup", "Private_Dirty")))
    of_main, of_worker = (after - before for before, after in zip(*sizes, strict=True))
    left_by_leak = 8 * num_images * 3 * side**2
    assert of_main < left_by_leak / 4
    assert of_worker > left_by_leak / 2 if leak else of_worker < left_by_leak / 4
