"""What can be stepped: a method, a bare step of the encoder, a multiplication of matrices.

All are stepped on images drawn at random, since what images show does not change what a step takes, and with learning
rate 0: the arithmetic is the same, and weights neither run away nor shrink to numbers that a CPU is slow with.
"""

import copy
import sys
from typing import Any, Protocol

import torch

from negbench.contrast.build import build_method
from negbench.contrast.method import Method, StepOutput
from negbench.contrast.passes import interleaved, shared_passes
from negbench.data.batches import training_batches
from negbench.data.sets import ResidentSet
from negbench.models.encoder import build_encoder, prepare
from negbench.models.step import optimizer_step
from negbench.runtime.compiling import begin_step, compile_encoder
from negbench.runtime.distributed import rank, world_size
from negbench.runtime.seeding import stream
from negbench.runtime.span import Spans, span
from negbench.settings.resolve import Resolved, size_of
from negbench.settings.schema import RunConfig
from negbench.train.optim import build_optimizer, set_learning_rate

Passes = tuple[int, int]  # views a step through the query encoder, which are back-propagated, and the key encoder
MIN_IMAGES = 1024


class Workload(Protocol):
    def step(self) -> None:
        """Do all that is done for each batch."""

    def facts(self) -> dict[str, Any]:
        """Return what the record holds besides times and memory."""


def seconds_by_part(workload: Workload, num_steps: int, device: torch.device) -> dict[str, float]:
    """Return mean seconds a step by part, which add up to the step."""
    spans = Spans(device)
    with spans.recording():
        for _ in range(num_steps):
            workload.step()
    return {part: seconds / num_steps for part, seconds in spans.seconds().items()}


def random_images(config: RunConfig[Any], device: torch.device, num_images: int | None = None) -> ResidentSet:
    """Return `num_images` images, by default enough for two batches, all of them one image that is held once.

    So no batch is too large, and a step takes the same: each view is made of its own crop, with its own colours.
    """
    num_images, size = num_images or max(MIN_IMAGES, 2 * config.batch_size), config.data.image_size
    image = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=stream("bench", "images"))
    label = torch.zeros(1, dtype=torch.int64, device=device)
    return ResidentSet(image.to(device).expand(num_images, -1, -1, -1), label.expand(num_images))


class MethodWorkload:
    """A method as the trainer steps it.

    Steps are numbered from K: a source that is filled first, as AdCo's adversaries, is full by then.
    `num_images` is for methods whose state grows with the data set.
    """

    def __init__(
        self, resolved: Resolved, device: torch.device, dtype: torch.dtype | None, num_images: int | None = None
    ) -> None:
        config = resolved.config
        images = random_images(config, device, num_images)
        self.method = build_method(resolved, len(images), device, dtype).train()
        self.optimizer, self.scaler = _optimizer(self.method, config, device, dtype)
        self.number = size_of(resolved) or 0
        self.batches = training_batches(images, config, device, self.number, sys.maxsize, rank(), world_size())

    def step(self) -> None:
        with span("views"):
            views, index = next(self.batches)
        output: StepOutput = self.method(views, index, self.number)
        optimizer_step(output.loss, self.optimizer, self.scaler)
        self.method.after_step(output, self.number)
        self.number += 1

    def facts(self) -> dict[str, Any]:
        views, index = next(self.batches)
        with torch.no_grad():
            encoded = self.method(views, index, self.number).encoded
        self.number += 1
        return {
            "passes": passes_of(self.method),
            "negatives_per_query": float(self.method.negatives_per_query(encoded)),
            "source_state_bytes": sum(buffer.nbytes for buffer in self.method.sources.buffers()),
            "parameters": sum(p.numel() for p in self.method.parameters() if p.requires_grad),
        }


def passes_of(method: Method) -> Passes:
    return len(method.query_views), len(method.key_views) if method.key_encoder is not None else 0


class BareWorkload:
    """The encoder alone: `passes` as a method makes them, backward and the optimizer, on one fixed batch.

    No views, momentum update, contrast, predictor or refresh. The loss is the embedding's mean square norm.
    """

    def __init__(self, config: RunConfig[Any], passes: Passes, device: torch.device, dtype: torch.dtype | None) -> None:
        self.encoder = prepare(build_encoder(config), config, device).train()
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False) if passes[1] else None
        for encoder in (self.encoder, self.key_encoder):
            compile_encoder(encoder, config.execution)
        self.optimizer, self.scaler = _optimizer(self.encoder, config, device, dtype)
        self.device, self.dtype = device, dtype
        views, _ = next(training_batches(random_images(config, device), config, device, 0, 1))
        orders = ([0, *range(2, len(views)), 1], [1, 0])  # view 1 is the last to be a query, and the first to be a key
        self.query_views, self.key_views = (
            [interleaved([views[view] for view in group]) for group in shared_passes(views, sorted(order[:n]))]
            for order, n in zip(orders, passes, strict=True)
        )
        self.passes, self.execution = passes, config.execution

    def step(self) -> None:
        begin_step(self.execution)
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)
        with span("query_forward"), autocast:
            queries = [self.encoder(view) for view in self.query_views]
        if self.key_encoder is not None:
            with span("key_forward"), autocast, torch.no_grad():
                for view in self.key_views:
                    self.key_encoder(view)
        with span("loss"):
            loss = torch.stack([query.float().square().sum(1).mean() for query in queries]).mean()
        optimizer_step(loss, self.optimizer, self.scaler)

    def facts(self) -> dict[str, Any]:
        return {"passes": self.passes, "parameters": sum(p.numel() for p in self.encoder.parameters())}


class MatrixWorkload:
    """A product of square matrices in the encoder's precision, with whose rate the encoder's is compared."""

    def __init__(self, size: int, device: torch.device, dtype: torch.dtype | None, tf32: bool) -> None:
        generator = stream("bench", "matrices")
        left, right = torch.randn(2, size, size, generator=generator).to(device, dtype or torch.float32)
        self.left, self.right, self.out = left, right, torch.empty_like(left)
        self.tf32 = tf32

    def step(self) -> None:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.mm(self.left, self.right, out=self.out)
        torch.backends.cuda.matmul.allow_tf32 = before

    def facts(self) -> dict[str, Any]:
        return {"size": len(self.left), "dtype": str(self.left.dtype).removeprefix("torch.")}


def _optimizer(
    module: torch.nn.Module, config: RunConfig[Any], device: torch.device, dtype: torch.dtype | None
) -> tuple[torch.optim.Optimizer, torch.amp.GradScaler]:
    optimizer = build_optimizer(module, config.optimizer)
    set_learning_rate(optimizer, 0.0)
    return optimizer, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
