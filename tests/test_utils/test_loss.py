import math

import pytest
import torch

import utils.metrics
from utils import loss
from utils.loss import (
    LOSSES,
    dice_bce_sum,
    get_loss,
    multi_class_dice_ce_sum,
    multi_class_smooth_dice_loss,
    smooth_dice_loss,
)

BINARY = [smooth_dice_loss, dice_bce_sum]
MULTICLASS = [multi_class_smooth_dice_loss, multi_class_dice_ce_sum]
SURE = 40.0  # a logit whose sigmoid is 1


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def example(function, n=2, num_classes=3, size=4):
    """Return the target of a loss, and logits that are right everywhere."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, num_classes, (n, size, size), generator=generator)
    one_hot = torch.nn.functional.one_hot(target, num_classes).movedim(-1, 1).float()
    return (one_hot if function in BINARY else target), SURE * (2 * one_hot - 1)


def wrong_half(pred):
    rows = torch.arange(pred.shape[2])[:, None] % 2 == 0
    return torch.where(rows, pred, pred.roll(1, dims=1))


def test_smooth_dice_by_hand():
    pred = torch.tensor([[SURE, SURE, -SURE, -SURE], [0, 0, 0, 0]]).reshape(1, 2, 2, 2)
    target = torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 1]]).reshape(1, 2, 2, 2)
    first = 1 - (2 * 1 + 1) / (2 + 2 + 1)
    second = 1 - (2 * 2 + 1) / (2 + 4 + 1)
    assert smooth_dice_loss(pred, target).item() == pytest.approx((first + second) / 2)
    second = 1 - (2 * 2 + 0.1) / (2 + 4 + 0.1)
    got = smooth_dice_loss(pred[:, 1:], target[:, 1:], eps=0.1)
    assert got.item() == pytest.approx(second)


def test_dice_is_taken_per_sample():
    # one large object that is found and one small that is missed: not a mean over pixels
    target = torch.zeros(2, 1, 4, 4)
    target[0], target[1, 0, 0, 0] = 1, 1
    pred = torch.full((2, 1, 4, 4), -SURE)
    pred[0] = SURE
    assert smooth_dice_loss(pred, target).item() == pytest.approx((0 + (1 - 1 / 2)) / 2)


def test_dice_bce_sum_by_hand():
    pred, target = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    dice, bce = 1 - (2 * 2 + 1) / (2 + 4 + 1), math.log(2)
    assert dice_bce_sum(pred, target).item() == pytest.approx(dice + bce)
    assert dice_bce_sum(pred, target, bce_weight=0.5).item() == pytest.approx(dice + 0.5 * bce)


def test_multi_class_by_hand():
    pred, target = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 0, 0, 1]]])  # probability 1/2
    dice = ((1 - (2 * 1.5 + 1) / (2 + 3 + 1)) + (1 - (2 * 0.5 + 1) / (2 + 1 + 1))) / 2
    assert multi_class_smooth_dice_loss(pred, target).item() == pytest.approx(dice)
    ce = math.log(2)
    assert multi_class_dice_ce_sum(pred, target).item() == pytest.approx(dice + ce)
    assert multi_class_dice_ce_sum(pred, target, ce_weight=2).item() == pytest.approx(dice + 2 * ce)


@pytest.mark.parametrize("function", LOSSES.values(), ids=LOSSES)
def test_best_worst_and_order(function):
    target, good = example(function)
    values = [function(pred, target).item() for pred in (good, wrong_half(good), good.roll(1, 1))]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[0] < values[1] < values[2]
    if "dice_loss" in function.__name__:
        assert 0.75 < values[2] <= 1


@pytest.mark.parametrize("function", BINARY)
def test_nothing_there_and_nothing_found_is_no_loss(function):
    value = function(torch.full((2, 2, 4, 4), -SURE), torch.zeros(2, 2, 4, 4))
    assert value.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("function", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_gradients_are_finite(function, scale):
    target, good = example(function)
    for pred in (good, wrong_half(good), -good):
        pred = (scale * pred).requires_grad_()
        value = function(pred, target)
        value.backward()
        assert value.shape == () and value.isfinite()
        assert pred.grad.isfinite().all()
        if scale == 0:
            assert pred.grad.abs().sum() > 0


@pytest.mark.parametrize("function", LOSSES.values(), ids=LOSSES)
def test_a_step_along_the_gradient_lowers_the_loss(function):
    target, _ = example(function)
    pred = torch.zeros(2, 3, 4, 4, requires_grad=True)
    before = function(pred, target)
    before.backward()
    assert function(pred - 0.1 * pred.grad, target) < before


@pytest.mark.parametrize("function", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(function, dtype):
    target, good = example(function, size=64)
    pred = (wrong_half(good) / 10).to(dtype).requires_grad_()
    want = function(pred.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        value = function(pred, target)
    assert value.dtype == torch.float32 and value == want
    value.backward()
    assert pred.grad.dtype == dtype and pred.grad.isfinite().all()


@pytest.mark.parametrize("function", MULTICLASS)
def test_class_indices_and_one_hot_agree(function):
    target, good = example(function)
    pred = wrong_half(good) / 10
    one_hot = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    want = function(pred, target).item()
    assert function(pred, target.to(torch.uint8)).item() == want
    assert function(pred, one_hot).item() == pytest.approx(want)
    assert function(pred, one_hot.float()).item() == pytest.approx(want)


@pytest.mark.parametrize("function", BINARY)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_a_mask_may_be_bool_or_bytes(function, dtype):
    target, good = example(function)
    pred = wrong_half(good) / 10
    assert function(pred, target.to(dtype)) == function(pred, target)


@pytest.mark.parametrize("function", BINARY)
@pytest.mark.parametrize("shape", [(4, 8, 8), (1, 1, 8, 8), (4, 2, 8, 8)])
def test_shapes_are_never_broadcast(function, shape):
    with pytest.raises(
        ValueError, match=r"expected pred and target of one shape .* got \(4, 1, 8, 8\)"
    ):
        function(torch.zeros(4, 1, 8, 8), torch.zeros(shape))


@pytest.mark.parametrize("function", BINARY)
def test_there_must_be_pixels(function):
    with pytest.raises(ValueError, match="expected pred and target of one shape"):
        function(torch.zeros(4, 2), torch.zeros(4, 2))


@pytest.mark.parametrize("function", MULTICLASS)
@pytest.mark.parametrize(
    ("pred", "target"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4)),  # class indices as floats
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 5, dtype=torch.long)),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.long)),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)),  # one class: no gradient
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)),
    ],
)
def test_classes_and_shapes_must_fit(function, pred, target):
    with pytest.raises(
        ValueError, match=f"{function.__name__}: expected pred .*, K > 1, and integer"
    ):
        function(pred, target)


def test_get_loss_finds_each_loss_by_its_name():
    assert all(get_loss(name) is function for name, function in LOSSES.items())
    assert all(function.__name__ == name for name, function in LOSSES.items())
    with pytest.raises(ValueError, match="expected one of smooth_dice_loss, .* got 'dice'"):
        get_loss("dice")


def test_the_metrics_of_old_configs_are_here_too():
    assert loss.f1 is utils.metrics.f1
    assert loss.precision is utils.metrics.precision
    assert loss.recall is utils.metrics.recall
