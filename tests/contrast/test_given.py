"""A method trains the encoder that it is given, or says that it does not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from negbench.contrast.build import build_method
from negbench.contrast.given import Given
from negbench.contrast.method import Method
from negbench.models.encoder import build_encoder
from negbench.runtime.errors import UserError
from negbench.settings.resolve import resolve
from tests.helpers import runs

FILE = '''"""An attack."""
import copy
import torch
from torch import nn
from negbench.contrast.method import Method
from negbench.models.encoder import Encoder, initial_weights
from negbench.contrast import MethodConfig

class Config(MethodConfig):
    pass

def build(config, encoder, shape):
    {attack}
    return Method(encoder, shape.pairs(True), (), 0.1)
'''
ATTACKS = {
    "itself": ("pass", None),
    "a copy": ("encoder = copy.deepcopy(encoder)", None),
    "another backbone": (
        "encoder = Encoder(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), encoder.projector, 4, encoder.arithmetic)",
        "in place of backbone|other layers|lacks",
    ),
    "one of its own class": (
        "encoder.__class__ = type('Mine', (Encoder,), {'forward': lambda self, x: x})",
        "is a Mine of its own",
    ),
    "layers around": ("encoder.backbone = nn.Sequential(encoder.backbone, nn.ReLU())", "layer"),
    "layers behind": ("encoder.projector.append(nn.Identity())", "other layers"),
    "weights": ("next(encoder.parameters()).data.mul_(2)", "starts from another weight"),
    "drawn again": (
        "[m.reset_parameters() for m in encoder.modules() if hasattr(m, 'reset_parameters')]",
        "starts from another weight",
    ),
    "frozen": ("encoder.backbone.requires_grad_(False)", "frozen"),
    "another norm": ("encoder.projector[1] = nn.LayerNorm(16)", "in place of projector.1"),
    "another momentum": ("encoder.projector[1].momentum = 0.5", "in place of projector.1"),
    "a hook": ("encoder.backbone.register_forward_hook(lambda m, i, o: o * 0)", "a hook on backbone"),
    "a forward": ("encoder.backbone.forward = lambda x: x", "another forward in backbone"),
    "a statistic": ("encoder.projector[1].running_mean.add_(1)", "starts from another weight"),
}


def built(attack: str, folder: Path, *settings: str) -> Method:
    (folder / "mine.py").write_text(FILE.format(attack=attack))
    resolved = resolve(str(folder / "mine.py"), "quickstart", [*runs.SHORT, *settings])
    return build_method(resolved, 64, runs.CPU, None)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_controlled_study_trains_its_own_encoder(name: str, tmp_path: Path) -> None:
    attack, told = ATTACKS[name]
    if told is None:
        assert built(attack, tmp_path).replaced is None
        return
    with pytest.raises(UserError, match=f"does not train the study's encoder: its encoder .*({told})"):
        built(attack, tmp_path)


def test_a_forward_of_a_class_is_seen(monkeypatch: Any) -> None:
    encoder = build_encoder(runs.short().config)
    given = Given(encoder)
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: x)
    assert given.difference(encoder) == "has another forward in every Conv2d"


def test_a_recipe_says_so_and_keeps_the_network_before_training(tmp_path: Path) -> None:
    method = built(ATTACKS["weights"][0], tmp_path, "track=recipe")
    assert "starts from another weight" in str(method.replaced)
    (before,) = method.untrained
    assert before is not method.query_encoder and not any(name.startswith("untrained") for name in method.state_dict())
    ours, theirs = (encoder.state_dict() for encoder in (before, method.query_encoder))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
