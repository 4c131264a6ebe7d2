"""`summary.json`: every key once, with its unit, meaning and type. Imports no torch.

`train.summarize` writes the keys, `records.outcome` the last three; docs/measured.md lists them from here.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, create_model

from negbench.records.forms import Amount, Fraction, Plain, Positive, Quantity, Record, Whole
from negbench.settings.plugins.protocols import NAMED, PROTOCOLS

LOADER_BOUND_SHARE = 0.05  # of the training time spent waiting for data


@dataclass(frozen=True)
class Field:
    """A key of the summary. Any may be null in an unfinished run, those that `may_be_unknown` in a finished one too."""

    meaning: str
    unit: str = ""
    may_be_unknown: bool = False
    needed: bool = False  # a number without which reports do not use the run
    place: tuple[str, ...] = ()  # of an accuracy: protocol, and the keys within its evaluation
    type: Any = str  # where it is known


def _top1(meaning: str, *place: str, needed: bool = False) -> Field:
    return Field(meaning, "fraction", may_be_unknown=True, needed=needed, place=place, type=Fraction)


def _cost(meaning: str, unit: str, may_be_unknown: bool = False) -> Field:
    return Field(meaning, unit, may_be_unknown, needed=True, type=Quantity)


class Ending(Record):
    kind: str | None = None
    signal: str | None = None


FIELDS: Mapping[str, Field] = {
    "schema_version": Field("version of this record's form", type=Amount),
    "run_id": Field("name of the run's folder"),
    "study": Field("name of the study"),
    "method": Field("name of the method"),
    "seed": Field("seed of the run", type=Whole),
    "label": Field("method and changed settings, for people"),
    "changed": Field(
        "settings that can change a result and that the command set on top of the study, by key", type=dict[str, Plain]
    ),
    "track": Field("controlled or recipe"),
    "restarts": Field("attempts before the last one", type=Amount),
    "epochs": Field("length of the whole run", "epochs", type=Positive),
    "steps": Field("steps trained", "steps", type=Amount),
    "world_size": Field("processes of the last attempt", "processes", type=Positive),
    "world_sizes": Field(
        "processes of all attempts; with several the run is not bitwise as undisturbed",
        "processes",
        type=list[Positive],
    ),
    "num_images": _cost("images of the training set, held-out ones included", "images"),
    "num_classes": _cost("classes of the data set", "classes"),
    "num_negatives": Field("setting of that name, for methods that have it", may_be_unknown=True, type=Plain),
    "negatives_per_query": _cost("mean over the queries of the first step", "negatives", may_be_unknown=True),
    "views_per_step": _cost("views that are back-propagated in a step, of all processes", "views"),
    "knn_top1": _top1("kNN, k = 20, on the test set", "knn", "trained", "top1", "20", needed=True),
    "knn200_top1": _top1("kNN, k = 200, on the test set", "knn", "trained", "top1", "200", needed=True),
    "linear_top1": _top1("linear probe on the test set", "linear", "trained", "top1", needed=True),
    "knn_top1_untrained": _top1("as knn_top1, of the untrained encoder", "knn", "untrained", "top1", "20"),
    "knn200_top1_untrained": _top1("as knn200_top1, of the untrained encoder", "knn", "untrained", "top1", "200"),
    "linear_top1_untrained": _top1("as linear_top1, of the untrained encoder", "linear", "untrained", "top1"),
    "knn_top1_pixels": _top1("kNN, k = 20, on raw pixels", "knn", "without_network", "pixels"),
    "knn_top1_histogram": _top1("kNN, k = 20, on colour histograms", "knn", "without_network", "histogram"),
    "knn_top1_validation": _top1("kNN, k = 20, on held-out images at the last step", needed=True),
    "train_seconds": _cost("training, waiting for data included", "s"),
    "eval_seconds": _cost("evaluations", "s"),
    "checkpoint_seconds": _cost("writing checkpoints", "s"),
    "data_wait_seconds": Field("waiting for data, of the process that waited longest", "s", type=Quantity),
    "lost_seconds": _cost("training after a checkpoint from which the run was resumed, done again", "s"),
    "device_hours": _cost("training time the number of devices", "h"),
    "energy_joules": _cost("energy of all GPUs in training", "J", may_be_unknown=True),
    "data_wait_share": _cost("data_wait_seconds in train_seconds", "fraction", may_be_unknown=True),
    "loader_bound": Field(f"whether data_wait_share is above {LOADER_BOUND_SHARE}", type=bool),
    "epoch_seconds_median": Field("median epoch, as train_seconds", "s", may_be_unknown=True, type=Quantity),
    "images_per_second": _cost("speed of the median step", "images/s", may_be_unknown=True),
    "views_per_second": _cost("views back-propagated, at that speed", "views/s", may_be_unknown=True),
    "peak_memory_bytes": _cost("memory taken by tensors, by the process on a CPU", "bytes", may_be_unknown=True),
    "peak_reserved_bytes": _cost("memory held by the GPU's allocator", "bytes", may_be_unknown=True),
    "encoder_replaced": Field("whether the method trained another encoder than the study's", type=bool),
    "constant_features": Field(
        "whether the encoder gives all images the same features, so that its accuracies tell nothing of them",
        may_be_unknown=True,
        type=bool,
    ),
    "parameters": Field("trainable parameters", "parameters", type=Amount),
    "source_state_bytes": _cost("state of the negatives' sources", "bytes"),
    "communicated_bytes_per_step": Field("received by a process, by purpose", "bytes", type=dict[str, Amount]),
    "skipped_files": Field("files that cannot be decoded", "files", type=Amount),
    "device": Field("model of the GPU, or of the CPU with the threads used"),
    "torch_version": Field("version of PyTorch"),
    "git_revision": Field("commit of negbench, +changes if files differ", may_be_unknown=True),
    "status": Field("done, failed or interrupted"),
    "error": Field("reason of an end that is not done, in one line", may_be_unknown=True),
    "ending": Field("kind, exit code and signal of the end", type=Ending),
}
_TYPES: dict[str, Any] = {name: (field.type | None, None) for name, field in FIELDS.items()}
_TYPES |= {protocol.figure: (Fraction | None, None) for protocol in NAMED.values()}
SUMMARY: TypeAdapter[Any] = TypeAdapter(create_model("Summary", __base__=Record, **_TYPES))


def top1_figures(evaluations: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Return the accuracies by their keys, None where a protocol of every run was not run.

    Protocols that are asked for by name have a figure where they were run; those of `negbench evaluate` alone also have
    that of the untrained encoder.
    """
    named = {name: PROTOCOLS[name] for name in evaluations if PROTOCOLS[name].figure}
    places = {name: field.place for name, field in FIELDS.items() if field.place}
    places |= {protocol.figure: (name, "trained", protocol.key) for name, protocol in named.items()}
    places |= {
        f"{protocol.figure}_untrained": (name, "untrained", protocol.key)
        for name, protocol in named.items()
        if not protocol.at_end and "untrained" in evaluations[name]
    }
    return {name: _at(place, evaluations) for name, place in places.items()}


def _at(place: tuple[str, ...], evaluations: Any) -> float | None:
    for key in place:
        evaluations = evaluations.get(key, {}) if isinstance(evaluations, dict) else {}
    return evaluations if evaluations != {} else None


def figures_of(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return the figures that follow from the rows of `metrics.jsonl`, by their keys."""
    epochs = [row for row in rows if row["kind"] == "epoch"]
    epoch_seconds = [row["epoch_seconds"] for row in epochs]
    curve = [row["knn_top1"] for row in rows if row["kind"] == "evaluation"]
    return {
        "knn_top1_validation": curve[-1] if curve else None,
        "data_wait_seconds": sum(row.get("data_wait_seconds", 0.0) for row in epochs),  # the rank that waited longest
        "energy_joules": epochs[-1].get("energy_joules") if epochs else None,
        "epoch_seconds_median": statistics.median(epoch_seconds) if epoch_seconds else None,
    }


def changed_in(*records: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings that the run's command set, from the first of its records that has them."""
    return next((known for record in records if isinstance(known := record.get("changed"), dict)), None)


def damage_of(summary: dict[str, Any]) -> str:
    """Return what a summary lacks for reports, or nothing."""
    for name, field in FIELDS.items():
        if field.needed and name not in summary:
            return f"summary.json lacks {name}"
        if field.needed and summary[name] is None and not field.may_be_unknown:
            return f"summary.json: {name} is None"
    if "negatives" not in (summary.get("communicated_bytes_per_step") or {}):
        return "summary.json lacks communicated_bytes_per_step"
    return ""
