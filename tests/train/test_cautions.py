"""What a run says at its start about settings that are odd, though allowed."""

import json
from pathlib import Path

import pytest

from negbench.runtime.failure import Interrupted
from negbench.settings.cautions import cautions_of, num_training_images
from negbench.train.loggers.console import displayed
from tests.data.test_fingerprint import image_folder, of_folder
from tests.helpers import runs

PLAIN = {"epochs": 4, "batch_size": 10, "schedule.warmup_epochs": 1.0, "method.num_negatives": 99}


@pytest.mark.parametrize(
    ("settings", "starts"),
    [
        ({}, []),
        ({"schedule.warmup_epochs": 3.8}, []),
        ({"schedule.warmup_epochs": 3.95}, ["the warm-up of 3.95 epochs"]),
        ({"schedule.warmup_epochs": 4}, ["the warm-up of 4 epochs"]),
        ({"schedule.warmup_epochs": 3, "schedule.per_epoch": True}, []),
        ({"schedule.warmup_epochs": 3.5, "schedule.per_epoch": True}, ["the warm-up of 3.5 epochs"]),
        ({"method.num_negatives": 100}, ["method.num_negatives is 100, not less than the 100 training images"]),
        ({"method.num_negatives": None, "schedule.warmup_epochs": "soon"}, []),
    ],
)
def test_what_is_odd(settings: dict[str, object], starts: list[str]) -> None:
    found = cautions_of(PLAIN | settings, 100, [10])
    assert len(found) == len(starts)
    assert all(clause.startswith(start) for clause, start in zip(found, starts, strict=True))


def test_how_many_images_are_trained_on() -> None:
    assert num_training_images({"data.validation": 0.1}, 1000, 10) == 900
    assert num_training_images({"data.validation": 0.1}, 96, 4) == 88  # two of 24
    assert num_training_images({"data.validation": 0.1, "data.num_images": 50}, 150, 10) == 50
    assert num_training_images({}, 1000, 10) == 1000


def test_a_run_says_at_its_start_that_the_peak_is_never_reached_and_that_k_is_too_large(tmp_path: Path) -> None:
    notes = runs.Notes()
    settings = ("epochs=1", "schedule.warmup_epochs=10", "method.num_negatives=70", "evaluation.linear=false")
    runs.start(runs.short("moco", *settings), tmp_path, notes)
    assert notes.texts[:2] == [
        "caution: the warm-up of 10 epochs (schedule.warmup_epochs) does not end within the run of 1 epoch, so the "
        "peak learning rate is never reached",
        "caution: method.num_negatives is 70, not less than the 70 training images, so negatives are not all of "
        "different images, and a queue holds old keys of the query's own",
    ]


def test_quiet_hides_no_caution(capsys: pytest.CaptureFixture[str]) -> None:
    with displayed(quiet=True) as loggers:
        for text in ("caution: odd", "left out: 3 .heic files", "training is done"):
            loggers[0].note(text)
    assert capsys.readouterr().err == "caution: odd\nleft out: 3 .heic files\n"


def test_a_resume_that_stretches_the_schedule_says_so(tmp_path: Path) -> None:
    """The run has no record of its data, as one of an earlier version, so that images may have been added."""
    root, output = image_folder(tmp_path / "images", train=44), tmp_path / "out"
    with pytest.raises(Interrupted):
        runs.start(of_folder(root), output, runs.StopAt(5))
    run = runs.folder(of_folder(root), output)
    run.data.unlink()
    image_folder(root, train=64)
    notes = runs.Notes()
    runs.start(of_folder(root), output, notes)
    assert [text for text in notes.texts if "epochs had 4 and 6 steps, since the run was resumed with anot" in text]
    paces = {row["step"] / row["epoch"] for row in map(json.loads, run.metrics.open()) if row["kind"] == "epoch"}
    assert len(paces) > 1
