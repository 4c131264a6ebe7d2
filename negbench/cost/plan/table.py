"""A forecast for people. Imports no torch."""

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from negbench.cost.plan.sentences import published, unit
from negbench.runtime.words import count, number

Facts = dict[str, Any]
Row = tuple[str, str, str]  # quantity, value, how it is made
WIDTH = 120  # without a terminal
QUARTILES = ("_lower_quartile", "_upper_quartile")


def show(facts: Facts) -> None:
    """Print the table, what is assumed and what others published."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=WIDTH, highlight=False)
    node = f"{count(facts['nodes'], 'node')} with {_processes(facts['processes_per_node'])}"
    title = f"{facts['method']}, study {facts['study']}: what it will cost on {node}"
    grid = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for heading, style in (("", ""), ("value", ""), ("how it is made", "dim")):
        grid.add_column(heading, style=style, overflow="fold")
    for rows in (_time, _memory, _data, _disk):
        for row in rows(facts):
            grid.add_row(*map(Text, row))
    console.print(grid)
    for caution in facts["cautions"]:
        console.print(f"! {caution}", style="yellow", markup=False)
    for heading, sentences in (("Assumed:", facts["assumed"]), ("Published:", published(facts))):
        if sentences:
            console.print(heading, style="bold")
        for sentence in sentences:
            console.print(f"- {sentence}", markup=False)


def _time(facts: Facts) -> Iterator[Row]:
    step, time = facts["step"], facts["time"]
    held_out = f" {facts['validation_images']:,} held out," if facts["validation_images"] else ""
    sizes = f"{facts['train_images']:,} training,{held_out} {facts['test_images']:,} test"
    yield "images", sizes, facts["images_source"]
    share = f"batch {facts['batch_size']:,}, {facts['batch_size_per_process']:,} a process"
    yield "steps", f"{facts['steps']:,}", f"{facts['epochs']:,} epochs of {facts['steps_per_epoch']:,}; {share}"
    middle, lower, upper = (_seconds(step[f"computing_seconds{name}"]) for name in ("", *QUARTILES))
    yield "computing a step", f"{middle} [{lower}, {upper}]", f"{step['source']} [quartiles]"
    if facts["processes"] > 1:
        parts = {part: size for part, size in step["received_bytes_per_process"].items() if size}
        listed = ", ".join(f"{part.replace('_', ' ')} {_bytes(size)}" for part, size in parts.items())
        speed = f"{number(facts['interconnect_gigabytes_per_second'])} GB/s"
        how = f"{_bytes(sum(parts.values()))} received ({listed}) at {speed}"
        yield "exchange a step", _seconds(step["transfer_seconds"]), how
    middle, lower, upper = (_hours(time[f"train_hours{name}"]) for name in ("", *QUARTILES))
    how = "steps by the time of both" if facts["processes"] > 1 else "steps by their time"
    yield "training", f"{middle} [{lower}, {upper}]", how
    epoch = number(time["train_device_hours_per_epoch"])
    devices = _processes(facts["processes"])
    yield f"{unit(facts)} of training", f"{number(time['train_device_hours'])}, {epoch} an epoch", f"by {devices}"
    if "final_evaluation_hours" not in time:
        yield "evaluations", "unknown", "a bench does not time them"
    elif time["evaluations_hours"]:
        where = {"held-out images": facts["evaluations"], "the test set": facts["test_evaluations"]}
        counted = " and ".join(
            f"{count(number, 'evaluation')} on {images}" for images, number in where.items() if number
        )
        how = f"{counted}: encoding and kNN as timed here"
        yield "evaluations on the way", _hours(time["evaluations_hours"]), how
    if time.get("final_evaluation_hours"):
        encoding = f"{number(facts['evaluating']['encoded_images_per_second'])} images/s encoded by each process"
        probes = ", kNN and linear probes" if facts["evaluating"]["probe_seconds_per_step"] else " and kNN"
        yield "final evaluation", _hours(time["final_evaluation_hours"]), f"{encoding}{probes} as timed here"
    how = f"{count(facts['checkpoints'], 'checkpoint')}: serialisation and checksum, as timed here"
    yield "checkpoints", _hours(time["checkpoint_hours"]), how
    total = f"{_hours(time['run_hours'])}, {number(time['run_device_hours'])} {unit(facts)}"
    how = "training, evaluations and checkpoints" if facts["evaluating"] else "training and checkpoints"
    yield "the whole run", total, how


def _memory(facts: Facts) -> Iterator[Row]:
    memory = facts["memory"]
    peak = [f"{_memory_bytes(memory['step_peak_bytes'])} in a step"] if memory["step_peak_bytes"] else []
    if memory["step_reserved_bytes"]:
        peak.append(f"{_memory_bytes(memory['step_reserved_bytes'])} reserved")
    yield "memory of a process", " and ".join(peak) or "unknown", memory["source"]
    if memory["data_set_bytes"]:
        yield "images in memory", _memory_bytes(memory["data_set_bytes"]), "on top: the whole set on each device"
    if memory["final_features_bytes"]:
        how = "of training and test images on each device after training, twice while they are joined"
        yield "features at the end", _memory_bytes(memory["final_features_bytes"]), how


def _data(facts: Facts) -> Iterator[Row]:
    data = facts["data"]
    yield "images a second", number(data["images_per_second"]), "batch by the time of a step, all processes"
    if not data["decoding_cores"]:
        yield "data volume", "nothing is read", "all images are in memory"
        return
    size = f"{data['mean_file_bytes'] / 1000:.0f} kB a file: {data['mean_file_source']}"
    yield "data volume", f"{_bytes(data['read_bytes_per_second'])}/s", size
    cores = f"{number(data['decoding_cores'])}, {number(data['decoding_cores_per_node'])} a node"
    how = f"{number(data['decoded_images_per_second_per_core'])} images/s a core, {data['decoding_source']}"
    yield "decoding cores", cores, how


def _disk(facts: Facts) -> Iterator[Row]:
    disk = facts["disk"]
    if disk["data_set_bytes"]:
        how = "images by the mean of a file" if facts["data"]["decoding_cores"] else "the archive"
        yield "disk: data set", _bytes(disk["data_set_bytes"]), how
    how = f"those kept and one being written, {_bytes(disk['checkpoint_bytes'])} each"
    yield "disk: checkpoints", _bytes(disk["checkpoints_bytes"]), how
    yield "disk: records", _bytes(disk["records_bytes"]), "about 350 bytes a row of metrics.jsonl"


def _processes(number_of: int) -> str:
    return f"{number_of:,} process{'' if number_of == 1 else 'es'}"


def _seconds(seconds: float) -> str:
    return _scaled(seconds, ((1, "s"), (1e-3, "ms"), (1e-6, "µs")))


def _hours(hours: float) -> str:
    return _scaled(hours, ((1, "h"), (1 / 60, "min"), (1 / 3600, "s")))


def _bytes(size: float) -> str:
    return _scaled(size, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")))


def _memory_bytes(size: int) -> str:
    return _scaled(size, ((2**30, "GiB"), (2**20, "MiB")))


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """Return `value` in the largest of the `units` that it reaches, or in the smallest."""
    unit, name = next((pair for pair in units if value >= pair[0]), units[-1])
    return f"{number(value / unit)} {name}"
