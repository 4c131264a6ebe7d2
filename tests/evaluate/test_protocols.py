"""Protocols by name: held to definitions written from their sources, and told for what they are."""

import inspect
import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from negbench.data.batches import eval_batches
from negbench.evaluate.curve import highest
from negbench.evaluate.final import evaluate, evaluate_on_test
from negbench.evaluate.protocols import knn_lightly
from negbench.evaluate.request import make_record
from negbench.evaluate.source import run_source
from negbench.evaluate.subject import Subject
from negbench.records.run import checkpoint
from negbench.records.run_folder import RunFolder
from negbench.runtime.failure import Interrupted
from negbench.settings.plugins.facts import STANDARD
from negbench.settings.plugins.find import PROTOCOL, find_plugin, import_plugin
from negbench.settings.plugins.protocols import NAMED, PROTOCOLS
from negbench.settings.resolve import Resolved, resolve, restore
from negbench.train import stopping
from negbench.train.loggers.base import Logger, Row
from negbench.train.setup import Setup, set_up
from tests.cli.test_cli import invoke
from tests.helpers import runs
from tests.helpers.ranks import on_ranks
from tests.settings.test_study import USER_METHOD

RECIPE = ("track=recipe", "data.validation=0", "data.num_images=256", "batch_size=64")  # a bank of 200 or more
LIGHTLY = (*RECIPE, "evaluation.protocols=[knn-lightly]")
DEMO = "evaluation.protocols=knn-moco-demo"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A recipe's run with the protocol of every epoch, undisturbed."""
    output = tmp_path_factory.mktemp("lightly")
    resolved = runs.short("moco", *LIGHTLY)
    runs.start(resolved, output)
    return runs.folder(resolved, output)


def record(run: RunFolder, protocol: str) -> dict[str, Any]:
    return dict(json.loads((run.evaluations / f"{protocol}.json").read_text()))


def restored(run: RunFolder) -> Setup:
    setup = set_up(restore(run.path), runs.CPU)
    setup.method.load_state_dict(checkpoint.load(checkpoint.find(run.checkpoints)[0])["method"])
    return setup


def top1_by_hand(setup: Setup, network: nn.Module) -> float:
    """The notebook's `test` and `knn_predict` in float64, image by image: the 200 nearest of the training images."""

    def outputs(part: Any) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            batches = [
                (network.eval()(images), labels) for images, labels in eval_batches(part, setup.config, runs.CPU)
            ]
        return F.normalize(torch.cat([x for x, _ in batches]).double(), dim=1), torch.cat([y for _, y in batches])

    (bank, bank_labels), (queries, labels) = outputs(setup.splits.train), outputs(setup.splits.test)
    right = 0
    for query, label in zip(queries, labels.tolist(), strict=True):
        cosines = bank @ query
        votes = [0.0] * len(setup.splits.classes)
        for neighbour in cosines.argsort(descending=True)[:200].tolist():
            votes[int(bank_labels[neighbour])] += float(torch.exp(cosines[neighbour] / 0.1))
        right += votes.index(max(votes)) == label
    return right / len(labels)


def test_every_protocol_is_a_function_and_every_named_one_has_a_figure() -> None:
    for name, protocol in PROTOCOLS.items():
        taken = ["subject", "request"] if protocol.settings else ["subject"]
        assert list(inspect.signature(import_plugin(find_plugin(PROTOCOL, name)).evaluate).parameters) == taken
        assert (protocol.figure and protocol.title) or name in STANDARD
    assert all("test set" in protocol.title for protocol in NAMED.values() if protocol.every_epoch)


def test_mocos_demo_is_the_notebooks(tmp_path: Path) -> None:
    resolved = runs.short("moco", "data.num_images=300", "data.validation=0", "optimizer.lr=0.5", DEMO)
    summary = runs.start(resolved, tmp_path)
    run = runs.folder(resolved, tmp_path)
    setup = restored(run)
    assert record(run, "knn-moco-demo")["trained"]["top1"] == top1_by_hand(setup, setup.method.query_encoder)
    assert summary["knn_moco_demo_top1"] == record(run, "knn-moco-demo")["trained"]["top1"]
    assert record(run, "knn-moco-demo")["trained"]["bank"] == "training images, 300"
    untrained = record(run, "knn-moco-demo")["untrained"]["top1"]
    assert summary["knn_moco_demo_top1"] != untrained != summary["knn200_top1"]


def test_an_epoch_of_lightlys_is_on_the_backbone(tmp_path: Path) -> None:
    resolved = runs.short("moco", *LIGHTLY, "data.num_images=300", "epochs=1")
    runs.start(resolved, tmp_path)
    setup = restored(runs.folder(resolved, tmp_path))
    (row,) = epochs_of(runs.folder(resolved, tmp_path))
    assert row["test_top1"] == top1_by_hand(setup, setup.method.query_encoder.backbone)


@pytest.mark.parametrize("name", ["moco", "byol"])
def test_mocos_demo_sees_the_projector_and_no_predictor(name: str) -> None:
    setup = set_up(runs.short(name, *LIGHTLY), runs.CPU)
    encoder, method = setup.method.query_encoder, setup.method
    before = {protocol: make_record(PROTOCOLS[protocol], Subject(setup, encoder))["top1"] for protocol in NAMED}
    if method.predictor is not None:
        method.predictor = nn.Linear(8, 8)
        assert make_record(PROTOCOLS["knn-moco-demo"], Subject(setup, encoder))["top1"] == before["knn-moco-demo"]
    for parameter in encoder.projector.parameters():
        nn.init.constant_(parameter, 0.0 if parameter.ndim > 1 else 1.0)  # one embedding for all images
    after = {protocol: make_record(PROTOCOLS[protocol], Subject(setup, encoder))["top1"] for protocol in NAMED}
    of_a_class = (setup.splits.test.labels_N.bincount() / len(setup.splits.test)).tolist()  # all vote for the same one
    assert after["knn-moco-demo"] == pytest.approx(of_a_class[0]) != before["knn-moco-demo"]
    assert after["knn-lightly"] == before["knn-lightly"]


def epochs_of(run: RunFolder) -> list[dict[str, Any]]:
    return [row for row in run.read_metrics() if row["kind"] == "knn-lightly"]


def test_lightlys_is_the_highest_of_all_epochs_and_says_so(finished: RunFolder) -> None:
    rows = epochs_of(finished)
    assert [(row["step"], row["epoch"]) for row in rows] == [(4, 1), (8, 2), (12, 3)]
    assert not [row for row in finished.read_metrics() if row["kind"] == "evaluation"]
    made = record(finished, "knn-lightly")["trained"]
    figures = [row["test_top1"] for row in rows]
    assert len(set(figures)) == 3
    assert (made["top1"], made["epoch"]) == (max(figures), figures.index(max(figures)) + 1)
    assert (made["last_top1"], made["last_epoch"], made["epochs_evaluated"]) == (figures[2], 3, 3)
    assert made["selection"].startswith("chosen on the test set: the highest of 3 epochs")
    summary = finished.read_summary()
    assert summary["knn_lightly_highest_test_top1"] == max(figures)
    assert summary["knn_top1_validation"] is None
    assert summary["eval_seconds"] > 0


def test_the_first_of_equal_epochs_is_named() -> None:
    rows = [
        {"kind": "knn-lightly", "epoch": epoch, "test_top1": top1} for epoch, top1 in ((1, 0.5), (2, 0.7), (3, 0.7))
    ]
    others = [{"kind": "epoch", "epoch": 2}, {"kind": "knn-lightly", "epoch": 5, "test_top1": 0.9}]  # a killed one's
    made = highest({"protocol": "knn-lightly", "top1": 0.6}, 4, [*rows, *others])
    assert (made["top1"], made["epoch"], made["last_top1"], made["epochs_evaluated"]) == (0.7, 2, 0.6, 4)
    assert highest({"protocol": "knn-lightly", "top1": 0.8}, 4, rows)["epoch"] == 4


class DieAt(Logger):
    """Ends the process's run without a checkpoint, once the figure of `step` is recorded."""

    def __init__(self, step: int) -> None:
        self.step = step

    def row(self, row: Row) -> None:
        if row["step"] == self.step and "test_top1" in row:
            raise RuntimeError("power cut")


@pytest.mark.parametrize("every", ["checkpoint_every_min=10", "checkpoint_every_min=1e-9"])
@pytest.mark.parametrize(("ending", "step"), [(runs.StopAt, 2), (runs.StopAt, 8), (DieAt, 8), (DieAt, 12)])
def test_an_interrupted_run_has_the_figures_of_an_undisturbed_one(
    ending: Any, step: int, every: str, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "CHECKPOINT_SHARE", 0)
    resolved = runs.short("moco", *LIGHTLY, every)
    with pytest.raises((Interrupted, RuntimeError)):
        runs.start(resolved, tmp_path, ending(step))
    run = runs.folder(resolved, tmp_path)
    recorded = len(epochs_of(run))
    notes = runs.Notes()
    runs.start(resolved, tmp_path, notes)
    if ending is DieAt:
        assert recorded == step / 4  # of which the checkpoint, if there is one, does not know the last
        assert (f"resumed {run.path} at step {step} of 12" in notes.texts) == ("1e-9" in every)
    runs.assert_same(runs.outcome(run), runs.outcome(finished))
    assert record(run, "knn-lightly") == record(finished, "knn-lightly")


@pytest.mark.parametrize(("every", "steps"), [("checkpoint_every_min=10", 9), ("checkpoint_every_min=1e-9", 8)])
def test_a_signal_amid_an_epochs_evaluation_loses_nothing(
    every: str, steps: int, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at once where the step is saved, and else after the evaluation, with a checkpoint."""
    monkeypatch.setattr(stopping, "CHECKPOINT_SHARE", 0)
    epochs, evaluate = itertools.count(1), knn_lightly.evaluate

    def interrupted(subject: Subject) -> dict[str, Any]:
        if next(epochs) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(subject)

    resolved = runs.short("moco", *LIGHTLY, every)
    with monkeypatch.context() as patch:
        patch.setattr(knn_lightly, "evaluate", interrupted)
        with pytest.raises(Interrupted):
            runs.start(resolved, tmp_path)
    run = runs.folder(resolved, tmp_path)
    assert checkpoint.load(checkpoint.find(run.checkpoints)[0])["step"] == steps
    runs.start(resolved, tmp_path)
    runs.assert_same(runs.outcome(run), runs.outcome(finished))
    assert record(run, "knn-lightly") == record(finished, "knn-lightly")


def test_it_goes_beside_the_held_out_curve_and_banks_all_training_images(tmp_path: Path) -> None:
    settings = ("track=recipe", "data.validation=0.2", "evaluate_every_epochs=2")
    outcomes = []
    for more in ((), ("evaluation.protocols=[knn-lightly]",)):
        resolved = runs.short("moco", *settings, *more)
        runs.start(resolved, tmp_path)
        run = runs.folder(resolved, tmp_path)
        state, rows = runs.outcome(run)
        assert state.pop("run_id") == run.path.name
        outcomes.append((state, [row for row in rows if row["kind"] != "knn-lightly"]))
    runs.assert_same(outcomes[0], outcomes[1])  # nothing else in the run knows of it
    steps = {kind: [row["step"] for row in rows if row["kind"] == kind] for kind in ("evaluation", "knn-lightly")}
    assert steps == {"evaluation": [0, 8, 12], "knn-lightly": [4, 8, 12]}
    assert record(run, "knn-lightly")["trained"]["bank"] == "training images and those held out, 1070"


def test_the_test_set_is_left_alone_where_the_study_leaves_it_alone(tmp_path: Path) -> None:
    resolved = runs.short("moco", *LIGHTLY, "evaluation.test=false")
    summary = runs.start(resolved, tmp_path)
    assert not epochs_of(runs.folder(resolved, tmp_path)) and "knn_lightly_highest_test_top1" not in summary


def test_only_recipes_select_on_the_test_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="protocol knn-lightly takes the highest of all epochs on the test set"):
        runs.short("moco", "evaluation.protocols=[knn-moco-demo, knn-lightly]")
    resolved = runs.short("simclr")
    with pytest.raises(Interrupted):
        runs.start(resolved, tmp_path, runs.StopAt(2))
    path = tmp_path / resolved.run_id
    with pytest.raises(ValueError, match="only a recipe may, and this study has track: controlled"):
        evaluate(run_source(path), ["knn-lightly"], runs.CPU)
    assert evaluate(run_source(path), ["knn-moco-demo"], runs.CPU)["knn-moco-demo"]["trained"]["top1"] > 0


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("[knn-ligthly]", "evaluation.protocols (--set): unknown protocol 'knn-ligthly', did you mean 'knn-lightly'?"),
        ("knn", "evaluation.protocols (--set): knn is no further protocol: evaluation.test and evaluation.linear ask"),
        (
            "semi-1",
            "evaluation.protocols (--set): semi-1 is not made at the end of a run; `negbench evaluate RUN --prot",
        ),
    ],
)
def test_a_misspelt_protocol(value: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        runs.short("moco", *RECIPE, f"evaluation.protocols={value}")
    assert str(error.value).startswith(sentence)


def test_protocols_change_a_runs_id_by_what_they_are_alone() -> None:
    both = runs.short("moco", *RECIPE, "evaluation.protocols=[knn-lightly, knn-moco-demo, knn-lightly]")
    assert both.run_id == runs.short("moco", *RECIPE, "evaluation.protocols=[knn-moco-demo, knn-lightly]").run_id
    none = runs.short("moco", *RECIPE)
    assert both.run_id != none.run_id == runs.short("moco", *RECIPE, "evaluation.protocols=[]").run_id
    assert resolve("moco", seed=0).run_id == "quickstart-moco-s0-087219c8"  # as recorded by earlier versions


def test_evaluate_by_name(finished: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(finished.path, tmp_path / finished.path.name))
    before = record(run, "knn-lightly")
    code, stdout, _ = invoke("evaluate", str(run.path), "--protocol", "knn-lightly", "--protocol", "knn-moco-demo")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in stdout.splitlines())
    assert lines["knn_lightly_highest_test_top1"] == f"{before['trained']['top1']:.4f}"
    assert lines["knn-lightly:"] == before["trained"]["selection"]
    assert record(run, "knn-lightly") == before | {"step": 12}
    assert record(run, "knn-moco-demo").keys() == {"trained", "untrained", "step"}
    code, _, stderr = invoke("evaluate", str(run.path), "--protocol", "knn-ligtly")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "unknown protocol 'knn-ligtly', did you mean 'knn-lightly'?; known: knn, linear, knn-moco-demo" in stderr


def test_evaluate_counts_what_was_recorded_until_the_checkpoint(tmp_path: Path) -> None:
    for settings, count in ((LIGHTLY, 2), (RECIPE, 1)):
        resolved = runs.short("moco", *settings)
        with pytest.raises(Interrupted):
            runs.start(resolved, tmp_path, runs.StopAt(6))
        run = runs.folder(resolved, tmp_path)
        made = evaluate(run_source(run.path), ["knn-lightly"], runs.CPU)["knn-lightly"]["trained"]
        assert (made["epochs_evaluated"], made["last_epoch"]) == (count, 1.5)
        figures = [*(row["test_top1"] for row in epochs_of(run)), made["last_top1"]]
        assert made["top1"] == max(figures)
    assert made["selection"].startswith("of epoch 1.5 alone, for the run has no records of others; the protocol is the")


def test_a_users_method_is_evaluated_by_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(USER_METHOD)
    resolved: Resolved = runs.short(str(file))
    runs.start(resolved, tmp_path)
    run = runs.folder(resolved, tmp_path)
    made = evaluate(run_source(run.path), ["knn-moco-demo"], runs.CPU)["knn-moco-demo"]
    assert made["trained"]["features"] == "output of the query encoder's projector, L2-normalised"


def evaluate_on_ranks(output: str) -> dict[str, Any]:
    resolved = runs.short("moco", *RECIPE, "evaluation.protocols=[knn-moco-demo, knn-lightly]", "batch_norm=sync")
    summary = runs.start(resolved, Path(output))
    setup = restored(runs.folder(resolved, Path(output)))
    rows = runs.folder(resolved, Path(output)).read_metrics()
    return {"summary": summary, "again": evaluate_on_test(setup, setup.method.query_encoder, list(NAMED), 3, rows)}


def test_two_ranks_agree_and_have_the_figures_of_one_process(tmp_path: Path) -> None:
    first, second = on_ranks(2, evaluate_on_ranks, str(tmp_path))
    for protocol in NAMED.values():
        assert first["summary"][protocol.figure] == second["summary"][protocol.figure]
    assert first["again"] == second["again"]
    (path,) = (path for path in tmp_path.iterdir() if path.is_dir())
    alone = evaluate(run_source(path), list(NAMED), runs.CPU)
    for name, evaluation in first["again"].items():
        assert record(RunFolder(path), name)["trained"]["top1"] == alone[name]["trained"]["top1"]
        assert evaluation["trained"]["top1"] == pytest.approx(alone[name]["trained"]["top1"], abs=0.002)  # of 2,000
