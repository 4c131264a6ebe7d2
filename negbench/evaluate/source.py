"""What `negbench evaluate` is given: a run folder, of which it reads the newest checkpoint, or an encoder in a file."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from negbench.models.files.layout import FileEncoder, read_encoder, read_newest, run_of
from negbench.records.run import checkpoint
from negbench.records.run.config import read_settings
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from negbench.settings.keys import scientific_differences
from negbench.settings.resolve import resolve_shared
from negbench.settings.schema import SharedConfig

DEFAULT_STUDY = "quickstart"
SECTIONS = ("study", "track", "seed", "data", "views", "model", "precision", "evaluation")  # that evaluations read


@dataclass(frozen=True)
class Source:
    """An encoder, the settings of its evaluation, and the folder for the records."""

    encoder: FileEncoder
    config: SharedConfig
    folder: RunFolder
    facts: dict[str, Any]  # of the encoder, in each record
    step: int | None = None  # of the run
    notes: list[str] = field(default_factory=list)  # what the user should know


def run_source(path: Path, warn: Callable[[str], None] = warnings.warn, settings: Sequence[str] = ()) -> Source:
    """Return the encoder of a run's newest checkpoint, its data where `settings` say. UserError if there is none."""
    encoder, folder = read_newest(path, "evaluate", warn), RunFolder(path)
    config, _ = resolve_shared(_settings_in(folder), settings)
    step = checkpoint.step_of(encoder.file.content)
    return Source(encoder, config, folder, {"step": step}, step)


def file_source(path: Path, study: str | None, settings: Sequence[str], output: Path) -> Source:
    """Return the encoder in a file with the data of a study, and the folder `output`/encoder-NAME-HASH.

    The study is by default that of the run whose checkpoint it is, or quickstart. UserError if one cannot be used.
    """
    encoder = read_encoder(path)
    config = _config(encoder, study, settings)
    facts = {"encoder": {"file": str(path.absolute()), "sha256": encoder.file.sha256}}
    found = f"{encoder.describe()}; evaluated on {config.data.name}, as in study {config.study}"
    folder = RunFolder(output / _name(encoder, config))
    return Source(encoder, config, folder, facts, notes=[found, *_cautions(encoder, config)])


def _config(encoder: FileEncoder, study: str | None, settings: Sequence[str]) -> SharedConfig:
    """Return the study with the architecture of the file. UserError if a setting contradicts it.

    If the methods of the study have different views, MoCo's are taken.
    """
    run = run_of(encoder.file.path)
    default = DEFAULT_STUDY if run is None else _settings_in(run)
    config, origins = resolve_shared(study or default, settings, otherwise="moco")
    for key in ("name", "stem"):
        found, asked = getattr(encoder.model, key), getattr(config.model, key)
        if origins.get(f"model.{key}") == "--set" and asked != found:
            raise UserError(f"--set model.{key}={asked} contradicts {encoder.file.path}, whose weights are of {found}")
    return config.model_copy(update={"model": encoder.model})


def _settings_in(folder: RunFolder) -> str:
    """Return the path of a run's settings. `DamagedError` if they are not whole, and defaults would fill them up."""
    read_settings(folder.config)
    return str(folder.config)


def _name(encoder: FileEncoder, config: SharedConfig) -> str:
    """Return the file's name with a hash of its content, the data's folder and all that an evaluation depends on."""
    settings = {
        key: value for key, value in scientific_differences(config).items() if key.partition(".")[0] in SECTIONS
    }
    root = str(Path(config.data.root).expanduser().absolute()) if config.data.root else None
    content = json.dumps([encoder.file.sha256, settings, root], sort_keys=True)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", encoder.file.path.name.partition(".")[0]) or "file"
    return f"encoder-{stem}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _cautions(encoder: FileEncoder, config: SharedConfig) -> list[str]:
    """Return a sentence if the encoder was trained with another normalisation of images than here."""
    known, view = encoder.file.facts.get("normalisation"), config.views.first
    shown = {"mean": list(view.mean), "std": list(view.std)}
    if known is None or known == shown:
        return []
    settings = " ".join(f"--set 'views.first.{key}={json.dumps(known[key], separators=(',', ':'))}'" for key in shown)
    return [
        f"the encoder was trained on images with mean {known['mean']} and std {known['std']}, and here sees "
        f"them with {shown['mean']} and {shown['std']}; as trained: {settings}"
    ]
