from typing import Any

import pytest
import torch
from torch import Tensor, nn

from negbench.models.batch_norm import SplitBatchNorm, SyncBatchNorm, convert, shuffle
from negbench.runtime.distributed import rank
from tests.helpers.ranks import on_ranks

SIZES = {"vectors": (12, 3), "maps": (12, 3, 4, 5)}


def layers(kind: str) -> nn.Sequential:
    """BatchNorm, a mixing of what it gives, and BatchNorm again, with weights that are not 1 and 0."""
    torch.manual_seed(1)
    dim = len(SIZES[kind])
    norm = nn.BatchNorm1d if dim == 2 else nn.BatchNorm2d
    module = nn.Sequential(norm(3), nn.Linear(3, 6) if dim == 2 else nn.Conv2d(3, 6, 3), nn.ReLU(), norm(6)).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def images(kind: str) -> Tensor:
    return torch.randn(SIZES[kind], generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3 + 5


def train_step(module: nn.Module, inputs: Tensor, own: slice) -> dict[str, Any]:
    """One forward and backward of a loss that weighs every value of the global batch differently."""
    inputs = inputs.clone().requires_grad_()
    output = module(inputs)
    count = output[0].numel() * len(images("maps"))
    weights = torch.linspace(-1, 2, count, dtype=output.dtype).view(-1, *output.shape[1:])[own]
    (output * output * weights).sum().backward()
    return {
        "output": output.detach(),
        "input_gradient": inputs.grad,
        "gradients": [p.grad for p in module.parameters()],
        "buffers": dict(module.named_buffers()),
    }


def synchronised() -> dict[str, Any]:
    own = slice(0, 5) if rank() == 0 else slice(5, 12)
    results: dict[str, Any] = {}
    for kind in SIZES:
        module = convert(layers(kind), "sync", 2)
        results[kind] = train_step(module, images(kind)[own], own)
        results[kind]["evaluated"] = module.eval()(images(kind)[own]).detach()
    # Far from zero, where sums of squares in fp32 or statistics in bf16 would be worthless.
    far = SyncBatchNorm(3)
    results["far"] = far((images("vectors")[own] + 5000).float()).detach()
    results["bf16"] = SyncBatchNorm(3)(images("vectors")[own].bfloat16()).detach()
    return results


def test_sync_on_two_ranks_equals_one_process() -> None:
    first, second = on_ranks(2, synchronised)
    close: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
    for kind in SIZES:
        module = layers(kind)
        one = train_step(module, images(kind), slice(None))
        both = [first[kind], second[kind]]
        for name in ("output", "input_gradient"):
            torch.testing.assert_close(torch.cat([of_rank[name] for of_rank in both]), one[name], **close)
        summed = [a + b for a, b in zip(first[kind]["gradients"], second[kind]["gradients"], strict=True)]
        torch.testing.assert_close(summed, one["gradients"], **close)
        for of_rank in both:
            torch.testing.assert_close(of_rank["buffers"], one["buffers"], **close)
        evaluated = module.eval()(images(kind)).detach()
        torch.testing.assert_close(torch.cat([of_rank["evaluated"] for of_rank in both]), evaluated, **close)

    rounded = (images("vectors") + 5000).float().double()
    exact = nn.BatchNorm1d(3).double()(rounded).detach()
    torch.testing.assert_close(torch.cat([first["far"], second["far"]]).double(), exact, rtol=0, atol=1e-3)
    exact = nn.BatchNorm1d(3).double()(images("vectors").bfloat16().double()).detach()
    halves = torch.cat([first["bf16"], second["bf16"]])
    assert halves.dtype == torch.bfloat16
    torch.testing.assert_close(halves, exact.bfloat16(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("kind", list(SIZES))
def test_sync_alone_is_plain_batch_norm(kind: str) -> None:
    plain = train_step(layers(kind), images(kind), slice(None))
    torch.testing.assert_close(train_step(convert(layers(kind), "sync", 2), images(kind), slice(None)), plain)


@pytest.mark.parametrize("kind", list(SIZES))
def test_split_equals_a_loop_over_groups(kind: str) -> None:
    torch.manual_seed(0)
    split = SplitBatchNorm(3, num_splits=4).double()
    nn.init.normal_(split.weight)
    nn.init.normal_(split.bias)
    inputs = images(kind).requires_grad_()
    output = split(inputs)
    means, variances = [], []
    for group in range(4):
        part = inputs[3 * group : 3 * group + 3].detach().transpose(0, 1).flatten(1)
        mean, std = part.mean(1), (part.var(1, correction=0) + 1e-5).sqrt()
        normalised = (part - mean[:, None]) / std[:, None] * split.weight[:, None] + split.bias[:, None]
        torch.testing.assert_close(output[3 * group : 3 * group + 3].transpose(0, 1).flatten(1), normalised)
        means.append(mean)
        variances.append(part.var(1, correction=1))
    torch.testing.assert_close(split.running_mean, 0.1 * torch.stack(means).mean(0))
    torch.testing.assert_close(split.running_var, 0.9 + 0.1 * torch.stack(variances).mean(0))
    assert split.num_batches_tracked == 1

    # No image of another group takes part in an output.
    (gradient,) = torch.autograd.grad((output[0] ** 3).sum(), inputs)
    touched = gradient.flatten(1).abs().sum(1) > 0
    assert touched.tolist() == [image < 3 for image in range(12)]


def test_split_in_evaluation_is_plain_batch_norm() -> None:
    split, plain = SplitBatchNorm(3, num_splits=4).double(), nn.BatchNorm2d(3).double()
    split(images("maps"))
    plain.load_state_dict(split.state_dict())
    odd = images("maps")[:5]
    assert torch.equal(split.eval()(odd), plain.eval()(odd))
    assert split.num_batches_tracked == 1


def test_split_refuses_what_it_cannot_divide() -> None:
    with pytest.raises(ValueError, match="8 splits divide, not 12 images"):
        SplitBatchNorm(3, num_splits=8)(torch.zeros(12, 3))


@pytest.mark.parametrize("policy", ["process", "sync", "shuffled", "split"])
def test_conversion_keeps_state_and_settings(policy: str) -> None:
    plain = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.BatchNorm1d(3, eps=1e-3, momentum=0.3))).eval()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    parameters = list(plain.parameters())
    converted = convert(plain, policy, 4)
    assert converted is plain
    torch.testing.assert_close(dict(converted.state_dict()), before)
    assert all(a is b for a, b in zip(converted.parameters(), parameters, strict=True))
    layer = converted.get_submodule("1.0")
    kinds = {"process": nn.BatchNorm1d, "shuffled": nn.BatchNorm1d, "sync": SyncBatchNorm, "split": SplitBatchNorm}
    assert type(layer) is kinds[policy]
    assert layer.eps == 1e-3
    assert layer.momentum == 0.3
    assert not layer.training
    fresh = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.BatchNorm1d(3)))
    fresh.load_state_dict(converted.state_dict())


def test_unknown_policy() -> None:
    with pytest.raises(ValueError, match="unknown batch_norm policy 'group'"):
        convert(nn.BatchNorm1d(3), "group", 2)


def test_split_shuffles_and_restores() -> None:
    numbers = torch.arange(64.0).view(64, 1, 1, 1).expand(64, 3, 2, 2)
    shuffled, restore = shuffle(numbers, "split", (0, "keys", 7))
    order = shuffled[:, 0, 0, 0]
    assert not torch.equal(order, torch.arange(64.0))
    assert torch.equal(restore(order[:, None] * 2), torch.arange(64.0)[:, None] * 2)
    assert torch.equal(shuffle(numbers, "split", (0, "keys", 7))[0], shuffled)
    assert not torch.equal(shuffle(numbers, "split", (0, "keys", 8))[0], shuffled)


@pytest.mark.parametrize("policy", ["process", "sync"])
def test_other_policies_do_not_shuffle(policy: str) -> None:
    numbers = torch.arange(8.0).view(8, 1, 1, 1)
    shuffled, restore = shuffle(numbers, policy, (0,))
    assert torch.equal(shuffled, numbers)
    assert torch.equal(restore(shuffled), numbers)


def test_shuffled_needs_company() -> None:
    with pytest.raises(ValueError, match="use batch_norm: split"):
        shuffle(torch.zeros(4, 3, 2, 2), "shuffled", (0,))


def shuffled() -> dict[str, Any]:
    own = torch.arange(32.0).add(32 * rank())
    mixed, restore = shuffle(own.view(32, 1, 1, 1).expand(32, 3, 2, 2), "shuffled", (0, "keys", 7))
    held = mixed[:, 0, 0, 0].clone().requires_grad_()
    restored = restore(held[:, None] * 2)
    (restored[:, 0] * own).sum().backward()
    return {"held": held.detach(), "restored": restored.detach(), "gradient": held.grad}


def test_shuffled_exchanges_images_among_ranks_and_restores() -> None:
    ranks = on_ranks(2, shuffled)
    assert sorted(torch.cat([of_rank["held"] for of_rank in ranks]).tolist()) == list(range(64))
    for number, of_rank in enumerate(ranks):
        foreign = (of_rank["held"] // 32 != number).sum()
        assert 8 <= foreign <= 24
        assert torch.equal(of_rank["restored"][:, 0], 2 * torch.arange(32.0).add(32 * number))
        # Each rank's loss is the sum of image number times embedding, so an image's gradient is twice its number.
        assert torch.equal(of_rank["gradient"], 2 * of_rank["held"])
