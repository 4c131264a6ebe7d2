"""Evaluation on the test set: of a run at its end, or of a run folder's newest checkpoint."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from negbench import checkpoint
from negbench.config import RunConfig
from negbench.evaluate.protocol import Dataset, Features, extract, knn_protocol, linear_protocol, without_network
from negbench.models import build_encoder
from negbench.records import RunFolder, write_json
from negbench.setup import Setup, set_up
from negbench.study import restore

PROTOCOLS = ("knn", "linear")


def protocols_of(config: RunConfig[Any]) -> list[str]:
    """What the end of a run makes."""
    return [name for name in PROTOCOLS if config.evaluation.test and (name == "knn" or config.evaluation.linear)]


def encode(setup: Setup, backbone: nn.Module, part: Dataset) -> Features:
    return extract(backbone, part, setup.config, setup.device, setup.dtype, setup.skipped)


def evaluate_on_test(setup: Setup, protocols: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The figures of the trained encoder, of the untrained one, and (for kNN) of features that need no network."""
    config, splits = setup.config, setup.splits
    num_classes = len(splits.classes)
    evaluations: dict[str, dict[str, Any]] = {name: {} for name in protocols}
    if not protocols:
        return evaluations
    backbones = {"trained": setup.method.query_encoder.backbone}
    if config.evaluation.untrained:
        backbones["untrained"] = build_encoder(config).backbone.to(setup.device)
    for encoder, backbone in backbones.items():
        train, test = encode(setup, backbone, splits.train), encode(setup, backbone, splits.test)
        if "knn" in protocols:
            evaluations["knn"][encoder] = knn_protocol(train, test, config, num_classes)
        if "linear" in protocols:
            validation = encode(setup, backbone, splits.validation) if splits.validation is not None else None
            evaluations["linear"][encoder] = linear_protocol(train, validation, test, config, num_classes)
    if "knn" in protocols:
        evaluations["knn"]["without_network"] = without_network(splits, config)
    return evaluations


def evaluate_run(
    path: Path, protocols: Sequence[str], device: torch.device, warn: Callable[[str], None] = warnings.warn
) -> dict[str, dict[str, Any]]:
    """Evaluate a run folder's newest checkpoint, write `evaluations/PROTOCOL.json`. ValueError if it cannot be done."""
    folder = RunFolder(path)
    if not folder.config.exists():
        raise ValueError(f"{path} is no run folder: it holds no config.yaml")
    newest = checkpoint.find_whole(folder.checkpoints, warn)
    if newest is None:
        raise ValueError(f"{path} holds no checkpoint to evaluate; `negbench run` it first")
    setup = set_up(restore(path), device)
    state = checkpoint.load(newest)
    try:
        setup.method.load_state_dict(state["method"])
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"checkpoint {newest} does not fit the method: {str(error).splitlines()[0]}") from None
    evaluations = evaluate_on_test(setup, protocols)
    try:
        write_evaluations(folder, {name: e | {"step": state["step"]} for name, e in evaluations.items()})
    except OSError as error:
        raise ValueError(f"cannot write to {folder.evaluations}: {error.strerror}") from None
    return evaluations


def write_evaluations(folder: RunFolder, evaluations: dict[str, dict[str, Any]]) -> None:
    """`evaluations/PROTOCOL.json` for each."""
    folder.evaluations.mkdir(exist_ok=True)
    for name, evaluation in evaluations.items():
        write_json(folder.evaluations / f"{name}.json", evaluation)
