"""Figures of negatives and representation, on cases of which the answer is known."""

import math

import pytest
import torch
from torch import Tensor

from negbench.contrast.losses import Columns
from negbench.contrast.method import Probe
from negbench.contrast.passes import unit_norm
from negbench.contrast.source import NegativeSource
from negbench.evaluate.diagnostics import figures as diagnostics
from negbench.runtime.seeding import stream

N, M, D, TEMPERATURE = 6, 9, 5, 0.3
UNKNOWN = torch.full((M,), -1)


def directions(count: int, *key: object, dim: int = D) -> Tensor:
    return unit_norm(torch.randn(count, dim, generator=stream("directions", *key), dtype=torch.float64))


def probe(*columns: Columns, query_ND: Tensor | None = None) -> Probe:
    query_ND = directions(N, "queries") if query_ND is None else query_ND
    offered = [(NegativeSource(), column) for column in columns]
    return Probe(query_ND, query_ND, (query_ND, query_ND), offered, torch.arange(len(query_ND)), TEMPERATURE)


def of_one(columns: Columns, labels_M: Tensor = UNKNOWN, labels_N: Tensor | None = None) -> diagnostics.Figures:
    labels_N = torch.zeros(N, dtype=torch.int64) if labels_N is None else labels_N
    return diagnostics.of_columns(probe(columns), {"only": [0]}, [labels_M], labels_N)["only"]


def test_equal_columns_count_in_full() -> None:
    vectors_MD = directions(1, "one").expand(M, D)
    figures = of_one(Columns(vectors_MD))
    assert figures["effective_negatives"] == pytest.approx(M, rel=1e-12)
    assert figures["mean_cosine"] == pytest.approx(figures["top1_cosine"])


def test_one_column_far_above_all_others_counts_alone() -> None:
    scores_NM = torch.full((N, M), -1.0, dtype=torch.float64)
    scores_NM[:, 3] = 1
    hot = probe(Columns(scores_NM=scores_NM))
    hot = Probe(hot.query_ND, hot.key_ND, hot.embeddings, hot.columns, hot.index_N, temperature=0.02)
    figures = diagnostics.of_columns(hot, {"only": [0]}, [UNKNOWN], torch.zeros(N, dtype=torch.int64))["only"]
    assert figures["effective_negatives"] == pytest.approx(1, abs=1e-9)
    assert figures["top1_cosine"] == 1


def test_negatives_of_the_own_class_have_the_known_rate() -> None:
    labels_N = torch.tensor([0, 0, 1, 1, 2, 2])
    labels_M = torch.tensor([0, 0, 0, 1, 1, 2, -1, -1, -1])
    figures = of_one(Columns(directions(1, "one").expand(M, D)), labels_M, labels_N)
    assert figures["false_negative_rate"] == pytest.approx((3 + 2 + 1) / 6 / 3)
    assert figures["false_negative_mass"] == pytest.approx(figures["false_negative_rate"])
    all_own = of_one(Columns(directions(M, "columns")), torch.zeros(M, dtype=torch.int64))
    assert (all_own["false_negative_rate"], all_own["false_negative_mass"]) == (1, pytest.approx(1))


def test_without_labels_there_is_no_rate() -> None:
    figures = of_one(Columns(directions(M, "columns")))
    assert figures["false_negative_rate"] is None and figures["false_negative_mass"] is None
    assert figures["own_image_share"] is None


@pytest.mark.parametrize("block", [1 << 24, 3 * (2 * M + 4)], ids=["at once", "in blocks"])
def test_every_figure_against_loops(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_BLOCK", block)
    queue = Columns(directions(M, "queue"), index_M=torch.tensor([0, 1, 2, 3, 4, 5, 0, 17, -1]))
    batch = Columns(directions(M, "batch"), index_M=torch.tensor([0, 1, 2, 3, 4, 5, 0, 17, -1]), mask_own=True)
    by_query = Columns(scores_NM=torch.rand(N, 4, generator=stream("scores"), dtype=torch.float64))
    three = probe(queue, batch, by_query)
    labels_N = torch.tensor([0, 1, 2, 0, 1, 2])
    labels = [torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, -1])] * 2 + [torch.full((4,), -1)]
    groups = {"queue": [0], "others": [1, 2], "all": [0, 1, 2]}
    found = diagnostics.of_columns(three, groups, labels, labels_N)
    for name, members in groups.items():
        wanted: dict[str, list[float]] = {}
        for n in range(N):
            offered = [(i, m, *_offer(three, i, n, m)) for i in range(3) for m in range(labels[i].numel())]
            everything = sum(math.exp(s / TEMPERATURE) for _, _, s, _ in offered if s is not None)
            mine = [(i, m, s, image) for i, m, s, image in offered if i in members and s is not None]
            weights = [math.exp(s / TEMPERATURE) for _, _, s, _ in mine]
            shares = [w / sum(weights) for w in weights]
            cosines = sorted((s for _, _, s, _ in mine), reverse=True)
            known = [k for k, (i, m, _, _) in enumerate(mine) if labels[i][m] >= 0]
            same = [k for k in known if labels[mine[k][0]][mine[k][1]] == labels_N[n]]
            images = [image for _, _, _, image in mine if image >= 0]
            now = {
                "negatives": len(mine),
                "mean_cosine": sum(cosines) / len(cosines),
                "top1_cosine": cosines[0],
                "top10_cosine": sum(cosines[:10]) / len(cosines[:10]),
                "effective_negatives": math.exp(-sum(p * math.log(p) for p in shares)),
                "mass_share": sum(weights) / everything,
                "false_negative_rate": len(same) / len(known),
                "false_negative_mass": sum(shares[k] for k in same) / sum(shares[k] for k in known),
                "own_image_share": images.count(n) / len(images),
            }
            for figure, value in now.items():
                wanted.setdefault(figure, []).append(value)
        assert found[name] == pytest.approx({f: sum(v) / len(v) for f, v in wanted.items()}, rel=1e-9), name
    assert found["queue"]["own_image_share"] > 0 == found["others"]["own_image_share"]
    assert found["queue"]["mass_share"] + found["others"]["mass_share"] == pytest.approx(1)


def _offer(probe: Probe, i: int, n: int, m: int) -> tuple[float | None, int]:
    """The cosine of query n to column m of number i, None if it is masked, and the image behind it."""
    column = probe.columns[i][1]
    image = -1 if column.index_M is None else int(column.index_M[m])
    if column.mask_own and image == n:
        return None, image
    if column.scores_NM is not None:
        return float(column.scores_NM[n, m]), image
    assert column.vectors_MD is not None
    return float(probe.query_ND[n] @ column.vectors_MD[m]), image


def test_identical_embeddings_are_a_collapse() -> None:
    same_PD = directions(1, "one").expand(20, D)
    figures = diagnostics.of_representation(same_PD, same_PD)
    assert figures["alignment"] == 0
    assert figures["uniformity"] == pytest.approx(0, abs=1e-12)
    assert figures["spread"] == pytest.approx(0, abs=1e-12)
    assert figures["effective_rank"] == pytest.approx(1, abs=1e-6)


def test_an_orthonormal_basis_and_its_negatives_fill_the_sphere() -> None:
    basis_PD = torch.cat([torch.eye(D, dtype=torch.float64), -torch.eye(D, dtype=torch.float64)])
    figures = diagnostics.of_representation(basis_PD, -basis_PD)
    assert figures["alignment"] == 4
    assert figures["spread"] == pytest.approx(1)
    assert figures["effective_rank"] == pytest.approx(D)
    others = 2 * D - 1
    wanted = math.log(((others - 1) * math.exp(-4) + math.exp(-8)) / others)  # squared distances 2 and, once, 4
    assert figures["uniformity"] == pytest.approx(wanted)


def test_copies_track_in_full_and_another_place_does_not() -> None:
    keys_PD = directions(300, "keys")
    assert diagnostics.tracking(keys_PD.clone(), keys_PD) == 1
    apart_KD = unit_norm(directions(300, "apart") * 0.2 + torch.eye(D, dtype=torch.float64)[0])
    here_PD = unit_norm(directions(300, "here") * 0.2 - torch.eye(D, dtype=torch.float64)[0])
    apart, fresh = diagnostics.tracking(apart_KD, here_PD), diagnostics.tracking(directions(300, "fresh"), keys_PD)
    assert apart is not None and apart < 0.01
    assert fresh is not None and 0.97 < fresh <= 1
    assert diagnostics.tracking(keys_PD[:1], keys_PD) is None


def test_duplicates_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_KD = torch.eye(8, dtype=torch.float64)
    assert diagnostics.duplicates(vectors_KD) == 0
    vectors_KD[5] = unit_norm(vectors_KD[1:2] + 0.01 * vectors_KD[2:3])[0]
    assert diagnostics.duplicates(vectors_KD) == 2 / 8
    monkeypatch.setattr(diagnostics, "SAMPLE", 4)  # 0, 2, 4, 6 stand for all; none of them is one of the two
    assert diagnostics.duplicates(vectors_KD) == 0


def test_a_vector_has_the_label_of_its_nearest_image(monkeypatch: pytest.MonkeyPatch) -> None:
    bank_ND, labels_N = torch.eye(D, dtype=torch.float64), torch.tensor([3, 1, 4, 1, 5])
    near_KD = unit_norm(bank_ND[[2, 0, 4, 3]] + 0.1)
    assert diagnostics.nearest_labels(near_KD, bank_ND, labels_N).tolist() == [4, 3, 5, 1]
    monkeypatch.setattr(diagnostics, "SAMPLE", 2)
    assert diagnostics.nearest_labels(near_KD, bank_ND, labels_N).tolist() == [4, -1, 5, -1]


def test_what_stands_still_is_exactly_as_it_was() -> None:
    a_PD = directions(50, "still").float()
    assert diagnostics.mean_cosine(a_PD, a_PD.clone()) == 1.0
    assert diagnostics.mean_angle(a_PD, a_PD.clone()) == 0.0
    x, y = torch.eye(2).split(1)
    assert diagnostics.mean_cosine(x, y) == pytest.approx(0)
    assert (diagnostics.mean_angle(x, y), diagnostics.mean_angle(x, -x)) == pytest.approx((90, 180))


def test_a_mean_over_ages_fills_the_gaps_with_straight_lines() -> None:
    falling = {1: 1.0, 2: 0.9, 4: 0.7, 8: 0.3}  # 1.1 - age / 10
    assert diagnostics.over_ages(falling) == pytest.approx(sum(1.1 - age / 10 for age in range(1, 9)) / 8)
    assert diagnostics.over_ages({1: 0.5}) == 0.5
