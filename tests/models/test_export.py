"""Exports load back through their own libraries with equal features, and overwrite nothing."""

import functools
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from torch import Tensor

from negbench.models.files.detectron2 import to_detectron2
from negbench.models.files.export import Export, export
from negbench.models.files.layout import read_encoder
from negbench.records.run import checkpoint
from negbench.records.run_folder import RunFolder
from tests.cli.test_cli import invoke
from tests.helpers import encoder_files, runs
from tests.helpers.encoder_files import features, images, resnet

FEW = ("epochs=1", "evaluation.test=false", "evaluate_every_epochs=0")
ROUNDING = 1e-5  # of other kernels and other batches, over the largest feature


def silent(text: str) -> None: ...


@pytest.fixture(scope="module", params=["cifar", "imagenet"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of a ResNet-18, three steps on 8 x 8 pixels."""
    settings = ("model.name=resnet18", f"model.stem={request.param}", "data.num_images=48")
    resolved = runs.short("moco", *FEW, *settings)
    output = tmp_path_factory.mktemp(request.param)
    runs.start(resolved, output)
    return runs.folder(resolved, output)


@pytest.fixture(scope="module")
def exported(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Export]:
    """The run in a format, exported at the first call."""

    @functools.cache
    def written(format: str) -> Export:
        return export(run.path, format, tmp_path_factory.mktemp(format) / "x", False, silent)

    return written


def features_of(run: RunFolder, size: int = 32) -> Tensor:
    """By the query encoder's weights in the checkpoint, in torchvision's network."""
    state = checkpoint.load(checkpoint.find(run.checkpoints)[0])["method"]
    prefix = "query_encoder.backbone."
    backbone = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    network = resnet(cifar=backbone["conv1.weight"].shape[-1] == 3)
    network.load_state_dict(backbone, strict=False)
    return features(network, images(size))


def assert_equal(made: Tensor, expected: Tensor) -> None:
    assert made.shape == expected.shape
    assert (made - expected).abs().max() <= ROUNDING * expected.abs().max()


def executed(lines: list[str], shown: Tensor) -> Tensor:
    """The features that the printed lines of Python give for images."""
    names: dict[str, Any] = {"images": shown.numpy() if "onnxruntime" in lines[0] else shown}
    with torch.no_grad():
        exec("\n".join(lines), names)
    return torch.as_tensor(names["features"])


@pytest.mark.parametrize("format", ["torchvision", "timm", "safetensors", "onnx"])
def test_the_printed_lines_load_the_export_with_equal_features(
    format: str, run: RunFolder, exported: Callable[[str], Export]
) -> None:
    written = exported(format)
    for size in (32, 40):
        assert_equal(executed(written.lines, images(size)), features_of(run, size))
    one = images()[:1]
    assert_equal(executed(written.lines, one), features_of(run)[:1])
    facts = json.loads(written.path.with_name("x.json").read_text())
    assert facts["run_id"] == run.path.name and facts["step"] == 3 and facts["view_policy"] == "patterns"
    assert facts["normalisation"] == {"mean": [0.5] * 3, "std": [0.25] * 3} and facts["image_size"] == 8


def test_the_query_encoder_is_exported_and_not_the_key_encoder(run: RunFolder, tmp_path: Path) -> None:
    state = checkpoint.load(checkpoint.find(run.checkpoints)[0])["method"]
    written = torch.load(export(run.path, "torchvision", tmp_path / "x.pth", False, silent).path)
    assert torch.equal(written["conv1.weight"], state["query_encoder.backbone.conv1.weight"])
    assert not torch.equal(written["conv1.weight"], state["key_encoder.backbone.conv1.weight"])


def test_torchvision_lacks_fc_alone_and_timm_nothing(run: RunFolder, tmp_path: Path) -> None:
    if read_encoder(checkpoint.find(run.checkpoints)[0]).model.stem == "cifar":
        pytest.skip("their networks as they are have the other stem")
    ours = torch.load(export(run.path, "torchvision", tmp_path / "x.pth", False, silent).path)
    missing, unexpected = torchvision.models.resnet18(weights=None).load_state_dict(ours, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    path = export(run.path, "timm", tmp_path / "x.safetensors", False, silent).path
    network = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(path)).eval()  # strictly
    with torch.no_grad():
        assert_equal(network(images()), features_of(run))


def test_safetensors_and_onnx_know_their_source(run: RunFolder, exported: Callable[[str], Export]) -> None:
    import onnx

    with safe_open(exported("safetensors").path, "pt") as file:
        of_safetensors = json.loads(file.metadata()["negbench"])
    model = onnx.load(exported("onnx").path)
    (of_onnx,) = (json.loads(entry.value) for entry in model.metadata_props if entry.key == "negbench")
    assert of_safetensors == of_onnx
    assert of_onnx["run_id"] == run.path.name and of_onnx["normalisation"]["std"] == [0.25] * 3


# Export from detectron2's modules: BasicStem has conv1, a block has conv1 to conv3 and a shortcut, and each of these
# convolutions its norm; a ResNet names its stages res2 to res5.
EXPECTED = {
    "conv1.weight": "stem.conv1.weight",
    "bn1.running_mean": "stem.conv1.norm.running_mean",
    "layer1.0.conv3.weight": "res2.0.conv3.weight",
    "layer2.3.bn1.bias": "res3.3.conv1.norm.bias",
    "layer3.5.bn2.running_var": "res4.5.conv2.norm.running_var",
    "layer4.0.downsample.0.weight": "res5.0.shortcut.weight",
    "layer4.0.downsample.1.weight": "res5.0.shortcut.norm.weight",
}


def test_names_of_detectron2() -> None:
    assert {name: to_detectron2(name) for name in EXPECTED} == EXPECTED
    for name in ("fc.weight", "layer5.0.conv1.weight", "layer1.0.se.weight", "layer1.0.conv4.weight"):
        with pytest.raises(ValueError, match="no weight of a ResNet's backbone"):
            to_detectron2(name)


def from_detectron2(name: str) -> str:
    """The way back, written by itself."""
    *modules, weight = name.split(".")
    if modules[0] == "stem":
        return f"{'bn1' if modules[-1] == 'norm' else 'conv1'}.{weight}"
    stage, block, layer = f"layer{int(modules[0][3]) - 1}", modules[1], modules[2]
    normalises = modules[-1] == "norm"
    if layer == "shortcut":
        return f"{stage}.{block}.downsample.{int(normalises)}.{weight}"
    return f"{stage}.{block}.{layer.replace('conv', 'bn') if normalises else layer}.{weight}"


def test_a_resnet_50_goes_to_detectron2_and_back(tmp_path: Path) -> None:
    query = resnet("resnet50", num_outputs=128)
    encoder_files.adco(tmp_path / "input.pth.tar", query)
    written = export(tmp_path / "input.pth.tar", "detectron2", None, False, silent)
    assert written.path == tmp_path / "input.detectron2.pkl"
    content = pickle.loads(written.path.read_bytes())
    assert {key: content[key] for key in content if key != "model"} == {
        "__author__": "negbench",
        "matching_heuristics": True,
    }
    assert {type(array).__module__ for array in content["model"].values()} == {"numpy"}
    state = {from_detectron2(name): torch.from_numpy(array) for name, array in content["model"].items()}
    network = torchvision.models.resnet50().eval()
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])  # counters are added by torch
    assert torch.equal(features(network, images()), features(query, images()))
    assert "cfg.MODEL.RESNETS.DEPTH = 50" in written.lines and not any("PIXEL" in line for line in written.lines)


def test_detectron2_is_told_the_normalisation_in_pixels(run: RunFolder, tmp_path: Path) -> None:
    if read_encoder(checkpoint.find(run.checkpoints)[0]).model.stem == "cifar":
        code, _, stderr = invoke("export", str(run.path), "--format", "detectron2")
        assert code == 2 and "detectron2 has no resnet18 with the stem cifar" in stderr
        return
    lines = export(run.path, "detectron2", tmp_path / "x.pkl", False, silent).lines
    assert "cfg.MODEL.PIXEL_MEAN = [127.5, 127.5, 127.5]" in lines
    assert "cfg.MODEL.PIXEL_STD = [63.75, 63.75, 63.75]" in lines
    assert "cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64" in lines


def test_an_export_can_be_evaluated_and_exported_again(run: RunFolder, tmp_path: Path) -> None:
    first = export(run.path, "torchvision", tmp_path / "x.pth", False, silent).path
    second = export(first, "safetensors", None, False, silent).path
    assert second == tmp_path / "x.safetensors"
    facts = [json.loads(path.with_name(path.name + ".json").read_text()) for path in (first, second)]
    for key in ("run_id", "step", "normalisation", "view_policy", "image_size", "model"):
        assert facts[0][key] == facts[1][key] is not None
    with torch.no_grad():
        assert torch.equal(read_encoder(second).build().backbone(images()), features_of(run))
    arguments = ("evaluate", str(second), "--set", "views=moco-v2", "--set", "data.num_images=1000000")
    _, _, stderr = invoke(*arguments)
    assert "trained on images with mean [0.5, 0.5, 0.5]" in stderr and "'views.first.mean=[0.5,0.5,0.5]'" in stderr


def test_our_resnet_8_has_a_file_where_a_name_is_needed_of_nobody(tmp_path: Path) -> None:
    resolved = runs.short("moco", "model.name=resnet8", *FEW)
    runs.start(resolved, tmp_path)
    run = runs.folder(resolved, tmp_path)
    made = {format: export(run.path, format, None, False, silent) for format in ("safetensors", "onnx")}
    of_each = [executed(written.lines, images(8)) for written in made.values()]
    assert_equal(*of_each)
    assert made["onnx"].path.parent == run.path.absolute() / "exports"
    assert read_encoder(made["safetensors"].path).model.name == "resnet8"
    for format in ("torchvision", "timm", "detectron2"):
        code, _, stderr = invoke("export", str(run.path), "--format", format)
        assert code == 2 and f"{format} has no resnet8" in stderr


def test_nothing_is_overwritten_but_by_force(run: RunFolder, tmp_path: Path) -> None:
    target = tmp_path / "x.pth"
    target.write_text("mine")
    command = ("export", str(run.path), "--format", "torchvision", "--output", str(target))
    code, stdout, stderr = invoke(*command)
    assert (code, stdout) == (2, "") and f"{target} exists; --force replaces it" in stderr
    assert target.read_text() == "mine"
    code, stdout, _ = invoke(*command, "--force")
    assert code == 0 and "model = torchvision.models.resnet18()" in stdout.splitlines()
    assert torch.load(target)["conv1.weight"].dtype == torch.float32
    code, _, stderr = invoke("export", str(target), "--format", "timm", "--output", str(target), "--force")
    assert code == 2 and "is what is exported" in stderr
    assert {path.name for path in tmp_path.iterdir()} == {"x.pth", "x.pth.json"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["RUN", "--format", "keras"], "--format must be one of torchvision, timm, safetensors, detectron2, onnx"),
        (["RUN", "--format", "timm", "--output", "nowhere/x"], "cannot write nowhere/x: No such file"),
        (["RUN", "--format", "timm", "--output", "."], "--output . is a folder; name a file"),
        (["EMPTY", "--format", "timm"], "is no run folder: it holds no config.yaml"),
        (["nowhere.pth", "--format", "timm"], "neither a run folder nor a file nowhere.pth"),
    ],
)
def test_mistakes_get_one_sentence(arguments: list[str], sentence: str, run: RunFolder, tmp_path: Path) -> None:
    given = [{"RUN": str(run.path), "EMPTY": str(tmp_path)}.get(argument, argument) for argument in arguments]
    code, stdout, stderr = invoke("export", *given)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert sentence in stderr


def test_a_missing_package_is_named_with_its_installation(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "onnxscript", raising=False)
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(ValueError, match=r"--format onnx needs .*onnxscript: pip install 'negbench\[export\]'$"):
        export(run.path, "onnx", tmp_path / "x.onnx", False, silent)
