"""Evaluation on the test set: of a run at its end, or of a run folder's newest checkpoint."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from negbench import checkpoint
from negbench.config import RunConfig
from negbench.data.sets import steps_per_epoch
from negbench.evaluate.curve import highest
from negbench.evaluate.protocol import without_network
from negbench.evaluate.registry import PROTOCOLS, check_track, of_every_epoch
from negbench.evaluate.request import Request, make_requests
from negbench.evaluate.subject import Subject, Tell, silent
from negbench.models import build_encoder
from negbench.records import RunFolder, write_json
from negbench.setup import Setup, set_up
from negbench.study import restore


def protocols_of(config: RunConfig[Any]) -> list[str]:
    """What the end of a run makes."""
    settings = config.evaluation
    return ["knn", *(["linear"] if settings.linear else []), *settings.protocols] if settings.test else []


def evaluate_on_test(
    setup: Setup,
    protocols: Sequence[str],
    epoch: float = 0,
    rows: Sequence[dict[str, Any]] = (),
    requests: Mapping[str, Request] | None = None,
    tell: Tell = silent,
    done: Callable[[str, dict[str, Any]], None] = lambda name, evaluation: None,
) -> dict[str, dict[str, Any]]:
    """The figures of the trained encoder, of the untrained one, and (for kNN) of features that need no network.

    Protocols of every epoch are told of the trained encoder, which is that of `epoch`, and of earlier epochs in the
    run's records `rows`. Protocols with settings need their `requests`. `done` is told of each protocol when it is.
    """
    requests = requests or {}
    evaluations: dict[str, dict[str, Any]] = {name: {} for name in protocols}
    selecting = [protocol.name for protocol in of_every_epoch(protocols)]
    compared = [name for name in protocols if name not in selecting and PROTOCOLS[name].untrained]
    compared = compared if setup.config.evaluation.untrained else []
    if "knn" in protocols:
        evaluations["knn"]["without_network"] = without_network(setup.splits, setup.config)
    trained = Subject(setup, setup.method.query_encoder, tell)
    for name in protocols:
        record = PROTOCOLS[name].record(trained, requests.get(name))
        evaluations[name]["trained"] = highest(record, epoch, rows) if name in selecting else record
        if name not in compared:
            done(name, evaluations[name])
    del trained  # and its features
    if compared:
        untrained = Subject(setup, build_encoder(setup.config).to(setup.device), tell)
        for name in compared:
            evaluations[name]["untrained"] = PROTOCOLS[name].record(untrained, requests.get(name))
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

    `requests` are those of `make_requests`, by default with published settings. ValueError if it cannot be done.
    """
    folder = RunFolder(path)
    if not folder.config.exists():
        raise ValueError(f"{path} is no run folder: it holds no config.yaml")
    requests = make_requests(protocols) if requests is None else requests
    resolved = restore(path)
    check_track(protocols, resolved.config.track)
    newest = checkpoint.find_whole(folder.checkpoints, warn)
    if newest is None:
        raise ValueError(f"{path} holds no checkpoint to evaluate; `negbench run` it first")
    with writing(folder):  # before days are spent on what cannot be written
        folder.evaluations.mkdir(exist_ok=True)
    setup = set_up(resolved, device)
    state = checkpoint.load(newest)
    try:
        setup.method.load_state_dict(state["method"])
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"checkpoint {newest} does not fit the method: {str(error).splitlines()[0]}") from None
    epoch = state["step"] / steps_per_epoch(len(setup.splits.train), setup.config.batch_size)
    epoch = int(epoch) if epoch.is_integer() else epoch

    def done(name: str, evaluation: dict[str, Any]) -> None:
        with writing(folder):
            write_evaluations(folder, {name: evaluation | {"step": state["step"]}}, requests)

    return evaluate_on_test(setup, protocols, epoch, folder.read_metrics(), requests, tell, done)


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
        raise ValueError(f"cannot write to {folder.evaluations}: {error.strerror}") from None
