"""Encoders of others: every layout is recognised, computes what its source computes, and runs no code."""

import json
import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from negbench.evaluate.final import evaluate
from negbench.evaluate.protocols.knn import knn
from negbench.evaluate.source import file_source
from negbench.evaluate.subject import Subject
from negbench.models.encoder import Encoder
from negbench.models.files.architecture import architectures
from negbench.models.files.layout import build_head, read_encoder
from negbench.settings.resolve import resolve
from negbench.train.setup import set_up
from tests.cli.test_cli import invoke
from tests.helpers import encoder_files, runs
from tests.helpers.encoder_files import features, images, resnet
from tests.train.test_run import image_folder

PUBLISHED: dict[str, Callable[[Path, nn.Module], None]] = {
    "MoCo v1": lambda path, query: encoder_files.moco(path, query, version=1),
    "MoCo v2": encoder_files.moco,
    "MoCo v2, as torch saves now": lambda path, query: encoder_files.moco(path, query, legacy=False),
    "AdCo": encoder_files.adco,
    "CaCo": encoder_files.caco,
}


def computed(path: Path, size: int = 32) -> Tensor:
    with torch.no_grad():
        return read_encoder(path).build().backbone(images(size))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts_compute_what_their_query_encoder_computes(name: str, tmp_path: Path) -> None:
    query, path = resnet(num_outputs=128), tmp_path / "checkpoint_0199.pth.tar"
    PUBLISHED[name](path, query)
    encoder = read_encoder(path)
    assert (encoder.model.name, encoder.model.stem) == ("resnet18", "imagenet")
    assert torch.equal(computed(path), features(query, images()))
    with torch.no_grad():
        assert torch.equal(encoder.build()(images()), query(images()))  # through the head, which is the projector
    assert f"fc.* ({len(query.fc.state_dict())} weights of the head)" in encoder.describe()
    assert encoder.left_out["module.encoder_k"] == len(query.state_dict())


def test_a_resnet_50_of_moco(tmp_path: Path) -> None:
    query, path = resnet("resnet50", num_outputs=128), tmp_path / "moco_v2_800ep_pretrain.pth.tar"
    encoder_files.moco(path, query)
    assert read_encoder(path).model.name == "resnet50"
    assert torch.equal(computed(path), features(query, images()))


def test_mocos_demo_has_numbers_for_names_and_the_cifar_stem(tmp_path: Path) -> None:
    query, path = resnet(cifar=True, num_outputs=128), tmp_path / "model_last.pth"
    encoder_files.moco_demo(path, query)
    encoder = read_encoder(path)
    assert encoder.model.stem == "cifar"
    with torch.no_grad():
        assert torch.equal(encoder.build()(images(16)), query(images(16)))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("resnet18", ".pth"), ("resnet18", ".safetensors"), ("resnet34", ".pt"), ("resnet50", ".safetensors")],
)
def test_state_dicts_of_torchvision_and_timm(name: str, suffix: str, tmp_path: Path) -> None:
    network = resnet(name)
    ours: Any = timm.create_model(name, num_classes=10)
    ours.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}, strict=False)
    for number, state in enumerate((network.state_dict(), ours.state_dict())):
        path = tmp_path / f"{number}{suffix}"
        if suffix == ".safetensors":
            safetensors.torch.save_file(state, path)
        else:
            torch.save(state, path)
        assert torch.equal(computed(path), features(network, images()))
    with torch.no_grad():
        torch.testing.assert_close(computed(path), ours.eval().forward_head(ours.forward_features(images()), True))


def test_a_network_in_data_parallel_without_counters_and_in_half_precision(tmp_path: Path) -> None:
    network = resnet().half()
    state = {f"module.{k}": v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    assert torch.equal(computed(tmp_path / "x.pth"), features(network.float(), images()))


def test_heads_are_linear_layers_with_batch_norm_and_relu_between() -> None:
    assert build_head({}) is None
    assert build_head({"layers.0.weight": torch.zeros(2, 3)}) is None
    assert build_head({"0.weight": torch.zeros(2, 3, 1, 1)}) is None
    assert build_head({"0.weight": torch.zeros(2, 3), "0.bias": torch.zeros(7)}) is None
    assert build_head({"123456789.weight": torch.zeros(2, 3)}) is None
    head = build_head({"0.weight": torch.zeros(2, 3), "2.weight": torch.zeros(5, 2), "2.bias": torch.zeros(5)})
    assert [type(layer) for layer in head or ()] == [nn.Linear, nn.ReLU, nn.Linear]


@pytest.fixture(scope="module")
def moco_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, Path]:
    """A file, its query encoder, and a folder of images."""
    folder = tmp_path_factory.mktemp("moco")
    query = resnet(num_outputs=128)
    encoder_files.moco(folder / "checkpoint_0199.pth.tar", query)
    image_folder(folder / "images").unlink()
    return folder / "checkpoint_0199.pth.tar", query, folder / "images"


def on_images(folder: Path) -> list[str]:
    return [f"data.root={folder}", "data.image_size=32", "precision=fp32", "evaluation.linear_epochs=1"]


def test_a_file_is_evaluated_as_its_source_network_would_be(
    moco_file: tuple[Path, nn.Module, Path], tmp_path: Path
) -> None:
    path, query, folder = moco_file
    code, stdout, stderr = invoke(
        *("evaluate", str(path), "--config", "imagefolder", "--output", str(tmp_path), "--device", "cpu", "--json"),
        *(part for setting in on_images(folder) for part in ("--set", setting)),
        *("--protocol", "knn", "--protocol", "knn-moco-demo"),
    )
    assert code == 0, stderr
    assert "resnet18 with the stem imagenet, in the layout of MoCo, AdCo and CaCo" in stderr
    assert "evaluated on imagefolder, as in study imagefolder" in stderr
    setup = set_up(resolve("moco", "imagefolder", [*on_images(folder), "batch_size=8"]), runs.CPU)
    query.fc, head = nn.Identity(), query.fc
    subject = Subject(setup, Encoder(query, head, 512))
    expected = knn(subject.features("train"), subject.features("test"), setup.config, 2)
    query.fc = head
    (records,) = tmp_path.glob("encoder-checkpoint_0199-*")
    record = json.loads((records / "evaluations" / "knn.json").read_text())
    assert json.loads(stdout)["knn_top1"] == record["trained"]["top1"]["20"] == expected[20]
    assert (records / "config.yaml").exists() and (records / "environment.json").exists()
    found = json.loads((records / "encoder.json").read_text())
    assert found["sha256"] == record["encoder"]["sha256"] and len(found["sha256"]) == 64
    assert found["left_out"]["module.encoder_k"] == len(query.state_dict())
    assert found["model"] == {"name": "resnet18", "stem": "imagenet"}
    assert "no runs in" in invoke("status", "--output", str(tmp_path))[1]


def test_other_settings_and_other_content_get_folders_of_their_own(
    moco_file: tuple[Path, nn.Module, Path], tmp_path: Path
) -> None:
    path, _, images_ = moco_file

    def evaluated(file: Path, *settings: str, protocol: str = "knn") -> Path:
        given = [*on_images(images_), *settings]
        source = file_source(file, "imagefolder", given, tmp_path)
        evaluate(source, [protocol], runs.CPU)
        return source.folder.path

    first = evaluated(path)
    assert evaluated(path, "data.workers=1", "batch_size=4", protocol="linear") == first
    assert {file.name for file in (first / "evaluations").iterdir()} == {"knn.json", "linear.json"}
    assert evaluated(path, "evaluation.knn_temperature=0.1") != first
    other = tmp_path / path.name
    torch.save(resnet().state_dict(), other)
    assert evaluated(other) != first


def test_the_checkpoint_of_a_run_is_evaluated_as_the_run(tmp_path: Path) -> None:
    resolved = runs.short("moco", "evaluation.linear=false")
    summary = runs.start(resolved, tmp_path)
    (newest, *_) = sorted(runs.folder(resolved, tmp_path).checkpoints.glob("*.pt"), reverse=True)
    notes: list[str] = []
    source = file_source(newest, None, [], tmp_path)
    made = evaluate(source, ["knn", "knn-moco-demo"], runs.CPU, note=notes.append)
    assert made["knn"]["trained"]["top1"]["20"] == summary["knn_top1"]
    assert made["knn"]["untrained"]["top1"]["20"] == summary["knn_top1_untrained"]
    assert "two-convolutions" in notes[0] and "in the layout of negbench" in notes[0]
    damaged = newest.read_bytes()[:-1] + b"x"
    newest.write_bytes(damaged)
    with pytest.raises(ValueError, match="its checksum does not match"):
        read_encoder(newest)


def state_of(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    state = dict(resnet().state_dict())
    change(state)
    return state


BAD = {
    "a missing weight": (
        lambda s: s.pop("layer2.0.downsample.0.weight"),
        "of resnet18 with the stem imagenet, the nearest, 1 missing (layer2.0.downsample.0.weight)",
    ),
    "another shape": (lambda s: s.update({"bn1.bias": torch.zeros(65)}), "1 of another shape (bn1.bias)"),
    "a part that ours has not": (
        lambda s: s.update({f"layer1.{n}.se.weight": torch.zeros(1) for n in range(5)}),
        "5 unexpected (layer1.0.se.weight, layer1.1.se.weight, layer1.2.se.weight, ...)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_backbone_that_does_not_match_is_refused_with_what_differs(name: str, tmp_path: Path) -> None:
    change, sentence = BAD[name]
    torch.save(state_of(change), tmp_path / "x.pth")
    code, stdout, stderr = invoke("evaluate", str(tmp_path / "x.pth"), "--output", str(tmp_path / "results"))
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert sentence in stderr and not (tmp_path / "results").exists()


def test_networks_that_are_none_of_ours_are_refused(tmp_path: Path) -> None:
    for network in (
        torchvision.models.resnet101(),
        torchvision.models.wide_resnet50_2(),
        timm.create_model("resnet18d"),
    ):
        torch.save(network.state_dict(), tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"none of resnet18, resnet34 and resnet50|no ResNet in a layout"):
            read_encoder(tmp_path / "x.pth")


def test_what_follows_the_backbone_is_left_out_and_said(tmp_path: Path) -> None:
    torch.save(state_of(lambda s: s.update({"last_bn.weight": torch.zeros(512)})), tmp_path / "x.pth")
    assert (
        "besides its backbone: fc.* (2 weights of the head), last_bn.weight"
        in read_encoder(tmp_path / "x.pth").describe()
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "model.name=resnet50"], "--set model.name=resnet50 contradicts"),
        (["--set", "model.stem=cifar"], "whose weights are of imagenet"),
        (["--protocol", "knn-moco-demo"], "protocol knn-moco-demo reads a projector's output, and"),
        (["--protocol", "knn-lightly"], "only a recipe may"),
        (["--config", "quikstart"], "did you mean 'quickstart'?"),
        (["--config", "imagefolder"], "data.root is not set"),
    ],
)
def test_mistakes_get_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    torch.save(resnet().state_dict(), tmp_path / "x.pth")
    code, stdout, stderr = invoke(
        "evaluate", str(tmp_path / "x.pth"), *arguments, "--output", str(tmp_path / "results")
    )
    assert (code, stdout) == (2, "")
    assert sentence in stderr.splitlines()[-1] and not (tmp_path / "results").exists()


def test_settings_of_a_file_do_not_belong_to_a_run(tmp_path: Path) -> None:
    for option in (["--config", "imagefolder"], ["--set", "data.image_size=8"], ["--output", "results"]):
        code, _, stderr = invoke("evaluate", str(tmp_path), *option)
        assert code == 2 and f"{' '.join(option[: 1 if option[0] != '--set' else 2])} belongs to a FILE" in stderr


def test_a_files_study_and_a_protocol_have_their_settings(tmp_path: Path) -> None:
    torch.save(resnet().state_dict(), tmp_path / "x.pth")
    of_study = ["data.image_size=32", "data.num_images=60", "precision=fp32", "deterministic=true"]
    of_protocol = ["epochs=1", "batch_size=20"]
    settings = [part for setting in [*of_study, *of_protocol] for part in ("--set", setting)]
    arguments = ["--protocol", "linear-moco", "--output", str(tmp_path / "results"), "--device", "cpu"]
    code, stdout, _ = invoke("evaluate", str(tmp_path / "x.pth"), *settings, *arguments)
    (record,) = (tmp_path / "results").glob("encoder-x-*/evaluations/linear-moco-*.json")
    assert code == 0 and record.name in stdout
    written = json.loads(record.read_text())
    assert (written["trained"]["settings"]["epochs"], written["trained"]["settings"]["batch_size"]) == (1, 20)
    assert "60" in json.dumps(written["trained"]) and len(written["encoder"]["sha256"]) == 64


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def code_carrying(form: str, path: Path, target: Path) -> None:
    content: Any = {"state_dict": resnet().state_dict(), "args": Touch(target)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif form == "old pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["zip", "before zip", "pickle", "old pickle"])
def test_code_in_a_file_does_not_run(form: str, tmp_path: Path) -> None:
    path, target = tmp_path / "x.pth.tar", tmp_path / "made"
    code_carrying(form, path, target)
    code, _, stderr = invoke("evaluate", str(path))
    assert not target.exists()
    assert code == 2 and stderr.count("\n") == 1
    assert "is not loaded: reading" in stderr and "would run code" in stderr and "keep its weights alone" in stderr
    if form.endswith("zip"):  # the test's own: it is code that would have run
        torch.load(path, weights_only=False)
        assert target.exists()


@pytest.mark.parametrize(
    ("extra", "name"),
    [(Namespace(lr=0.1), "argparse.Namespace"), (np.float64(1), "numpy"), (nn.Linear(2, 2), "torch.nn")],
)
def test_what_needs_more_than_tensors_is_named(extra: Any, name: str, tmp_path: Path) -> None:
    torch.save({"state_dict": resnet().state_dict(), "extra": extra}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"is not loaded: reading {name}"):
        read_encoder(tmp_path / "x.pth")


def damaged(form: str, path: Path) -> None:
    torch.save(resnet().state_dict(), path, _use_new_zipfile_serialization=form != "cut, before zip")
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"To whom it may concern",
            "cut": content[: len(content) // 2],
            "cut, before zip": content[: len(content) // 2],
            "cut safetensors": safetensors.torch.save(resnet().state_dict())[:5_000_000],
            "safetensors of nothing": (10**15).to_bytes(8, "little") + b"{",
        }[form]
    )


@pytest.mark.parametrize(
    "form", ["empty", "text", "cut", "cut, before zip", "cut safetensors", "safetensors of nothing"]
)
def test_damaged_files_get_one_sentence(form: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    damaged(form, path)
    code, _, stderr = invoke("evaluate", str(path))
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"negbench: {path} is damaged" in stderr or f"negbench: {path} is no file of weights: it is " in stderr


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"a": 1}, {}, {"state_dict": {}}, torch.zeros(2)])
def test_files_of_something_else_get_one_sentence(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    code, _, stderr = invoke("evaluate", str(tmp_path / "x.pth"))
    assert (code, stderr.count("\n")) == (2, 1)
    assert "holds a " in stderr or "holds no ResNet in a layout" in stderr


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (torch.full((64,), torch.nan), "is not finite"),
        (torch.ones(64, dtype=torch.int8), "is of int8, and not of floating-point numbers"),
        (torch.ones(64).to_sparse(), "is not stored as a dense tensor"),
        (torch.ones(64, device="meta"), "is not stored as a dense tensor"),
    ],
)
def test_weights_that_are_no_numbers_are_named(broken: Tensor, sentence: str, tmp_path: Path) -> None:
    torch.save(resnet().state_dict() | {"layer1.0.bn1.weight": broken}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"x.pth cannot be evaluated: its weight layer1.0.bn1.weight {sentence}"):
        read_encoder(tmp_path / "x.pth")


def test_there_is_no_file(tmp_path: Path) -> None:
    code, _, stderr = invoke("evaluate", str(tmp_path / "x.pth"))
    assert (code, stderr) == (2, f"negbench: there is neither a run folder nor a file {tmp_path / 'x.pth'}\n")


def test_looking_at_architectures_draws_no_random_number() -> None:
    architectures.cache_clear()
    before = torch.get_rng_state()
    architectures()
    assert torch.equal(torch.get_rng_state(), before)
