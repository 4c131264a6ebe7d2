"""One run from settings to summary: set up, resume, train, evaluate, record."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from negbench.data.reuse import Reuse
from negbench.evaluate.curve import PeriodicEvaluation
from negbench.evaluate.final import evaluate_on_test, protocols_of, write_evaluations
from negbench.evaluate.request import remarks
from negbench.records.checks.manifest import write_manifest
from negbench.records.checks.same import check_code, check_data
from negbench.records.files import filesystem, write_atomically, write_json
from negbench.records.run import checkpoint
from negbench.records.run.code import write_code
from negbench.records.run.outcome import DONE, outcome_of, recorded
from negbench.records.run_folder import RunFolder
from negbench.runtime import environment
from negbench.runtime.distributed import broadcast_objects, gather_objects, rank, world_size
from negbench.runtime.errors import UserError
from negbench.settings.cautions import cautions_of
from negbench.settings.keys import flatten, to_yaml
from negbench.settings.resolve import Resolved
from negbench.settings.steps import check_batch
from negbench.train.loggers.base import LoggedRun, Logger, Loggers
from negbench.train.loggers.records import Records
from negbench.train.optim import build_optimizer
from negbench.train.setup import Setup, set_up
from negbench.train.stopping import signals
from negbench.train.summarize import summarize
from negbench.train.trainer import Trainer


def execute(
    resolved: Resolved,
    output: Path,
    device: torch.device,
    loggers_of_caller: Sequence[Logger] = (),
    fresh: bool = False,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Train, evaluate and record one run, resumed from its newest checkpoint, and return its summary.

    Only rank 0 writes. The rows go to the run's records, to the loggers of its settings and to `loggers_of_caller`.
    UserError for the user's mistakes; `Interrupted` after a signal, or with signal 0 at step `stop_after`, with a
    checkpoint written. From the first write on any exception is recorded in `summary.json`, and raised.
    """
    folder = RunFolder(output / resolved.run_id)
    loggers = Loggers([Records(folder), *loggers_of_caller] if rank() == 0 else loggers_of_caller)
    if _by_rank_0(lambda: not fresh and _is_finished(folder, resolved, loggers.note)):
        return _report_finished(folder, loggers)
    check_batch(resolved.config, world_size())
    _by_rank_0(folder.check_writable)
    setup = set_up(resolved, device)
    _by_rank_0(lambda: loggers.build(resolved.config.loggers))
    for text in [*setup.notes, *_of_encoder(setup)]:
        loggers.note(text)
    trainer = None
    try:
        with recorded(folder, lambda: summarize(setup, folder, trainer, {})) if rank() == 0 else nullcontext():
            if _by_rank_0(lambda: _open(folder, setup, fresh, loggers.note)):
                return _report_finished(folder, loggers)
            trainer = _trainer(setup, folder, loggers)
            trainer.stopping.stop_after = stop_after
            _by_rank_0(lambda: _caution(setup, trainer))
            return _train_and_evaluate(setup, trainer)
    finally:
        loggers.close()
        folder.close()


def _of_encoder(setup: Setup) -> list[str]:
    replaced = setup.method.replaced
    return (
        [f"caution: method {setup.config.method.name} does not train the study's encoder: its encoder {replaced}"]
        if replaced
        else []
    )


def _is_finished(folder: RunFolder, resolved: Resolved, note: Callable[[str], None]) -> bool:
    """Return whether the run is finished. UserError if it was made by other code or on other data."""
    if folder.is_done():
        Reuse(note).check(folder, resolved)
    return folder.is_done()


def _by_rank_0(function: Callable[[], Any]) -> Any:
    """Return on all ranks what `function` returns on rank 0. All of them raise its UserError."""
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = function()
        except UserError as error:
            answer[1] = error
    broadcast_objects(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def _report_finished(folder: RunFolder, loggers: Loggers) -> dict[str, Any]:
    loggers.note(f"{folder.path} is finished; --fresh runs it again")
    return folder.read_summary()


def _open(folder: RunFolder, setup: Setup, fresh: bool, note: Callable[[str], None]) -> bool:
    """Take the folder and write what is known at the start. True if another process has finished the run meanwhile."""
    folder.open(fresh)
    if checkpoint.find(folder.checkpoints):
        check_code(folder, setup.resolved.method_file, note=note)
        check_data(folder, setup.record, note=note)
    if folder.is_done():
        return True
    if setup.record is not None:
        write_json(folder.data, setup.record.model_dump(mode="json"))
    folder.summary.unlink(missing_ok=True)  # an earlier attempt's: without one, this attempt has not ended well
    write_atomically(folder.config, to_yaml(setup.config))
    this = environment.describe(setup.device, world_size(), setup.dtype)
    root = setup.config.data.root
    this |= {"attempt": folder.attempt, "data_filesystem": filesystem(Path(root).expanduser()) if root else None}
    this |= write_code(folder, setup.resolved.method_file)
    this |= {"reproduce": setup.resolved.command, "changed": setup.resolved.changed}
    attempts = [*folder.read_environment().get("attempts", []), this]
    write_json(folder.environment, {**this, "attempts": attempts})
    return False


def _trainer(setup: Setup, folder: RunFolder, loggers: Loggers) -> Trainer:
    """Return a trainer at the newest whole checkpoint, or at the start."""
    config, splits, method = setup.config, setup.splits, setup.method
    optimizer = build_optimizer(method, config.optimizer)
    evaluation = PeriodicEvaluation(setup, method)
    trainer = Trainer(config, method, optimizer, splits.train, folder, setup.device, loggers, evaluation, setup.skipped)
    newest = _by_rank_0(lambda: checkpoint.find_whole(folder.checkpoints, loggers.note, set_aside=True))
    if newest is None:
        trainer.discard_records(0)
    else:
        _load(trainer, newest)
    return trainer


def _caution(setup: Setup, trainer: Trainer) -> None:
    """Note what is odd about the run's settings, or about how it is resumed."""
    epochs = [row for row in trainer.folder.read_metrics() if row["kind"] == "epoch"]
    paces = {row["step"] / row["epoch"] for row in epochs} | {trainer.steps_per_epoch}
    for clause in cautions_of(flatten(setup.config), len(setup.splits.train), paces):
        trainer.loggers.note(f"caution: {clause}")


def _load(trainer: Trainer, path: Path) -> None:
    state = checkpoint.load(path)
    _by_rank_0(lambda: _check(trainer, path, state))
    try:
        trainer.load_state(state)
    except (LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"checkpoint {path} does not fit this version of the method ({said[:120]}); --fresh starts the run again"
        ) from None
    _check_indices(trainer, path)
    note = f"resumed {trainer.folder.path} at step {trainer.step} of {trainer.num_steps}"
    if state["world_size"] != world_size():
        note += f"; {world_size()} processes instead of {state['world_size']}, so not bitwise as undisturbed"
    if state["precision"] != str(trainer.method.autocast_dtype):
        note += f"; precision {trainer.method.autocast_dtype} instead of {state['precision']}"
    trainer.loggers.note(note)


def _check_indices(trainer: Trainer, path: Path) -> None:
    """Raise UserError if a source of negatives remembers images that the data does not have now."""
    buffers = dict(trainer.method.sources.named_buffers())
    remembered = [buffer for name, buffer in buffers.items() if name.rpartition(".")[2].startswith("index")]
    last = max((int(buffer.max()) for buffer in remembered), default=-1)
    if last >= len(trainer.train_set):
        raise UserError(
            f"checkpoint {path} remembers image number {last + 1:,}, and there are {len(trainer.train_set):,} training "
            "images now; give the data as it was, or make the run anew with --fresh"
        )


def _check(trainer: Trainer, path: Path, state: checkpoint.State) -> None:
    """Raise UserError if a checkpoint is of another run, or the records that it continues are not there."""
    folder = trainer.folder
    checkpoint.check_run(path, state, folder.path.name)
    if state["step"] > trainer.num_steps:
        raise UserError(
            f"checkpoint {path} is of step {state['step']:,}, and the run ends at step {trainer.num_steps:,}, so "
            "it is of another run; remove it, or start the run again with --fresh"
        )
    folder.check_metrics(state["metrics_bytes"], state["metrics_sha256"])


def _train_and_evaluate(setup: Setup, trainer: Trainer) -> dict[str, Any]:
    config, folder, loggers = setup.config, trainer.folder, trainer.loggers
    protocols = protocols_of(config)
    with signals(trainer.stopping), trainer.monitor.running():
        evaluated = trainer.evaluation.steps if trainer.evaluation else frozenset()
        run = LoggedRun(setup.resolved.run_id, folder.path, config, trainer.num_steps, trainer.step, evaluated)
        loggers.start(run)
        trainer.train()
        if protocols:
            loggers.note("training is done; evaluating on the test set")
        with trainer.clock.paused("eval"), trainer.monitor.paused(), trainer.stopping.at_once():
            trainer.synchronize_statistics()
            rows = _by_rank_0(lambda: [row for row in folder.read_metrics() if row["kind"] in protocols])
            before = next(iter(setup.method.untrained), None)
            encoder = setup.method.query_encoder
            evaluations = evaluate_on_test(setup, encoder, protocols, config.epochs, rows, before=before)
            setup.skipped.update(*gather_objects(setup.skipped))
    for text in remarks(evaluations):
        loggers.note(text)
    summary = summarize(setup, folder, trainer, evaluations) | outcome_of(DONE)
    if rank() == 0:
        folder.check_still_ours()
        write_evaluations(folder, evaluations)
        write_json(folder.summary, summary)
        write_manifest(folder)
        write_atomically(folder.done, "")
    return summary
