"""Steps from a record of `negbench bench`, in place of steps here."""

from pathlib import Path
from statistics import median

from negbench.cost.plan.steps import Steps
from negbench.records.benches import BENCHES, BenchRecord, RowRecord, read_record
from negbench.runtime.errors import UserError
from negbench.settings.keys import flatten, is_of_method, leaves, plain
from negbench.settings.resolve import Resolved, size_of

# Shared settings that change what a step does; the rest of a study does not.
COSTS = (
    *("data.image_size", "views.", "model.", "projector.", "batch_norm", "precision", "channels_last", "execution"),
    *("deterministic", "optimizer.name", "optimizer.exclude", "optimizer.clip"),
)


def steps_of_record(folder: Path, resolved: Resolved, num_processes: int) -> Steps:
    """Return the steps of the method whose batch is a process's share and whose settings are the run's.

    UserError if the record cannot be read, or holds no such row.
    """
    record = _read(folder)
    images = resolved.config.batch_size // num_processes
    row = _row(record, folder, resolved, images)
    _check_settings(record, row, folder, resolved, images)
    if row.out_of_memory:
        raise UserError(f"--bench {folder}: {row.name} with {images} images ran out of memory there")
    if not row.seconds:
        raise UserError(f"--bench {folder}: {row.name} with {images} images was not timed; finish the bench")
    memory = "over what the process held before" if record.environment.device_type == "cpu" else "of tensors"
    return Steps(
        source=f"median of {record.rounds} rounds of {record.steps_per_turn} steps in {folder}",
        environment=record.environment.model_dump(),
        seconds=row.seconds,
        parts={part: median(seconds) for part, seconds in row.parts.items()},
        peak_memory_bytes=row.peak_memory_bytes,
        peak_reserved_bytes=row.peak_reserved_bytes,
        memory_source=f"in {folder}: peak {memory}, without what is gathered from other processes",
        bench=str(folder),
    )


def _read(folder: Path) -> BenchRecord:
    try:
        return read_record((folder / BENCHES.record).read_bytes())
    except OSError as error:
        raise UserError(
            f"--bench {folder}: {BENCHES.record} cannot be read ({error.strerror}); `negbench bench` writes one"
        ) from None
    except UserError as error:
        raise UserError(f"--bench {folder}: {BENCHES.record} is damaged or of another version: {error}") from None


def _row(record: BenchRecord, folder: Path, resolved: Resolved, images: int) -> RowRecord:
    name, number = resolved.config.method.name, size_of(resolved)
    methods = [row for group in record.groups for row in group.subjects if row.kind == "method"]
    for row in methods:
        if (row.name, row.batch_size, row.num_negatives) == (name, images, number):
            return row
    held = "; ".join(dict.fromkeys(_named(s.name, s.batch_size, s.num_negatives) for s in methods))
    raise UserError(
        f"--bench {folder} has no {_named(name, images, number)}, which is what a process would step; it has {held}; "
        f"{_advice(resolved, images)}"
    )


def _named(name: str, images: int | None, number: int | None) -> str:
    return f"{name} with {images} images" + (f" and K = {number}" if number else "")


def _check_settings(record: BenchRecord, row: RowRecord, folder: Path, resolved: Resolved, images: int) -> None:
    """UserError if a setting that changes what a step does is not the plan's."""
    defaults = {key: field.default for key, field in leaves(type(resolved.config))}
    held = {**record.settings, **row.settings}
    for key, value in flatten(resolved.config).items():
        if not (is_of_method(key) or key.startswith(COSTS)):
            continue
        if (key, value) == ("batch_norm", "shuffled"):
            value = "process"  # shuffling needs other processes, and a bench is one
        found = held.get(key, plain(defaults[key]))  # an earlier version had no such setting, and did the same
        if found != value:
            raise UserError(
                f"--bench {folder} was made with {key}={found}, and the plan has {value}; {_advice(resolved, images)}"
            )


def _advice(resolved: Resolved, images: int) -> str:
    number = size_of(resolved)
    sizes = f"--batch-size {images}" + (f" --num-negatives {number}" if number else "")
    alone = " --set batch_norm=process" if resolved.config.batch_norm == "shuffled" else ""
    command = f"negbench bench --methods {resolved.config.method.name} {sizes}{alone}"
    return f"`{command}` with the plan's --config and --set makes one"
