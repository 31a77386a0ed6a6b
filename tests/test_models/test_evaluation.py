"""The bootstrap of an evaluation, and the files of what it found."""

import csv
import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import classification_report
from torch import nn

from models.evaluation import Evaluation
from models.predictor import Predictor
from models.results import write_results
from tests.test_training.common import Stream
from utils.bootstrap import ResampledSums, interval
from utils.data import Arrays
from utils.data.loading import make_loader
from utils.metrics import Metrics, accuracy, f1, iou, mae, rmse

N = 100
CPU = torch.device("cpu")


def draw_set(task, n=N, size=4):
    """Return pictures of three bands, which are their own logits, and targets that fit half-way."""
    generator = torch.Generator().manual_seed(0)
    is_map = task.endswith("_segmentation")
    n_outputs = 1 if task.startswith("binary") else 3
    logits = torch.randn(n, n_outputs, size, size, generator=generator)
    noisy = logits + torch.randn(logits.shape, generator=generator)
    noisy = noisy if is_map else noisy.mean((2, 3))
    if task.startswith("multiclass"):
        return logits, noisy.argmax(1)
    return logits, noisy if task == "regression" else (noisy > 0).float()


class Mean(nn.Module):
    """Gives the mean of each band as its logit."""

    def forward(self, x):
        return x.mean((2, 3))


LOSSES = {
    "multiclass": nn.CrossEntropyLoss(),
    "multiclass_segmentation": nn.CrossEntropyLoss(),
    "regression": nn.MSELoss(),
}


def evaluate(task, metrics, batch_size=32, loss=None, dataset=None, classes=None, **options):
    """Return an evaluation that was iterated, and its rows."""
    model = nn.Identity() if task.endswith("_segmentation") else Mean()
    dataset = dataset or Arrays(*draw_set(task))
    loader = make_loader(dataset, {"batch_size": batch_size}, 0, CPU, False)
    loss = loss or LOSSES.get(task, nn.BCEWithLogitsLoss())
    predictor = Predictor(model, CPU, task, classes)
    evaluation = Evaluation(predictor, loader, loss, metrics, **options)
    with torch.no_grad():
        return evaluation, [row for _, rows in evaluation for row in rows]


# ---- intervals


def times_drawn(n_resamples):
    resampled = ResampledSums(N, n_resamples)
    resampled.add(np.eye(N))
    return resampled.sums().astype(int)


def right(pred, target):
    """Give one value per sample."""
    return (pred.argmax(1) == target).float()


def spread(pred, target):
    """Give one number of the whole set."""
    return pred.std()


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("multiclass", {"accuracy": accuracy, "f1": f1, "right": right}),
        ("multilabel_segmentation", {"iou": iou, "accuracy": accuracy}),
        ("regression", {"rmse": rmse, "mae": mae}),
    ],
)
def test_an_interval_is_that_of_the_values_of_resampled_sets(task, metrics):
    """Against computing loss and metrics of the samples themselves, drawn as often."""
    evaluation, _ = evaluate(task, metrics, n_resamples=40)
    x, y = draw_set(task)
    pred = x if task.endswith("_segmentation") else x.mean((2, 3))
    values = {name: [] for name in ("loss", *metrics)}
    for times in times_drawn(40):
        drawn = torch.from_numpy(np.repeat(np.arange(N), times))
        bag = Metrics(metrics)
        bag.update(pred[drawn], y[drawn])
        loss = LOSSES.get(task, nn.BCEWithLogitsLoss())(pred[drawn], y[drawn]).item()
        for name, value in (bag.compute() | {"loss": loss}).items():
            values[name].append(value)
    found = evaluation.intervals(0.8)
    assert list(found) == ["loss", *metrics]
    for name, bounds in found.items():
        assert bounds == pytest.approx(interval(np.array(values[name]), 0.8), abs=1e-6), name
        assert bounds[0] < evaluation.values()[name] < bounds[1]


def test_an_interval_does_not_depend_on_the_size_of_the_batches():
    metrics = {"f1": f1, "right": right}
    few, many = (evaluate("multiclass", metrics, n, n_resamples=50)[0] for n in (7, N))
    assert few.intervals()["f1"] == many.intervals()["f1"]
    assert few.intervals() == {name: pytest.approx(b) for name, b in many.intervals().items()}


def test_values_without_an_interval(monkeypatch):
    class Kept:
        def reset(self):
            self.n = 0

        def update(self, pred, target):
            self.n += len(pred)

        def compute(self):
            return self.n

    metrics = {"kept": Kept, "spread": spread, "f1": f1}
    evaluation, _ = evaluate("multiclass", metrics, n_resamples=20)
    assert list(evaluation.intervals()) == ["loss", "f1"]
    assert evaluate("multiclass", metrics)[0].intervals() == {}  # not wanted
    # with weights of the classes that of a set is not the mean over its samples
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5, 9]))
    evaluation, _ = evaluate("multiclass", {"f1": f1}, loss=weighted, n_resamples=20)
    assert list(evaluation.intervals()) == ["f1"]
    monkeypatch.setattr("models.evaluation._MAX_SUMS", 20 * 15 - 1)
    evaluation, _ = evaluate("multiclass", {"f1": f1, "right": right}, n_resamples=20)
    assert list(evaluation.intervals()) == ["loss", "right"]


def test_a_value_for_each_class():
    metrics = {"f1": functools.partial(f1, average="none")}
    evaluation, _ = evaluate("multiclass", metrics, classes=["a", "b", "c"], n_resamples=20)
    assert list(evaluation.intervals()) == ["loss", "f1_a", "f1_b", "f1_c"]


# ---- files


def write(tmp_path, task, metrics=None, dataset=None, classes=None, **options):
    """Write the results of a task; return what the tables hold, by the names of the files."""
    evaluation, rows = evaluate(
        task, metrics or {}, dataset=dataset, classes=classes, n_resamples=20
    )
    about = {"set": "val", "weights": "weights/a_run/best.pth", "metrics": {}}
    content = write_results(tmp_path, evaluation, rows, about, **options)
    assert json.loads((tmp_path / "evaluation.json").read_text()).keys() == content.keys()
    tables = {}
    for path in tmp_path.iterdir():
        if path.suffix == ".csv":
            with open(path, newline="") as file:
                tables[path.stem] = list(csv.DictReader(file))
        elif path.suffix == ".png":
            with Image.open(path) as image:
                tables[path.name] = image.size
    return tables | {"evaluation": content}


def test_files_of_a_classification(tmp_path):
    names = ["cat", "=dog", "true"]
    found = write(tmp_path, "multiclass", {"f1": f1}, classes=names)
    assert found.keys() == {
        "samples", "confusion", "confusion.png", "classes", "worst.png", "evaluation",
    }  # fmt: skip
    x, y = draw_set("multiclass")
    decided = x.mean((2, 3)).argmax(1)
    report = classification_report(y, decided, target_names=names, output_dict=True)
    for row in found["classes"]:
        expected = report[row["class"].removeprefix("'")]
        assert int(row["support"]) == expected["support"]
        for key in ("precision", "recall"):
            assert float(row[key]) == pytest.approx(expected[key], abs=1e-15)
        assert float(row["f1"]) == pytest.approx(expected["f1-score"], abs=1e-15)
    header, *rows = (tmp_path / "confusion.csv").read_text().splitlines()
    assert header == "true,cat,'=dog,true"
    matrix = np.array([[int(cell) for cell in row.split(",")[1:]] for row in rows])
    assert matrix.sum() == N and matrix.trace() == (y == decided).sum()
    assert (matrix[0] == np.bincount(decided[y == 0], minlength=3)).all()
    content = found["evaluation"]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == content
    assert (content["set"], content["n_samples"], content["n_resamples"]) == ("val", N, 20)
    assert content["confidence"] == 0.95 and content["metrics"].keys() == {"loss", "f1"}
    low, high = content["intervals"]["f1"]
    assert low < content["metrics"]["f1"] < high
    losses = [float(row["loss"]) for row in found["samples"]]
    assert np.mean(losses) == pytest.approx(content["metrics"]["loss"])


def test_files_of_labels(tmp_path):
    found = write(tmp_path, "multilabel", classes=["a", "b", "c"])
    x, y = draw_set("multilabel")
    decided = x.mean((2, 3)) > 0
    for i, row in enumerate(found["confusion"]):
        assert row["label"] == "abc"[i]
        assert int(row["true_positive"]) == (decided & (y > 0))[:, i].sum()
        assert int(row["false_positive"]) == (decided & (y == 0))[:, i].sum()
        assert int(row["false_negative"]) == (~decided & (y > 0))[:, i].sum()
        assert int(row["true_negative"]) == (~decided & (y == 0))[:, i].sum()
    assert "worst.png" in found and "confusion.png" in found


def test_files_of_a_segmentation(tmp_path):
    found = write(tmp_path, "multiclass_segmentation", {"iou": iou}, n_worst=10)
    assert found["worst.png"] == (60 + 8 * 160 + 7 * 4, 2 * (3 * 164 + 2 * 14 + 4) + 12)
    scores = [float(row["iou"]) for row in found["classes"]]
    assert np.mean(scores) == pytest.approx(found["evaluation"]["metrics"]["iou"])
    assert sum(int(row["support"]) for row in found["classes"]) == N * 16  # pixels
    assert "target" not in found["samples"][0]


def test_files_of_a_regression(tmp_path):
    found = write(tmp_path, "regression", {"mae": mae})
    assert found.keys() == {"samples", "scatter.png", "worst.png", "evaluation"}


def test_tables_without_pictures(tmp_path):
    assert write(tmp_path, "multiclass", with_pictures=False).keys() == {
        "samples", "confusion", "classes", "evaluation",
    }  # fmt: skip
    assert "worst.png" not in write(tmp_path, "multiclass", n_worst=0)


def test_the_worst_are_those_of_the_highest_loss(tmp_path, monkeypatch):
    drawn = {}

    def draw(samples, captions, task):
        drawn.update(samples=samples, captions=captions)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("models.results.draw_sheet", draw)
    x, y = draw_set("multiclass")
    x[7] = math.nan
    dataset = Arrays(x, y)
    dataset.names = [f"s{i}" for i in range(N)]
    monkeypatch.setattr(Predictor, "check_outputs", lambda *_: None)
    found = write(tmp_path, "multiclass", dataset=dataset, n_worst=5)
    losses = nn.functional.cross_entropy(x.mean((2, 3)), y, reduction="none").nan_to_num(math.inf)
    worst = losses.argsort(descending=True, stable=True)[:5].tolist()
    assert worst[0] == 7 and [lines[0][0] for lines in drawn["captions"]] == [
        f"s{i}" for i in worst
    ]
    for (picture, target, logits), i in zip(drawn["samples"], worst, strict=True):
        assert torch.equal(picture.nan_to_num(), x[i].nan_to_num()) and target == y[i]
        assert torch.equal(logits.nan_to_num(), x[i].mean((1, 2)).nan_to_num())
    second = found["samples"][worst[1]]
    assert [text for text, _ in drawn["captions"][1]] == [
        second["name"],
        f"true {second['target']}",
        f"pred {second['prediction']} ({float(second['confidence']):.2f})",
        f"loss {float(second['loss']):.4g}",
    ]


def test_inputs_without_a_picture(tmp_path):
    class Rows(Arrays):
        def __getitem__(self, index):
            return {"row": self.x[index].mean((1, 2)), "name": "text"}, self.y[index]

        __getitems__ = None

    class First(nn.Module):
        def forward(self, x):
            return x["row"]

    rows = Rows(*draw_set("multiclass"))
    rows.deterministic = rows.collated = False
    loader = make_loader(rows, {"batch_size": 8}, 0, CPU, False)
    evaluation = Evaluation(
        Predictor(First(), CPU, "multiclass"), loader, nn.CrossEntropyLoss(), {}
    )
    with torch.no_grad():
        table = [row for _, part in evaluation for row in part]
        write_results(tmp_path, evaluation, table, {"set": "val", "weights": "w/best.pth"})
    names = {path.name for path in tmp_path.iterdir()}
    assert "worst.png" not in names and {"samples.csv", "confusion.png"} <= names


def test_a_stream_has_no_worst(tmp_path, caplog):
    caplog.set_level("INFO", "plumbline")
    stream = Stream(20, augment=False)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    loader = make_loader(stream, {"batch_size": 8}, 0, CPU, False)
    evaluation = Evaluation(
        Predictor(network, CPU, "multiclass"), loader, nn.CrossEntropyLoss(), {}
    )
    with torch.no_grad():
        table = [row for _, part in evaluation for row in part]
        write_results(tmp_path, evaluation, table, {"set": "val", "weights": "w/best.pth"})
    assert not (tmp_path / "worst.png").exists()
    assert "no worst.png: a stream cannot be asked for single samples" in caplog.text


def test_a_loss_that_says_nothing_of_one_sample_has_no_worst(tmp_path):
    def same(pred, target):
        return pred.std(0, correction=0).mean()

    evaluation, rows = evaluate("regression", {}, loss=same)
    write_results(tmp_path, evaluation, rows, {"set": "val", "weights": "w/best.pth"})
    assert {row["loss"] for row in rows} == {0.0}
    assert {p.name for p in tmp_path.iterdir()} == {"samples.csv", "evaluation.json", "scatter.png"}


def test_a_metric_without_a_value_of_one_sample_has_an_empty_cell(tmp_path):
    per_class = functools.partial(f1, average="none")
    found = write(tmp_path, "multiclass", {"f1": per_class})
    row = found["samples"][0]
    assert [name for name in row if name.startswith("f1")] == ["f1_0", "f1_1", "f1_2"]
    others = {"0", "1", "2"} - {row["target"], row["prediction"]}
    assert all(row[f"f1_{name}"] == "" for name in others)
    assert row[f"f1_{row['target']}"] in ("0.0", "1.0")


def test_the_path_of_a_sample():
    dataset = Arrays(*draw_set("multiclass"))
    assert "path" not in evaluate("multiclass", {}, dataset=dataset)[1][0]
    dataset.files = [(Path("x", f"{i}.png"), Path("y", f"{i}.png")) for i in range(N)]
    row = evaluate("multiclass", {}, dataset=dataset)[1][3]
    assert row["path"] == str(Path("x/3.png")) and row["name"] == "03"
    dataset.files = dataset.files[:5]  # of something else
    assert "path" not in evaluate("multiclass", {}, dataset=dataset)[1][0]
