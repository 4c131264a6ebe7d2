"""Evaluation on the test set: of a run at its end, of a run folder's newest checkpoint, or of an encoder in a file."""

import dataclasses
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from negbench.contrast.build import build_method, prepare
from negbench.data.load import Surroundings, load_data
from negbench.evaluate.curve import highest
from negbench.evaluate.protocols.common.baselines import without_network
from negbench.evaluate.request import Request, make_record, make_requests
from negbench.evaluate.subject import Evaluated, Subject, Tell, silent
from negbench.models.encoder import build_encoder
from negbench.models.files.layout import FileEncoder, NoProjector, read_encoder, run_of
from negbench.records import checkpoint
from negbench.records.files import write_atomically, write_json
from negbench.records.run_folder import RunFolder
from negbench.runtime import environment
from negbench.runtime.errors import UserError
from negbench.settings.keys import read_yaml, scientific_differences
from negbench.settings.plugins import find_study
from negbench.settings.protocols import PROTOCOLS, check_track, of_every_epoch
from negbench.settings.resolve import Resolved, resolve, restore
from negbench.settings.schema import RunConfig
from negbench.settings.steps import steps_per_epoch

DEFAULT_STUDY = "quickstart"
_SECTIONS = ("study", "track", "seed", "data", "views", "model", "precision", "evaluation")  # that evaluations read


def protocols_of(config: RunConfig[Any]) -> list[str]:
    """What the end of a run makes."""
    settings = config.evaluation
    return ["knn", *(["linear"] if settings.linear else []), *settings.protocols] if settings.test else []


def evaluate_on_test(
    data: Surroundings,
    encoder: Evaluated,
    protocols: Sequence[str],
    epoch: float = 0,
    rows: Sequence[dict[str, Any]] = (),
    requests: Mapping[str, Request] | None = None,
    tell: Tell = silent,
    done: Callable[[str, dict[str, Any]], None] = lambda name, evaluation: None,
) -> dict[str, dict[str, Any]]:
    """The figures of the trained `encoder`, of the untrained one, and (for kNN) of features that need no network.

    Protocols of every epoch are told of the trained encoder, which is that of `epoch`, and of earlier epochs in the
    run's records `rows`. Protocols with settings need their `requests`. `done` is told of each protocol when it is.
    """
    requests = requests or {}
    evaluations: dict[str, dict[str, Any]] = {name: {} for name in protocols}
    selecting = [protocol.name for protocol in of_every_epoch(protocols)]
    compared = [name for name in protocols if name not in selecting and PROTOCOLS[name].untrained]
    compared = compared if data.config.evaluation.untrained else []
    if "knn" in protocols:
        evaluations["knn"]["without_network"] = without_network(data.splits, data.config)
    trained = Subject(data, encoder, tell)
    for name in protocols:
        record = make_record(PROTOCOLS[name], trained, requests.get(name))
        evaluations[name]["trained"] = highest(record, epoch, rows) if name in selecting else record
        if name not in compared:
            done(name, evaluations[name])
    del trained  # and its features
    if compared:
        untrained = Subject(data, build_encoder(data.config).to(data.device), tell)
        for name in compared:
            evaluations[name]["untrained"] = make_record(PROTOCOLS[name], untrained, requests.get(name))
            done(name, evaluations[name])
    return evaluations


def evaluate_run(
    path: Path,
    protocols: Sequence[str],
    device: torch.device,
    warn: Callable[[str], None] = warnings.warn,
    requests: Mapping[str, Request] | None = None,
    tell: Tell = silent,
) -> dict[str, dict[str, Any]]:
    """Evaluate a run folder's newest checkpoint, and write a file in `evaluations/` for each protocol that is done.

    `requests` are those of `make_requests`, by default with published settings. UserError if it cannot be done.
    """
    folder = RunFolder(path)
    if not folder.config.exists():
        raise UserError(f"{path} is no run folder: it holds no config.yaml")
    requests = make_requests(protocols) if requests is None else requests
    resolved = restore(path)
    check_track(protocols, resolved.config.track)
    newest = checkpoint.find_whole(folder.checkpoints, warn)
    if newest is None:
        raise UserError(f"{path} holds no checkpoint to evaluate; `negbench run` it first")
    with writing(folder):  # before days are spent on what cannot be written
        folder.evaluations.mkdir(exist_ok=True)
    data = load_data(resolved, device)
    method = build_method(resolved, len(data.splits.train), device, data.dtype)
    state = checkpoint.load(newest)
    try:
        method.load_state_dict(state["method"])
    except (KeyError, RuntimeError) as error:
        raise UserError(f"checkpoint {newest} does not fit the method: {str(error).splitlines()[0]}") from None
    epoch = state["step"] / steps_per_epoch(len(data.splits.train), data.config.batch_size)
    epoch = int(epoch) if epoch.is_integer() else epoch

    def done(name: str, evaluation: dict[str, Any]) -> None:
        with writing(folder):
            write_evaluations(folder, {name: evaluation | {"step": state["step"]}}, requests)

    encoder, rows = method.query_encoder, folder.read_metrics()
    return evaluate_on_test(data, encoder, protocols, epoch, rows, requests, tell, done)


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
    `config.yaml`, `environment.json` and `evaluations/PROTOCOL.json` with the file's SHA-256. UserError if it cannot
    be done, before time is spent.
    """
    requests = make_requests(protocols) if requests is None else requests
    encoder = read_encoder(path)
    resolved = _resolved(encoder, study, settings)
    check_track(protocols, resolved.config.track)
    built = encoder.build()
    for name in protocols:
        if PROTOCOLS[name].projector and isinstance(built.projector, NoProjector):
            raise UserError(f"protocol {name} reads a projector's output, and {encoder.without_projector}")
    folder = RunFolder(output / _name(encoder, resolved))
    folder.check_writable()
    note(f"{encoder.describe()}; evaluated on {resolved.config.data.name}, as in study {resolved.config.study}")
    for text in _cautions(encoder, resolved):
        note(text)
    data = load_data(resolved, device)
    built = prepare(built, resolved.config, device)
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
        write_json(folder.environment, environment.describe(device, 1, data.dtype))
    except OSError as error:
        raise UserError(f"cannot write to {folder.path}: {error.strerror}") from None

    def done(name: str, evaluation: dict[str, Any]) -> None:
        with writing(folder):
            write_evaluations(folder, {name: {"encoder": facts} | evaluation}, requests)

    return folder.path, evaluate_on_test(data, built, protocols, requests=requests, tell=tell, done=done)


def write_evaluations(
    folder: RunFolder, evaluations: dict[str, dict[str, Any]], requests: Mapping[str, Request] | None = None
) -> None:
    """`evaluations/PROTOCOL.json` for each; where there is a request, its `stem` for the name."""
    folder.evaluations.mkdir(exist_ok=True)
    for name, evaluation in evaluations.items():
        write_json(folder.evaluations / f"{stem_of(name, evaluation, requests or {})}.json", evaluation)


def stem_of(name: str, evaluation: dict[str, Any], requests: Mapping[str, Request]) -> str:
    return requests[name].stem(evaluation["trained"]) if name in requests else name


@contextmanager
def writing(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder.evaluations}: {error.strerror}") from None


def _resolved(encoder: FileEncoder, study: str | None, settings: Sequence[str]) -> Resolved:
    """The study with the architecture of the file. UserError if a setting contradicts it."""
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
            raise UserError(f"--set model.{key}={asked} contradicts {encoder.file.path}, whose weights are of {found}")
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
