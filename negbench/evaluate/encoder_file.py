"""Evaluation on the test set of an encoder in a file: another's, or one of our checkpoints."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from negbench import environment
from negbench.encoders.layout import FileEncoder, NoProjector, read_encoder, run_of
from negbench.evaluate.registry import PROTOCOLS, check_track
from negbench.evaluate.request import Request, make_requests
from negbench.evaluate.subject import Tell, silent
from negbench.evaluate.test_set import evaluate_on_test, write_evaluations, writing
from negbench.method import Method
from negbench.records import RunFolder, write_atomically, write_json
from negbench.registry import find_study
from negbench.setup import prepare, set_up
from negbench.study import Resolved, read_yaml, resolve, scientific_differences

DEFAULT_STUDY = "quickstart"
_SECTIONS = ("study", "track", "seed", "data", "views", "model", "precision", "evaluation")  # that evaluations read


def evaluate_file(
    path: Path,
    protocols: Sequence[str],
    study: str | None,
    settings: Sequence[str],
    output: Path,
    device: torch.device,
    note: Callable[[str], None],
    requests: Mapping[str, Request] | None = None,
    tell: Tell = silent,
) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Evaluate the encoder in a file on the data of a study, and record it in `output`/encoder-NAME-HASH.

    Without a study that of the run whose checkpoint it is, else quickstart. The folder has `encoder.json`,
    `config.yaml`, `environment.json` and `evaluations/PROTOCOL.json` with the file's SHA-256. ValueError if it cannot
    be done, before time is spent.
    """
    requests = make_requests(protocols) if requests is None else requests
    encoder = read_encoder(path)
    resolved = _resolved(encoder, study, settings)
    check_track(protocols, resolved.config.track)
    built = encoder.build()
    for name in protocols:
        if PROTOCOLS[name].projector and isinstance(built.projector, NoProjector):
            raise ValueError(f"protocol {name} reads a projector's output, and {encoder.without_projector}")
    folder = RunFolder(output / _name(encoder, resolved))
    folder.check_writable()
    note(f"{encoder.describe()}; evaluated on {resolved.config.data.name}, as in study {resolved.config.study}")
    for text in _cautions(encoder, resolved):
        note(text)

    def method(resolved: Resolved, num_images: int, device: torch.device, dtype: torch.dtype | None) -> Method:
        return prepare(Method(built, ((0, 1),)), resolved.config, device)

    setup = set_up(resolved, device, method)
    facts = {"file": str(path.absolute()), "sha256": encoder.file.sha256}
    found = {
        "model": encoder.model.model_dump(),
        "layout": encoder.layout.title,
        "head": sorted(encoder.head),
        "left_out": encoder.left_out,
    }
    sections = resolved.config.model_dump(mode="json", include=set(_SECTIONS))
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_json(folder.path / "encoder.json", facts | {"bytes": path.stat().st_size} | found)
        write_atomically(folder.config, yaml.safe_dump(sections, sort_keys=False))
        write_json(folder.environment, environment.describe(device, 1, setup.dtype))
    except OSError as error:
        raise ValueError(f"cannot write to {folder.path}: {error.strerror}") from None

    def done(name: str, evaluation: dict[str, Any]) -> None:
        with writing(folder):
            write_evaluations(folder, {name: {"encoder": facts} | evaluation}, requests)

    return folder.path, evaluate_on_test(setup, protocols, requests=requests, tell=tell, done=done)


def _resolved(encoder: FileEncoder, study: str | None, settings: Sequence[str]) -> Resolved:
    """The study with the architecture of the file. ValueError if a setting contradicts it."""
    run, method = run_of(encoder.file.path), None
    if study is None and run is not None:
        study = str(run.config)
        method = str(run.method) if run.method.exists() else None
    elif not _names_a_method(study or DEFAULT_STUDY):
        method = "moco"  # or any: no evaluation depends on it
    resolved = resolve(method, study or DEFAULT_STUDY, settings)
    for key in ("name", "stem"):
        found, asked = getattr(encoder.model, key), getattr(resolved.config.model, key)
        if resolved.origins.get(f"model.{key}") == "--set" and asked != found:
            raise ValueError(f"--set model.{key}={asked} contradicts {encoder.file.path}, whose weights are of {found}")
    return dataclasses.replace(resolved, config=resolved.config.model_copy(update={"model": encoder.model}))


def _names_a_method(study: str) -> bool:
    raw = read_yaml(find_study(study))
    return "method" in raw or len(raw.get("per_method") or {}) == 1


def _name(encoder: FileEncoder, resolved: Resolved) -> str:
    """Of the file, and a hash of its content and of all settings that an evaluation can depend on, the folder too."""
    config = resolved.config
    settings = {
        key: value for key, value in scientific_differences(config).items() if key.partition(".")[0] in _SECTIONS
    }
    root = str(Path(config.data.root).expanduser().absolute()) if config.data.root else None
    content = json.dumps([encoder.file.sha256, settings, root], sort_keys=True)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", encoder.file.path.name.partition(".")[0]) or "file"
    return f"encoder-{stem}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _cautions(encoder: FileEncoder, resolved: Resolved) -> list[str]:
    """Where what is known of the encoder's training differs from how it is shown images here."""
    known, view = encoder.file.facts.get("normalisation"), resolved.config.views.first
    shown = {"mean": list(view.mean), "std": list(view.std)}
    if known is None or known == shown:
        return []
    settings = " ".join(f"--set 'views.first.{key}={json.dumps(known[key], separators=(',', ':'))}'" for key in shown)
    return [
        f"the encoder was trained on images with mean {known['mean']} and std {known['std']}, and here sees "
        f"them with {shown['mean']} and {shown['std']}; as trained: {settings}"
    ]
