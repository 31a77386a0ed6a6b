import math
from functools import partial

import numpy as np
import pytest
import sklearn.metrics
import torch

import utils.retrieval
from utils.metrics import Metrics, cmc, mean_average_precision, recall_at_k


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def embeddings(n=150, n_identities=40, seed=0):
    """Return embeddings that find some of their own, and identities."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, n_identities, (n,), generator=generator)
    centre = torch.randn(n_identities, 8, generator=generator)
    return centre[label] + torch.randn(n, 8, generator=generator), label


def with_gallery(label, n_queries=60, seed=1):
    """Return identities as a target of queries and gallery, mixed in order."""
    place = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    gallery = torch.ones(len(label), dtype=torch.bool)
    gallery[place[:n_queries]] = False
    return {"label": label, "gallery": gallery}


TARGETS = {"all others": lambda label: label, "gallery": with_gallery}


def rank_by_hand(pred, target, distance):
    """Yield for each query whether the samples of its ranking are partners, nearest first."""
    pred = pred.double().numpy()
    label = target["label"] if isinstance(target, dict) else target
    gallery = target["gallery"].numpy() if isinstance(target, dict) else None
    label = label.numpy()
    for query, x in enumerate(pred):
        if gallery is not None and gallery[query]:
            continue
        others = np.arange(len(pred)) != query
        searched = np.flatnonzero(others if gallery is None else gallery)
        if distance == "cosine":
            lengths = np.linalg.norm(pred[searched], axis=1) * np.linalg.norm(x)
            near = pred[searched] @ x / lengths
        else:
            near = -np.linalg.norm(pred[searched] - x, axis=1)
        same = label[searched] == label[query]
        if same.any():
            yield same[np.lexsort((same, -near))], same, near


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("form", TARGETS)
def test_values_are_those_of_a_ranking_by_hand(form, distance):
    pred, label = embeddings()
    target = TARGETS[form](label)
    rankings = list(rank_by_hand(pred, target, distance))
    assert len(rankings) < (60 if form == "gallery" else 150)  # some have no partner
    found = cmc(pred, target, ks=(1, 3, 10), distance=distance)
    for k in (1, 3, 10):
        want = np.mean([same[:k].any() for same, _, _ in rankings])
        assert 0.2 < want < 1
        assert found[str(k)].item() == pytest.approx(want, abs=1e-12)
        assert recall_at_k(pred, target, k, distance).item() == found[str(k)].item()
    want = np.mean(
        [sklearn.metrics.average_precision_score(same, near) for _, same, near in rankings]
    )
    value = mean_average_precision(pred, target, distance).item()
    assert value == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("form", TARGETS)
def test_values_are_those_of_pytorch_metric_learning(form):
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    pred, label = embeddings()
    target = TARGETS[form](label)
    theirs = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision"),
        k=None,
        knn_func=CustomKNN(CosineSimilarity()),
        device=torch.device("cpu"),
    )
    if form == "gallery":
        among = target["gallery"]
        want = theirs.get_accuracy(pred[~among], label[~among], pred[among], label[among])
    else:
        want = theirs.get_accuracy(pred, label)
    assert recall_at_k(pred, target).item() == pytest.approx(want["precision_at_1"])
    found = mean_average_precision(pred, target).item()
    assert found == pytest.approx(want["mean_average_precision"])


def test_recall_at_k_by_hand():
    angle = torch.tensor([0.0, 1, 3, 4, 90, 91]) * math.pi / 180
    pred = torch.stack([angle.cos(), angle.sin()], 1) * torch.tensor(
        [[1.0], [5], [1], [2], [1], [9]]
    )
    target = torch.tensor([0, 1, 0, 1, 2, 2])
    # nearest others: 0 -> 1, 2; 1 -> 0, 2 ; 2 -> 3, 1; 3 -> 2, 1; 4 and 5 find each other
    assert recall_at_k(pred, target).item() == pytest.approx(2 / 6)
    assert recall_at_k(pred, target, k=2).item() == pytest.approx(4 / 6)
    assert recall_at_k(pred, target, k=3).item() == 1
    assert recall_at_k(pred, target, k=99).item() == 1
    target[5] = 7  # 4 and 5 are alone
    assert recall_at_k(pred, target, k=2).item() == pytest.approx(2 / 4)


def test_average_precision_by_hand():
    pred = torch.tensor([[0.0], [1], [2], [3], [4]])
    target = {"label": torch.tensor([5, 9, 5, 9, 5]), "gallery": torch.arange(5) > 0}
    # partners at the ranks 2 and 4
    value = mean_average_precision(pred, target, distance="euclidean").item()
    assert value == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_best_and_worst():
    target = torch.arange(8).repeat(3)
    assert recall_at_k(torch.eye(8)[target], target).item() == 1
    assert mean_average_precision(torch.eye(8)[target], target).item() == 1
    neighbours = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])  # next to each one of another identity
    assert recall_at_k(torch.eye(8)[torch.arange(8) // 2], neighbours).item() == 0


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("n", [6, 61, 600])
def test_one_embedding_for_everything_finds_nothing(distance, n):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(1, 33, generator=generator).expand(n, -1)
    target = torch.arange(n) // 3  # neighbours are partners
    assert recall_at_k(pred, target, k=n - 3, distance=distance).item() == 0
    # the two partners of each come last
    worst = (1 / (n - 2) + 2 / (n - 1)) / 2
    assert mean_average_precision(pred, target, distance).item() == pytest.approx(worst)


@pytest.mark.parametrize("form", TARGETS)
def test_the_order_of_the_samples_does_not_count(form):
    pred, label = embeddings(seed=3)
    pred = pred.round()  # many are equally near
    target = TARGETS[form](label)
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(0))
    other = target[order] if form != "gallery" else {k: v[order] for k, v in target.items()}
    for distance in ("cosine", "euclidean"):
        found = cmc(pred, target, distance=distance), cmc(pred[order], other, distance=distance)
        assert found[0] == found[1]
        values = [
            mean_average_precision(*pair, distance=distance).item()
            for pair in ((pred, target), (pred[order], other))
        ]
        assert values[0] == pytest.approx(values[1], abs=1e-12)


def test_of_equally_near_samples_the_partner_comes_last():
    pred = torch.tensor([[0.0], [1], [-1], [1], [5]])
    target = {"label": torch.tensor([0, 0, 1, 0, 1]), "gallery": torch.arange(5) > 0}
    found = cmc(pred, target, ks=(1, 2), distance="euclidean")
    assert [value.item() for value in found.values()] == [0, 1]
    value = mean_average_precision(pred, target, distance="euclidean").item()
    assert value == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_query_without_a_partner_is_left_out():
    pred, label = embeddings()
    target = with_gallery(label)
    want = cmc(pred, target), mean_average_precision(pred, target)
    more = {
        "label": torch.cat([label, torch.tensor([1000])]),
        "gallery": torch.cat([target["gallery"], torch.tensor([False])]),
    }
    pred = torch.cat([pred, torch.ones(1, 8)])
    assert (cmc(pred, more), mean_average_precision(pred, more)) == want


@pytest.mark.parametrize(
    "target",
    [
        torch.arange(8),
        {"label": torch.zeros(8, dtype=torch.int64), "gallery": torch.ones(8, dtype=torch.bool)},
        {"label": torch.zeros(8, dtype=torch.int64), "gallery": torch.zeros(8, dtype=torch.bool)},
    ],
    ids=["all alone", "no query", "no gallery"],
)
def test_without_pairs_there_is_no_number(target):
    assert recall_at_k(torch.eye(8), target).isnan()
    assert all(value.isnan() for value in cmc(torch.eye(8), target).values())
    assert mean_average_precision(torch.eye(8), target).isnan()


def test_embeddings_with_nan_find_nothing():
    pred, label = embeddings()
    nothing = torch.full_like(pred, math.nan)
    assert recall_at_k(nothing, label, k=5).item() == 0
    assert mean_average_precision(nothing, label).item() < mean_average_precision(pred, label) / 5
    pred[7] = math.nan
    for distance in ("cosine", "euclidean"):
        assert 0 < recall_at_k(pred, label, distance=distance) < 1


@pytest.mark.parametrize("form", TARGETS)
@pytest.mark.parametrize("n_rows", [1, 16, 75, 300])
def test_some_rows_at_a_time_give_what_the_whole_table_gives(n_rows, form, monkeypatch):
    pred, label = embeddings()
    target = TARGETS[form](label)
    want = cmc(pred, target), mean_average_precision(pred, target)
    n_searched = 90 if form == "gallery" else 150
    monkeypatch.setattr(utils.retrieval, "TABLE_CELLS", n_rows * n_searched + 7)
    assert cmc(pred, target) == want[0]
    value = mean_average_precision(pred, target).item()
    assert value == pytest.approx(want[1].item(), abs=1e-12)


def split(target, n):
    if isinstance(target, torch.Tensor):
        return target.split(n)
    parts = zip(*(part.split(n) for part in target.values()), strict=True)
    return [dict(zip(target, values, strict=True)) for values in parts]


@pytest.mark.parametrize("form", TARGETS)
def test_a_bag_gives_the_value_of_the_whole_set_for_any_batch_size(form):
    pred, label = embeddings()
    pred, target = pred.bfloat16(), TARGETS[form](label)
    if form == "gallery":  # batches without a query, or without a gallery
        order = target["gallery"].int().argsort(stable=True)
        pred, target = pred[order], {name: part[order] for name, part in target.items()}
    metrics = {
        "recall": partial(recall_at_k, k=5),
        "cmc": cmc,
        "map": partial(mean_average_precision, distance="euclidean"),
    }
    found = []
    for n in (1, 7, 150):
        bag = Metrics(metrics)
        for x, y in zip(pred.split(n), split(target, n), strict=True):
            bag.update(x, y)
        found.append(bag.compute())
    assert found[0] == found[1] == found[2]
    assert list(found[0]) == ["recall", "cmc_1", "cmc_5", "cmc_10", "map"]
    assert found[0]["recall"] == found[0]["cmc_5"] == recall_at_k(pred.float(), target, 5).item()


@pytest.mark.parametrize(
    ("pred", "target"),
    [
        (torch.zeros(4), torch.zeros(4)),
        (torch.zeros(4, 2), torch.zeros(3)),
        (torch.zeros(4, 2), torch.zeros(4, 2)),
        (torch.zeros(4, 2), {"label": torch.zeros(4), "gallery": torch.zeros(3)}),
    ],
)
def test_embeddings_must_fit(pred, target):
    with pytest.raises(ValueError, match=r"recall_at_k: expected pred \(N, D\) and target \(N,\)"):
        recall_at_k(pred, target)
    with pytest.raises(ValueError, match="mean_average_precision: expected pred"):
        mean_average_precision(pred, target)


@pytest.mark.parametrize("target", [{"label": torch.zeros(4)}, [0, 1, 2, 3]])
def test_a_target_of_another_kind_is_refused(target):
    with pytest.raises(TypeError, match="cmc: expected target as a tensor, or a dict of tensors"):
        cmc(torch.zeros(4, 2), target)


def test_k_counts_from_one_on():
    pred, label = embeddings(8)
    with pytest.raises(ValueError, match=r"recall_at_k: expected k from 1 on, got \[0\]"):
        recall_at_k(pred, label, k=0)
    with pytest.raises(ValueError, match=r"cmc: expected k from 1 on, got \[\]"):
        cmc(pred, label, ks=())


def test_an_unknown_distance_is_named():
    pred, label = embeddings(8)
    with pytest.raises(ValueError, match='expected distance as one of .*Did you mean "cosine"'):
        mean_average_precision(pred, label, distance="cosin")
