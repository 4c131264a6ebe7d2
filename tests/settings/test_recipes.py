"""Published recipes: configs/paper resolves to the values that recipes.yaml has from the sources, and trains."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from negbench.settings.keys import flatten
from negbench.settings.plugins.find import list_studies
from negbench.settings.resolve import Resolved, resolve
from negbench.settings.schema import OptimizerConfig
from negbench.train.optim import build_optimizer
from tests.helpers.runs import SMALL, folder, start

Entry = dict[str, tuple[Any, str]]  # key -> value, source
SOURCES: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "recipes.yaml").read_text())
CASES = [(name, method) for name, entries in SOURCES.items() if not name.startswith(".") for method in entries]
UNSOURCED = {"track", "method.name", "views.policy"}  # what a recipe sets and no source has
SHRINK = [
    "data.name=patterns",
    "data.image_size=8",
    "data.num_images=32",
    "batch_size=16",
    "batch_norm_splits=2",
    "epochs=1",
    "model.name=two-convolutions",
    "model.stem=cifar",
    "projector.hidden=16",
    "projector.dim=8",
    "precision=fp32",
    "evaluation.test=false",
]


def entry(path: str) -> Entry:
    """The values of a part, or of RECIPE/METHOD, with those that it is like."""
    name, _, method = path.partition("/")
    own = SOURCES[name][method] if method else SOURCES[name]
    values: Entry = {}
    for other in own.get("like", []):
        values |= entry(other)
    return values | {key: value for key, value in own.items() if key != "like"}


def published(name: str, method: str, *settings: str) -> Resolved:
    return resolve(method, f"paper/{name}", settings)


def test_every_recipe_has_an_entry_and_every_entry_a_recipe() -> None:
    files = {name.removeprefix("paper/") for name in list_studies() if name.startswith("paper/")}
    assert files == {name for name, _ in CASES}
    for name in files:
        content = yaml.safe_load(list_studies()[f"paper/{name}"].read_text())
        assert set(content.get("per_method") or [content["method"]["name"]]) == set(SOURCES[name]), name


@pytest.mark.parametrize(("name", "method"), CASES)
def test_settings_are_the_published_ones(name: str, method: str) -> None:
    sourced = entry(f"{name}/{method}")
    assert all(isinstance(source, str) and source for _, source in sourced.values())
    resolved = published(name, method)
    assert resolved.config.track == "recipe"
    expected = {key: value for key, (value, _) in sourced.items()}
    both = {key.replace(".first.", ".second."): value for key, value in expected.items() if ".first." in key}
    expected = both | expected
    settings = flatten(resolved.config)
    assert {key: settings[key] for key in expected} == expected
    set_by_study = {key for key, origin in resolved.origins.items() if not origin.startswith("views: ")}
    assert set_by_study - set(expected) <= UNSOURCED


@pytest.mark.parametrize(("name", "method"), CASES)
def test_recipe_trains(name: str, method: str, tmp_path: Path) -> None:
    config = published(name, method).config
    settings = [*SHRINK, *SMALL.get(method, [])]
    if config.batch_norm == "shuffled":  # needs several processes
        settings.append("batch_norm=split")
    if config.views.crops:
        crops = [crop.model_dump(mode="json") | {"size": crop.size // 12} for crop in config.views.crops]
        settings.append(f"views.crops={json.dumps(crops)}")
    resolved = published(name, method, *settings)
    start(resolved, tmp_path)
    (step,) = (row for row in folder(resolved, tmp_path).read_metrics() if "loss" in row)
    assert step["step"] == 2
    assert step["loss"] > 0


@pytest.mark.parametrize(("name", "scale"), [("sgd", 2.0), ("sgd", 0.25), ("lars", 2.0)])
def test_another_scale_of_the_loss_is_another_rate_and_decay(name: Any, scale: float) -> None:
    """Recipes whose published loss is a multiple of ours have other numbers for the same training."""

    def trained(factor: float, lr: float, weight_decay: float) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(4, 3, bias=False).double()
        optimizer = build_optimizer(layer, OptimizerConfig(name=name, lr=lr, weight_decay=weight_decay))
        for _ in range(5):
            optimizer.zero_grad()
            (factor * layer(torch.randn(8, 4, dtype=torch.float64)).pow(2).mean()).backward()
            optimizer.step()
        return layer.weight

    rate = 0.1 * scale if name == "sgd" else 0.1  # LARS does not see the gradient's scale
    torch.testing.assert_close(trained(1.0, rate, 0.2 / scale), trained(scale, 0.1, 0.2))
