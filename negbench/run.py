"""One run from settings to summary: set up, resume, train, evaluate, record."""

import json
import signal
import statistics
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from negbench import checkpoint, environment
from negbench.batch_norm import convert
from negbench.config import RunConfig
from negbench.data.sets import ResidentSet, Splits, load_splits, steps_per_epoch
from negbench.distributed import barrier, rank, world_size
from negbench.evaluate.protocol import Dataset, Features, extract, knn, knn_protocol, linear_protocol, without_network
from negbench.method import Facts, Method
from negbench.models import build_encoder
from negbench.optim import build_optimizer
from negbench.records import RunFolder, write_atomically, write_json
from negbench.study import Resolved, restore, to_yaml
from negbench.trainer import Display, Interrupted, Trainer

SCHEMA_VERSION = 1


@dataclass
class Setup:
    """What a run trains and evaluates, built before anything is written."""

    resolved: Resolved
    device: torch.device
    dtype: torch.dtype | None
    splits: Splits
    method: Method
    skipped: set[str] = field(default_factory=set)  # undecodable files met so far

    @property
    def config(self) -> Any:
        return self.resolved.config


def set_up(resolved: Resolved, device: torch.device) -> Setup:
    """Data and method on the device. Every mistake of the user is a ValueError."""
    config = resolved.config
    dtype = environment.autocast_dtype(config.precision, device)
    _check_batch(config)
    if config.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    else:
        torch.backends.cudnn.benchmark = True
    splits = load_splits(config.data)
    if isinstance(splits.train, ResidentSet):
        on_device = {
            name: part.to(device) if isinstance(part := getattr(splits, name), ResidentSet) else part
            for name in ("train", "validation", "test")
        }
        splits = Splits(**on_device, classes=splits.classes, skipped=splits.skipped)
    return Setup(resolved, device, dtype, splits, build_method(resolved, len(splits.train), device, dtype))


def _check_batch(config: RunConfig[Any]) -> None:
    if config.batch_size % world_size():
        raise ValueError(f"batch_size {config.batch_size} is not divisible by the {world_size()} processes")
    if config.batch_norm == "shuffled" and world_size() == 1:
        raise ValueError(
            "batch_norm: shuffled exchanges images among processes and there is one; use batch_norm: split"
        )
    groups = config.batch_norm_splits if config.batch_norm == "split" else 1
    images = config.batch_size // world_size()
    if images % groups or images // groups < 2:
        raise ValueError(
            f"batch_norm: {config.batch_norm} takes statistics over {groups} group(s) of a process's {images} images; "
            "choose batch_size (and batch_norm_splits) so that each group has the same number, at least 2"
        )


def build_method(resolved: Resolved, num_images: int, device: torch.device, dtype: torch.dtype | None) -> Method:
    config = resolved.config
    num_steps = steps_per_epoch(num_images, config.batch_size) * config.epochs
    facts = Facts(num_images, config.batch_size, num_steps, config.projector.dim, config.seed)
    method: Method = resolved.module.build(config.method, build_encoder(config), facts)
    convert(method, config.batch_norm, config.batch_norm_splits, device.type)
    method.autocast_dtype, method.batch_norm, method.seed = dtype, config.batch_norm, config.seed
    if config.channels_last:
        method.to(memory_format=torch.channels_last)
    return method.to(device)


def execute(
    resolved: Resolved, output: Path, device: torch.device, display: Display, fresh: bool = False
) -> dict[str, Any]:
    """Train, evaluate and record one run, resuming it where it stands; the summary. Only rank 0 writes.

    ValueError for the user's mistakes; `Interrupted` after SIGINT or SIGTERM with a checkpoint written. Any other
    exception is recorded in `summary.json` and raised.
    """
    folder = RunFolder(output / resolved.run_id)
    if folder.done.exists() and not fresh:
        display.note(f"{folder.path} is finished; --fresh runs it again")
        return folder.read_summary()
    setup = set_up(resolved, device)
    if rank() == 0:
        folder.open(fresh)
        folder.done.unlink(missing_ok=True)
        _write_start(folder, setup)
    barrier()
    try:
        return _train_and_evaluate(setup, folder, display)
    except BaseException as error:
        if rank() == 0 and folder.is_ours():
            status = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
            text = f"{type(error).__name__}: {error}"
            with suppress(OSError):  # the error itself matters more than its record
                write_json(folder.summary, _identity(setup, folder) | {"status": status, "error": text})
        raise
    finally:
        folder.close()


def _train_and_evaluate(setup: Setup, folder: RunFolder, display: Display) -> dict[str, Any]:
    config, device, splits, method = setup.config, setup.device, setup.splits, setup.method
    num_classes = len(splits.classes)

    def curve() -> dict[str, float]:
        backbone = method.query_encoder.backbone
        assert splits.validation is not None
        bank, queries = encode(setup, backbone, splits.train), encode(setup, backbone, splits.validation)
        top1 = knn(bank, queries, config, num_classes)
        return {"knn_top1": top1[20], "knn200_top1": top1[200]}

    environment.reset_peak_memory(device)
    optimizer = build_optimizer(method, config.optimizer)
    evaluate = curve if splits.validation is not None else None
    trainer = Trainer(config, method, optimizer, splits.train, folder, device, display, evaluate, setup.skipped)
    with _signals(trainer, display):
        state = checkpoint.load_newest(folder.checkpoints, display.note)
        if state is not None:
            _load(trainer, state, folder, display)
        elif rank() == 0:
            folder.truncate_metrics(0)
        barrier()
        title = f"{setup.resolved.run_id}: {trainer.num_steps:,} steps of {config.batch_size} images, in {folder.path}"
        display.start(title, trainer.num_steps, config.epochs, trainer.step)
        trainer.train()
        trainer.stop_at_once = True  # everything is on disk: from here a signal need not wait for a step
        if trainer.stop_signal is not None:
            raise Interrupted(trainer.stop_signal)
        with trainer.clock.paused("eval"):
            trainer.synchronize_statistics()
            if config.evaluation.test:
                display.note("training is done; evaluating on the test set")
            evaluations = evaluate_on_test(setup) if config.evaluation.test else {}
    summary = _identity(setup, folder) | summarize(setup, folder, trainer, evaluations)
    if rank() == 0:
        folder.check_still_ours()
        folder.evaluations.mkdir(exist_ok=True)
        for name, evaluation in evaluations.items():
            write_json(folder.evaluations / f"{name}.json", evaluation)
        write_json(folder.summary, summary)
        write_atomically(folder.done, "")
    return summary


def encode(setup: Setup, backbone: nn.Module, part: Dataset) -> Features:
    return extract(backbone, part, setup.config, setup.device, setup.dtype, setup.skipped)


def evaluate_on_test(setup: Setup, protocols: Sequence[str] = ("knn", "linear")) -> dict[str, dict[str, Any]]:
    """The figures of the trained encoder, of the untrained one, and (for kNN) of features that need no network."""
    config, splits = setup.config, setup.splits
    num_classes = len(splits.classes)
    backbones = {"trained": setup.method.query_encoder.backbone}
    if config.evaluation.untrained:
        backbones["untrained"] = build_encoder(config).backbone.to(setup.device)
    evaluations: dict[str, dict[str, Any]] = {
        name: {} for name in protocols if name != "linear" or config.evaluation.linear
    }
    for encoder, backbone in backbones.items():
        train, validation, test = (
            encode(setup, backbone, part) if part is not None else None
            for part in (splits.train, splits.validation, splits.test)
        )
        assert train is not None and test is not None
        if "knn" in evaluations:
            evaluations["knn"][encoder] = knn_protocol(train, test, config, num_classes)
        if "linear" in evaluations:
            evaluations["linear"][encoder] = linear_protocol(train, validation, test, config, num_classes)
    if "knn" in evaluations:
        evaluations["knn"]["without_network"] = without_network(splits, config)
    return evaluations


def summarize(
    setup: Setup, folder: RunFolder, trainer: Trainer, evaluations: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The fields of `summary.json` that a finished run adds to its identity. Accuracies are fractions."""
    rows = folder.read_metrics()
    epoch_seconds = [row["epoch_seconds"] for row in rows if "epoch_seconds" in row]
    curve = [row["knn_top1"] for row in rows if row["kind"] == "evaluation"]
    step_seconds = [row["step_seconds"] for row in rows if row.get("step_seconds")]
    method, config, seconds = setup.method, setup.config, trainer.clock.seconds
    return {
        "status": "done",
        "error": None,
        "epochs": config.epochs,
        "steps": trainer.step,
        **top1_figures(evaluations),
        "knn_top1_validation": curve[-1] if curve else None,
        "train_seconds": seconds["train"],
        "eval_seconds": seconds["eval"],
        "checkpoint_seconds": seconds["checkpoint"],
        "data_wait_seconds": seconds["data_wait"],
        "lost_seconds": trainer.lost_seconds,
        "epoch_seconds_median": statistics.median(epoch_seconds),
        "images_per_second": config.batch_size / statistics.median(step_seconds) if step_seconds else None,
        "peak_memory_bytes": environment.peak_memory_bytes(setup.device),
        "parameters": sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad),
        "source_state_bytes": sum(b.numel() * b.element_size() for b in method.sources.buffers()),
        "skipped_files": setup.splits.skipped + len(setup.skipped),
    }


def top1_figures(evaluations: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Accuracies by their names in `summary.json`; None where a protocol was not run."""

    def figure(protocol: str, *path: str) -> float | None:
        value: Any = evaluations.get(protocol, {})
        for key in path:
            value = value.get(key, {})
        return value if value != {} else None

    return {
        "knn_top1": figure("knn", "trained", "top1", "20"),
        "knn200_top1": figure("knn", "trained", "top1", "200"),
        "linear_top1": figure("linear", "trained", "top1"),
        "knn_top1_untrained": figure("knn", "untrained", "top1", "20"),
        "knn200_top1_untrained": figure("knn", "untrained", "top1", "200"),
        "linear_top1_untrained": figure("linear", "untrained", "top1"),
        "knn_top1_pixels": figure("knn", "without_network", "pixels"),
        "knn_top1_histogram": figure("knn", "without_network", "histogram"),
    }


def _identity(setup: Setup, folder: RunFolder) -> dict[str, Any]:
    """The fields of `summary.json` that are known from the start."""
    config = setup.config
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": setup.resolved.run_id,
        "study": config.study,
        "track": config.track,
        "method": config.method.name,
        "label": setup.resolved.label,
        "seed": config.seed,
        "restarts": folder.attempt - 1,
        "world_size": world_size(),
        "num_negatives": getattr(config.method, "num_negatives", None),
        "views_per_step": config.batch_size * len(setup.method.query_views),
        "device": environment.device_name(setup.device),
        "torch_version": torch.__version__,
        "git_revision": environment.git_revision(),
    }


def _write_start(folder: RunFolder, setup: Setup) -> None:
    """`config.yaml`, the user's method file, and one more attempt in `environment.json`."""
    write_atomically(folder.config, to_yaml(setup.config))
    if setup.resolved.method_file.module is None:
        write_atomically(folder.method, setup.resolved.method_file.path.read_bytes())
    this = environment.describe(setup.device, world_size(), setup.dtype) | {"attempt": folder.attempt}
    earlier = json.loads(folder.environment.read_text())["attempts"] if folder.environment.exists() else []
    write_json(folder.environment, {**this, "attempts": [*earlier, this]})


def _load(trainer: Trainer, state: checkpoint.State, folder: RunFolder, display: Display) -> None:
    try:
        trainer.load_state(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the checkpoint in {folder.checkpoints} does not fit this version of the method "
            f"({str(error).splitlines()[0]}); --fresh starts the run again"
        ) from None
    note = f"resumed {folder.path} at step {trainer.step} of {trainer.num_steps}"
    if state["world_size"] != world_size():
        note += f"; {world_size()} processes instead of {state['world_size']}, so not bitwise as undisturbed"
    display.note(note)


@contextmanager
def _signals(trainer: Trainer, display: Display) -> Iterator[None]:
    """SIGINT and SIGTERM ask for a checkpoint and an end; a second one ends at once."""

    def handle(signum: int, frame: FrameType | None) -> None:
        if trainer.stop_signal is not None:
            raise KeyboardInterrupt
        trainer.stop_signal = signum
        if trainer.stop_at_once:
            raise Interrupted(signum)
        display.note("stopping after this step, with a checkpoint; once more quits at once")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def evaluate_run(path: Path, protocols: Sequence[str], device: torch.device) -> dict[str, dict[str, Any]]:
    """Evaluate a run folder's newest checkpoint, write `evaluations/PROTOCOL.json`. ValueError if there is none."""
    folder = RunFolder(path)
    if not folder.config.exists():
        raise ValueError(f"{path} is no run folder: it holds no config.yaml")
    setup = set_up(restore(path), device)
    paths = checkpoint.find(folder.checkpoints)
    if not paths:
        raise ValueError(f"{path} holds no checkpoint to evaluate; `negbench run` it first")
    state = checkpoint.load(paths[0])
    setup.method.load_state_dict(state["method"])
    evaluations = evaluate_on_test(setup, protocols)
    folder.evaluations.mkdir(exist_ok=True)
    for name, evaluation in evaluations.items():
        write_json(folder.evaluations / f"{name}.json", evaluation | {"step": state["step"]})
    return evaluations
