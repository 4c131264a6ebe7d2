"""From a study's space to runs, and from their scores to a study file with the best settings."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from negbench.records.files import storage_error, write_atomically, write_json
from negbench.records.locks import exclusive
from negbench.records.tunings import (
    TUNING_SCHEMA_VERSION,
    TUNINGS,
    PlannedMethod,
    PlannedTrial,
    Tuning,
    TuningRecord,
    read_record,
)
from negbench.runtime.errors import UserError
from negbench.settings.grid import Planned
from negbench.settings.keys import is_scientific, leaves, name_of, parse_override, read_yaml, unflatten
from negbench.settings.resolve import resolve
from negbench.settings.space import draw, read_space
from negbench.settings.study import block_of, read_study

OFF = ("evaluation.test=false",)  # the test set plays no part
REFUSED = {
    "evaluation.test": "settings are chosen without the test set, always",
    "seed": "--seed is that of the draw and of every trial",
    "study": "trials belong to the study that they are drawn from",
}


def plan_trials(
    methods: Sequence[str], study: str, settings: Sequence[str], num_trials: int, seed: int
) -> tuple[TuningRecord, list[Planned]]:
    """Return the content of `tuning.json`, and the runs: each method's first trial, then each second, and so on.

    UserError for the user's mistakes.
    """
    keys = [parse_override(text)[0] for text in settings]
    for key, reason in REFUSED.items():
        if key in keys:
            raise UserError(f"--set {key}: {reason}")
    planned: dict[str, list[Planned]] = {}
    record: dict[str, PlannedMethod] = {}
    for method in methods:
        first = resolve(method, study, settings, seed)
        name = first.method_file.name
        if name in record:
            raise UserError(f"--methods names {name} twice: {','.join(methods)}")
        space = read_space(first, methods)
        trials = draw(space, num_trials, seed, name)
        drawn = [tuple(f"{key}={json.dumps(value)}" for key, value in values.items()) for values in trials]
        planned[name] = [
            Planned(resolve(method, study, overrides, seed), method, study, overrides)
            for overrides in ((*settings, *texts, *OFF) for texts in drawn)
        ]
        ids = [run.resolved.run_id for run in planned[name]]
        if len(set(ids)) < len(ids):
            raise UserError(f"{first.study_file}: tuning draws values for {name} that mean the same, as 0.1 and '1e-1'")
        file = str(first.method_file.path) if first.method_file.module is None else None
        of_method = [PlannedTrial(run_id=run_id, values=values) for run_id, values in zip(ids, trials, strict=True)]
        record[name] = PlannedMethod(space=space, trials=of_method, file=file)
    config = first.config
    if not config.data.validation or not config.evaluate_every_epochs:
        missing = "evaluate_every_epochs" if config.data.validation else "data.validation"
        raise UserError(f"{missing} is 0, so there is no accuracy on held-out images to choose by")
    scientific = {key for key, field in leaves(type(config)) if is_scientific(field)}
    base = json.dumps(read_study(first.study_file).base, sort_keys=True, default=str)
    return (
        TuningRecord(
            schema_version=TUNING_SCHEMA_VERSION,
            study=config.study,
            base=hashlib.sha256(base.encode()).hexdigest()[:8],
            track=config.track,
            seed=seed,
            settings=[text for text, key in zip(settings, keys, strict=True) if key in scientific],
            epochs=config.epochs,
            validation=config.data.validation,
            num_images=config.data.num_images,
            methods=record,
        ),
        [run for rung in zip(*planned.values(), strict=True) for run in rung],
    )


def joined(folder: Path, new: TuningRecord) -> TuningRecord:
    """Return `new` with what `folder` holds already: other methods, or more trials of the same.

    UserError if `folder` holds a tuning by other settings.
    """
    if not TUNINGS.has(folder):
        return new
    old = read_record(folder)
    other = f"{folder} holds trials of"
    for name in ("settings", "seed", "epochs", "track", "study"):
        if getattr(old, name) != getattr(new, name):
            values = f"{getattr(old, name)!r}, not {getattr(new, name)!r}"
            raise UserError(f"{other} {name} {values}; choose another --output")
    if old.base != new.base:
        raise UserError(f"{other} another version of the study {new.study}; choose another --output")
    methods = dict(old.methods)
    for name, planned in new.methods.items():
        known = methods.setdefault(name, planned)
        if any(a != b for a, b in zip(known.trials, planned.trials, strict=False)) or known.space != planned.space:
            raise UserError(f"{other} {name} by another version of the study; choose another --output")
        if len(planned.trials) > len(known.trials):
            methods[name] = planned
    return new.model_copy(update={"methods": methods})


def write_joined(folder: Path, new: TuningRecord) -> None:
    """Write `new` with what the folder holds by now. Several calls of one tuning, as for other methods, take turns."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / ".lock", f"writes {TUNINGS.record} in {folder}"):
            write_json(folder / TUNINGS.record, joined(folder, new).model_dump())
    except OSError as error:
        raise storage_error(folder / TUNINGS.record, error, "no trial has been started") from None


def tuned_study(study_file: Path, tuning: Tuning) -> str:
    """Return the study with each method's best settings in its `per_method` block, as YAML."""
    blocks = dict(read_study(study_file).per_method)
    for method in tuning.methods:
        if method.best:
            block = block_of(blocks, method.method) | method.best.values
            blocks = {name: known for name, known in blocks.items() if name_of(name) != method.method}
            blocks[tuning.record.methods[method.method].file or method.method] = block
    raw = read_yaml(study_file)
    raw["per_method"] = {name: unflatten(block) for name, block in blocks.items()}
    made = [
        f"# {tuning.study} with the best of random trials for each method, by kNN (k = 20) on the held-out images",
        f"# after {tuning.record.epochs} epochs, seed {tuning.record.seed}. Written by `negbench tune`.",
    ]
    if tuning.record.settings:
        made.append(f"# All trials had --set {' --set '.join(tuning.record.settings)}.")
    for method in tuning.methods:
        if method.best:
            number = method.trials.index(method.best) + 1
            made.append(f"# {method.method}: trial {number} of {len(method.trials)}, {method.best.score:.1%}")
    return "\n".join(made) + "\n" + yaml.safe_dump(raw, sort_keys=False, default_flow_style=None, width=120)


def write_tuned_study(study_file: Path, tuning: Tuning) -> Path:
    """Write the tuned study beside the trials and return its path. `StorageError` if that fails."""
    path = tuning.path / f"{study_file.stem.removesuffix('-tuned')}-tuned.yaml"
    try:
        write_atomically(path, tuned_study(study_file, tuning))
    except OSError as error:
        raise storage_error(path, error, "all trials are kept, and the same command writes it") from None
    return path
