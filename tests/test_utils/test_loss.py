import inspect
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import utils.metrics
from utils import loss
from utils.loss import (
    LOSSES,
    FocalLoss,
    dice_bce_sum,
    focal_loss,
    get_loss,
    multi_class_dice_ce_sum,
    multi_class_smooth_dice_loss,
    smooth_dice_beta_loss,
    smooth_dice_loss,
)

BINARY = [smooth_dice_loss, smooth_dice_beta_loss, dice_bce_sum]
MULTICLASS = [multi_class_smooth_dice_loss, multi_class_dice_ce_sum]
OF_MASKS = {
    **{function.__name__: function for function in BINARY},
    "beta 2": partial(smooth_dice_beta_loss, beta=2.0),
    "beta 0": partial(smooth_dice_beta_loss, beta=0.0),
    "focal": focal_loss,
    "focal, gamma 0": partial(focal_loss, gamma=0.0),
    "focal, gamma 0.5": partial(focal_loss, gamma=0.5, alpha=0.25),
}
OF_CLASSES = {
    **{function.__name__: function for function in MULTICLASS},
    "focal of classes": focal_loss,
    "focal of classes, gamma 0.5": partial(focal_loss, gamma=0.5, alpha=[1.0, 2.0, 3.0]),
}
CASES = {**OF_MASKS, **OF_CLASSES}
SURE = 40.0  # a logit whose sigmoid is 1


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def example(case, n=2, num_classes=3, size=4):
    """Return the target of a case, and logits that are right everywhere."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, num_classes, (n, size, size), generator=generator)
    one_hot = torch.nn.functional.one_hot(target, num_classes).movedim(-1, 1).float()
    return (one_hot if case in OF_MASKS else target), SURE * (2 * one_hot - 1)


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


def test_smooth_dice_beta_by_hand():
    pred = torch.tensor([SURE, -SURE, -SURE, SURE]).reshape(1, 1, 2, 2)
    target = torch.tensor([1.0, 1, 1, 0]).reshape(1, 1, 2, 2)  # found 1, missed 2, found wrongly 1
    for beta, want in ((2.0, (5 + 1) / (5 + 4 * 2 + 1 + 1)), (0.5, 2.25 / (1.25 + 0.5 + 1 + 1))):
        assert smooth_dice_beta_loss(pred, target, beta).item() == pytest.approx(1 - want)
    assert smooth_dice_beta_loss(pred, target) == smooth_dice_loss(pred, target)
    assert smooth_dice_beta_loss(pred, target, eps=0.1) == smooth_dice_loss(pred, target, eps=0.1)


def test_beta_is_what_a_missed_pixel_weighs():
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    less, more = target.clone(), target.clone()
    less[..., 0], more[..., 2] = 0, 1
    less, more = SURE * (2 * less - 1), SURE * (2 * more - 1)
    assert smooth_dice_beta_loss(less, target, 2.0) > smooth_dice_beta_loss(more, target, 2.0)
    assert smooth_dice_beta_loss(less, target, 0.5) < smooth_dice_beta_loss(more, target, 0.5)


def test_focal_loss_by_hand():
    pred, target = torch.zeros(1, 1, 1, 4), torch.tensor([1.0, 0, 0, 0]).reshape(1, 1, 1, 4)
    ce = math.log(2)  # probability 1/2
    assert focal_loss(pred, target).item() == pytest.approx(ce / 4)
    assert focal_loss(pred, target, gamma=3).item() == pytest.approx(ce / 8)
    weights = (0.9 + 3 * 0.1) / 4
    assert focal_loss(pred, target, alpha=0.9).item() == pytest.approx(weights * ce / 4)
    classes = torch.tensor([[[1, 0, 0, 0]]])
    assert focal_loss(torch.zeros(1, 2, 1, 4), classes).item() == pytest.approx(ce / 4)
    value = focal_loss(torch.zeros(1, 2, 1, 4), classes, alpha=[1.0, 5.0]).item()
    assert value == pytest.approx((5 + 3) / 4 * ce / 4)


def test_focal_loss_with_gamma_0_is_the_cross_entropy():
    generator = torch.Generator().manual_seed(2)
    pred = torch.randn(5, 3, 4, generator=generator)
    target = torch.randint(0, 3, (5, 4), generator=generator)
    weight = [1.0, 2.0, 3.0]
    assert focal_loss(pred, target, gamma=0) == F.cross_entropy(pred, target)
    want = F.cross_entropy(pred, target, torch.tensor(weight), reduction="none").mean()
    assert focal_loss(pred, target, gamma=0, alpha=weight).item() == pytest.approx(want.item())
    soft = torch.rand(5, 3, 4, generator=generator)
    want = F.binary_cross_entropy_with_logits(pred, soft)
    assert focal_loss(pred, soft, gamma=0) == want


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5)])
def test_focal_loss_of_classes_is_its_formula(shape):
    generator = torch.Generator().manual_seed(2)
    pred = 3 * torch.randn(shape, generator=generator)
    target = torch.randint(0, 3, shape[:1] + shape[2:], generator=generator)
    p = pred.double().softmax(1).gather(1, target.unsqueeze(1))
    want = (-((1 - p) ** 1.5) * p.log()).mean()
    assert focal_loss(pred, target, gamma=1.5).item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(7,), (6, 1), (6, 3, 5)])
@pytest.mark.parametrize("alpha", [None, 0.6])
def test_focal_loss_of_yes_against_no_is_its_formula(shape, alpha):
    generator = torch.Generator().manual_seed(2)
    pred, target = (torch.randn(shape, generator=generator) for _ in range(2))
    pred, target = 3 * pred, (target > 0).float()
    p = (pred.double() * (2 * target - 1)).sigmoid()
    weight = 1 if alpha is None else torch.where(target > 0, alpha, 1 - alpha)
    want = (-weight * (1 - p) ** 1.5 * p.log()).mean()
    assert focal_loss(pred, target, 1.5, alpha).item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.slow  # importing torchvision takes seconds
def test_focal_loss_is_that_of_torchvision():
    theirs = pytest.importorskip("torchvision.ops").sigmoid_focal_loss
    generator = torch.Generator().manual_seed(2)
    pred, soft = (torch.rand(6, 3, 5, generator=generator) for _ in range(2))
    for target in (soft, soft.round()):
        for given in (dict(gamma=2.0, alpha=0.25), dict(gamma=1.5, alpha=0.6)):
            want = theirs(pred, target, reduction="mean", **given).item()
            assert focal_loss(pred, target, **given).item() == pytest.approx(want, rel=1e-5)


def test_what_is_sure_weighs_little_in_a_focal_loss():
    pred, target = torch.tensor([[4.0], [0.0]]), torch.ones(2, 1)
    focal = [focal_loss(x, y).item() for x, y in zip(pred, target, strict=True)]
    cross_entropy = [focal_loss(x, y, gamma=0).item() for x, y in zip(pred, target, strict=True)]
    assert focal[0] / focal[1] < 0.01 * cross_entropy[0] / cross_entropy[1]


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


@pytest.mark.parametrize("case", CASES)
def test_best_worst_and_order(case):
    function, (target, good) = CASES[case], example(case)
    values = [function(pred, target).item() for pred in (good, wrong_half(good), good.roll(1, 1))]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[0] < values[1] < values[2]
    if case.endswith("dice_loss"):
        assert 0.75 < values[2] <= 1


@pytest.mark.parametrize("function", OF_MASKS.values(), ids=OF_MASKS)
def test_nothing_there_and_nothing_found_is_no_loss(function):
    value = function(torch.full((2, 2, 4, 4), -SURE), torch.zeros(2, 2, 4, 4))
    assert value.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_something_found_where_nothing_is_there_is_a_loss_with_a_gradient(case):
    target, _ = example(case)
    pred = torch.zeros(2, 3, 4, 4, requires_grad=True)
    value = CASES[case](pred, torch.zeros_like(target))  # no foreground, or one class alone
    value.backward()
    assert 0 < value.item() < 100
    assert pred.grad.isfinite().all() and pred.grad.abs().sum() > 0


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [0.0, 0.4, 1.0, 1e4])
def test_gradients_are_finite(case, scale):
    function, (target, good) = CASES[case], example(case)
    for pred in (good, wrong_half(good), -good):
        pred = (scale * pred).requires_grad_()
        value = function(pred, target)
        value.backward()
        assert value.shape == () and value.isfinite()
        assert pred.grad.isfinite().all()
        if scale == 0:
            assert pred.grad.abs().sum() > 0


@pytest.mark.parametrize("case", CASES)
def test_a_step_along_the_gradient_lowers_the_loss(case):
    function, (target, _) = CASES[case], example(case)
    pred = torch.zeros(2, 3, 4, 4, requires_grad=True)
    before = function(pred, target)
    before.backward()
    assert function(pred - 0.1 * pred.grad, target) < before


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(case, dtype):
    function, (target, good) = CASES[case], example(case, size=64)
    pred = (wrong_half(good) / 10).to(dtype).requires_grad_()
    want = function(pred.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        value = function(pred, target)
    assert value.dtype == torch.float32 and value == want
    value.backward()
    assert pred.grad.dtype == dtype and pred.grad.isfinite().all()


@pytest.mark.parametrize("function", MULTICLASS)
def test_class_indices_and_one_hot_agree(function):
    target, good = example(function.__name__)
    pred = wrong_half(good) / 10
    one_hot = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    want = function(pred, target).item()
    assert function(pred, target.to(torch.uint8)).item() == want
    assert function(pred, one_hot).item() == pytest.approx(want)
    assert function(pred, one_hot.float()).item() == pytest.approx(want)


@pytest.mark.parametrize("case", OF_MASKS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_a_mask_may_be_bool_or_bytes(case, dtype):
    function, (target, good) = CASES[case], example(case)
    pred = wrong_half(good) / 10
    assert function(pred, target.to(dtype)) == function(pred, target)


# ---- what is left out


def masked_example(case, ignore_index=255):
    """Return logits, a target in which 6 of 16 pixels are left out, and where it is kept."""
    target, good = example(case)
    pred = wrong_half(good) / 10
    order = torch.rand(target.flatten(-2).shape, generator=torch.Generator().manual_seed(5))
    kept = (order.argsort(-1) < 10).reshape(target.shape)
    return pred, target.masked_fill(~kept, ignore_index), kept


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ignore_index", [255, -100])
def test_what_is_left_out_could_as_well_be_missing(case, ignore_index):
    function = CASES[case]
    pred, target, kept = masked_example(case, ignore_index)
    pred.requires_grad_()
    value = function(pred, target, ignore_index=ignore_index)
    (gradient,) = torch.autograd.grad(value, pred)

    # the mean of the parts is that of all, as 10 pixels are kept in each
    parts = []
    for i in range(2):
        if case in OF_CLASSES:
            parts.append(function(pred[i, :, kept[i]][None], target[i, kept[i]][None]))
        else:
            cut = [(pred[i, k, kept[i, k]], target[i, k, kept[i, k]]) for k in range(3)]
            parts += [function(x[None, None], y[None, None]) for x, y in cut]
    want = sum(parts) / len(parts)
    assert value.item() == pytest.approx(want.item(), rel=1e-5)
    assert torch.allclose(gradient, torch.autograd.grad(want, pred)[0], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_what_the_network_gives_where_it_is_left_out_does_not_matter(case):
    pred, target, kept = masked_example(case)
    kept = kept if case in OF_MASKS else kept.unsqueeze(1)
    other = torch.where(kept, pred, -3 * pred + 1).requires_grad_()
    value = CASES[case](other, target, ignore_index=255)
    assert value.item() == pytest.approx(CASES[case](pred, target, ignore_index=255).item())
    value.backward()
    assert (other.grad * ~kept).abs().sum() == 0 and (other.grad * kept).abs().sum() > 0


@pytest.mark.parametrize("case", CASES)
def test_nothing_left_out_changes_nothing(case):
    target, good = example(case)
    pred = wrong_half(good) / 10
    want = CASES[case](pred, target).item()
    assert CASES[case](pred, target, ignore_index=255).item() == pytest.approx(want)


@pytest.mark.parametrize("case", CASES)
def test_a_batch_of_nothing_else_has_no_loss_and_no_gradient(case):
    target, good = example(case)
    pred = good.clone().requires_grad_()
    value = CASES[case](pred, torch.full_like(target, 255), ignore_index=255)
    value.backward()
    assert value.item() == 0 and pred.grad.abs().sum() == 0


@pytest.mark.parametrize("case", CASES)
def test_a_sample_left_out_is_not_in_the_mean(case):
    target, good = example(case)
    pred = wrong_half(good) / 10
    masked = target.clone()
    masked[0] = 255
    want = CASES[case](pred[1:], target[1:]).item()
    assert CASES[case](pred, masked, ignore_index=255).item() == pytest.approx(want)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_bytes_may_be_left_out(case, dtype):
    pred, target, _ = masked_example(case)
    want = CASES[case](pred, target, ignore_index=255)
    assert CASES[case](pred, target.to(dtype), ignore_index=255) == want


@pytest.mark.parametrize("function", [*MULTICLASS, focal_loss])
def test_a_number_that_bytes_do_not_have_leaves_out_none_of_them(function):
    target = torch.tensor([[156, 1]])  # -100 as a byte
    pred = torch.zeros(1, 160, 2)
    want = function(pred, target)
    assert want > 0
    assert function(pred, target.to(torch.uint8), ignore_index=-100).item() == pytest.approx(
        want.item()
    )


@pytest.mark.parametrize("function", MULTICLASS)
def test_one_hot_pixels_are_left_out_as_class_indices_are(function):
    pred, target, kept = masked_example(function.__name__)
    one_hot = F.one_hot(target.where(kept, 0), 3).movedim(-1, 1)
    want = function(pred, target, ignore_index=255).item()
    by_mask = one_hot.masked_fill(~kept.unsqueeze(1), 255)
    assert function(pred, by_mask, ignore_index=255).item() == pytest.approx(want)
    by_mask[:, ::2] = one_hot[:, ::2]  # in one channel is enough
    assert function(pred, by_mask.float(), ignore_index=255).item() == pytest.approx(want)


def test_a_class_may_be_left_out_as_in_torch():
    target, good = example("focal of classes")
    pred = wrong_half(good) / 10
    want = F.cross_entropy(pred, target, ignore_index=0)
    assert focal_loss(pred, target, gamma=0, ignore_index=0).item() == pytest.approx(want.item())
    dice = multi_class_smooth_dice_loss(pred, target, ignore_index=0)
    both = multi_class_dice_ce_sum(pred, target, ignore_index=0)
    assert both.item() == pytest.approx((dice + want).item())


# ---- shapes, names


@pytest.mark.parametrize("case", CASES)
def test_no_loss_waits_for_the_device(case):
    # the meta device has no values: whatever must look at one, as a wait for a GPU does, fails
    pred, target, _ = masked_example(case)
    for given in ({}, {"ignore_index": 255}):
        value = CASES[case](pred.to("meta"), target.to("meta"), **given)
        assert value.device.type == "meta" and value.shape == ()


@pytest.mark.parametrize(
    ("pred", "target"),
    [
        (torch.zeros(4, 1, 8), torch.zeros(4, 8)),
        (torch.zeros(4, 1, 8), torch.zeros(4, 8, dtype=torch.long)),
        (torch.zeros(4, 3), torch.zeros(4)),  # class indices as floats
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool)),
        (torch.zeros(4, 3), torch.zeros(5, dtype=torch.long)),
        (torch.zeros(4), torch.zeros(4, 1)),
    ],
)
def test_shapes_of_a_focal_loss_must_fit(pred, target):
    with pytest.raises(ValueError, match="focal_loss: expected pred and target of one shape, or"):
        focal_loss(pred, target)


def test_alpha_must_fit():
    classes = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"expected 3 weights as alpha for .* got 0.25"):
        focal_loss(torch.zeros(4, 3), classes, alpha=0.25)
    with pytest.raises(ValueError, match=r"expected 3 weights as alpha for .* got \[1.0, 2.0\]"):
        focal_loss(torch.zeros(4, 3), classes, alpha=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"expected one number as alpha for .* got \[0.25\]"):
        FocalLoss(alpha=[0.25])(torch.zeros(4, 3), torch.zeros(4, 3))


@pytest.mark.parametrize("given", [{}, {"gamma": 3}, {"alpha": [1, 2, 3], "ignore_index": 1}])
def test_the_module_is_the_function(given):
    target, good = example("focal of classes")
    module = FocalLoss(**given)
    assert module(good / 10, target) == focal_loss(good / 10, target, **given)
    assert list(module.state_dict()) == []  # what it is stands in the config
    if "alpha" in given:
        assert module.to("meta").alpha.device.type == "meta"
    signatures = (inspect.signature(called).parameters for called in (FocalLoss, focal_loss))
    ours, theirs = ({name: p.default for name, p in s.items()} for s in signatures)
    assert theirs == {"pred": inspect.Parameter.empty, "target": inspect.Parameter.empty, **ours}


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
    with pytest.raises(ValueError, match="expected one of smooth_dice_loss, .* got 'nothing'"):
        get_loss("nothing")
    with pytest.raises(
        ValueError, match="got 'smoth_dice_loss'. Did you mean \"smooth_dice_loss\""
    ):
        get_loss("smoth_dice_loss")


def test_every_loss_has_its_name_and_its_tests():
    functions = {name: called for name, called in vars(loss).items() if not name.startswith("_")}
    here = {name for name, f in functions.items() if getattr(f, "__module__", "") == loss.__name__}
    assert here == {*LOSSES, "FocalLoss", "get_loss"}
    assert set(LOSSES.values()) <= {getattr(case, "func", case) for case in CASES.values()}


def test_the_metrics_of_old_configs_are_here_too():
    assert loss.f1 is utils.metrics.f1
    assert loss.precision is utils.metrics.precision
    assert loss.recall is utils.metrics.recall
