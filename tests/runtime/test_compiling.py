"""What is compiled gives what eager code gives, and asks of the device what eager code asks."""

import functools
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from negbench.contrast import losses
from negbench.contrast.method import Method
from negbench.cost.bench.workloads import BareWorkload, MethodWorkload, random_images
from negbench.data.batches import training_batches
from negbench.data.views import crops as views
from negbench.data.views.colors import mean_std
from negbench.data.views.maker import ViewMaker, compiled_view
from negbench.models import encoder
from negbench.models.encoder import Encoder
from negbench.runtime.failure import Interrupted
from negbench.runtime.seeding import stream
from negbench.settings.plugins.find import list_methods
from negbench.settings.resolve import Resolved, resolve
from negbench.settings.schema import ModelConfig
from negbench.settings.views import VIEW_POLICIES
from negbench.train.loggers.base import Logger, Row
from negbench.train.setup import set_up
from tests.helpers.ranks import on_ranks
from tests.helpers.runs import CPU, StopAt, assert_same, folder, outcome, short, start
from tests.helpers.views import of_policy as views_of

pytestmark = pytest.mark.timeout(1200)  # Inductor compiles for minutes on a busy machine
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    torch._dynamo.reset()
    compiled_view.cache_clear()


def trained(resolved: Resolved, output: Path) -> Any:
    start(resolved, output)
    return outcome(folder(resolved, output))


def images(height: int, width: int) -> Tensor:
    drawn = torch.randint(0, 256, (48, 3, height, width), dtype=torch.uint8, generator=stream("test", height, width))
    drawn[0], drawn[1, :, : height // 2], drawn[2] = drawn[0, :1], 0, 255
    return drawn


@pytest.mark.parametrize("policy", VIEW_POLICIES)
def test_views_of_all_rows_are_those_of_chosen_rows(policy: str) -> None:
    given, config = images(40, 30), views_of(policy)
    for view, uniforms_BP in zip((config.first, config.second), views.uniforms(0, 0, 48), strict=True):
        numbers_BN, scaling = views.drawn_numbers(view, uniforms_BP, 40, 30), mean_std(view, CPU)
        expected = views.augment(given, view, uniforms_BP, 24)
        found = views.augment_all(given, numbers_BN, scaling, view, 24)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        expected = views.finish(given, view, uniforms_BP)
        torch.testing.assert_close(views.finish_all(given, numbers_BN, scaling, view), expected, rtol=0, atol=1e-5)


def test_rows_that_drew_nothing_stay_as_they_are() -> None:
    changes = {"jitter_probability": 0.5, "blur_probability": 0.5}
    config, given = views_of("byol").first.model_copy(update=changes), images(16, 16)
    uniforms_BP = views.uniforms(0, 0, 48)[0]
    drawn = views.appearance(config, uniforms_BP)
    idle_B = ~(drawn.jitter_B | drawn.blur_B | drawn.grayscale_B | drawn.solarize_B)
    assert 0 < idle_B.sum() < 48
    scaling = mean_std(config, CPU)
    found = views.finish_all(given, views.drawn_numbers(config, uniforms_BP, 16, 16), scaling, config)[idle_B]
    flipped = torch.where(drawn.flip_B[:, None, None, None], given.flip(-1), given)[idle_B]
    assert torch.equal(found, (flipped / 255 - scaling[0]) / scaling[1])


@pytest.mark.compile
def test_compiled_views_are_eager_ones() -> None:
    config, given = views_of("byol").second, images(16, 16)
    function = compiled_view(config, 16, torch.channels_last, "compiled")
    for step in range(2):
        uniforms_BP = views.uniforms(0, step, 48)[0]
        found = function(given, views.drawn_numbers(config, uniforms_BP, 16, 16), mean_std(config, CPU))
        expected = views.augment(given, config, uniforms_BP, 16)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "setting", [None, "views.second.blur_probability=1", "views.crops=[{size: 9, scale: [0.1, 0.3], num: 2}]"]
)
def test_views_made_together_are_those_made_one_by_one(setting: str | None) -> None:
    settings = ["data.image_size=16", *([setting] if setting else [])]
    resolved, given = resolve("moco", "cifar10", settings), images(20, 20)
    maker = ViewMaker(resolved.config)
    uniforms_VBP = views.uniforms(0, 0, 48, len(maker.kinds))
    crops = [images(size, size).roll(number, 0) for number, (_, size) in enumerate(maker.kinds)]
    of_sets, of_folders = maker.augment(given, uniforms_VBP), maker.finish(crops, uniforms_VBP)
    for number, (config, size) in enumerate(maker.kinds):
        assert torch.equal(of_sets[number], views.augment(given, config, uniforms_VBP[number], size))
        assert torch.equal(of_folders[number], views.finish(crops[number], config, uniforms_VBP[number]))
        assert of_sets[number].is_contiguous(memory_format=torch.channels_last)


SLOWLY = "optimizer.lr=1e-4"  # or rounding grows from step to step


def assert_same_training(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same weights, and the same momentum, which is the sum of gradients, to rounding."""
    assert found["method"].keys() == expected["method"].keys()
    for name, value in expected["method"].items():
        torch.testing.assert_close(found["method"][name], value, rtol=1e-3, atol=1e-4, msg=name)
    for number, state in expected["optimizer"]["state"].items():
        error = found["optimizer"]["state"][number]["momentum_buffer"] - state["momentum_buffer"]
        assert error.norm() < 1e-3 * state["momentum_buffer"].norm(), number


@pytest.fixture
def one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone with one layer of each kind that a ResNet has: Inductor takes 1.5 s for each kernel."""

    def build(config: ModelConfig) -> tuple[nn.Module, int]:
        shortcut = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
        stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        return nn.Sequential(stem, BasicBlock(8, 16, 2, shortcut), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 16

    monkeypatch.setattr(encoder, "build_backbone", build)


@pytest.mark.compile
@pytest.mark.usefixtures("one_block")
def test_a_compiled_run_is_an_eager_one(tmp_path: Path) -> None:
    """To rounding, under the same names and the same run id, so that an eager run can go on from its checkpoint."""
    both = {mode: short("moco", "epochs=1", SLOWLY, f"execution={mode}") for mode in ("eager", "compiled")}
    assert both["eager"].run_id == both["compiled"].run_id
    (expected, _), (found, _) = (trained(resolved, tmp_path / name) for name, resolved in both.items())
    assert_same_training(found, expected)


@pytest.mark.compile
@pytest.mark.usefixtures("one_block")
def test_a_compiled_run_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path) -> None:
    resolved = short("moco", "execution=compiled")
    undisturbed = trained(resolved, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        start(resolved, tmp_path / "stopped", StopAt(6))
    assert_same(trained(resolved, tmp_path / "stopped"), undisturbed)


class CountGraphs(Logger):
    """How many graphs had been compiled at the end of each epoch."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def row(self, row: Row) -> None:
        if row["kind"] == "epoch":
            self.counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _trained_on_a_rank(output: str, mode: str) -> tuple[dict[str, Any], list[int]]:
    graphs = CountGraphs()
    torch.compile = functools.partial(torch.compile, backend="aot_eager")  # Inductor is in the tests without ranks
    resolved = short("moco", "batch_norm=sync", "epochs=2", "evaluation.test=false", SLOWLY, f"execution={mode}")
    start(resolved, Path(output), graphs)
    return outcome(folder(resolved, Path(output)))[0], graphs.counts


@pytest.mark.compile
def test_compiled_ranks_train_as_eager_ones_and_compile_once(tmp_path: Path) -> None:
    """With statistics over all ranks, the one layer that communicates within the encoder."""
    (expected, none), _ = on_ranks(2, _trained_on_a_rank, str(tmp_path / "eager"), "eager")
    (found, (first, second)), _ = on_ranks(2, _trained_on_a_rank, str(tmp_path / "compiled"), "compiled")
    assert none == [0, 0] and 0 < first == second
    assert_same_training(found, expected)


@pytest.mark.compile
def test_only_training_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(Encoder, "compile", lambda self, **options: seen.append(True))
    method = set_up(short("moco", "execution=compiled"), CPU).method
    assert len(seen) == 2
    called: list[str] = []

    def call(encoder: Encoder, x: torch.Tensor) -> torch.Tensor:
        called.append("compiled")
        return encoder.forward(x)

    monkeypatch.setattr(Encoder, "__call__", call)
    pair = [torch.zeros(4, 3, 8, 8)] * 2
    method.embed_queries(pair)
    assert called == ["compiled"] * 2
    method.eval().embed_queries(pair)
    assert called == ["compiled"] * 2


def test_without_a_compiler_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "fx_graph_cache", False)
    with pytest.raises(
        ValueError,
        match=r"^execution: graphs could not compile, .* a C\+\+ compiler .*; use execution: eager\. .*: \w+",
    ):
        set_up(short("moco", "execution=graphs"), CPU)


TINY = ["model.name=two-convolutions", "data.image_size=16", "batch_size=32", "batch_norm_splits=2"]
QUEUE = {"adco": ["method.num_negatives=128"], "moco": ["method.num_negatives=128"]}  # a block of columns, and more


def small(method: str, *settings: str) -> Resolved:
    return resolve(method, "quickstart", [*TINY, *QUEUE.get(method, []), *settings])


@pytest.mark.parametrize("method", list_methods())
@pytest.mark.parametrize(
    "settings",
    [(), ("batch_norm=process", "views=byol"), ("views.crops=[{size: 8, scale: [0.1, 0.4], num: 2}]",)],
)
def test_a_step_reads_nothing_from_the_device(
    method: str, settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, where there is nothing to read: views, forward, backward, optimizer and sources."""
    meta = torch.device("meta")
    for sizes in (losses.DENSE, losses.BLOCK):
        monkeypatch.setitem(sizes, "meta", 1 << 10)
    monkeypatch.setattr(Method, "_autocast", lambda self, input: nullcontext())  # which knows no such device
    workload = MethodWorkload(small(method, "precision=fp32", *settings), meta, None)
    for _ in range(2):
        workload.step()


def test_a_step_that_reads_is_found_out() -> None:
    with pytest.raises(RuntimeError, match="meta tensors"):
        torch.zeros(1, device="meta").item()


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["eager", "compiled", "graphs"])
@pytest.mark.parametrize("method", list_methods())
def test_a_step_on_a_gpu_waits_for_nothing(method: str, mode: str) -> None:
    workload = MethodWorkload(small(method, f"execution={mode}", "precision=bf16"), GPU, torch.bfloat16)
    for _ in range(4):
        workload.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        workload.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["compiled", "graphs"])
@pytest.mark.parametrize("method", list_methods())
def test_compiled_steps_on_a_gpu_are_eager_ones(method: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("negbench.cost.bench.workloads.set_learning_rate", lambda optimizer, lr: None)

    def stepped(how: str) -> dict[str, Any]:
        workload = MethodWorkload(small(method, f"execution={how}", "precision=fp32"), GPU, None)
        for _ in range(5):
            workload.step()
        return workload.method.state_dict()

    expected, found = stepped("eager"), stepped(mode)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["compiled", "graphs"])
def test_compiled_views_on_a_gpu_are_those_of_the_cpu(mode: str) -> None:
    config = small("moco", "views=byol").config
    expected = [next(training_batches(random_images(config, CPU), config, CPU, step, step + 1)) for step in range(3)]
    config = config.model_copy(update={"execution": mode})
    found = training_batches(random_images(config, GPU), config, GPU, 0, 3)
    for (theirs, _), (ours, _) in zip(expected, found, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-4)


@pytest.mark.gpu
def test_the_bare_step_is_compiled_too() -> None:
    config = small("moco", "execution=graphs").config
    workload = BareWorkload(config, (1, 1), GPU, torch.bfloat16)
    for _ in range(4):
        workload.step()
