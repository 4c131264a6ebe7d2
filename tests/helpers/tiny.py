"""A tiny encoder without BatchNorm, its data, and method files to run it with."""

from typing import Any

import torch
from torch import Tensor, nn

from negbench.contrast.method import Method, RunShape, StepOutput
from negbench.models.encoder import Arithmetic, Encoder
from negbench.runtime.seeding import stream
from negbench.settings.plugins.find import find_method, import_method, list_methods

METHODS = list(list_methods())
NUM_IMAGES, BATCH, DIM, SIZE = 24, 8, 6, 4
CROPS = (3, 5, 3)  # sizes of multi-crop's views
STEPS = 7
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS},
    "adco, adversaries only": ("adco", {"in_batch_negatives": False, "num_negatives": 12, "symmetric": True}),
    "adco, from random": ("adco", {"start": "random", "num_negatives": 12}),
    "adco, frozen": ("adco", {"update": "none", "num_negatives": 12}),
    "adco, descending": ("adco", {"update": "descend", "num_negatives": 12}),
    "moco, symmetric": ("moco", {"symmetric": True, "num_negatives": 20}),
    "moco, masked": ("moco", {"mask_own_image": True, "num_negatives": 20}),
    "byol, one way": ("byol", {"symmetric": False}),
    **{f"{name}, multi-crop": (name, {"num_views": 5}) for name in METHODS},
    "adco, symmetric multi-crop": ("adco", {"symmetric": True, "num_negatives": 12, "num_views": 5}),
    "moco, symmetric multi-crop": ("moco", {"symmetric": True, "num_negatives": 20, "num_views": 5}),
}
SMALL = {"adco": {"num_negatives": 20}, "moco": {"num_negatives": 20}, "byol": {"predictor_hidden": 5}}


def encoder(seed: int = 0, arithmetic: Arithmetic = Arithmetic()) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = nn.Sequential(nn.AdaptiveAvgPool2d(SIZE), nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 10), nn.Tanh())
        return Encoder(backbone, nn.Linear(10, DIM), 10, arithmetic)


def build(name: str, encoder_: Encoder | None = None, num_views: int = 2, **settings: Any) -> Method:
    """The method in float64 without BatchNorm."""
    module = import_method(find_method(name))
    config = module.Config(name=name, **SMALL.get(name, {}) | settings)
    shape = RunShape(NUM_IMAGES, BATCH, STEPS, DIM, 0, num_views)
    method: Method = module.build(config, encoder_ or encoder(), shape)
    if method.predictor is not None:
        method.predictor = nn.Sequential(*(m for m in method.predictor.modules() if isinstance(m, nn.Linear | nn.ReLU)))
    return method.double()


def variant(name: str) -> Method:
    base, settings = VARIANTS[name]
    return build(base, **settings)


def batch(step: int, rows: slice = slice(None), num_views: int = 2) -> tuple[list[Tensor], Tensor]:
    """Rows of the global batch of `step`: views and the images' numbers, distinct within a step."""
    generator = stream("tiny", step)
    sizes = (SIZE, SIZE, *CROPS)[:num_views]
    views = [torch.randn(BATCH, 3, size, size, generator=generator, dtype=torch.float64) for size in sizes]
    index = torch.randperm(NUM_IMAGES, generator=generator)[:BATCH]
    return [view[rows] for view in views], index[rows]


def num_views(method: Method) -> int:
    return len({view for pair in method.pairs for view in pair})


def train(method: Method, first: int, last: int, rows: slice = slice(None), replica: Any = None) -> list[StepOutput]:
    """Steps `first` to `last` - 1 with plain SGD; parameters, sources and key encoder move."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.3, momentum=0.0)
    outputs = []
    for step in range(first, last):
        output = (replica or method)(*batch(step, rows, num_views(method)), step)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        method.after_step(output, step)
        outputs.append(output)
    return outputs
