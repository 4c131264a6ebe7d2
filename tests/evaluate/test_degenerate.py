"""Evaluations that must not give a clean figure: by one class, few images, or features that tell nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from negbench.data.load import RunData, load_data, load_splits
from negbench.data.sets import Splits
from negbench.evaluate import final
from negbench.evaluate.curve import highest
from negbench.evaluate.request import make_record, make_requests, remarks
from negbench.evaluate.source import file_source, run_source
from negbench.evaluate.subject import Subject, is_constant
from negbench.models.encoder import Encoder
from negbench.records.checks.verify import verify
from negbench.records.run import checkpoint
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from negbench.runtime.failure import Interrupted, ending_of
from negbench.settings.plugins.find import PROTOCOL, find_plugin
from negbench.settings.plugins.protocols import PROTOCOLS
from tests.cli.test_cli import invoke
from tests.helpers import layouts, runs

OWN = ["knn", "linear", "knn-moco-demo", "knn-lightly", "linear-moco", "semi-1"]


class Scaled(nn.Module):
    """The pixels of an image as features, times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW.flatten(1) * self.factor + 1


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(runs.short("moco", "data.num_images=250").config.data)


def subject(splits: Splits, factor: float, num_images: int = 250) -> Subject:
    config = runs.short("moco", "data.workers=0").config
    few = replace(splits, train=splits.train.subset(torch.arange(num_images)), validation=None)
    return Subject(RunData(config, runs.CPU, None, few), Encoder(Scaled(factor), nn.Identity(), 192))


def made(subject: Subject, name: str, data: Path | None = None) -> dict[str, Any]:
    settings = {"linear-moco": ["epochs=1"], "semi-1": ["epochs=1"], "transfer": ["num_strengths=2"]}.get(name, [])
    return make_record(PROTOCOLS[name], subject, make_requests([name], settings, data).get(name))


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", [*OWN, "transfer"])
def test_features_that_are_not_finite_have_no_figure(name: str, factor: float, splits: Splits, tmp_path: Path) -> None:
    data = layouts.image_folder(tmp_path) if name == "transfer" else None
    with pytest.raises(FloatingPointError, match=r"the encoder's .* features of .* images are not finite, or overflow"):
        made(subject(splits, factor), name, data)


@pytest.mark.parametrize("name", ["knn", "knn-moco-demo", "linear", "transfer"])
def test_constant_features_are_said(name: str, splits: Splits, tmp_path: Path) -> None:
    data = layouts.image_folder(tmp_path) if name == "transfer" else None
    record = made(subject(splits, 0.0), name, data)
    assert record["constant_features"] is True
    (said,) = remarks({name: {"trained": record}})[-1:]
    assert said.startswith(f"caution: {name}: all images have the same features")
    assert "constant_features" not in made(subject(splits, 1.0), name, data)


def test_constant_means_equal_but_for_rounding() -> None:
    row = torch.tensor([[3.0, -2.0, 0.0]])
    assert is_constant(row.repeat(5, 1)) and is_constant(torch.cat([row, row * (1 + 1e-7)]))
    assert is_constant(torch.zeros(4, 3))
    assert not is_constant(torch.cat([row, row * 1.001])) and not is_constant(row)


@pytest.mark.parametrize(
    ("name", "images", "left_out", "figures"),
    [
        ("knn", 88, "no figure for k = 200, since the bank has 88 images", {"20"}),
        ("knn", 19, "no figure for k = 20 and 200, since the bank has 19 images", set()),
        ("knn", 200, None, {"20", "200"}),
        ("knn-moco-demo", 88, "no figure for k = 200, since the bank has 88 images", None),
        ("knn-lightly", 199, "no figure for k = 200, since the bank has 199 images", None),
    ],
)
def test_a_k_above_the_bank_has_no_figure(
    name: str, images: int, left_out: str | None, figures: set[str] | None, splits: Splits
) -> None:
    record = made(subject(splits, 1.0, images), name)
    assert record.get("left_out") == left_out
    assert record.get("top1", {}).keys() == (figures or set())
    assert remarks({name: {"trained": record}}) == ([f"{name}: {left_out}"] if left_out else [])
    if figures is None:
        assert highest(record, 3, []) == record


@pytest.mark.parametrize("value", [91.2, -0.1, float("nan"), {"20": 0.5, "200": 2}])
@pytest.mark.parametrize("giver", ["negbench", "another-package"])
def test_a_figure_is_a_fraction(value: Any, giver: str, splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("negbench.evaluate.protocols.knn.evaluate", lambda subject: {"top1": value})
    found = find_plugin(PROTOCOL, "knn")
    monkeypatch.setattr("negbench.evaluate.request.find_plugin", lambda kind, name: replace(found, giver=giver))
    with pytest.raises(ValueError, match=f"protocol knn of {giver} made top1 = .*a fraction from 0 to 1") as error:
        made(subject(splits, 1.0), "knn")
    assert isinstance(error.value, UserError) == (giver != "negbench")


def test_a_curve_needs_as_many_images_as_neighbours(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nearest of the training images, and there are 18; give more"):
        runs.start(runs.short("moco", "data.num_images=18"), tmp_path)


@pytest.mark.parametrize("settings", [(), ("diagnostics=false", "log_every_steps=100"), ("evaluate_every_epochs=0",)])
def test_a_diverged_run_is_no_defect(settings: tuple[str, ...], tmp_path: Path) -> None:
    resolved = runs.short("moco", "optimizer.lr=1e6", "epochs=2", *settings)
    with pytest.raises(FloatingPointError) as error:
        runs.start(resolved, tmp_path)
    assert ending_of(error.value).kind == "not_finite"
    summary = runs.folder(resolved, tmp_path).read_summary()
    assert (summary["status"], summary["ending"]["kind"]) == ("failed", "not_finite")


@pytest.fixture
def begun(tmp_path: Path) -> RunFolder:
    """A run with a checkpoint, of which nothing was evaluated on the test set."""
    resolved = runs.short("moco", "data.workers=0", "evaluate_every_epochs=0")
    with pytest.raises(Interrupted):
        runs.start(resolved, tmp_path, runs.StopAt(2))
    return runs.folder(resolved, tmp_path)


def test_an_encoder_that_is_not_finite_is_the_files_fault(begun: RunFolder, tmp_path: Path) -> None:
    file = tmp_path / "broken.pt"
    state = checkpoint.load(checkpoint.find(begun.checkpoints)[0])
    weights = {name: value * 1e30 if value.ndim > 1 else value for name, value in state["method"].items()}
    torch.save({**state, "method": weights}, file)
    source = file_source(file, str(begun.config), [], tmp_path / "out")
    with pytest.raises(UserError, match=r"broken.pt cannot be evaluated: the encoder's .* are not finite"):
        final.evaluate(source, ["knn"], runs.CPU)
    assert not list(source.folder.evaluations.glob("*.json"))


def test_one_class_is_refused(begun: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_data(run_source(begun.path).config, runs.CPU)
    loaded.splits = replace(loaded.splits, classes=("only",))
    monkeypatch.setattr("negbench.evaluate.final.load_data", lambda config, device: loaded)
    with pytest.raises(UserError, match="protocol knn needs two classes or more to tell apart, and patterns has 1"):
        final.evaluate(run_source(begun.path), ["knn", "linear"], runs.CPU)


def test_the_untrained_figures_of_a_replaced_encoder_are_kept(begun: RunFolder) -> None:
    begun.summary.write_text(json.dumps(begun.read_summary() | {"encoder_replaced": True}))
    begun.evaluations.mkdir()
    before = {"trained": {"top1": {"20": 0.5}}, "untrained": {"top1": {"20": 0.25}}}
    (begun.evaluations / "knn.json").write_text(json.dumps(before))
    final.evaluate(run_source(begun.path), ["knn"], runs.CPU)
    after = json.loads((begun.evaluations / "knn.json").read_text())
    assert after["untrained"] == before["untrained"] and after["trained"] != before["trained"]
    assert verify(begun.path).problems == []


def test_no_code_of_a_run_folder_is_run(begun: RunFolder, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    evil = f"open({str(mark)!r}, 'a').write('x')\nfrom negbench.methods.moco import Config, build\n"
    (begun.path / "code").mkdir(exist_ok=True)
    for name in ("method.py", "code/helper.py", "evil.py", "sitecustomize.py"):
        (begun.path / name).write_text(evil)
    settings = begun.config.read_text()
    for key in ("  name: moco", "  name: two-convolutions", "  name: patterns"):
        assert key in settings
    assert invoke("evaluate", str(begun.path), "--protocol", "knn", "--device", "cpu")[0] == 0
    for command in ("report", "status", "verify"):
        invoke(command, str(begun.path))
    assert invoke("export", str(begun.path), "--format", "safetensors")[0] == 0
    for key in ("  name: moco", "  name: two-convolutions", "  name: patterns"):
        begun.config.write_text(settings.replace(key, f"  name: {begun.path / 'evil.py'}"))
        for command in ("evaluate", "report", "status", "verify"):
            invoke(command, str(begun.path))
    assert not mark.exists()
