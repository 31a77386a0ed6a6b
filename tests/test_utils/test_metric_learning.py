import importlib
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("pytorch_metric_learning")

import utils.metric_learning
from utils.metric_learning import MarginLoss, TripletLoss

KINDS = ("arcface", "cosface", "sphereface")
MINING = ("hard", "semihard", "all")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def batch(n=24, n_dims=5, n_identities=4, seed=0):
    """Return embeddings that want gradients, and their identities."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, n_identities, (n,), generator=generator)
    pred = torch.randn(n, n_dims, generator=generator) + F.one_hot(label, n_dims)
    return pred.requires_grad_(), label


def margin_loss(kind, **arguments):
    torch.manual_seed(0)
    return MarginLoss(5, 4, kind, **arguments)


# ---- margins


def margin_by_hand(pred, label, directions, kind, margin, scale):
    """Return the loss of one sample in float64, from the angles."""
    cosine = F.normalize(directions.double(), dim=0).T @ F.normalize(pred.double(), dim=0)
    angle = math.acos(cosine[label].item())
    true = math.cos(angle) - margin
    if kind == "arcface":
        true = math.cos(angle + margin)
        if angle > math.pi - margin:
            true = math.cos(angle) - margin * math.sin(margin)
    elif kind == "sphereface":
        turn = math.floor(angle * margin / math.pi)
        true = (-1) ** turn * math.cos(margin * angle) - 2 * turn
        scale = scale * pred.double().norm()
    cosine[label] = true
    return F.cross_entropy(scale * cosine, label).item()


@pytest.mark.parametrize(
    ("kind", "margin", "scale", "by_default"),
    [
        ("arcface", 0.5, 64.0, {}),
        ("cosface", 0.35, 64.0, {}),
        ("sphereface", 4, 1.0, {}),
        ("arcface", 0.3, 16.0, {"margin": 0.3, "scale": 16.0}),
        ("cosface", 0.1, 8.0, {"margin": 0.1, "scale": 8.0}),
        ("sphereface", 3, 2.0, {"margin": 3, "scale": 2.0}),
    ],
)
def test_margin_losses_by_hand(kind, margin, scale, by_default):
    loss = margin_loss(kind, **by_default)
    (directions,) = loss.parameters()
    pred, label = batch()
    want = [
        margin_by_hand(x, y, directions.detach(), kind, margin, scale)
        for x, y in zip(pred.detach(), label, strict=True)
    ]
    assert loss(pred, label).item() == pytest.approx(np.mean(want), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_margin_makes_it_harder_and_the_right_direction_easier(kind):
    loss = margin_loss(kind, scale=8.0)
    (directions,) = loss.parameters()
    label = torch.arange(4)
    right = loss(directions.T.detach(), label)
    half = loss(directions.T.detach() + 2 * directions.T.detach().roll(1, 0), label)
    wrong = loss(-directions.T.detach(), label)
    assert right < half < wrong
    none = 1 if kind == "sphereface" else 0
    pred, label = batch()
    assert margin_loss(kind, margin=none, scale=8.0)(pred, label) < loss(pred, label)


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_the_lengths_of_embeddings_and_directions_do_not_count(kind):
    loss = margin_loss(kind)
    pred, label = batch()
    want = loss(pred, label).item()
    assert loss(3 * pred, label).item() == pytest.approx(want, rel=1e-4)
    with torch.no_grad():
        next(loss.parameters()).mul_(torch.tensor([0.5, 2, 3, 4]))
    assert loss(pred, label).item() == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_embeddings_and_directions(kind):
    loss = margin_loss(kind)
    pred, label = batch()
    loss(pred, label).backward()
    (directions,) = loss.parameters()
    for grad in (pred.grad, directions.grad):
        assert grad.isfinite().all() and grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_on_and_against_the_direction(kind):
    loss = margin_loss(kind)
    (directions,) = loss.parameters()
    own = directions.T.detach().clone()
    pred = torch.cat([own, -own, torch.zeros(4, 5)]).requires_grad_()
    loss(pred, torch.arange(4).repeat(3)).backward()
    assert pred.grad.isfinite().all() and directions.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_validation_leaves_out_identities_without_a_direction(kind):
    loss = margin_loss(kind)
    pred, label = batch()
    with torch.no_grad():
        want = loss(pred[:20], label[:20])
        label[20:] = torch.tensor([4, 99, -1, 7])
        assert loss(pred, label) == want
        nothing = loss(pred[20:], label[20:])
    assert nothing.isnan() and nothing.shape == () and nothing.dtype == torch.float32


def test_training_refuses_identities_without_a_direction():
    pred, label = batch()
    label[5] = 7
    with pytest.raises(ValueError, match=r"expected identities 0\.\.3 in training, got 7\. Number"):
        margin_loss("arcface")(pred, label)


def test_the_directions_stay_float32_under_mixed_precision():
    loss = margin_loss("arcface")
    pred, label = batch()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(pred.bfloat16(), label)
    assert found.dtype == torch.float32
    assert found == loss(pred.bfloat16().float(), label)
    assert next(loss.parameters()).dtype == torch.float32


# ---- triplets


def triplets_by_hand(pred, label, margin, mining, distance):
    """Return the loss from a list of all triplets, in float64."""
    pred = pred.detach().double()
    if distance == "cosine":
        far = 1 - F.normalize(pred) @ F.normalize(pred).T
    else:
        far = torch.cdist(pred, pred, compute_mode="donot_use_mm_for_euclid_dist")
    n = range(len(pred))
    found = {
        (a, p, o): (far[a, p] - far[a, o]).item()
        for a, p, o in itertools.product(n, n, n)
        if a != p and label[a] == label[p] != label[o]
    }
    if mining == "semihard":
        found = {place: gap for place, gap in found.items() if -margin < gap < 0}
    if mining == "hard":
        hardest = [max((g for (a, _, _), g in found.items() if a == i), default=None) for i in n]
        values = [gap for gap in hardest if gap is not None]
    else:
        values = list(found.values())
    violations = [gap + margin for gap in values if gap + margin > 0]
    return np.mean(violations) if violations else 0.0


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("mining", MINING)
def test_triplet_losses_by_hand(mining, distance):
    loss = TripletLoss(0.4, mining, distance)
    pred, label = batch(30)
    want = triplets_by_hand(pred, label, 0.4, mining, distance)
    assert want > 0.1
    assert loss(pred, label).item() == pytest.approx(want, abs=1e-4)
    assert not list(loss.parameters())


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize(
    "label", [torch.arange(6), torch.zeros(6, dtype=torch.int64)], ids=["all alone", "all one"]
)
def test_without_triplets_the_loss_is_zero_and_so_is_its_gradient(mining, label):
    pred, _ = batch(6)
    loss = TripletLoss(mining=mining)(pred, label)
    loss.backward()
    assert loss.item() == 0 and torch.equal(pred.grad, torch.zeros_like(pred))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("mining", MINING)
def test_equal_embeddings_have_finite_gradients(mining, distance):
    pred = torch.ones(40, 5).requires_grad_()
    TripletLoss(mining=mining, distance=distance)(pred, torch.arange(40) // 4).backward()
    assert pred.grad.isfinite().all()


@pytest.mark.parametrize("mining", MINING)
def test_triplets_are_compared_in_float32_and_repeat_their_bits(mining):
    pred, label = batch(96, 24, 24)
    found = []
    for n_threads in (1, 2, 2):
        torch.set_num_threads(n_threads)
        pred.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            loss = TripletLoss(mining=mining)(pred, label)
        loss.backward()
        assert loss.dtype == torch.float32
        found.append(pred.grad)
    assert torch.equal(found[1], found[2])
    assert torch.allclose(found[0], found[1], atol=1e-6)


# ---- both


@pytest.mark.parametrize("make", [lambda: margin_loss("arcface"), TripletLoss])
def test_a_target_may_have_a_gallery(make):
    pred, label = batch()
    target = {"label": label, "gallery": torch.ones(len(label), dtype=torch.bool)}
    assert make()(pred, target) == make()(pred, label)


@pytest.mark.parametrize("make", [lambda: margin_loss("arcface"), TripletLoss])
@pytest.mark.parametrize(
    ("pred", "label"),
    [
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(4, 5), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(4, 5), torch.zeros(4)),
    ],
)
def test_what_does_not_fit_is_refused(make, pred, label):
    with pytest.raises(ValueError, match=r"expected pred \(N, D\) and integer identities \(N,\)"):
        make()(pred, label)


def test_the_size_of_the_embeddings_is_checked():
    with pytest.raises(ValueError, match=r"pred \(N, 5\), got \(2, 3\)\. Set .*embedding_size=3"):
        margin_loss("arcface")(torch.zeros(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("make", "problems"),
    [
        (
            lambda: MarginLoss(0, 0, "arcfase", -1.0, 0.0),
            ['kind: .* Did you mean "arcface"', "embedding_size: .* got 0", "num_classes", "scale"],
        ),
        (lambda: MarginLoss(5, 4, "cosface", -0.1), [r"margin: expected at least 0, got -0\.1"]),
        (lambda: MarginLoss(5, 4, "sphereface", 1.5), [r"1, 2, 3, \.\.\. for sphereface, got 1.5"]),
        (
            lambda: TripletLoss(0.0, "hrad", "cosin"),
            ["margin: .* got 0", 'Did you mean "hard"', 'Did you mean "cosine"'],
        ),
    ],
)
def test_wrong_arguments_are_told_at_once(make, problems):
    with pytest.raises(ValueError, match="Correct LOSS_CONFIG") as error:
        make()
    for problem in problems:
        assert error.match(problem)


def test_without_the_package_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    monkeypatch.delitem(sys.modules, "utils.metric_learning")
    with pytest.raises(
        ImportError, match=r"pytorch-metric-learning, got none\. Run `make env-dev`"
    ):
        importlib.import_module("utils.metric_learning")
    assert utils.metric_learning.MarginLoss is MarginLoss
