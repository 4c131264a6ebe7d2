"""One run from settings to summary: set up, resume, train, evaluate, record."""

import signal
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
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
from negbench.data.folder import BadImageError
from negbench.data.sets import ResidentSet, Splits, load_splits, steps_per_epoch
from negbench.distributed import broadcast_objects, rank, world_size
from negbench.evaluate.protocol import Dataset, Features, extract, knn, knn_protocol, linear_protocol, without_network
from negbench.method import Facts, Method
from negbench.models import build_encoder
from negbench.optim import build_optimizer
from negbench.records import RunFolder, write_atomically, write_json
from negbench.study import Resolved, restore, to_yaml
from negbench.trainer import Display, Interrupted, Trainer

SCHEMA_VERSION = 1
PROTOCOLS = ("knn", "linear")


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
    environment.set_backends(config.precision, config.deterministic)
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
    if _by_rank_0(lambda: folder.is_done() and not fresh):
        return _report_finished(folder, display)
    _check_batch(resolved.config)
    _by_rank_0(folder.check_writable)
    setup = set_up(resolved, device)
    trainer = None
    try:
        if _by_rank_0(lambda: _open(folder, setup, fresh)):
            return _report_finished(folder, display)
        trainer = _trainer(setup, folder, display)
        return _train_and_evaluate(setup, trainer, display)
    except BaseException as error:
        if rank() == 0 and folder.is_ours():
            status = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
            outcome = {"status": status, "error": f"{type(error).__name__}: {error}"}
            with suppress(OSError):  # the error itself matters more than its record
                write_json(folder.summary, summarize(setup, folder, trainer, {}) | outcome)
        raise
    finally:
        folder.close()


def _by_rank_0(function: Callable[[], Any]) -> Any:
    """What `function` returns on rank 0, on all ranks; its ValueError is raised on all of them."""
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = function()
        except ValueError as error:
            answer[1] = str(error)
    broadcast_objects(answer)
    if answer[1] is not None:
        raise ValueError(answer[1])
    return answer[0]


def _report_finished(folder: RunFolder, display: Display) -> dict[str, Any]:
    summary = folder.read_summary()
    if "knn_top1" not in summary:
        raise ValueError(f"{folder.path} is marked done, but its summary.json is damaged; --fresh runs it again")
    display.note(f"{folder.path} is finished; --fresh runs it again")
    return summary


def _open(folder: RunFolder, setup: Setup, fresh: bool) -> bool:
    """Take the folder and write what is known at the start; True if another process has finished the run meanwhile."""
    folder.open(fresh)
    if folder.is_done():
        return True
    write_atomically(folder.config, to_yaml(setup.config))
    if setup.resolved.method_file.module is None:
        write_atomically(folder.method, setup.resolved.method_file.path.read_bytes())
    this = environment.describe(setup.device, world_size(), setup.dtype) | {"attempt": folder.attempt}
    attempts = [*folder.read_environment().get("attempts", []), this]
    write_json(folder.environment, {**this, "attempts": attempts})
    return False


def _trainer(setup: Setup, folder: RunFolder, display: Display) -> Trainer:
    """A trainer at the newest whole checkpoint, or at the start."""
    config, splits, method = setup.config, setup.splits, setup.method

    def curve() -> dict[str, float]:
        backbone = method.query_encoder.backbone
        assert splits.validation is not None
        bank, queries = encode(setup, backbone, splits.train), encode(setup, backbone, splits.validation)
        top1 = knn(bank, queries, config, len(splits.classes))
        return {"knn_top1": top1[20], "knn200_top1": top1[200]}

    environment.reset_peak_memory(setup.device)
    optimizer = build_optimizer(method, config.optimizer)
    evaluate = curve if splits.validation is not None else None
    trainer = Trainer(config, method, optimizer, splits.train, folder, setup.device, display, evaluate, setup.skipped)
    newest = _by_rank_0(lambda: checkpoint.find_whole(folder.checkpoints, display.note))
    if newest is None:
        _by_rank_0(lambda: folder.truncate_metrics(0))
    else:
        _load(trainer, newest, folder, display)
    return trainer


def _load(trainer: Trainer, path: Path, folder: RunFolder, display: Display) -> None:
    try:
        state = checkpoint.load(path)
        trainer.load_state(state)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"checkpoint {path} does not fit this version of the method ({str(error).splitlines()[0]}); "
            "--fresh starts the run again"
        ) from None
    note = f"resumed {folder.path} at step {trainer.step} of {trainer.num_steps}"
    if state["world_size"] != world_size():
        note += f"; {world_size()} processes instead of {state['world_size']}, so not bitwise as undisturbed"
    if state["precision"] != str(trainer.method.autocast_dtype):
        note += f"; precision {trainer.method.autocast_dtype} instead of {state['precision']}"
    display.note(note)


def _train_and_evaluate(setup: Setup, trainer: Trainer, display: Display) -> dict[str, Any]:
    config, folder = setup.config, trainer.folder
    protocols = [name for name in PROTOCOLS if config.evaluation.test and (name == "knn" or config.evaluation.linear)]
    with _signals(trainer):
        title = f"{setup.resolved.run_id}: {trainer.num_steps:,} steps of {config.batch_size} images, in {folder.path}"
        display.start(title, trainer.num_steps, config.epochs, trainer.step)
        try:
            trainer.train()
            # All is on disk: one process need not wait for a step to stop. Several would leave each other waiting.
            trainer.stop_at_once = world_size() == 1
            if protocols:
                display.note("training is done; evaluating on the test set")
            with trainer.clock.paused("eval"):
                trainer.synchronize_statistics()
                evaluations = evaluate_on_test(setup, protocols)
        except BadImageError:
            raise
        except ValueError as error:
            raise RuntimeError("a defect of negbench or of the method, not of the settings") from error
    summary = summarize(setup, folder, trainer, evaluations) | {"status": "done", "error": None}
    if rank() == 0:
        folder.check_still_ours()
        _write_evaluations(folder, evaluations)
        write_json(folder.summary, summary)
        write_atomically(folder.done, "")
    return summary


def _write_evaluations(folder: RunFolder, evaluations: dict[str, dict[str, Any]]) -> None:
    folder.evaluations.mkdir(exist_ok=True)
    for name, evaluation in evaluations.items():
        write_json(folder.evaluations / f"{name}.json", evaluation)


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


def summarize(
    setup: Setup, folder: RunFolder, trainer: Trainer | None, evaluations: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """`summary.json` but for `status` and `error`; what an unfinished run does not know is None. Accuracies are
    fractions."""
    rows = folder.read_metrics()
    epoch_seconds = [row["epoch_seconds"] for row in rows if "epoch_seconds" in row]
    step_seconds = [row["step_seconds"] for row in rows if row.get("step_seconds")]
    curve = [row["knn_top1"] for row in rows if row["kind"] == "evaluation"]
    resolved, method, config = setup.resolved, setup.method, setup.config
    seconds = trainer.clock.seconds if trainer else {}
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": resolved.run_id,
        "study": config.study,
        "track": config.track,
        "method": config.method.name,
        "label": resolved.label,
        "seed": config.seed,
        "restarts": len(folder.read_environment().get("attempts", [None])) - 1,
        "epochs": config.epochs,
        "steps": trainer.step if trainer else None,
        "world_size": world_size(),
        "num_negatives": getattr(config.method, "num_negatives", None),
        "views_per_step": config.batch_size * len(method.query_views),
        **top1_figures(evaluations),
        "knn_top1_validation": curve[-1] if curve else None,
        **{f"{kind}_seconds": seconds.get(kind) for kind in ("train", "eval", "checkpoint", "data_wait")},
        "lost_seconds": trainer.lost_seconds if trainer else None,
        "epoch_seconds_median": statistics.median(epoch_seconds) if epoch_seconds else None,
        "images_per_second": config.batch_size / statistics.median(step_seconds) if step_seconds else None,
        "peak_memory_bytes": trainer.peak_memory_bytes if trainer else None,
        "parameters": sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad),
        "source_state_bytes": sum(b.numel() * b.element_size() for b in method.sources.buffers()),
        "skipped_files": setup.splits.skipped + len(setup.skipped),
        "device": environment.device_name(setup.device),
        "torch_version": torch.__version__,
        "git_revision": environment.git_revision(),
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


@contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """SIGINT and SIGTERM ask for a checkpoint and an end; a second one ends at once."""

    def handle(signum: int, frame: FrameType | None) -> None:
        if trainer.stop_at_once:
            raise Interrupted(signum)
        if trainer.stop_signal is not None:
            raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)
        trainer.stop_signal = signum

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
    """Evaluate a run folder's newest checkpoint, write `evaluations/PROTOCOL.json`. ValueError if it cannot be done."""
    folder = RunFolder(path)
    if not folder.config.exists():
        raise ValueError(f"{path} is no run folder: it holds no config.yaml")
    newest = checkpoint.find_whole(folder.checkpoints, print)
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
        _write_evaluations(folder, {name: e | {"step": state["step"]} for name, e in evaluations.items()})
    except OSError as error:
        raise ValueError(f"cannot write to {folder.evaluations}: {error.strerror}") from None
    return evaluations
