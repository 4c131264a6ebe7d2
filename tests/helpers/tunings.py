"""Tunings as `negbench tune` would have left them, with scores that a test chooses."""

from collections.abc import Sequence
from pathlib import Path

from negbench.launch.sweep.tuning import plan_trials, write_joined
from negbench.records.tunings import TUNING_SCHEMA_VERSION, PlannedMethod, PlannedTrial, TuningRecord
from negbench.settings.space import Space, draw
from tests.helpers import records


def study_file(folder: Path, text: str, more: str = "") -> Path:
    return records.study(folder, "tuned", f"{more}tuning:\n{text}")


def finished(output: Path, study: Path, scores: dict[str, Sequence[float | None]]) -> Path:
    """A finished tuning, as `negbench tune` would have left it."""
    folder = output / "tuned-tuning"
    methods = {}
    for method, of_method in scores.items():
        space: Space = {"optimizer.lr": [0.1, 0.2, 0.4, 0.8]}
        trials = []
        for score, values in zip(of_method, draw(space, len(of_method), 0, method), strict=True):
            settings = ("evaluation.test=false", f"optimizer.lr={values['optimizer.lr']}")
            told = {"knn_top1": None, "knn_top1_untrained": None}
            run = (
                records.write(folder, study, method, 0, 0, *settings, curve=[score] * 5, summary=told)
                if score is not None
                else records.write(
                    folder, study, method, 0, 0, *settings, state="failed", error="the loss is not finite"
                )
            )
            trials.append(PlannedTrial(run_id=run.path.name, values=values))
        methods[method] = PlannedMethod(space=space, trials=trials)
    write_joined(
        folder,
        TuningRecord(
            schema_version=TUNING_SCHEMA_VERSION,
            study="tuned",
            base=plan_trials(list(scores), str(study), [], 1, 0)[0].base,
            track="controlled",
            seed=0,
            settings=[],
            epochs=4,
            validation=0.1,
            num_images=None,
            methods=methods,
        ),
    )
    return folder
