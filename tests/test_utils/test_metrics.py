import itertools
import math
from functools import partial

import pytest
import sklearn.metrics
import torch

from utils.metrics import (
    Metrics,
    accuracy,
    f1,
    iou,
    mae,
    precision,
    r2,
    recall,
    rmse,
)

SCORES = {"precision": precision, "recall": recall, "f1": f1, "iou": iou}
KIT = {"accuracy": accuracy, **SCORES}
ERRORS = {"mae": mae, "rmse": rmse, "r2": r2}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def run(metrics, pred, target, batch_size):
    """Return what a bag computes from a whole set in batches."""
    bag = metrics if isinstance(metrics, Metrics) else Metrics(metrics)
    bag.reset()
    for x, y in zip(pred.split(batch_size), target.split(batch_size), strict=True):
        bag.update(x, y)
    return bag.compute()


def binary(*shape):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(shape, generator=generator) < 0.3
    return torch.randn(shape, generator=generator) + 1.5 * target - 0.5, target.float()


def multiclass(n, num_classes, *pixels, present=None):
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, present or num_classes, (n, *pixels), generator=generator)
    pred = torch.randn(n, num_classes, *pixels, generator=generator)
    return pred + torch.nn.functional.one_hot(target, num_classes).movedim(-1, 1), target


# ---- decisions


@pytest.mark.parametrize("shape", [(8,), (2, 4), (8, 1)])
def test_values_by_hand_binary(shape):
    pred = torch.tensor([1.0, 2, 3, -1, -2, 1, -1, -1]).reshape(shape)
    target = torch.tensor([1.0, 1, 0, 1, 0, 1, 0, 0]).reshape(shape)  # tp 3, fp 1, fn 1, tn 3
    assert accuracy(pred, target).item() == 6 / 8
    assert precision(pred, target).item() == 3 / 4
    assert recall(pred, target).item() == 3 / 4
    assert f1(pred, target).item() == 6 / 8
    assert iou(pred, target).item() == pytest.approx(3 / 5)


def test_values_by_hand_multiclass():
    pred = torch.eye(4)[[0, 0, 1, 1]]  # class 3 occurs nowhere
    target = torch.tensor([0, 1, 1, 2])
    assert accuracy(pred, target).item() == 2 / 4
    assert precision(pred, target).item() == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert recall(pred, target).item() == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert f1(pred, target).item() == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    assert iou(pred, target).item() == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)


def test_values_of_each_class_and_of_all_together_by_hand():
    pred = torch.eye(4)[[0, 0, 1, 1]]  # class 3 occurs nowhere
    target = torch.tensor([0, 1, 1, 2])
    want = {precision: [1 / 2, 1 / 2, 0], recall: [1, 1 / 2, 0], iou: [1 / 2, 1 / 3, 0]}
    for metric, values in want.items():
        found = metric(pred, target, average="none")
        assert found.shape == (4,) and found[3].isnan()
        assert found[:3].tolist() == pytest.approx(values)
        assert metric(pred, target, average="macro") == metric(pred, target)
    assert precision(pred, target, average="micro").item() == 2 / 4
    assert iou(pred, target, average="micro").item() == pytest.approx(2 / 6)


def test_values_of_each_label_by_hand():
    pred = torch.tensor([[1.0, 1], [1, -1], [-1, -1]])
    target = torch.tensor([[1.0, 1], [0, 1], [1, 0]])
    assert recall(pred, target, average="none").tolist() == [0.5, 0.5]
    assert precision(pred, target, average="none").tolist() == [0.5, 1]
    assert precision(pred, target, average="macro").item() == 0.75
    assert precision(pred, target).item() == pytest.approx(2 / 3)
    assert precision(pred, target, average="micro") == precision(pred, target)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (2, 1, 3)])
@pytest.mark.parametrize("metric", SCORES.values(), ids=SCORES)
def test_a_binary_target_has_one_value_whatever_the_average(metric, shape):
    pred = torch.tensor([1.0, 2, 3, -1, -2, 1]).reshape(shape)
    target = torch.tensor([1.0, 1, 0, 1, 0, 1]).reshape(shape)
    want = metric(pred, target).item()
    for average in ("macro", "micro", "none"):
        assert metric(pred, target, average=average).tolist() in (want, [want])
        if len(shape) > 1:  # the same without the channel
            assert metric(pred, target.squeeze(1), average=average).tolist() in (want, [want])


def test_the_true_class_among_the_k_highest_by_hand():
    pred = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3], [0, 1, 2, 3]])
    target = torch.tensor([1, 2, 3, 0])
    values = [accuracy(pred, target, k=k).item() for k in (1, 2, 3, 4, 9)]
    assert values == [1 / 4, 2 / 4, 3 / 4, 1, 1]
    assert accuracy(torch.zeros(40, 4), target.repeat(10), k=2).item() == 0.5  # no ties for free


@pytest.mark.parametrize("metric", KIT.values(), ids=KIT)
def test_a_value_is_a_float_scalar(metric):
    value = metric(*binary(4, 2))
    assert value.shape == () and value.dtype == torch.float32


@pytest.mark.parametrize("metric", KIT.values(), ids=KIT)
def test_best_worst_and_order(metric):
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    good = torch.eye(3)[target]
    bad = torch.eye(3)[(target + 1) % 3]
    half = torch.where(torch.arange(6)[:, None] < 3, good, bad)
    assert metric(good, target).item() == 1
    assert metric(bad, target).item() == 0
    assert 0 < metric(half, target).item() < 1

    pred, target = 2 * good - 1, good
    flipped = torch.where(torch.arange(6)[:, None] < 3, pred, -pred)
    assert metric(pred, target).item() == 1
    assert metric(-pred, target).item() == 0
    assert 0 < metric(flipped, target).item() < 1


@pytest.mark.parametrize("metric", [precision, recall, f1, iou])
def test_nothing_by_nothing_is_zero(metric):
    assert metric(torch.full((4,), -1.0), torch.zeros(4)).item() == 0
    assert metric(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).item() == 0


@pytest.mark.parametrize("metric", KIT.values(), ids=KIT)
@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 4, 4), (8, 1, 4, 4)])
@pytest.mark.parametrize(
    ("dtype", "ignore_index"),
    [(torch.uint8, 255), *itertools.product([torch.int64, torch.float32], [255, -100])],
)
def test_what_is_left_out_could_as_well_be_missing(metric, shape, dtype, ignore_index):
    pred, target = binary(*shape) if dtype == torch.float32 else multiclass(*shape)
    if dtype != torch.float32 and shape[1] == 1:
        target = (pred[:, 0] > 0.5).long()
    kept = torch.rand(target.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    masked = target.to(dtype).masked_fill(~kept, ignore_index)
    if pred.shape == target.shape:
        want = metric(pred[kept], target[kept])
    else:
        want = metric(pred.movedim(1, -1)[kept], target[kept])
    assert metric(pred, masked, ignore_index=ignore_index) == want
    assert metric(pred, target) == metric(pred, target.to(dtype), ignore_index=ignore_index)
    everything = torch.full_like(masked, ignore_index)
    assert metric(pred, everything, ignore_index=ignore_index) == 0


def test_a_number_that_bytes_do_not_have_leaves_out_none_of_them():
    target = torch.tensor([156, 1], dtype=torch.uint8)  # -100 as a byte
    pred = torch.eye(200)[target.long()]
    assert f1(pred, target, ignore_index=-100, average="none")[[1, 156]].tolist() == [1, 1]


@pytest.mark.parametrize("name", SCORES)
def test_a_class_that_is_left_out_has_no_value_and_no_part_in_the_mean(name):
    pred, target = multiclass(200, 3)
    kept, found = target != 0, pred.argmax(1)
    score = getattr(sklearn.metrics, f"{name}_score".replace("iou", "jaccard"))
    given = dict(labels=[1, 2], zero_division=0)
    values = SCORES[name](pred, target, average="none", ignore_index=0)
    want = score(target[kept], found[kept], average=None, **given)
    assert values[0].isnan() and values[1:].tolist() == pytest.approx(want.tolist())
    for average in ("macro", "micro"):
        want = score(target[kept], found[kept], average=average, **given)
        value = SCORES[name](pred, target, average=average, ignore_index=0)
        assert value.item() == pytest.approx(want)


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    pred, target = binary(50)
    p, r = precision(pred, target).item(), recall(pred, target).item()
    assert f1(pred, target).item() == pytest.approx(2 * p * r / (p + r))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_dtype_of_a_binary_target_does_not_matter(dtype):
    pred, target = binary(4, 1, 3, 3)
    want = f1(pred, target)
    assert f1(pred, target.to(dtype)) == want
    assert f1(pred, target[:, 0].to(dtype)) == want
    assert f1(pred[:, 0], target[:, 0].to(dtype)) == want


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    pred, target = multiclass(40, 3)
    assert f1(pred.to(dtype), target) == f1(pred.to(dtype).float(), target)
    pred, target = binary(40)
    assert f1(pred.to(dtype), target) == f1(pred.to(dtype).float(), target)


def test_class_indices_may_be_bytes():
    pred, target = multiclass(6, 3, 4, 4)
    assert f1(pred, target.to(torch.uint8)) == f1(pred, target)
    assert accuracy(pred, target.to(torch.uint8), k=2) == accuracy(pred, target, k=2)


@pytest.mark.parametrize(
    ("pred", "target"),
    [
        (torch.zeros(4, 3), torch.zeros(4)),  # class indices as floats
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool)),
        (torch.zeros(4, 3), torch.zeros(5, dtype=torch.long)),
        (torch.zeros(4, 1), torch.zeros(5)),
        (torch.zeros(4), torch.zeros(4, 1)),
        (torch.zeros(4), torch.zeros(())),
        (torch.zeros(4, 3, 8, 8), torch.zeros(4, 8, 9, dtype=torch.long)),
    ],
)
def test_shapes_that_do_not_fit_are_named(pred, target):
    with pytest.raises(ValueError, match="expected pred .* got pred .* and target") as error:
        f1(pred, target)
    assert str(tuple(pred.shape)) in str(error.value) and str(tuple(target.shape)) in str(
        error.value
    )


def test_a_dict_is_no_tensor():
    with pytest.raises(TypeError, match="expected pred and target as tensors, got dict and Tensor"):
        f1({"mask": torch.zeros(2)}, torch.zeros(2))


@pytest.mark.parametrize("label", [-1, 3, 255])
@pytest.mark.parametrize("metric", KIT.values(), ids=KIT)
def test_a_label_that_is_no_class_is_an_error(metric, label):
    with pytest.raises(
        ValueError, match=r"expected class indices 0\.\.2 in the target, got 2 values"
    ):
        metric(torch.zeros(4, 3), torch.tensor([0, label, 2, label]))
    other = 7  # what is left out is no excuse for another value
    with pytest.raises(ValueError, match="got 1 values outside.* stands for no class"):
        metric(torch.zeros(4, 3), torch.tensor([0, label, 2, other]), ignore_index=label)


@pytest.mark.parametrize("metric", [*SCORES.values(), *ERRORS.values()])
@pytest.mark.parametrize("data", [binary(8, 2), multiclass(8, 3)], ids=["numbers", "classes"])
def test_an_average_that_there_is_not_is_an_error(metric, data):
    with pytest.raises(
        ValueError, match="expected average as one of None, 'macro', .*, got 'weighted'"
    ):
        metric(*data, average="weighted")


def test_k_must_fit():
    with pytest.raises(ValueError, match=r"expected k from 1 on, .* got 0 for pred \(8, 3\)"):
        accuracy(*multiclass(8, 3), k=0)
    with pytest.raises(ValueError, match=r"1 for yes against no, got 2 for pred \(8, 3\)"):
        accuracy(*binary(8, 3), k=2)


# ---- decisions on a set


def expected(pred, target):
    """Return scikit-learn's values on the whole set."""
    if pred.ndim > 1 and pred.shape != target.shape and pred.shape[1] > 1:
        truth, found, average = target.flatten(), pred.argmax(1).flatten(), "macro"
    else:
        truth, found, average = target.flatten() > 0.5, pred.flatten() > 0, "binary"
    given = dict(average=average, zero_division=0)
    return {
        "accuracy": sklearn.metrics.accuracy_score(truth, found),
        "precision": sklearn.metrics.precision_score(truth, found, **given),
        "recall": sklearn.metrics.recall_score(truth, found, **given),
        "f1": sklearn.metrics.f1_score(truth, found, **given),
        "iou": sklearn.metrics.jaccard_score(truth, found, **given),
    }


SETS = {
    "binary": binary(130),
    "binary, one channel": binary(130, 1),
    "binary, channel dropped": (binary(130, 1)[0], binary(130, 1)[1][:, 0]),
    "multilabel": binary(130, 5),
    "multiclass": multiclass(130, 4),
    "multiclass, classes that do not occur": multiclass(9, 12, present=3),
    "binary pixels": (binary(65, 1, 5, 4)[0], binary(65, 1, 5, 4)[1][:, 0]),
    "multilabel pixels": binary(65, 2, 5, 4),
    "multiclass pixels": multiclass(65, 3, 5, 4),
}


@pytest.mark.parametrize("data", SETS.values(), ids=SETS)
def test_counted_metrics_are_those_of_the_set_for_any_batch_size(data):
    results = [run(KIT, *data, batch_size) for batch_size in (1, 7, 64)]
    assert results[0] == results[1] == results[2]
    assert results[0] == pytest.approx(expected(*data), abs=1e-12)
    assert list(results[0]) == list(KIT)


OPTIONS = {
    **{f"{name}, none": partial(metric, average="none") for name, metric in SCORES.items()},
    **{f"{name}, macro": partial(metric, average="macro") for name, metric in SCORES.items()},
    **{f"{name}, micro": partial(metric, average="micro") for name, metric in SCORES.items()},
}


@pytest.mark.parametrize(
    "name", ["multilabel", "multiclass", "multilabel pixels", "multiclass pixels"]
)
def test_averages_are_those_of_scikit_learn_for_any_batch_size(name):
    pred, target = SETS[name]
    results = [run(OPTIONS, pred, target, batch_size) for batch_size in (1, 7, 64)]
    assert results[0] == results[1] == results[2]
    truth, found = target.flatten(), pred.argmax(1).flatten()
    if pred.shape == target.shape:
        truth, found = (x.movedim(1, -1).flatten(0, -2) for x in (target > 0.5, pred > 0))
    for average in ("none", "macro", "micro"):
        given = dict(average=None if average == "none" else average, zero_division=0)
        want = {
            "precision": sklearn.metrics.precision_score(truth, found, **given),
            "recall": sklearn.metrics.recall_score(truth, found, **given),
            "f1": sklearn.metrics.f1_score(truth, found, **given),
            "iou": sklearn.metrics.jaccard_score(truth, found, **given),
        }
        for score, value in want.items():
            key = f"{score}, {average}"
            if average == "none":
                keys = [f"{key}_{i}" for i in range(pred.shape[1])]
                assert [results[0][key] for key in keys] == pytest.approx(list(value), abs=1e-12)
            else:
                assert results[0][key] == pytest.approx(value, abs=1e-12)


def test_top_k_is_that_of_scikit_learn_for_any_batch_size():
    pred, target = SETS["multiclass"]
    results = [run({"top2": partial(accuracy, k=2)}, pred, target, n) for n in (1, 7, 64)]
    assert results[0] == results[1] == results[2]
    want = sklearn.metrics.top_k_accuracy_score(target, pred, k=2)
    assert results[0]["top2"] == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("name", ["binary pixels", "multilabel pixels", "multiclass pixels"])
def test_what_is_left_out_of_a_set_is_left_out_for_any_batch_size(name):
    pred, target = SETS[name]
    kept = torch.rand(target.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    kept[:9] = False  # batches with nothing to count
    masked = target.masked_fill(~kept, 255)
    bag = Metrics({name: partial(metric, ignore_index=255) for name, metric in KIT.items()})
    results = [run(bag, pred, masked, batch_size) for batch_size in (1, 7, 64)]
    assert results[0] == results[1] == results[2]
    if pred.ndim == target.ndim:
        want = expected(pred[kept], target[kept])
    elif pred.shape[1] == 1:
        want = expected(pred[:, 0][kept], target[kept])
    else:
        want = expected(pred.movedim(1, -1)[kept], target[kept])
    assert results[0] == pytest.approx(want, abs=1e-12)


def test_order_of_the_batches_does_not_matter():
    pred, target = multiclass(64, 3)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    assert run(KIT, pred, target, 5) == run(KIT, pred[order], target[order], 5)


@pytest.mark.parametrize("data", [binary(6, 1, 4, 4), multiclass(6, 3, 4, 4)])
def test_counting_never_waits_for_the_device(data):
    # the meta device has no values: whatever must look at one, as a wait for a GPU does, fails
    options = {**OPTIONS, "out": partial(iou, ignore_index=255)}
    if data[1].is_floating_point():
        options |= ERRORS
    else:
        options["top2"] = partial(accuracy, k=2)
    bag = Metrics({**KIT, **options}, device="meta")
    for _ in range(2):
        bag.update(*(x.to("meta") for x in data))
    with pytest.raises(NotImplementedError):
        bag.compute()


@pytest.mark.slow  # importing torchmetrics takes seconds
def test_decisions_equal_torchmetrics():
    theirs = pytest.importorskip("torchmetrics").functional.classification
    for pred, target in (SETS["multiclass"], SETS["multiclass, classes that do not occur"]):
        want = theirs.multiclass_f1_score(pred, target, pred.shape[1], average="macro")
        assert run([f1], pred, target, 7)["f1"] == pytest.approx(want.item(), abs=1e-6)
    pred, target = SETS["multiclass pixels"]
    masked = target.masked_fill(pred[:, 0] > 1, 255)
    given = dict(num_classes=3, ignore_index=255)
    pairs = [
        (iou, theirs.multiclass_jaccard_index(pred, masked, average="macro", **given)),
        (recall, theirs.multiclass_recall(pred, masked, average="macro", **given)),
        (accuracy, theirs.multiclass_accuracy(pred, masked, average="micro", **given)),
    ]
    for metric, want in pairs:
        value = run({"a": partial(metric, ignore_index=255)}, pred, masked, 7)["a"]
        assert value == pytest.approx(want.item(), abs=1e-6)
    want = theirs.multiclass_accuracy(*SETS["multiclass"], num_classes=4, average="micro", top_k=2)
    assert accuracy(*SETS["multiclass"], k=2).item() == pytest.approx(want.item(), abs=1e-6)
    pred, target = SETS["multilabel"]
    want = theirs.multilabel_f1_score(pred, target.long(), num_labels=5, average="none")
    found = f1(pred, target, average="none")
    assert found.tolist() == pytest.approx(want.tolist(), abs=1e-6)


# ---- numbers


def numbers(*shape, centre=0.0):
    generator = torch.Generator().manual_seed(4)
    target = torch.randn(shape, generator=generator) + centre
    return target + 0.3 * torch.randn(shape, generator=generator), target


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 2), (2, 1, 2)])
def test_errors_by_hand(shape):
    pred, target = torch.tensor([2.0, 1, 3, 8]), torch.tensor([1.0, 3, 3, 5])  # 1, -2, 0, 3
    pred, target = pred.reshape(shape), target.reshape(shape)
    assert mae(pred, target).item() == 6 / 4
    assert rmse(pred, target).item() == pytest.approx(math.sqrt(14 / 4))
    assert r2(pred, target).item() == pytest.approx(1 - 14 / 8)
    if len(shape) > 1 and shape[1] == 1:
        assert mae(pred, target.squeeze(1)).item() == 6 / 4


def test_best_worst_and_order_of_errors():
    pred, target = numbers(50)
    half, bad = target + (pred - target) / 2, torch.full_like(target, target.mean())
    assert mae(target, target) == rmse(target, target) == 0 and r2(target, target) == 1
    assert mae(half, target) < mae(pred, target) < mae(bad, target)
    assert rmse(half, target) < rmse(pred, target) < rmse(bad, target)
    assert r2(half, target) > r2(pred, target) > r2(bad, target)
    assert r2(bad, target).item() == pytest.approx(0, abs=1e-6)
    assert r2(-pred, target) < 0


@pytest.mark.parametrize("shape", [(130,), (130, 3), (65, 2, 4, 4)])
@pytest.mark.parametrize("centre", [0.0, 300.0])  # a temperature in kelvin
def test_errors_are_those_of_scikit_learn_for_any_batch_size(shape, centre):
    pred, target = numbers(*shape, centre=centre)
    metrics = {
        **ERRORS,
        **{f"{name}, mean": partial(metric, average="macro") for name, metric in ERRORS.items()},
        **{f"{name}, each": partial(metric, average="none") for name, metric in ERRORS.items()},
    }
    results = [run(metrics, pred, target, batch_size) for batch_size in (1, 7, 64)]
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-10)
    score = {
        "mae": sklearn.metrics.mean_absolute_error,
        "rmse": sklearn.metrics.root_mean_squared_error,
        "r2": sklearn.metrics.r2_score,
    }
    flat = [x.double().flatten().numpy() for x in (target, pred)]
    rows = [x.double().reshape(shape[0], -1) for x in (target, pred)]
    if len(shape) > 1:
        rows = [x.double().movedim(1, -1).flatten(0, -2) for x in (target, pred)]
    for name, function in score.items():
        assert results[0][name] == pytest.approx(function(*flat), rel=1e-9)
        mean = function(*rows, multioutput="uniform_average")
        assert results[0][f"{name}, mean"] == pytest.approx(mean, rel=1e-9)
        each = function(*rows, multioutput="raw_values").tolist()
        keys = [f"{name}, each_{i}" if len(each) > 1 else f"{name}, each" for i in range(len(each))]
        assert [results[0][key] for key in keys] == pytest.approx(each, rel=1e-9)


def test_a_constant_target_has_no_spread():
    target = torch.full((1000,), 0.1)  # its sums are rounded
    wrong = target + torch.linspace(-1, 1, 1000)
    for batch_size in (1, 7, 1000):
        assert run([r2], target, target, batch_size) == {"r2": 1}
        assert run([r2], wrong, target, batch_size) == {"r2": 0}


@pytest.mark.parametrize("metric", ERRORS.values(), ids=ERRORS)
def test_an_error_that_is_no_number_is_not_left_out(metric):
    pred, target = numbers(20, 2)
    pred[3, 1] = math.nan
    assert metric(pred, target).isnan() and metric(pred, target, average="macro").isnan()
    assert metric(pred, target, average="none").isnan().tolist() == [False, True]
    pred[3, 1] = math.inf
    assert metric(pred, target).isinf()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", ERRORS.values(), ids=ERRORS)
def test_errors_of_half_precision_are_added_up_in_float64(metric, dtype):
    pred, target = (x.to(dtype) for x in numbers(3000, centre=40.0))
    assert metric(pred, target) == metric(pred.double(), target.double())


@pytest.mark.parametrize("metric", ERRORS.values(), ids=ERRORS)
def test_class_indices_have_no_distance(metric):
    with pytest.raises(ValueError, match=r"of one shape, got \(8, 3\) and \(8,\) of torch.int64"):
        metric(*multiclass(8, 3))
    with pytest.raises(ValueError, match="expected pred .* got pred .* and target"):
        metric(torch.zeros(4, 2), torch.zeros(4))  # is never broadcast
    with pytest.raises(TypeError, match="expected pred and target as tensors, got list and Tensor"):
        metric([0.0], torch.zeros(1))


@pytest.mark.slow  # importing torchmetrics takes seconds
def test_errors_equal_torchmetrics():
    theirs = pytest.importorskip("torchmetrics").functional.regression
    pred, target = numbers(65, 3)
    result = run(ERRORS, pred, target, 7)
    flat = pred.flatten(), target.flatten()
    assert result["mae"] == pytest.approx(theirs.mean_absolute_error(*flat).item())
    assert result["rmse"] == pytest.approx(theirs.mean_squared_error(*flat, squared=False).item())
    assert result["r2"] == pytest.approx(theirs.r2_score(*flat).item(), abs=1e-5)
    mean = theirs.r2_score(pred, target, multioutput="uniform_average")
    assert r2(pred, target, average="macro").item() == pytest.approx(mean.item(), abs=1e-5)
