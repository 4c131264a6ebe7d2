"""kNN, logistic regression, SVMs and average precision on one set of frozen features, against scikit-learn by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from torch.nn import functional as F

from negbench.evaluate.protocols import transfer, voc07
from negbench.evaluate.protocols.common.average_precision import average_precisions
from negbench.evaluate.protocols.common.scikit import arrays
from negbench.evaluate.protocols.knn import knn_predict
from negbench.evaluate.subject import Features, Subject
from negbench.settings.protocol_settings import Voc07
from negbench.train.setup import set_up
from tests.helpers import runs


@pytest.fixture(scope="module")
def features() -> tuple[Features, Features]:
    """Of an untrained ResNet-8, of training and test images."""
    setup = set_up(runs.short("moco", "data.num_images=300", "data.validation=0"), runs.CPU)
    subject = Subject(setup, setup.method.query_encoder)
    return subject.features("train"), subject.features("test")


def test_knn_is_scikit_learns(features: tuple[Features, Features]) -> None:
    bank, queries = features
    ours = knn_predict(bank.features_NF, bank.labels_N, queries.features_NF, (20,), 0.07, num_classes=10)[20]
    theirs = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    theirs.fit(bank.features_NF.double().numpy(), bank.labels_N.numpy())
    predicted = theirs.predict(queries.features_NF.double().numpy())
    assert (ours.numpy() == predicted).mean() >= 0.999  # float32 decides the closest votes otherwise


def test_knn_is_the_published_formula(features: tuple[Features, Features]) -> None:
    """lightly's and MoCo's demo's: one-hot votes of the k nearest, each times exp(cosine / temperature), summed."""
    bank, queries = features
    ours = knn_predict(bank.features_NF, bank.labels_N, queries.features_NF, (200,), 0.1, num_classes=10)[200]
    cosines_QM = F.normalize(queries.features_NF, dim=1) @ F.normalize(bank.features_NF, dim=1).T
    weights_QK, index_QK = cosines_QM.topk(200, dim=1)
    one_hot_QKC = F.one_hot(bank.labels_N[index_QK], 10).double()
    scores_QC = (one_hot_QKC * (weights_QK.double() / 0.1).exp()[:, :, None]).sum(1)
    assert (ours == scores_QC.argmax(1)).double().mean() >= 0.999


def test_logistic_regression_is_scikit_learns(features: tuple[Features, Features]) -> None:
    (train, labels), (test, test_labels) = (arrays(part) for part in features)
    for strength in (1000.0, 10.0):
        by_hand = LogisticRegression(C=1 / strength, max_iter=1000).fit(train, labels).predict(test)
        made = transfer.accuracies(transfer.fit(train, labels, strength, 1000).predict(test), test_labels)
        assert made["top1"] == (by_hand == test_labels).mean()
        assert made["mean_per_class"] == pytest.approx(balanced_accuracy_score(test_labels, by_hand), abs=1e-12)


def test_the_strength_is_what_the_weights_are_penalised_by(features: tuple[Features, Features]) -> None:
    train, labels = arrays(features[0])
    train = train / np.abs(train).max()
    model = transfer.fit(train, labels, 2.0, 10_000)
    weights = torch.tensor(model.coef_, requires_grad=True)
    logits = torch.from_numpy(train) @ weights.T + torch.from_numpy(model.intercept_)
    loss = F.cross_entropy(logits, torch.from_numpy(labels), reduction="sum") + 2.0 / 2 * weights.square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.abs().max() < 0.02  # against 3 at zero weights


def shows_class(labels: Any, label: int) -> Any:
    """Whether an image is of the class; every seventh is a difficult case."""
    shown = np.where(labels == label, 1, -1)
    shown[::7] = 0
    return shown


def test_svms_are_scikit_learns_on_what_is_not_difficult(features: tuple[Features, Features]) -> None:
    (train, labels), (test, test_labels) = (arrays(part) for part in features)
    train, test = voc07.normalised(train), voc07.normalised(test)
    shown, test_shown = shows_class(labels, 3), shows_class(test_labels, 3)
    settings = Voc07(costs=(0.1, 1, 10))
    known, scores = shown != 0, {}

    def svm(cost: float) -> LinearSVC:
        return LinearSVC(C=cost, class_weight={1: 2, -1: 1}, max_iter=2000, dual=True, random_state=5)

    for cost in settings.costs:
        folds = StratifiedKFold(3).split(train[known], shown[known])
        scores[cost] = np.mean(
            [
                average_precision_score(
                    shown[known][held] > 0,
                    svm(cost).fit(train[known][kept], shown[known][kept]).decision_function(train[known][held]),
                )
                for kept, held in folds
            ]
        )
    cost, validated = voc07.choose_cost(train, shown, settings, 5, "class 3")
    assert cost == max(scores, key=lambda key: scores[key])
    assert validated == pytest.approx(max(scores.values()))
    model = voc07.fit(train, shown, cost, settings, 5)
    by_hand = svm(cost).fit(train[known], shown[known])
    np.testing.assert_array_equal(model.decision_function(test), by_hand.decision_function(test))
    assert np.linalg.norm(test, axis=1) == pytest.approx(1)
    ranked = model.decision_function(test)
    assert average_precisions(ranked, test_shown) == slowly(ranked.tolist(), test_shown.tolist())


def slowly(scores: list[float], shown: list[int]) -> Any:
    """Both definitions, rank by rank."""
    ranking = [flag for _, flag in sorted(zip(scores, shown, strict=True), key=lambda pair: -pair[0]) if flag]
    positives, points, found = ranking.count(1), [], 0
    for rank, flag in enumerate(ranking, 1):
        found += flag > 0
        points.append((found, found / rank))
    eleven = sum(max(p for n, p in points if 10 * n >= tenth * positives) for tenth in range(11)) / 11
    area = sum(max(p for n, p in points if n >= count) for count in range(1, positives + 1)) / positives
    return pytest.approx((eleven, area))


def test_average_precision_by_hand() -> None:
    """Ranked: hit, difficult, miss, hit, miss, miss, hit; one difficult image is last.

    Without the difficult ones precision is 1 at recall 1/3, then 2/3 at recall 2/3, and 3/6 at recall 1. Recalls 0 to
    0.3 have 1, 0.4 to 0.6 have 2/3, and 0.7 to 1 have 1/2.
    """
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    shown = np.array([1, 0, -1, 1, -1, -1, 1, 0])
    eleven, area = average_precisions(scores, shown)
    assert eleven == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11)
    assert area == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    shuffled = np.random.default_rng(0).permutation(8)
    assert average_precisions(scores[shuffled], shown[shuffled]) == (eleven, area)


def test_average_precision_looks_ahead_and_takes_the_earlier_of_equals() -> None:
    """A miss first: precision 0, 1/2, 2/3; the highest from each rank on is 2/3, so all eleven points are."""
    assert average_precisions(np.array([3.0, 2, 1]), np.array([-1, 1, 1])) == pytest.approx((2 / 3, 2 / 3))
    assert average_precisions(np.array([1.0, 1]), np.array([1, -1])) == (1, 1)
    assert average_precisions(np.array([1.0, 1]), np.array([-1, 1])) == (0.5, 0.5)
    with pytest.raises(ValueError, match="at least one positive image"):
        average_precisions(np.array([1.0, 2]), np.array([0, -1]))


def test_a_class_needs_images_for_all_folds() -> None:
    shown = np.array([1, 1, 0, -1, -1, -1])
    with pytest.raises(ValueError, match="cow has 2 positive"):
        voc07.choose_cost(np.eye(6), shown, Voc07(), 0, "cow")
