"""Evaluation on the test set: of a run at its end, of a run folder's newest checkpoint, or of an encoder in a file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import yaml

from negbench.data.load import RunData, load_data
from negbench.evaluate.curve import highest
from negbench.evaluate.protocols.common.baselines import without_network
from negbench.evaluate.request import Request, import_protocol, make_record, make_requests
from negbench.evaluate.source import SECTIONS, Source
from negbench.evaluate.subject import Progress, Subject, silent
from negbench.models.encoder import Encoder, build_encoder, prepare
from negbench.models.files.layout import NoProjector
from negbench.records.checks.consistency import EVALUATION
from negbench.records.checks.manifest import write_manifest
from negbench.records.checks.same import check_data
from negbench.records.files import write_atomically, write_json
from negbench.records.forms import read_form, readable
from negbench.records.run_folder import RunFolder
from negbench.runtime import environment
from negbench.runtime.errors import UserError
from negbench.settings.plugins.protocols import PROTOCOLS, check_track, of_every_epoch
from negbench.settings.schema import SharedConfig
from negbench.settings.steps import steps_per_epoch


def protocols_of(config: SharedConfig) -> list[str]:
    """Return the protocols that the end of a run evaluates."""
    settings = config.evaluation
    return ["knn", *(["linear"] if settings.linear else []), *settings.protocols] if settings.test else []


def evaluate_on_test(
    data: RunData,
    encoder: Encoder,
    protocols: Sequence[str],
    epoch: float = 0,
    rows: Sequence[dict[str, Any]] = (),
    requests: Mapping[str, Request] | None = None,
    progress: Progress = silent,
    done: Callable[[str, dict[str, Any]], None] = lambda name, evaluation: None,
    before: Encoder | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the figures of the trained `encoder`, of the untrained one and, for kNN, of features without a network.

    The untrained one is `before`, by default the study's.

    For protocols of every epoch `epoch` is the trained encoder's, and `rows` are the run's records of earlier epochs.
    Protocols with settings need their `requests`. `done(name, evaluation)` is called after each protocol.
    """
    requests = requests or {}
    evaluations: dict[str, dict[str, Any]] = {name: {} for name in protocols}
    selecting = [protocol.name for protocol in of_every_epoch(protocols)]
    compared = [name for name in protocols if name not in selecting and PROTOCOLS[name].untrained]
    compared = compared if data.config.evaluation.untrained else []
    if "knn" in protocols:
        evaluations["knn"]["without_network"] = without_network(data.splits, data.config)
    trained = Subject(data, encoder, progress)
    for name in protocols:
        record = make_record(PROTOCOLS[name], trained, requests.get(name))
        evaluations[name]["trained"] = highest(record, epoch, rows) if name in selecting else record
        if name not in compared:
            done(name, evaluations[name])
    del trained  # and its features
    if compared:
        untrained = Subject(data, (before or build_encoder(data.config)).to(data.device), progress)
        for name in compared:
            evaluations[name]["untrained"] = make_record(PROTOCOLS[name], untrained, requests.get(name))
            done(name, evaluations[name])
    return evaluations


def evaluate(
    source: Source,
    protocols: Sequence[str],
    device: torch.device,
    requests: Mapping[str, Request] | None = None,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, Any]]:
    """Evaluate the encoder of `source`, and write a file in `evaluations/` after each protocol.

    `requests` are those of `make_requests`, by default with published settings. The folder of an encoder in a file has
    `encoder.json`, `config.yaml` and `environment.json` too. UserError if it cannot be done, before time is spent.
    """
    requests = make_requests(protocols) if requests is None else requests
    config, folder = source.config, source.folder
    check_track(protocols, config.track)
    encoder = source.encoder.build()
    for name in protocols:
        import_protocol(name)
        if PROTOCOLS[name].projector and isinstance(encoder.projector, NoProjector):
            raise UserError(f"protocol {name} reads a projector's output, and {source.encoder.without_projector}")
    if source.step is None:
        folder.check_writable()
    else:
        with writing(folder):
            folder.evaluations.mkdir(exist_ok=True)
    for text in source.notes:
        note(text)
    data = load_data(config, device)
    for text in data.notes:
        note(text)
    own = [name for name in protocols if not PROTOCOLS[name].data]
    if own and not len(data.splits.test):
        where = config.data.root or config.data.name
        raise UserError(
            f"protocol {own[0]} needs images to test, and {where} has none; add them in folders val/CLASS, or test on "
            "other images by --protocol transfer --data DIR"
        )
    if own and len(data.splits.classes) < 2:
        where = config.data.root or config.data.name
        raise UserError(
            f"protocol {own[0]} needs two classes or more to tell apart, and {where} has "
            f"{len(data.splits.classes) or 'none'}; give each class a folder train/CLASS of its own, or test on other "
            "images by --protocol transfer --data DIR"
        )
    if source.step is not None:
        check_data(folder, data.record)
    untrained: dict[str, dict[str, Any]] = {}  # by protocol
    if source.step is not None and folder.read_summary().get("encoder_replaced"):
        note("the run's method trained an encoder of its own; the figures before training stay those of the run's end")
        data.config = config.model_copy(
            update={"evaluation": config.evaluation.model_copy(update={"untrained": False})}
        )
        untrained = _before_training(folder, protocols)
    encoder = prepare(encoder, config, device)
    epoch: float = 0
    if source.step is None:
        _describe(source, data)
    else:
        epoch = source.step / steps_per_epoch(len(data.splits.train), config.batch_size)
        epoch = int(epoch) if epoch.is_integer() else epoch

    def done(name: str, evaluation: dict[str, Any]) -> None:
        with writing(folder):
            write_evaluations(folder, {name: evaluation | source.facts | untrained.get(name, {})}, requests)

    try:
        return evaluate_on_test(data, encoder, protocols, epoch, folder.read_metrics(), requests, progress, done)
    except FloatingPointError as error:
        raise UserError(f"{source.encoder.file.path} cannot be evaluated: {error}") from None


def _before_training(folder: RunFolder, protocols: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the untrained part of each record that the run's end wrote, by protocol."""
    found: dict[str, dict[str, Any]] = {}
    for name in protocols:
        record = readable([], read_form, folder.evaluations / f"{name}.json", EVALUATION) or {}
        found[name] = {key: value for key, value in record.items() if key == "untrained"}
    return found


def write_evaluations(
    folder: RunFolder, evaluations: dict[str, dict[str, Any]], requests: Mapping[str, Request] | None = None
) -> None:
    """Write `evaluations/PROTOCOL.json` of each; a request's `stem` is the name of its file."""
    folder.evaluations.mkdir(exist_ok=True)
    files = {name: f"{stem_of(name, evaluation, requests or {})}.json" for name, evaluation in evaluations.items()}
    for name, file in files.items():
        write_json(folder.evaluations / file, evaluations[name])
    write_manifest(folder, [f"{folder.evaluations.name}/{file}" for file in files.values()])


def stem_of(name: str, evaluation: dict[str, Any], requests: Mapping[str, Request]) -> str:
    return requests[name].stem(evaluation["trained"]) if name in requests else name


@contextmanager
def writing(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder.evaluations}: {error.strerror}") from None


def _describe(source: Source, data: RunData) -> None:
    """Write what a file holds and how it is evaluated."""
    encoder, folder = source.encoder, source.folder
    found = {
        "bytes": encoder.file.path.stat().st_size,
        "model": encoder.model.model_dump(),
        "layout": encoder.layout.title,
        "head": sorted(encoder.head),
        "left_out": encoder.left_out,
    }
    sections = source.config.model_dump(mode="json", include=set(SECTIONS))
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_json(folder.path / "encoder.json", source.facts["encoder"] | found)
        write_atomically(folder.config, yaml.safe_dump(sections, sort_keys=False))
        write_json(folder.environment, environment.describe(data.device, 1, data.dtype))
        if data.record is not None:
            write_json(folder.data, data.record.model_dump(mode="json"))
    except OSError as error:
        raise UserError(f"cannot write to {folder.path}: {error.strerror}") from None
