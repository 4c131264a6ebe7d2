"""A forecast: what is measured and what is known, joined to the cost of a whole run."""

import math
from pathlib import Path
from typing import Any

import torch

from negbench.cost.bench.space import limited_to_free_memory, release, unless_out_of_memory
from negbench.cost.bench.workloads import MethodWorkload
from negbench.cost.plan import arithmetic, sentences
from negbench.cost.plan.decoding import Decoding, measure_decoding
from negbench.cost.plan.evaluations import Evaluating, time_evaluations
from negbench.cost.plan.extent import Extent, extent_of
from negbench.cost.plan.imagined_ranks import imagined
from negbench.cost.plan.published import published_costs
from negbench.cost.plan.record import steps_of_record
from negbench.cost.plan.steps import Progress, Steps, count_received, gradient_bytes, save_in_memory, time_steps
from negbench.runtime import environment
from negbench.runtime.compiling import check_compiler
from negbench.runtime.device import autocast_dtype, set_backends
from negbench.runtime.errors import UserError
from negbench.settings.cluster import ClusterConfig
from negbench.settings.keys import scientific_differences
from negbench.settings.plugins.protocols import of_every_epoch
from negbench.settings.resolve import Resolved
from negbench.settings.steps import check_batch, steps_per_epoch

FORECAST_SCHEMA_VERSION = 1
Facts = dict[str, Any]


def forecast(
    resolved: Resolved,
    shape: ClusterConfig,
    device: torch.device,
    *,
    num_images: int | None,
    bench: Path | None,
    interconnect_gb_per_second: float,
    seconds: float,
    progress: Progress,
) -> Facts:
    """Return all that `negbench plan --json` prints; units are in the keys. UserError for the user's mistakes."""
    config, processes = resolved.config, shape.world_size
    check_batch(config, processes)
    steps = steps_of_record(bench, resolved, processes) if bench else None
    progress("counting images")
    extent = extent_of(config, num_images)
    steps_per_epoch(extent.train, config.batch_size)
    decoding = None
    if extent.decoded_in_training:
        progress("decoding files")
        decoding = measure_decoding(config, extent.files)
    steps, evaluating = _measure(resolved, device, processes, extent, steps, seconds, progress)
    return _joined(resolved, shape, extent, steps, evaluating, decoding, interconnect_gb_per_second)


def _measure(
    resolved: Resolved,
    device: torch.device,
    processes: int,
    extent: Extent,
    steps: Steps | None,
    seconds: float,
    progress: Progress,
) -> tuple[Steps, Evaluating | None]:
    """Return steps and evaluations that are timed here; for a record's `steps` what they lack, and no evaluations."""
    config = resolved.config
    dtype = autocast_dtype(config.precision, device)
    set_backends(config.precision, config.deterministic, device)
    check_compiler(config.execution, device)

    def work() -> tuple[Steps, Evaluating | None]:
        if steps is not None:
            workload, received = count_received(resolved, device, processes, extent.train, progress)
            return _completed(steps, workload, received, processes), None
        with imagined(processes):
            progress(f"building {config.method.name}")
            workload = MethodWorkload(resolved, device, dtype, extent.train)
            timed = time_steps(workload, resolved, device, seconds, progress)
        timed = _completed(timed, workload, timed.received_bytes, processes)
        backbone = workload.method.query_encoder.backbone
        del workload
        progress("evaluations")
        return timed, time_evaluations(backbone, config, device, extent)

    with limited_to_free_memory(device):
        found, reason = unless_out_of_memory(work)
    release(device)
    if found is None:
        raise UserError(
            f"out of memory: {config.batch_size // processes} images of {config.data.image_size} pixels a process "
            f"(batch_size {config.batch_size} over {processes}) do not fit on {environment.device_name(device)} "
            f"({reason}); plan more devices, or a smaller batch_size"
        )
    return found


def _completed(steps: Steps, workload: MethodWorkload, received: dict[str, int], processes: int) -> Steps:
    steps.received_bytes = {"gradients": gradient_bytes(workload, processes), **received}
    steps.state_bytes, steps.save_seconds = save_in_memory(workload)
    return steps


def _joined(
    resolved: Resolved,
    shape: ClusterConfig,
    extent: Extent,
    steps: Steps,
    evaluating: Evaluating | None,
    decoding: Decoding | None,
    interconnect: float,
) -> Facts:
    config, processes = resolved.config, shape.world_size
    num_steps = steps_per_epoch(extent.train, config.batch_size) * config.epochs
    received = sum(steps.received_bytes.values())
    transfer = arithmetic.transfer_seconds(received, interconnect)
    lower, computing, upper = arithmetic.quartiles(steps.seconds)
    step_seconds = computing + transfer
    train_hours = arithmetic.hours(num_steps, step_seconds)
    evaluations = arithmetic.num_evaluations(config.epochs, config.evaluate_every_epochs, extent.validation > 0)
    num_saves = arithmetic.num_checkpoints(
        3600 * train_hours, config.checkpoint_every_min, steps.save_seconds, evaluations
    )
    spent = {
        "train_hours": train_hours,
        "checkpoint_hours": num_saves * steps.save_seconds / 3600,
        **(evaluation_hours(config, extent, evaluating, evaluations, processes) if evaluating else {}),
    }
    total = sum(spent.values())
    facts: Facts = {
        "schema_version": FORECAST_SCHEMA_VERSION,
        "study": config.study,
        "method": config.method.name,
        "changed_settings": sorted(
            key for key in scientific_differences(config) if resolved.origins.get(key) == "--set" and key != "seed"
        ),
        "nodes": shape.nodes,
        "processes_per_node": shape.num_processes,
        "processes": processes,
        "batch_size": config.batch_size,
        "batch_size_per_process": config.batch_size // processes,
        "batch_norm": config.batch_norm,
        "epochs": config.epochs,
        "train_images": extent.train,
        "validation_images": extent.validation,
        "test_images": extent.test,
        "images_source": extent.source,
        "steps_per_epoch": num_steps // config.epochs,
        "steps": num_steps,
        "step": {
            "source": steps.source,
            "bench": steps.bench,
            "computing_seconds": computing,
            "computing_seconds_lower_quartile": lower,
            "computing_seconds_upper_quartile": upper,
            "parts_seconds": steps.parts,
            "received_bytes_per_process": steps.received_bytes,
            "transfer_seconds": transfer,
            "seconds": step_seconds,
        },
        "time": spent
        | {
            "train_hours_lower_quartile": arithmetic.hours(num_steps, lower + transfer),
            "train_hours_upper_quartile": arithmetic.hours(num_steps, upper + transfer),
            "train_device_hours": train_hours * processes,
            "train_device_hours_per_epoch": train_hours * processes / config.epochs,
            "run_hours": total,
            "run_device_hours": total * processes,
        },
        "checkpoints": num_saves,
        "evaluations": evaluations,
        "test_evaluations": num_test_evaluations(config),
        "memory": _memory(config, extent, steps, evaluating),
        "data": _data(config, shape, decoding, step_seconds),
        "disk": _disk(config, extent, steps, decoding, num_steps, evaluations),
        "evaluating": vars(evaluating) if evaluating else None,
        "interconnect_gigabytes_per_second": interconnect,
        "environment": steps.environment,
        "published": published_costs(config.study, config.method.name),
    }
    for cost in facts["published"]:
        cost["ratio"] = sentences.ratio(cost, facts)
    return facts | {"cautions": sentences.cautions(facts), "assumed": sentences.assumed(facts)}


def num_test_evaluations(config: Any) -> int:
    """Return how often a run is evaluated on the test set before its end, by protocols of every epoch."""
    return config.epochs if config.evaluation.test and of_every_epoch(config.evaluation.protocols) else 0


def evaluation_hours(config: Any, extent: Extent, speed: Evaluating, evaluations: int, processes: int) -> Facts:
    """Return the hours of evaluations. All processes encode, and each does the whole of kNN and linear probes."""

    def encoding(images: int) -> float:
        return images / (speed.encoded_images_per_second * processes)

    on_the_way = encoding(extent.train + extent.validation)
    on_the_way += extent.train * extent.validation * speed.knn_seconds_per_pair
    settings = config.evaluation
    encoders = settings.test * (1 + settings.untrained)
    on_test_set = encoding(extent.total)
    on_test_set += (extent.train + extent.validation) * extent.test * speed.knn_seconds_per_pair
    at_the_end = encoding(extent.train + extent.test) + extent.train * extent.test * speed.knn_seconds_per_pair
    if settings.linear:
        probe_steps = settings.linear_epochs * math.ceil(extent.train / settings.linear_batch_size)
        at_the_end += encoding(extent.validation) + probe_steps * speed.probe_seconds_per_step
    return {
        "evaluations_hours": (evaluations * on_the_way + num_test_evaluations(config) * on_test_set) / 3600,
        "final_evaluation_hours": encoders * at_the_end / 3600,
    }


def _memory(config: Any, extent: Extent, steps: Steps, evaluating: Evaluating | None) -> Facts:
    """Return bytes on each device."""
    resident = 0 if extent.decoded_in_training else 3 * config.data.image_size**2 * extent.total
    features = (
        4 * evaluating.feature_dim * (extent.train + extent.test) if evaluating and config.evaluation.test else None
    )
    return {
        "step_peak_bytes": steps.peak_memory_bytes,
        "step_reserved_bytes": steps.peak_reserved_bytes,
        "source": steps.memory_source,
        "data_set_bytes": resident,
        "final_features_bytes": features,
    }


def _data(config: Any, shape: ClusterConfig, decoding: Decoding | None, step_seconds: float) -> Facts:
    rate = config.batch_size / step_seconds
    facts: Facts = {"images_per_second": rate}
    if decoding is None:
        return facts | {"read_bytes_per_second": 0.0, "decoding_cores": 0.0}
    cores = arithmetic.decoding_cores(rate, decoding.decoded_images_per_second_per_core)
    facts |= {"read_bytes_per_second": rate * decoding.mean_file_bytes, **vars(decoding)}
    return facts | {
        "decoding_cores": cores,
        "decoding_cores_per_node": cores / shape.nodes,
        "workers_per_process": config.data.workers,
        "workers_per_process_needed": math.ceil(cores / shape.world_size),
    }


def _disk(
    config: Any, extent: Extent, steps: Steps, decoding: Decoding | None, num_steps: int, evaluations: int
) -> Facts:
    known = extent.known_bytes
    return {
        "data_set_bytes": known if decoding is None else round(decoding.mean_file_bytes * extent.total),
        "checkpoint_bytes": steps.state_bytes,
        "checkpoints_bytes": (config.checkpoints.keep + 1) * steps.state_bytes,  # one is written before the oldest goes
        "records_bytes": arithmetic.record_bytes(num_steps, config.log_every_steps, config.epochs, evaluations),
    }
