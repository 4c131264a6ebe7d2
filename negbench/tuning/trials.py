"""From a study's space to runs, and from their scores to a study file with the best settings."""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from negbench.launch.sweep import Planned
from negbench.records import write_atomically
from negbench.study import Flat, leaves, parse_override, read_study, read_yaml, resolve, unflatten
from negbench.tuning.record import (
    TUNING_SCHEMA_VERSION,
    PlannedMethod,
    PlannedTrial,
    Tuning,
    TuningRecord,
    is_tuning,
    read_record,
)
from negbench.tuning.space import draw, read_space

OFF = ("evaluation.test=false",)  # the test set plays no part


def plan_trials(
    methods: Sequence[str], study: str, settings: Sequence[str], num_trials: int, seed: int
) -> tuple[TuningRecord, list[Planned]]:
    """What `tuning.json` will say, and the runs: the first trial of each method, then the second. ValueError for the
    user's mistakes."""
    if len(set(methods)) < len(methods):
        raise ValueError(f"--methods names a method twice: {','.join(methods)}")
    if any(text.partition("=")[0] == "evaluation.test" for text in settings):
        raise ValueError("--set evaluation.test: settings are chosen without the test set, always")
    planned: dict[str, list[Planned]] = {}
    record: dict[str, PlannedMethod] = {}
    for method in methods:
        first = resolve(method, study, settings, seed)
        space = read_space(first)
        name = first.method_file.name
        trials = []
        planned[name] = []
        for values in draw(space, num_trials, seed, name):
            overrides = (*settings, *OFF, *(f"{key}={json.dumps(value)}" for key, value in values.items()))
            run = Planned(resolve(method, study, overrides, seed), method, study, overrides)
            planned[name].append(run)
            trials.append(PlannedTrial(run_id=run.resolved.run_id, values=values))
        record[name] = PlannedMethod(space=space, trials=trials)
    config = first.config
    scientific = [key for key, field in leaves(type(config)) if (field.json_schema_extra or {}).get("scientific", True)]
    if not config.data.validation or not config.evaluate_every_epochs:
        missing = "evaluate_every_epochs" if config.data.validation else "data.validation"
        raise ValueError(f"{missing} is 0, so there is no accuracy on held-out images to choose by")
    return (
        TuningRecord(
            schema_version=TUNING_SCHEMA_VERSION,
            study=config.study,
            track=config.track,
            seed=seed,
            settings=[text for text in settings if parse_override(text)[0] in scientific],
            epochs=config.epochs,
            validation=config.data.validation,
            num_images=config.data.num_images,
            methods=record,
        ),
        [run for rung in zip(*planned.values(), strict=True) for run in rung],
    )


def joined(folder: Path, new: TuningRecord) -> TuningRecord:
    """`new` with what `folder` holds already: other methods, or more trials of the same.

    ValueError if that is a tuning by other settings.
    """
    if not is_tuning(folder):
        return new
    old = read_record(folder)
    other = f"{folder} holds trials of"
    for name in ("settings", "seed", "epochs", "validation", "track", "study"):
        if getattr(old, name) != getattr(new, name):
            raise ValueError(
                f"{other} {name} {getattr(old, name)!r}, not {getattr(new, name)!r}; choose another --output"
            )
    methods = dict(old.methods)
    for name, planned in new.methods.items():
        known = methods.setdefault(name, planned)
        if any(a != b for a, b in zip(known.trials, planned.trials, strict=False)) or known.space != planned.space:
            raise ValueError(f"{other} {name} by another version of the study; choose another --output")
        if len(planned.trials) > len(known.trials):
            methods[name] = planned
    return new.model_copy(update={"methods": methods})


def tuned_study(study_file: Path, tuning: Tuning) -> str:
    """The study with each method's best settings in its `per_method` block, as YAML."""
    raw = read_yaml(study_file)
    raw["per_method"] = {name: unflatten(block) for name, block in _blocks(study_file, tuning).items()}
    made = [
        f"# {tuning.study} with the best of random trials for each method, by kNN (k = 20) on the held-out images",
        f"# after {tuning.record.epochs} epochs, seed {tuning.record.seed}. Written by `negbench tune`.",
    ]
    for method in tuning.methods:
        if method.best:
            number = method.trials.index(method.best) + 1
            made.append(f"# {method.method}: trial {number} of {len(method.trials)}, {method.best.score:.1%}")
    return "\n".join(made) + "\n" + yaml.safe_dump(raw, sort_keys=False, default_flow_style=None, width=120)


def write_tuned_study(study_file: Path, tuning: Tuning) -> Path:
    path = tuning.path / f"{study_file.stem.removesuffix('-tuned')}-tuned.yaml"
    write_atomically(path, tuned_study(study_file, tuning))
    return path


def _blocks(study_file: Path, tuning: Tuning) -> dict[str, Flat]:
    blocks = dict(read_study(study_file).per_method)
    for method in tuning.methods:
        if method.best:
            blocks[method.method] = blocks.get(method.method, {}) | method.best.values
    return blocks
