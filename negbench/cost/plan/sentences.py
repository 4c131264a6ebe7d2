"""What a forecast assumes, and published costs beside it, in sentences. Imports no torch."""

from typing import Any

from negbench.records.crowding import FOR_BENCHES, is_crowded
from negbench.runtime.words import count, number

Facts = dict[str, Any]


def unit(facts: Facts) -> str:
    return "GPU-hours" if facts["environment"]["device_type"] == "cuda" else "device-hours"


def cautions(facts: Facts) -> list[str]:
    if not is_crowded(facts["environment"], FOR_BENCHES):
        return []
    load, cores = facts["environment"]["load_average"], facts["environment"]["num_cpus"]
    crowd = f"Steps started on a crowded machine (load average {load:.1f} on {cores} cores)"
    return [f"{crowd}: times may be too long. On a CPU, OMP_NUM_THREADS below the number of free cores helps."]


def assumed(facts: Facts) -> list[str]:
    device, elsewhere = facts["environment"]["device"], facts["step"]["bench"] is not None
    if unit(facts) == "GPU-hours":
        first = f"Each process has a GPU as fast as the one that was measured, {device}; for others GPU-hours differ."
    else:
        first = (
            f"Each process has a device as fast as the one that was measured, {device}: these are device-hours of this "
            "CPU, and say nothing of GPU-hours."
        )
    sentences = [first]
    if facts["processes"] > 1:
        sentences.append(
            f"A process receives {number(facts['interconnect_gigabytes_per_second'])} GB/s (--interconnect), without "
            "latency and while nothing is computed; a run hides a part of the gradients behind the backward pass."
        )
    if facts["processes"] > 1 and elsewhere:
        sentences.append("The bench was one process: work on what others' images add to the contrast is missing.")
    elif facts["processes"] > 1 and facts["batch_norm"] in ("shuffled", "sync"):
        torchs = unit(facts) == "GPU-hours" and facts["batch_norm"] == "sync"
        sentences.append(
            f"batch_norm: {facts['batch_norm']} was stepped in one process, whose images stand for the others'; "
            "statistics are over them, and the latency of exchanges is not counted"
            + (", nor what torch's SyncBatchNorm sends." if torchs else ".")
        )
    data = facts["data"]
    if data["decoding_cores"]:
        sentences.append(_loading(data))
    sentences.append(
        "Not counted: start, compilation, diagnostics, the disk's time, waiting in a queue and work that is repeated "
        "after interruptions" + ("; evaluations, whose times a bench has not." if elsewhere else ".")
    )
    return sentences


def _loading(data: Facts) -> str:
    workers, needed = data["workers_per_process"], data["workers_per_process_needed"]
    enough = "is enough" if workers >= needed else f"is too few: set data.workers={needed}"
    cores = f"a process has {count(needed, 'core')} for it, as fast as here"
    return f"Training never waits for data: {cores}. data.workers={workers} {enough}."


def published(facts: Facts) -> list[str]:
    sentences = [_published(cost, facts) for cost in facts["published"]]
    if sentences and facts["changed_settings"]:
        changed = ", ".join(facts["changed_settings"])
        sentences.append(f"These are of the study itself; here {changed} was set otherwise.")
    return sentences


def _published(cost: Facts, facts: Facts) -> str:
    kind = "GPU-hours" if "TPU" not in cost["device"] else "TPU-hours"
    devices = f"{cost['devices']} {cost['device']}" if cost["devices"] > 1 else f"one {cost['device']}"
    return (
        f"{cost['method']}: {number(cost['device_hours_per_epoch'])} {kind} an epoch on {devices}: {cost['includes']} "
        f"({cost['source']}). {_beside(cost, facts)}"
    )


def ratio(cost: Facts, facts: Facts) -> float | None:
    """Return device-hours here over the published; None unless both are of GPUs, the method and its variant."""
    alike = cost["method"] == facts["method"] and cost["same_steps"]
    if unit(facts) != "GPU-hours" or "TPU" in cost["device"] or not alike:
        return None
    return float(facts["time"]["train_device_hours_per_epoch"] / cost["device_hours_per_epoch"])


def _beside(cost: Facts, facts: Facts) -> str:
    device, here = facts["environment"]["device"], number(facts["time"]["train_device_hours_per_epoch"])
    if cost["ratio"] is not None:
        other = "" if cost["device"] in device else ", another GPU"
        return f"Here {here}, {number(cost['ratio'])} times as many, on {device}{other}."
    if cost["method"] != facts["method"]:
        return f"Another method than {facts['method']}."
    if not cost["same_steps"]:
        return "Another variant than this study's."
    return f"No ratio: {device} is another kind of device."
