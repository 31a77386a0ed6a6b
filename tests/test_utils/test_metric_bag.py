import json
import logging
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch

import utils.metric_bag
from tests.test_utils.test_metrics import binary, multiclass, run
from utils.metrics import Metrics, accuracy, as_metrics, f1, iou, precision, recall


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def soft_iou(pred, target):
    """A scalar function: the mean of its values over batches is not its value on the set."""
    prob = pred.sigmoid()
    return (prob * target).sum() / (prob + target - prob * target).sum()


def absolute_error(pred, target):
    return (pred.sigmoid() - target).abs().flatten(1).mean(1)


# ---- counts


def test_the_kits_metrics_count_once(monkeypatch):
    calls = []

    def counts(pred, target):
        calls.append(len(pred))
        return torch.ones(1, dtype=torch.int64)

    for metric in (precision, recall):
        monkeypatch.setattr(metric, "counts", counts)
        monkeypatch.setattr(metric, "compute", lambda sums: sums.item())
    assert run([precision, recall], *binary(10), 5) == {"precision": 2, "recall": 2}
    assert calls == [5, 5]


def test_equal_arguments_are_counted_once():
    calls = []

    def counts(pred, target, weight=1, names=()):
        calls.append(weight)
        return torch.tensor([weight * len(pred)])

    def make(factor):
        def metric(pred, target, weight=1, power=1, names=()):
            raise AssertionError("a metric with counts is not called itself")

        metric.counts = counts
        metric.compute = lambda sums, power=1: factor * sums.item() ** power
        return metric

    one, ten = make(1), make(10)
    metrics = {
        "one": one,
        "squared": partial(one, power=2),
        "three": partial(one, weight=3),
        "thirty": partial(ten, weight=3, power=1),
        "named": partial(ten, names=["a list has no hash"]),
    }
    want = {"one": 10, "squared": 100, "three": 30, "thirty": 300, "named": 100}
    assert run(metrics, *binary(10), 5) == want
    assert sorted(calls) == [1, 1, 1, 1, 3, 3]


def test_an_own_metric_with_counts():
    def share_found(pred, target):
        return (pred > 0).float().mean()

    share_found.counts = lambda pred, target: torch.tensor([(pred > 0).sum(), pred.numel()])
    share_found.compute = lambda sums: sums[0] / sums[1]
    pred, target = binary(33)
    want = share_found(pred, target).item()
    assert run([share_found], pred, target, 4) == {"share_found": want}


def fbeta(pred, target, beta=1.0, threshold=0.0):
    return torch.tensor(fbeta.compute(fbeta.counts(pred, target, threshold), beta))


def _fbeta(sums, beta=1.0):
    (tp, fp, fn, *_), weight = sums.flatten().tolist(), beta * beta
    return (1 + weight) * tp / ((1 + weight) * tp + weight * fn + fp)


fbeta.counts = lambda pred, target, threshold=0.0: f1.counts(pred - threshold, target)
fbeta.compute = _fbeta


@pytest.mark.parametrize(
    "given", [{}, {"beta": 2.0}, {"threshold": 0.4}, {"beta": 2, "threshold": 1}]
)
def test_a_partial_keeps_its_counts(given, monkeypatch, caplog):
    monkeypatch.setattr(utils.metric_bag, "KEEP_BYTES", 0)  # a scalar function could not be exact
    pred, target = binary(60)
    want = sklearn.metrics.fbeta_score(
        target, pred > given.get("threshold", 0), beta=given.get("beta", 1)
    )
    assert run([partial(fbeta, **given)], pred, target, 7) == {"fbeta": pytest.approx(want)}
    assert not caplog.records


def test_a_partial_that_the_counts_do_not_know_is_a_scalar_function():
    def shifted(pred, target, by=0.0):
        return f1(pred + by, target)

    shifted.counts, shifted.compute = f1.counts, f1.compute
    pred, target = binary(60)
    want = f1(pred + 1, target).item()
    assert run([partial(shifted, by=1.0)], pred, target, 7) == {"shifted": want}


# ---- METRICS of a config


class Constant:
    """A metric that is an object: called, one number."""

    def __init__(self, value=1.0):
        self.value = value

    def __call__(self, pred, target):
        return self.value


def test_as_metrics_names_a_list():
    half = partial(Constant, value=0.5)
    metrics = [f1, partial(fbeta, beta=2.0), Constant(), torch.nn.L1Loss, half]
    with pytest.raises(
        ValueError, match="expected one name for each metric, got 'Constant' 2 times"
    ):
        as_metrics(metrics)
    named = as_metrics(metrics[:-1])
    assert list(named) == ["f1", "fbeta", "Constant", "L1Loss"]
    assert list(named.values()) == metrics[:-1]
    assert as_metrics([half]) == {"Constant": half}


def test_as_metrics_takes_nothing_and_dicts():
    assert as_metrics(None) == as_metrics([]) == as_metrics({}) == {}
    given = {"a": f1}
    result = as_metrics(given)
    assert result == given and result is not given
    assert as_metrics(result) == result


def test_as_metrics_tells_all_problems_at_once():
    with pytest.raises(ValueError, match="METRICS") as error:
        as_metrics({"a": "f1", "b": f1, "c": 3})
    assert "METRICS['a']: expected a function" in str(error.value)
    assert "METRICS['c']: expected a function" in str(error.value)
    assert "METRICS['b']" not in str(error.value)


def test_an_argument_that_a_metric_does_not_take_is_told_at_once():
    metrics = {
        "a": partial(iou, ignore_indx=255),
        "b": partial(f1, ignore_index="255"),
        "c": partial(accuracy, average="macro"),  # its counts would take it
        "d": partial(iou, ignore_index=255),
    }
    with pytest.raises(ValueError, match="METRICS") as error:
        as_metrics(metrics)
    first, second, third = str(error.value).splitlines()
    assert first.startswith("METRICS['a']: expected an argument of iou (average, ignore_index)")
    assert 'Did you mean "ignore_index"?' in first
    assert second.startswith("METRICS['b'][\"ignore_index\"]: expected int or None, got '255'.")
    assert third.startswith("METRICS['c']: expected an argument of accuracy (k, ignore_index)")


@pytest.mark.parametrize("metrics", [f1, "f1", 3])
def test_as_metrics_refuses_what_is_no_collection(metrics):
    with pytest.raises(TypeError, match="METRICS: expected a dict or a list of metrics, got"):
        as_metrics(metrics)


def test_classes_and_partials_of_classes_are_instantiated_in_the_bag():
    metrics = {"one": Constant, "half": partial(Constant, value=0.5), "l1": torch.nn.L1Loss}
    assert as_metrics(metrics) == metrics
    pred, target = binary(6)
    result = run(metrics, pred, target, 4)
    assert result == {"one": 1, "half": 0.5, "l1": (pred - target).abs().mean().item()}


# ---- objects: Ignite, torchmetrics, one's own


class Histogram:
    """An object with the methods of a torchmetrics metric, and a state that is called counts."""

    def reset(self):
        self.counts = torch.zeros(2)

    def update(self, pred, target):
        self.counts += torch.stack([(target == 0).sum(), (target == 1).sum()])

    def compute(self):
        return self.counts


def test_an_object_of_ones_own():
    pred, target = binary(20)
    want = {"own_0": (target == 0).sum().item(), "own_1": target.sum().item()}
    bag = Metrics({"own": Histogram})
    assert run(bag, pred, target, 7) == want
    assert run(bag, pred, target, 7) == want  # reset reaches it
    assert run({"own": Histogram()}, pred, target, 7) == want


def unequal_batches():
    """Return two batches with an F1 of 1 and 0, and of 0.996 together."""
    pred, target = torch.full((250,), -1.0), torch.zeros(250)
    pred[:126], target[:125] = 1.0, 1.0
    return pred, target


@pytest.mark.parametrize("form", ["dict", "list", "partial"])
def test_loss_of_f1_is_the_f1_of_the_set_not_a_mean_over_batches(form):
    ignite_metrics = pytest.importorskip("ignite.metrics")
    pred, target = unequal_batches()

    loss = ignite_metrics.Loss(f1)
    for x, y in zip(pred.split(125), target.split(125), strict=True):
        loss.update((x, y))
    assert loss.compute() == pytest.approx(0.5)  # the fault, which is Ignite's right

    metrics = {
        "dict": {"f1": loss},
        "list": [loss],
        "partial": {"f1": partial(ignite_metrics.Loss, f1)},
    }[form]
    assert run(metrics, pred, target, 125) == {"f1": pytest.approx(0.996, abs=5e-4)}
    if form == "dict":
        assert metrics == {"f1": loss} and as_metrics(metrics) == {"f1": f1}


def test_a_loss_with_a_transform_or_a_class_of_its_own_stays_ignites():
    ignite_metrics = pytest.importorskip("ignite.metrics")

    class Double(ignite_metrics.Loss):
        def compute(self):
            return 2 * super().compute()

    flipped = ignite_metrics.Loss(f1, output_transform=lambda output: (-output[0], output[1]))
    metrics = {"flipped": flipped, "double": Double(f1)}
    assert as_metrics(metrics) == metrics
    pred, target = unequal_batches()
    want = {"flipped": f1(-pred, target).item(), "double": 2 * f1(pred, target).item()}
    assert run(metrics, pred, target, 250) == pytest.approx(want)


def ignite_alone(make, pred, target, batch_size):
    from ignite.engine import Engine

    engine = Engine(lambda _, batch: batch)
    make().attach(engine, "metric")
    batches = list(zip(pred.split(batch_size), target.split(batch_size), strict=True))
    return engine.run(batches).metrics["metric"]


def test_ignite_metrics_equal_their_own_result():
    ig = pytest.importorskip("ignite.metrics")
    pred, target = multiclass(50, 3)
    makers = {
        "accuracy": ig.Accuracy,
        "precision": lambda: ig.Precision(average=False),
        "transformed": lambda: ig.Accuracy(lambda output: (-output[0], output[1])),
        "as_dict": lambda: ig.Accuracy(lambda output: {"y": output[1], "y_pred": -output[0]}),
        "fbeta": lambda: ig.Fbeta(1.0, output_transform=lambda output: (-output[0], output[1])),
        "miou": lambda: ig.mIoU(ig.ConfusionMatrix(3)),
    }
    result = run({name: make() for name, make in makers.items()}, pred, target, 7)
    own = {name: ignite_alone(make, pred, target, 7) for name, make in makers.items()}
    own |= {f"precision_{i}": value.item() for i, value in enumerate(own.pop("precision"))}
    own |= {name: float(own[name]) for name in ("fbeta", "miou")}
    assert result == own
    assert result["transformed"] == result["as_dict"] != result["accuracy"]


def test_a_part_shared_by_ignite_metrics_is_updated_once():
    ig = pytest.importorskip("ignite.metrics")
    pred, target = multiclass(20, 3)
    confusion = ig.ConfusionMatrix(3)
    result = run({"miou": ig.mIoU(confusion), "count": confusion.sum()}, pred, target, 6)
    assert result["count"] == 20
    assert result["miou"] == pytest.approx(iou(pred, target).item())


@pytest.mark.slow  # importing torchmetrics takes seconds
def test_torchmetrics_equal_their_own_result():
    torchmetrics = pytest.importorskip("torchmetrics")
    given = dict(num_classes=3, average=None)
    makers = {
        "accuracy": partial(torchmetrics.classification.MulticlassAccuracy, num_classes=3),
        "auroc": partial(torchmetrics.classification.MulticlassAUROC, num_classes=3),
        "recall": partial(torchmetrics.classification.MulticlassRecall, **given),
    }
    pred, target = multiclass(50, 3)
    own = {}
    for name, make in makers.items():
        metric = make()
        for x, y in zip(pred.split(7), target.split(7), strict=True):
            metric.update(x, y)
        own |= utils.metric_bag._flatten(name, metric.compute())
    assert set(own) == {"accuracy", "auroc", "recall_0", "recall_1", "recall_2"}
    bag = Metrics(makers)
    assert run(bag, pred, target, 7) == own
    assert run(bag, pred, target, 7) == own  # reset reaches them
    assert run({name: make() for name, make in makers.items()}, pred, target, 7) == own


@pytest.mark.slow  # importing torchmetrics takes seconds
def test_a_torchmetrics_class_and_a_collection():
    torchmetrics = pytest.importorskip("torchmetrics")
    score = torchmetrics.classification.BinaryF1Score
    pred, target = binary(40)
    want = pytest.approx(f1(pred, target).item())
    assert run([score], pred, target.long(), 7) == {"BinaryF1Score": want}
    both = torchmetrics.MetricCollection([score(), torchmetrics.classification.BinaryRecall()])
    result = run({"all": both}, pred, target.long(), 7)
    assert set(result) == {"all_BinaryF1Score", "all_BinaryRecall"}
    assert result["all_BinaryF1Score"] == want


# ---- functions


def test_one_value_per_sample_is_a_mean_over_the_set():
    pred, target = binary(65, 1, 4, 4)
    values = absolute_error(pred, target).tolist()
    results = [run([absolute_error], pred, target, n)["absolute_error"] for n in (1, 7, 64)]
    assert results == pytest.approx([math.fsum(values) / 65] * 3, abs=1e-6)

    by_sample = {"pixel": lambda pred, target: (pred - target)[:, 0, 0, 0]}
    exact = [run(by_sample, pred, target, n)["pixel"] for n in (1, 7, 64)]
    flipped = run(by_sample, pred.flip(0), target.flip(0), 7)["pixel"]
    assert exact[0] == exact[1] == exact[2] == flipped
    assert exact[0] == math.fsum((pred - target)[:, 0, 0, 0].tolist()) / 65


def test_one_value_per_sample_may_have_a_channel_axis_or_lose_its_own():
    pred, target = binary(9, 1)
    want = (pred - target).double().mean().item()
    column = {"a": lambda pred, target: pred - target}
    squeezed = {"a": lambda pred, target: (pred - target).squeeze()}
    assert run(column, pred, target, 4)["a"] == pytest.approx(want)
    assert run(squeezed, pred, target, 4)["a"] == pytest.approx(want)  # the last batch gives ()


def test_infinite_values_do_not_stop_a_run():
    pred, target = torch.tensor([math.inf, 1.0, -math.inf]), torch.zeros(3)
    result = run({"a": lambda pred, target: pred}, pred, target, 2)
    assert math.isnan(result["a"])
    assert run({"a": lambda pred, target: pred}, pred[:2], target[:2], 1)["a"] == math.inf


def test_a_function_that_changes_its_mind_is_told():
    pred, target = binary(7)
    per_class = {"a": lambda pred, target: torch.zeros(4)}  # looks like one per sample at first
    with pytest.raises(
        ValueError, match=r"METRICS\['a'\]: expected one value per sample, \(3,\).* got \(4,\)"
    ):
        run(per_class, pred, target, 4)


def test_a_scalar_function_is_evaluated_on_the_whole_set(caplog):
    pred, target = binary(33, 1, 4, 4)
    want = soft_iou(pred, target).item()
    results = [run([soft_iou], pred, target, n) for n in (1, 7, 33)]
    assert results == [{"soft_iou": want}] * 3
    assert not caplog.records


def test_a_scalar_function_may_give_a_number_an_array_or_a_dict():
    pred, target = binary(9)
    metrics = {
        "number": lambda pred, target: float(pred.sum()),
        "array": lambda pred, target: np.array([pred[0].item(), len(pred)]),
        "tensor": lambda pred, target: pred.sum().reshape(1, 1),
        "dict": lambda pred, target: {"n": len(pred), "first": pred[:1]},
    }
    first, total = pred[0].item(), pred.sum().item()
    assert run(metrics, pred, target, 4) == {
        "number": total,
        "array_0": first,
        "array_1": 9,
        "tensor": total,
        "dict_n": 9,
        "dict_first": first,
    }


def test_as_many_values_as_classes_are_named_by_them():
    pred, target = multiclass(30, 3)
    metrics = {
        "iou": partial(iou, average="none"),
        "macro": iou,
        "seen": Histogram,  # two values
        "share": lambda pred, target: pred.softmax(1).mean(0),
        "table": lambda pred, target: torch.arange(9.0).reshape(3, 3),
    }
    bag = Metrics(metrics, classes=["sky", "road", "car"])
    result = run(bag, pred, target, 7)
    assert list(result)[:6] == ["iou_sky", "iou_road", "iou_car", "macro", "seen_0", "seen_1"]
    assert [result[f"iou_{name}"] for name in ("sky", "road", "car")] == pytest.approx(
        iou(pred, target, average="none").tolist()
    )
    assert result["share_car"] == pytest.approx(pred.softmax(1).mean(0)[2].item())
    assert result["table_road_car"] == 5
    one = Metrics({"iou": partial(iou, average="none")}, classes=["cell"])
    assert list(run(one, *binary(9, 1), 4)) == ["iou"]


def test_a_set_too_large_is_weighted_and_said_once(monkeypatch, caplog):
    pred, target = binary(70, 4)
    batch_bytes = 10 * 4 * (4 + 4)
    monkeypatch.setattr(utils.metric_bag, "KEEP_BYTES", 3 * batch_bytes)
    bag = Metrics([soft_iou, f1])
    with caplog.at_level(logging.WARNING, "plumbline"):
        results = [run(bag, pred, target, 10) for _ in range(2)]
    parts = [slice(0, 30), slice(30, 60), slice(60, 70)]
    values = [soft_iou(pred[part], target[part]).item() for part in parts]
    want = (30 * values[0] + 30 * values[1] + 10 * values[2]) / 70
    assert results[0] == results[1]
    assert results[0]["soft_iou"] == pytest.approx(want, abs=1e-12)
    assert results[0]["soft_iou"] != soft_iou(pred, target).item()
    assert results[0]["f1"] == run([f1], pred, target, 70)["f1"]
    assert len(caplog.records) == 1
    assert caplog.records[0].name == "plumbline"
    assert "soft_iou: the set needs more than 960 bytes" in caplog.text
    assert "weighted by their samples" in caplog.text


def test_a_set_that_just_fits_is_whole(monkeypatch, caplog):
    pred, target = binary(70, 4)
    monkeypatch.setattr(utils.metric_bag, "KEEP_BYTES", 70 * 4 * (4 + 4))
    assert run([soft_iou], pred, target, 10) == {"soft_iou": soft_iou(pred, target).item()}
    assert not caplog.records


def test_samples_of_different_sizes_are_weighted_and_said_once(caplog):
    small, large = binary(6, 1, 4, 4), binary(3, 1, 8, 8)
    bag = Metrics([soft_iou, absolute_error, f1])
    with caplog.at_level(logging.WARNING, "plumbline"):
        for batch in (small, large, small):
            bag.update(*batch)
        result = bag.compute()
    a, b = (soft_iou(*batch).item() for batch in (small, large))
    assert result["soft_iou"] == pytest.approx((6 * a + 3 * b + 6 * a) / 15)
    assert len(caplog.records) == 1
    assert "soft_iou: the batches differ in form" in caplog.text
    found = [
        torch.cat([x.flatten() for x in parts]) for parts in zip(small, large, small, strict=True)
    ]
    assert result["f1"] == pytest.approx(f1(*found).item())


def test_dicts_and_tuples_reach_a_function_as_they_are(caplog):
    pred, target = binary(22, 1, 4, 4)
    names = []

    def of_mask(pred, target):
        names.append((list(pred), type(target)))
        return soft_iou(pred["mask"], target[0])

    def per_sample(pred, target):
        return absolute_error(pred["mask"], target[0])

    bag = Metrics([of_mask, per_sample])
    for x, y in zip(pred.split(5), target.split(5), strict=True):
        bag.update({"edge": x, "mask": x}, (y, y))
    result = bag.compute()
    assert result["of_mask"] == soft_iou(pred, target).item()
    assert result["per_sample"] == pytest.approx(absolute_error(pred, target).mean().item())
    assert set(map(str, names)) == {str((["edge", "mask"], tuple))}
    assert not caplog.records


def test_text_reaches_a_function_of_the_whole_set(caplog):
    pred, target = binary(9)
    bag = Metrics({"a": lambda pred, target: target["y"].mean() + len(target["name"])})
    names = list("abcdefghi")
    for at in (slice(5), slice(5, 9)):
        bag.update(pred[at], {"name": names[at], "y": target[at]})
    assert bag.compute()["a"] == pytest.approx(target.mean().item() + 9)
    assert not caplog.records


def test_what_cannot_be_joined_is_weighted(caplog):
    pred, target = binary(9)
    bag = Metrics({"a": lambda pred, target: target["y"].mean() + len(target["name"])})
    with caplog.at_level(logging.WARNING, "plumbline"):
        for x, y in zip(pred.split(5), target.split(5), strict=True):
            bag.update(x, {"y": y, "name": list(y)})
    want = target.mean().item() + (5 * 5 + 4 * 4) / 9
    assert bag.compute()["a"] == pytest.approx(want)
    assert len(caplog.records) == 1


def test_keys_that_only_some_parts_have(monkeypatch):
    monkeypatch.setattr(utils.metric_bag, "KEEP_BYTES", 0)
    bag = Metrics({"a": lambda pred, target: {str(int(y)): 1.0 * len(pred) for y in target}})
    bag.update(torch.zeros(2), torch.tensor([0, 1]))
    bag.update(torch.zeros(3), torch.tensor([1, 1, 1]))
    assert bag.compute() == {"a_0": 2.0, "a_1": pytest.approx((2 * 2 + 3 * 3) / 5)}


# ---- the bag


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_once(dtype):
    pred, target = binary(12, 2)
    seen = set()

    def spy(pred, target):
        seen.add((pred.dtype, pred.requires_grad, target.dtype))
        return pred.sum()

    pred = pred.to(dtype).requires_grad_()
    assert run([spy], pred, target, 5)["spy"] == pred.float().sum().item()
    assert seen == {(torch.float32, False, torch.float32)}


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_other_types_stay(dtype):
    seen = set()
    bag = Metrics({"a": lambda pred, target: seen.add(pred.dtype) or 0.0})
    bag.update(torch.ones(3, dtype=dtype), torch.ones(3))
    bag.compute()
    assert seen == {dtype}


def test_before_the_first_batch_there_is_no_value():
    ig = pytest.importorskip("ignite.metrics")
    metrics = {"f1": f1, "ig": ig.Accuracy(), "own": Histogram, "scalar": soft_iou}
    bag = Metrics(metrics)
    for _ in range(2):
        bag.reset()
        result = bag.compute()
        assert list(result) == list(metrics) and all(map(math.isnan, result.values()))
        bag.update(torch.ones(4, 2), torch.ones(4, 2))
        assert bag.compute()["f1"] == 1


def test_compute_can_be_asked_in_between():
    pred, target = binary(30)
    bag = Metrics([soft_iou, absolute_error, f1])
    pred, target = pred[:, None], target[:, None]
    bag.update(pred[:20], target[:20])
    assert bag.compute() == run([soft_iou, absolute_error, f1], pred[:20], target[:20], 20)
    bag.update(pred[20:], target[20:])
    assert bag.compute() == run([soft_iou, absolute_error, f1], pred, target, 20)


def test_results_are_floats_in_the_order_of_the_config():
    pred, target = binary(9, 1)
    result = run({"z": f1, "y": absolute_error, "x": soft_iou, "a": iou}, pred, target, 4)
    assert list(result) == ["z", "y", "x", "a"]
    assert {type(value) for value in result.values()} == {float}
    assert run(None, pred, target, 4) == {}


def test_a_module_moves_to_the_device():
    weight = torch.nn.BCEWithLogitsLoss(pos_weight=torch.ones(3))
    bag = Metrics({"bce": weight}, device="meta")
    assert bag._functions["bce"].pos_weight.device.type == "meta"


def test_a_batch_without_tensors_is_refused():
    with pytest.raises(TypeError, match="expected a tensor with a batch axis .* got list and dict"):
        Metrics([f1]).update([1.0], {"a": 1})


def test_importing_the_module_imports_no_other_package():
    code = (
        "import json, sys, torch; before = set(sys.modules); import utils.metrics; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    root = Path(utils.metric_bag.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    names = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "utils" in names
    assert not names & {"ignite", "torchmetrics", "sklearn", "pandas", "torchvision"}
