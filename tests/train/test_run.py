"""Whole runs: records, interruption, resume, and what can go wrong."""

import json
import math
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from negbench.contrast.build import build_method
from negbench.contrast.method import Method
from negbench.evaluate.final import evaluate
from negbench.evaluate.source import run_source
from negbench.models.encoder import build_encoder
from negbench.records.run import checkpoint
from negbench.records.run.summary import FIELDS, damage_of
from negbench.runtime.failure import Interrupted
from negbench.settings.plugins.find import find_method
from negbench.train import setup, trainer
from negbench.train.loggers.console import cost_line
from negbench.train.monitor import Monitor
from negbench.train.run import execute
from tests.helpers import runs, tiny
from tests.helpers.ranks import on_ranks


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An undisturbed run of every method."""
    outputs = {}
    for name in tiny.METHODS:
        outputs[name] = tmp_path_factory.mktemp(name)
        runs.start(runs.short(name), outputs[name])
    return outputs


def test_a_run_leaves_its_records(finished: dict[str, Path]) -> None:
    resolved = runs.short("adco")
    run = runs.folder(resolved, finished["adco"])
    summary = json.loads(run.summary.read_text())
    assert list(summary) == list(FIELDS)
    assert {name for name, value in summary.items() if value is None} <= {
        name for name, field in FIELDS.items() if field.may_be_unknown
    }
    assert damage_of(summary) == ""
    assert (summary["status"], summary["steps"], summary["restarts"], summary["error"]) == ("done", 12, 0, None)
    assert summary["ending"] == {"kind": "done", "code": 0, "signal": None}
    assert summary["changed"] == run.read_environment()["changed"] == resolved.changed
    assert summary["num_negatives"] == 40
    assert summary["views_per_step"] == 32  # both directions of 16 images
    assert summary["source_state_bytes"] == 2 * 40 * 8 * 4
    for name in ("knn_top1", "linear_top1", "knn_top1_untrained", "knn_top1_pixels"):
        assert 0 < summary[name] <= 1
    assert summary["knn200_top1"] is None  # of 70 training images
    rows = run.read_metrics()
    assert [row["step"] for row in rows if row["kind"] == "train"] == [2, 4, 6, 8, 10, 12]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1, 2, 3]
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == [0, 4, 8, 12]
    assert run.done.exists()
    assert json.loads(run.environment.read_text())["torch_version"] == torch.__version__
    for protocol in ("knn", "linear"):
        assert {"trained", "untrained"} <= json.loads((run.evaluations / f"{protocol}.json").read_text()).keys()
    assert not [path for path in run.path.rglob("*") if "partial" in path.name]


@pytest.mark.parametrize("name", tiny.METHODS)
@pytest.mark.parametrize("step", [2, 6, 12])
def test_an_interrupted_run_resumes_bitwise(name: str, step: int, finished: dict[str, Path], tmp_path: Path) -> None:
    resolved = runs.short(name)
    with pytest.raises(Interrupted):
        runs.start(resolved, tmp_path, runs.StopAt(step))
    run = runs.folder(resolved, tmp_path)
    assert run.read_summary()["status"] == "interrupted"
    assert checkpoint.load(checkpoint.find(run.checkpoints)[0])["step"] == step
    summary = runs.start(resolved, tmp_path)
    assert summary["restarts"] == 1
    runs.assert_same(runs.outcome(run), runs.outcome(runs.folder(resolved, finished[name])))
    undisturbed = runs.folder(resolved, finished[name]).read_summary()
    for figure in ("knn_top1", "linear_top1", "knn_top1_untrained"):
        assert summary[figure] == undisturbed[figure]


@pytest.mark.parametrize(
    "settings",
    [
        ("optimizer.name=lars", "batch_norm=process", "optimizer.lr=1"),
        ("optimizer.name=adamw", "optimizer.lr=0.01", "optimizer.exclude=norm-and-bias"),
        ("schedule.per_epoch=true", "precision=bf16", "views=byol"),
    ],
    ids=lambda settings: settings[0],
)
def test_other_optimizers_and_precisions_resume_bitwise_too(settings: tuple[str, ...], tmp_path: Path) -> None:
    resolved = runs.short("byol", *settings)
    runs.start(resolved, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        runs.start(resolved, tmp_path, runs.StopAt(6))
    runs.start(resolved, tmp_path)
    undisturbed = runs.outcome(runs.folder(resolved, tmp_path / "undisturbed"))
    runs.assert_same(runs.outcome(runs.folder(resolved, tmp_path)), undisturbed)
    state, rows = undisturbed
    initial = build_encoder(resolved.config).state_dict()
    trained = {name.removeprefix("query_encoder."): value for name, value in state["method"].items()}
    assert all(not torch.equal(value, trained[name]) for name, value in initial.items() if "weight" in name)
    assert all(math.isfinite(row["loss"]) for row in rows if row["kind"] == "train")


def run_twice(output: str, steps: tuple[int | None, ...]) -> Any:
    """On each rank: interrupted at a step by a signal to the last rank alone, then to the end; for each of `steps`."""
    from negbench.runtime.distributed import rank, world_size

    resolved = runs.short("adco", "batch_norm=sync", "evaluate_every_epochs=3", "evaluation.test=false")
    torch.manual_seed(rank())  # nothing may depend on the global generators
    for step in steps:
        folder = Path(output) / str(step)
        if step is not None:
            stopper = [runs.StopAt(step, signal.SIGTERM)] if rank() == world_size() - 1 else []
            with pytest.raises(Interrupted):
                runs.start(resolved, folder, *stopper)
        runs.start(resolved, folder)
    return [runs.outcome(runs.folder(resolved, Path(output) / str(step))) for step in steps] if rank() == 0 else None


@pytest.mark.parametrize(("num_ranks", "steps"), [(2, (2, runs.STEPS)), (4, (7,))])
def test_ranks_stop_together_and_resume_bitwise(num_ranks: int, steps: tuple[int, ...], tmp_path: Path) -> None:
    undisturbed, *resumed = on_ranks(num_ranks, run_twice, str(tmp_path), (None, *steps))[0]
    for outcome in resumed:
        runs.assert_same(outcome, undisturbed)


def start_while_locked(output: str) -> str:
    from negbench.runtime.distributed import broadcast_objects, rank

    resolved = runs.short()
    holder = runs.folder(resolved, Path(output))
    if rank() == 0:
        holder.open()
    broadcast_objects([None])
    with pytest.raises(ValueError) as error:
        runs.start(resolved, Path(output))
    return str(error.value)


def test_a_mistake_seen_by_rank_0_ends_all_ranks(tmp_path: Path) -> None:
    messages = on_ranks(2, start_while_locked, str(tmp_path))
    assert messages[0] == messages[1]
    assert "in use by process" in messages[0]


def run_with_slow_checkpoints(output: str) -> tuple[int, int]:
    """Checkpoints that took a second and a half, and stalls that this rank told of, in a run of some seconds."""
    saved, told = [], []
    save = checkpoint.save

    def save_slowly(folder: Path, step: int, state: checkpoint.State, keep: int) -> Path:
        saved.append(step)
        time.sleep(1.5)
        return save(folder, step, state, keep)

    settings = ("epochs=15", "checkpoint_every_min=0.001", "evaluate_every_epochs=0", "evaluation.test=false")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_slowly)
        patch.setattr(trainer, "Monitor", partial(Monitor, shortest_stall_s=0.7, poll_s=0.05))
        patch.setattr(Monitor, "_report", lambda self, waited: told.append(waited))
        runs.start(runs.short("simclr", *settings), Path(output))
    return len(saved), len(told)


def test_slow_checkpoints_are_rare_and_no_stall_on_any_number_of_ranks(tmp_path: Path) -> None:
    (saved, told), (_, told_by_the_other) = on_ranks(2, run_with_slow_checkpoints, str(tmp_path))
    assert saved <= 3  # one or two until their cost is known, and the last
    assert told == told_by_the_other == 0


def in_float64(*arguments: Any) -> Method:
    """A run's method whose encoders take their images, and all that follows, in float64."""
    method = build_method(*arguments).double()
    for encoder in (method.query_encoder, method.key_encoder):
        if encoder is not None:
            encoder.register_forward_pre_hook(lambda module, inputs: tuple(images.double() for images in inputs))
    return method


def trained_in_float64(output: str) -> dict[str, Any]:
    """The state and the loss of every step, of every method."""
    states = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "build_method", in_float64)
        for name in tiny.METHODS:
            settings = ("batch_norm=sync", "log_every_steps=1", "evaluate_every_epochs=0", "evaluation.test=false")
            resolved = runs.short(name, *settings)
            runs.start(resolved, Path(output))
            state, rows = runs.outcome(runs.folder(resolved, Path(output)))
            losses = [row["loss"] for row in rows if row["kind"] == "train"]
            states[name] = state["method"] | {"losses": torch.tensor(losses, dtype=torch.float64)}
    return states


def test_synchronised_ranks_train_as_one_process(tmp_path: Path) -> None:
    """In float64: rounding grows in training, in fp32 from 1e-7 to 1e-2 within these steps on some machines."""
    two, _ = on_ranks(2, trained_in_float64, str(tmp_path / "two"))
    for name, one in trained_in_float64(str(tmp_path / "one")).items():
        assert len(one["losses"]) == runs.STEPS and two[name].keys() == one.keys()
        for key, value in one.items():
            torch.testing.assert_close(two[name][key], value, rtol=1e-8, atol=1e-8, msg=f"{name}: {key}")


def test_resuming_with_another_number_of_processes_is_in_the_summary(tmp_path: Path) -> None:
    resolved = runs.short("adco", "batch_norm=sync")
    on_ranks(2, interrupt, str(tmp_path))
    run = runs.folder(resolved, tmp_path)
    assert run.read_summary()["world_sizes"] == [2]
    summary = runs.start(resolved, tmp_path)
    assert (summary["world_size"], summary["world_sizes"]) == (1, [2, 1])
    runs.start(resolved, tmp_path, fresh=True)
    assert run.read_summary()["world_sizes"] == [1]


def interrupt(output: str) -> None:
    resolved = runs.short("adco", "batch_norm=sync")
    with pytest.raises(Interrupted):
        execute(resolved, Path(output), runs.CPU, stop_after=6)


def test_a_finished_run_is_reported_at_once_and_fresh_starts_anew(tmp_path: Path) -> None:
    resolved, notes = runs.short(), runs.Notes()
    first = runs.start(resolved, tmp_path)
    assert runs.start(resolved, tmp_path, notes) == first
    assert "is finished" in notes.texts[0]
    assert runs.start(resolved, tmp_path, fresh=True)["restarts"] == 0
    assert len(runs.folder(resolved, tmp_path).read_metrics()) == 17


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path) -> None:
    resolved, notes = runs.short(), runs.Notes()
    undisturbed = runs.start(resolved, tmp_path / "undisturbed")
    for step in (2, 6):
        with pytest.raises(Interrupted):
            runs.start(resolved, tmp_path, runs.StopAt(step))
    run = runs.folder(resolved, tmp_path)
    newest, _ = checkpoint.find(run.checkpoints)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    summary = runs.start(resolved, tmp_path, notes)
    assert any(str(newest) in text and "damaged" in text for text in notes.texts)
    assert any("resumed" in text and "step 4 " in text for text in notes.texts)
    assert summary["knn_top1"] == undisturbed["knn_top1"]
    runs.assert_same(runs.outcome(run), runs.outcome(runs.folder(resolved, tmp_path / "undisturbed")))


def test_all_checkpoints_damaged_is_an_error_that_loses_nothing(tmp_path: Path) -> None:
    resolved = runs.short()
    with pytest.raises(Interrupted):
        runs.start(resolved, tmp_path, runs.StopAt(2))
    (only,) = checkpoint.find(runs.folder(resolved, tmp_path).checkpoints)
    only.write_bytes(b"")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged; --fresh"):
        runs.start(resolved, tmp_path)
    assert only.exists()


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    resolved = runs.short("adco", "checkpoint_every_min=1e-9", "log_every_steps=3", "optimizer.lr=1e30")
    with pytest.raises(
        FloatingPointError, match=r"not finite from step \d+ on \(learning rate 2.222e\+29.*Adversaries"
    ) as error:
        runs.start(resolved, tmp_path)
    run = runs.folder(resolved, tmp_path)
    summary = run.read_summary()
    assert summary["status"] == "failed" and "not finite" in summary["error"]
    (kept, *_) = checkpoint.find(run.checkpoints)
    assert str(kept) in str(error.value)
    state = checkpoint.load(kept)
    assert state["step"] <= int(str(error.value).split("from step ")[1].split()[0])
    assert all(value.isfinite().all() for value in state["method"].values())
    assert not run.done.exists()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    resolved = runs.short()
    holder = runs.folder(resolved, tmp_path)
    holder.open()
    with pytest.raises(ValueError, match=r"in use by process \d+ on"):
        runs.start(resolved, tmp_path)
    holder.close()
    runs.start(resolved, tmp_path)
    with pytest.raises(RuntimeError, match="taken over by attempt 2"):
        holder.check_still_ours()


def test_evaluate_repeats_the_figures_of_the_run(finished: dict[str, Path]) -> None:
    run = runs.folder(runs.short("moco"), finished["moco"])
    before = json.loads((run.evaluations / "knn.json").read_text())
    again = evaluate(run_source(run.path), ["knn"], runs.CPU)
    assert again["knn"]["trained"] == before["trained"]
    with pytest.raises(ValueError, match="no run folder"):
        run_source(run.path.parent)


def image_folder(root: Path) -> Path:
    """Two classes of twelve training and four test images; one training image is cut short."""
    for split, count in (("train", 12), ("val", 4)):
        for shade, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                colour = (100 + 10 * number, 150 * shade, 5 * number)
                Image.new("RGB", (20 + number, 24), colour).save(root / split / name / f"{number}.jpg")
    broken = root / "train" / "bee" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    return broken


def test_image_folders_train_and_name_or_count_files_that_cannot_be_decoded(tmp_path: Path) -> None:
    broken = image_folder(tmp_path / "images")
    settings = [f"data.root={tmp_path / 'images'}", "data.name=imagefolder", "data.num_images=null", "batch_size=8"]
    settings += ["data.image_size=16", "data.workers=2", "views=moco-v2", "epochs=2", "checkpoint_every_min=1e-9"]
    with pytest.raises(ValueError, match=f"{broken}"):
        runs.start(runs.short("moco", *settings), tmp_path / "runs")
    resolved = runs.short("moco", *settings, "data.on_bad_image=skip")
    with pytest.raises(Interrupted):
        runs.start(resolved, tmp_path / "runs", runs.StopAt(2))
    summary = runs.start(resolved, tmp_path / "runs")
    assert (summary["status"], summary["skipped_files"], summary["steps"]) == ("done", 1, 4)
    assert summary["knn_top1_pixels"] is None
    assert cost_line(summary).endswith("; files skipped because they cannot be decoded: 1")
    assert "skipped" not in cost_line(summary | {"skipped_files": 0})


def train_folder(output: str, root: str) -> Any:
    from negbench.runtime.distributed import rank

    settings = [f"data.root={root}", "data.name=imagefolder", "data.num_images=null", "batch_size=8", "views=moco-v2"]
    settings += ["data.image_size=16", "data.workers=0", "epochs=2", "data.on_bad_image=skip", "batch_norm=shuffled"]
    resolved = runs.short("moco", *settings)
    if rank() == 0:
        with pytest.raises(Interrupted):
            runs.start(resolved, Path(output), runs.StopAt(2))
    else:
        with pytest.raises(Interrupted):
            runs.start(resolved, Path(output))
    return runs.start(resolved, Path(output))


def test_image_folders_train_on_ranks_with_shuffled_keys(tmp_path: Path) -> None:
    image_folder(tmp_path / "images")
    for summary in on_ranks(2, train_folder, str(tmp_path / "runs"), str(tmp_path / "images")):
        assert (summary["status"], summary["skipped_files"], summary["steps"]) == ("done", 1, 4)
        assert summary["world_size"] == 2
        assert summary["restarts"] == 1


def test_a_users_method_file_is_copied_and_evaluating_its_run_executes_neither(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(Path(find_method("moco").path).read_text())
    resolved = runs.short(str(path), "method.num_negatives=16")
    summary = runs.start(resolved, tmp_path)
    run = runs.folder(resolved, tmp_path)
    assert run.method.read_bytes() == path.read_bytes()
    path.unlink()
    run.method.write_text("raise RuntimeError('executed')\n")
    assert summary["method"] == "mine"
    again = evaluate(run_source(run.path), ["knn"], runs.CPU)
    assert again["knn"]["trained"]["top1"]["20"] == summary["knn_top1"]
