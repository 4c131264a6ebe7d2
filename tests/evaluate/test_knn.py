"""kNN against scikit-learn and by hand; the baselines on images whose features are known.

Shape legend: M bank images, Q queries, D feature dimensions.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from negbench.evaluate.protocols.common.baselines import baseline_knn, histograms, pixels
from negbench.evaluate.protocols.knn import knn_predict, knn_top1

KS = (1, 5, 20, 200)
NUM_CLASSES = 6


def unequal_classes(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Overlapping classes of very unequal size, with feature norms that vary."""
    generator = torch.Generator().manual_seed(3)
    sizes = torch.tensor([240, 120, 60, 30, 15, 7])
    centres_CD = torch.randn(NUM_CLASSES, 16, generator=generator, dtype=torch.float64)

    def draw(labels_N: Tensor) -> Tensor:
        noise_ND = torch.randn(len(labels_N), 16, generator=generator, dtype=torch.float64)
        scale_N1 = 0.1 + 5 * torch.rand(len(labels_N), 1, generator=generator, dtype=torch.float64)
        return ((centres_CD[labels_N] + 1.5 * noise_ND) * scale_N1).to(dtype)

    bank_labels_M = torch.arange(NUM_CLASSES).repeat_interleave(sizes)
    bank_labels_M = bank_labels_M[torch.randperm(len(bank_labels_M), generator=generator)]
    query_labels_Q = torch.arange(NUM_CLASSES).repeat(50)
    return draw(bank_labels_M), bank_labels_M, draw(query_labels_Q), query_labels_Q


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_agrees_with_scikit_learn(dtype: torch.dtype, temperature: float) -> None:
    bank_MD, bank_labels_M, queries_QD, query_labels_Q = unequal_classes(dtype)
    arguments = (bank_MD, bank_labels_M, queries_QD)
    predictions = knn_predict(*arguments, KS, temperature, num_classes=NUM_CLASSES)
    accuracy = knn_top1(*arguments, query_labels_Q, KS, temperature, num_classes=NUM_CLASSES)
    assert len({tuple(p.tolist()) for p in predictions.values()}) == len(KS)
    for k in KS:

        def votes(distances: np.ndarray) -> np.ndarray:
            return np.exp((1 - distances) / temperature)

        reference = KNeighborsClassifier(k, weights=votes, metric="cosine", algorithm="brute")
        reference.fit(bank_MD.numpy(), bank_labels_M.numpy())
        assert predictions[k].tolist() == reference.predict(queries_QD.numpy()).tolist()
        assert accuracy[k] == pytest.approx(reference.score(queries_QD.numpy(), query_labels_Q.numpy()))


def test_votes_by_hand() -> None:
    """At k = 3 two distant images of class 1 outvote the nearest one of class 0 only if the temperature is high."""
    cosines = torch.tensor([0.9, 0.7, 0.6, -0.5])
    bank_MD = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)
    labels_M = torch.tensor([0, 1, 1, 1])
    query_QD = torch.tensor([[2.0, 0.0]])
    assert math.exp(0.9 / 0.2) > math.exp(0.7 / 0.2) + math.exp(0.6 / 0.2)
    assert math.exp(0.9 / 1.0) < math.exp(0.7 / 1.0) + math.exp(0.6 / 1.0)
    for temperature, winner in ((0.2, 0), (1.0, 1)):
        predictions = knn_predict(bank_MD, labels_M, query_QD, (1, 2, 3), temperature, num_classes=2)
        assert {k: p.tolist() for k, p in predictions.items()} == {1: [0], 2: [0], 3: [winner]}
    accuracy = knn_top1(bank_MD, labels_M, query_QD.repeat(2, 1), torch.tensor([0, 1]), (1,), num_classes=2)
    assert accuracy == {1: 0.5}


def test_k_beyond_the_bank_uses_the_whole_bank() -> None:
    bank_MD, bank_labels_M, queries_QD, _ = unequal_classes(torch.float64)
    bank_MD, bank_labels_M = bank_MD[:30], bank_labels_M[:30]
    predictions = knn_predict(bank_MD, bank_labels_M, queries_QD, (29, 30, 500), 1.0, num_classes=NUM_CLASSES)
    cosines_QM = F.normalize(queries_QD, dim=1) @ F.normalize(bank_MD, dim=1).T
    votes_QC = cosines_QM.exp() @ F.one_hot(bank_labels_M, NUM_CLASSES).double()
    assert predictions[500].equal(predictions[30])
    assert predictions[500].equal(votes_QC.argmax(1))
    assert not predictions[500].equal(predictions[29])


@pytest.mark.parametrize(("query_chunk", "bank_chunk"), [(1, 10_000), (7, 30), (49, 199), (10_000, 1)])
def test_chunks_do_not_change_the_result(query_chunk: int, bank_chunk: int) -> None:
    bank_MD, bank_labels_M, queries_QD, _ = unequal_classes(torch.float64)
    queries_QD = queries_QD[:50]
    whole = knn_predict(bank_MD, bank_labels_M, queries_QD, KS, num_classes=NUM_CLASSES)
    chunked = knn_predict(
        bank_MD,
        bank_labels_M,
        queries_QD,
        KS,
        num_classes=NUM_CLASSES,
        query_chunk=query_chunk,
        bank_chunk=bank_chunk,
    )
    assert all(chunked[k].equal(whole[k]) for k in KS)


@pytest.mark.parametrize("bank_chunk", [1, 2, 3, 100])
def test_ties_go_to_the_earlier_image_and_the_lower_class(bank_chunk: int) -> None:
    bank_MD = torch.tensor([[0.0, 1.0]] + [[1.0, 0.0]] * 5)
    labels_M = torch.tensor([0, 3, 1, 1, 2, 2])
    # In order of the bank: 3; then 3 and 1 equal; then 1 twice; then 1 and 2 twice each.
    for k, winner in ((1, 3), (2, 1), (3, 1), (5, 1)):
        predictions = knn_predict(
            bank_MD, labels_M, torch.tensor([[1.0, 0.0]]), (k,), num_classes=4, bank_chunk=bank_chunk
        )
        assert predictions[k].tolist() == [winner]


@pytest.mark.parametrize("temperature", [1e-6, 1e-3])
def test_a_small_temperature_follows_the_nearest_image(temperature: float) -> None:
    bank_MD = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, 1.1]])
    predictions = knn_predict(
        bank_MD, torch.tensor([2, 1, 0]), torch.tensor([[1.0, 0.0]]), (3,), temperature, num_classes=3
    )
    assert predictions[3].tolist() == [2]


def test_half_precision_features_are_compared_in_float32() -> None:
    bank_MD, bank_labels_M, queries_QD, _ = (tensor[:300] for tensor in unequal_classes(torch.float32))
    half = knn_predict(bank_MD.bfloat16(), bank_labels_M, queries_QD.bfloat16(), num_classes=NUM_CLASSES)
    rounded = knn_predict(
        bank_MD.bfloat16().float(), bank_labels_M, queries_QD.bfloat16().float(), num_classes=NUM_CLASSES
    )
    assert all(half[k].equal(rounded[k]) for k in half)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ks": (20, 0)}, r"\[20, 0\]"),
        ({"ks": ()}, r"\[\]"),
        ({"temperature": 0.0}, "0.0"),
        ({"temperature": float("nan")}, "nan"),
        ({"num_classes": 2}, r"\[0, 2\)"),
        ({"bank_labels_M": torch.tensor([0, 1])}, r"\[3\], not \[2\]"),
        ({"bank_labels_M": torch.tensor([0, 1, -1])}, "-1"),
        ({"bank_labels_M": torch.tensor([0.0, 1.0, 2.0])}, "float32"),
        ({"queries_QD": torch.ones(1, 3)}, "3 dimensions"),
        ({"queries_QD": torch.ones(0, 2)}, r"\[0, 2\]"),
        ({"bank_MD": torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [0.0, 1.0]])}, "bank: the features of 1 of 3"),
        ({"query_chunk": 0}, "0 queries"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], message: str) -> None:
    good = {
        "bank_MD": torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]),
        "bank_labels_M": torch.tensor([0, 1, 2]),
        "queries_QD": torch.ones(1, 2),
        "num_classes": 3,
    }
    assert knn_predict(**good)[20].tolist() == [1]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        knn_predict(**(good | change))  # type: ignore[arg-type]


def layouts(num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Red and blue halves: class 0 red on the left, class 1 red on top."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(2, (num_images,), generator=generator)
    images_NCHW = torch.zeros(num_images, 3, 8, 8, dtype=torch.uint8)
    images_NCHW[:, 2] = 200
    for image_CHW, label in zip(images_NCHW, labels_N.tolist(), strict=True):
        half_CHW = image_CHW[:, :, :4] if label == 0 else image_CHW[:, :4]
        half_CHW[0], half_CHW[2] = 200, 0
    return images_NCHW, labels_N


def test_layout_shows_in_pixels_and_not_in_histograms() -> None:
    bank, bank_labels = layouts(100, seed=0)
    queries, query_labels = layouts(100, seed=1)
    assert histograms(bank).shape == (100, 48)
    assert histograms(bank).std(0).max() == 0
    accuracy = baseline_knn(bank, bank_labels, queries, query_labels, num_classes=2)
    majority = (query_labels == bank_labels[:20].mode().values).double().mean().item()
    assert accuracy == {"pixels": 1.0, "histogram": majority}
    assert majority < 0.7


def test_contrast_shows_in_histograms_and_not_in_pixels() -> None:
    """Random patterns of two grey values, closer in class 0 than in class 1: centred and normalised they are alike."""
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(2).repeat(100)
    signs_NCHW = torch.randint(2, (200, 1, 8, 8), generator=generator).expand(-1, 3, -1, -1) * 2 - 1
    images_NCHW = (120 + signs_NCHW * torch.tensor([20, 30])[labels_N].view(-1, 1, 1, 1)).to(torch.uint8)
    accuracy = baseline_knn(images_NCHW[:100], labels_N[:100], images_NCHW[100:], labels_N[100:], num_classes=2)
    assert accuracy["histogram"] == 1.0
    assert accuracy["pixels"] < 0.7


def test_histogram_by_hand() -> None:
    image_NCHW = torch.tensor([[[[0, 15], [16, 255]], [[7, 7], [7, 7]], [[240, 239], [240, 239]]]], dtype=torch.uint8)
    counts = torch.zeros(48)
    counts[[0, 1, 15]] = torch.tensor([2.0, 1.0, 1.0])
    counts[16] = 4
    counts[[32 + 14, 32 + 15]] = 2
    torch.testing.assert_close(histograms(image_NCHW)[0], counts / counts.norm())


def test_pixels_are_centred_by_the_bank() -> None:
    bank = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 5)
    queries = torch.full((1, 3, 4, 5), 51, dtype=torch.uint8)
    bank_MD, queries_QD = pixels(bank, queries)
    torch.testing.assert_close(bank_MD, torch.tensor([[-0.5], [0.5]]).expand(2, 60))
    torch.testing.assert_close(queries_QD, torch.full((1, 60), -0.3))
    assert bank.flatten().tolist() == [0] * 60 + [255] * 60


def test_images_that_are_not_uint8_or_differ_in_size_are_refused() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="float32"):
        histograms(images.float())
    with pytest.raises(ValueError, match=r"\[2, 3, 4\]"):
        pixels(images, images[..., 0])
    with pytest.raises(ValueError, match=r"\[2, 3, 4, 2\]"):
        pixels(images, images[..., :2])
