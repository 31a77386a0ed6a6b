import csv
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk
from torch import nn

import predict
from config.codec import encode
from config.config import global_config
from models import UNET, ConvNet
from predict import Predictor, draw, load_predictor, main, make_legend, make_palette
from training.pytorch_training import train
from utils.data.files import read_array, write_array
from utils.metrics import accuracy, f1, iou
from utils.torchutils import save_weights

torch.set_num_threads(1)

ROOT = Path(predict.__file__).parent


# ---- a whole run: train, predict the validation files in another process, count


def write_run_data(root: Path, task: str) -> None:
    rng = np.random.default_rng(0)
    suffix = "png" if task == "binary_segmentation" else "npy"
    for part, n in (("train", 6), ("val", 5)):
        for folder in ("x", "y"):
            (root / part / folder).mkdir(parents=True)
        for i in range(n):
            x = rng.integers(0, 256, (17, 19, 3), dtype=np.uint8)
            y = (x[..., :2] + rng.normal(0, 60, (17, 19, 2)) > 100).astype(np.uint8)
            if task == "binary_segmentation":
                y = y[..., 0]
            elif task == "multiclass_segmentation":
                y = y.sum(axis=2, dtype=np.uint8)
            write_array(root / part / "x" / f"{i}.{suffix}", x)
            write_array(root / part / "y" / f"{i}.{suffix}", y)


def train_segmentation(root: Path, task: str, n_outputs: int, loss, **more) -> dict:
    write_run_data(root / "data", task)
    config = {
        "MODEL": UNET,
        "MODEL_CONFIG": {"ch_in": 3, "ch_out": n_outputs, "bulk_ch": 4, "n_recursions": 1},
        "LOSS": loss,
        "METRICS": [f1, iou],
        "DATA_LOADER_CONFIG": {"batch_size": 3},
        "LR": 1e-2,
        "EPOCHS": 3,
        "TASK": task,
        "PREPROCESS": {"scale": 1 / 255, "mean": (0.5, 0.5, 0.4), "std": 0.25},
        "DEVICE": "cpu",
        "PROGRESS": False,
    } | more
    folders = {"DATA_DIR": root / "data", "LOG_DIR": root / "logs", "WEIGHT_DIR": root / "weights"}
    return train(None, None, config, global_config | folders)


def write_digits(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write validation pictures as the training has seen them before PREPROCESS."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, targets = digits.images[::60], digits.target[::60]
    (root / "x").mkdir(parents=True)
    for i, image in enumerate(images):
        np.save(root / "x" / f"{i:02}.npy", image)
    return images, targets


def train_digits(root: Path) -> dict:
    images, targets = write_digits(root)
    preprocess = {"scale": 1 / 16}
    x = torch.from_numpy(images).float()[:, None] / 16
    y = torch.from_numpy(targets).long()
    config = {
        "MODEL": ConvNet,
        "MODEL_CONFIG": {"ch_in": 1, "n_classes": 10, "bulk_ch": 4, "n_blocks": 2},
        "LOSS": nn.CrossEntropyLoss,
        "METRICS": [accuracy, f1],
        "DATA_LOADER_CONFIG": {"batch_size": 7},
        "LR": 2e-2,
        "EPOCHS": 6,
        "TASK": "multiclass",
        "CLASSES": [f"digit {i}" for i in range(10)],
        "PREPROCESS": preprocess,
        "DEVICE": "cpu",
        "PROGRESS": False,
    }
    folders = {"LOG_DIR": root / "logs", "WEIGHT_DIR": root / "weights"}
    data = list(zip(x, y, strict=True))
    return train(data, data, config, global_config | folders)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """Train a model for each task and predict its validation files by the command line."""
    root = tmp_path_factory.mktemp("runs")
    binary, multi = nn.BCEWithLogitsLoss, nn.CrossEntropyLoss
    task = "{}_segmentation".format
    results = {
        task("binary"): train_segmentation(root / "b", task("binary"), 1, binary),
        task("multilabel"): train_segmentation(
            root / "l", task("multilabel"), 2, binary, CLASSES=("red", "green")
        ),
        task("multiclass"): train_segmentation(root / "c", task("multiclass"), 3, multi),
        "multiclass": train_digits(root / "d"),
    }
    started = {}
    for task, result in results.items():
        run = Path(result["paths"]["log_dir"]).parents[1]
        folder = run / ("x" if task == "multiclass" else "data/val/x")
        command = [sys.executable, str(ROOT / "predict.py"), "-i", *map(str, folder.iterdir())]
        command += ["-o", str(run / "out"), "--weights", result["paths"]["best"], "DEVICE=cpu"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started[task] = run, subprocess.Popen(command, cwd=root, **pipes)
    found = {}
    for task, (run, process) in started.items():
        out, error = process.communicate()
        assert (process.returncode, error) == (0, ""), error
        assert f"files predicted, outputs in {run / 'out'}" in out
        result = json.loads(Path(results[task]["paths"]["log_dir"], "result.json").read_text())
        found[task] = run, result["best_metrics"]
    return found


def ratio_of_counts(truth: np.ndarray, found: np.ndarray, weight: int) -> float:
    """Return F1 (weight 2) or IoU (weight 1) from counts."""
    hits, wrong = int((truth & found).sum()), int((truth ^ found).sum())
    return weight * hits / (weight * hits + wrong)


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass"])
def test_outputs_of_the_validation_files_give_the_logged_metrics(runs, task):
    run, logged = runs[f"{task}_segmentation"]
    pairs = []
    for file in sorted((run / "data/val/y").iterdir()):
        decision = np.load(run / "out" / f"{file.stem}.npy")
        truth = read_array(file)
        assert decision.dtype == np.uint8
        assert decision.shape == truth.shape
        pairs.append((truth, decision))
    assert len(pairs) == 5
    truth, found = (np.stack(part) for part in zip(*pairs, strict=True))
    if task == "multiclass":
        classes = [(truth == i, found == i) for i in range(3)]
        ours = [math.fsum(ratio_of_counts(*pair, w) for pair in classes) / 3 for w in (2, 1)]
        theirs = [
            score(truth.ravel(), found.ravel(), average="macro")
            for score in (sk.f1_score, sk.jaccard_score)
        ]
        assert theirs == pytest.approx(ours, rel=1e-15)  # another order of the same sum
    else:
        ours = [ratio_of_counts(truth == 1, found == 1, weight) for weight in (2, 1)]
        scores = (sk.f1_score, sk.jaccard_score)
        assert [score(truth.ravel(), found.ravel()) for score in scores] == ours
    assert 0.1 < ours[0] < 0.99
    assert [logged["val_f1"], logged["val_iou"]] == ours


def test_tables_of_a_classification_give_the_logged_metrics(runs):
    run, logged = runs["multiclass"]
    _, targets = write_digits(run / "again")
    with open(run / "out" / "predictions.csv", newline="") as file:
        rows = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    assert len(rows) == len(targets) == 30
    found = []
    for i in range(30):
        row = rows[f"{i:02}"]
        shares = np.load(run / "out" / f"{i:02}.npy")
        assert shares.dtype == np.float32
        assert shares.shape == (10,)
        assert shares.sum() == pytest.approx(1, abs=1e-6)
        columns = [row[f"digit {k}"] for k in range(10)]
        assert np.array_equal(np.array(columns, dtype=np.float32), shares)
        assert row["class"] == f"digit {shares.argmax()}"
        found.append(int(shares.argmax()))
    assert sk.accuracy_score(targets, found) == logged["val_accuracy"]
    assert sk.f1_score(targets, found, average="macro") == pytest.approx(
        logged["val_f1"], rel=1e-15
    )
    assert 0.1 < logged["val_accuracy"] < 1


def test_class_names_travel_in_the_weights(runs):
    run, _ = runs["multilabel_segmentation"]
    legend = json.loads((run / "out" / "classes.json").read_text())
    assert [(row["index"], row["class"]) for row in legend] == [(0, "red"), (1, "green")]


def test_a_notebook_gets_what_the_command_line_writes(runs):
    for task, (run, _) in runs.items():
        if task == "multiclass":
            continue
        predictor = load_predictor(next((run / "weights").glob("*/best.pth")), device="cpu")
        for file in (run / "data/val/x").iterdir():
            array = read_array(file)
            decision = predictor(array)
            assert np.array_equal(decision, np.load(run / "out" / f"{file.stem}.npy"))
            shares = predictor.probabilities(array)
            assert shares.dtype == np.float32
            if task == "multiclass_segmentation":
                assert shares.shape == (17, 19, 3)
                assert np.array_equal(shares.argmax(axis=2), decision)
            else:
                assert np.array_equal(shares > 0.5, decision == 1)


# ---- networks whose outputs are known


class Echo(nn.Module):
    """Gives the pixels of the first row as logits: (N, C, H, W) to (N, W)."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(float(gain)), requires_grad=False)

    def forward(self, x):
        return x[:, 0, 0] * self.gain


class Broken(Echo):
    """Raises on a picture of two rows, on others as Echo."""

    error: BaseException = KeyError("lost")

    def forward(self, x):
        if x.shape[2] == 2:
            raise self.error
        return super().forward(x)


class Dictionary(Echo):
    def forward(self, x):
        return {"out": x}


def save_conv(path: Path, weight, task: str | None, bias=None, **meta) -> Path:
    """Save a 1 x 1 convolution with these weights (K, C) as a weights file of the kit."""
    weight = torch.tensor(weight, dtype=torch.float32)
    state = {"weight": weight[:, :, None, None]}
    state["bias"] = torch.zeros(len(weight)) if bias is None else torch.tensor(bias).float()
    config = {"in_channels": weight.shape[1], "out_channels": len(weight), "kernel_size": 1}
    config = {"MODEL": "torch.nn.Conv2d", "MODEL_CONFIG": json.dumps(config)}
    save_weights(path, state, config | {"TASK": task} | meta)
    return path


def save_echo(path: Path, task: str | None, **meta) -> Path:
    save_weights(path, Echo().state_dict(), {"TASK": task} | meta)
    return path


def echo(task: str | None, **more) -> Predictor:
    return Predictor(Echo(), "cpu", task, **more)


@pytest.fixture
def weights(tmp_path) -> Path:
    """Return a network that finds pixels above 10."""
    return save_conv(tmp_path / "w.pth", [[1]], "binary_segmentation", bias=[-10])


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "in" / "a.npy"
    path.parent.mkdir()
    np.save(path, np.array([[0, 20, 10], [11, 9, 200]], dtype=np.uint8))
    return path


def call(*arguments) -> int:
    return main(list(map(str, arguments)))


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_binary_segmentation(tmp_path, weights, image):
    out = tmp_path / "out"
    assert call("-i", image, "-o", out, "--weights", weights) == 0
    assert files_in(out) == ["a.npy", "a.png", "classes.json"]
    assert np.load(out / "a.npy").tolist() == [[0, 1, 0], [1, 0, 1]]
    with Image.open(out / "a.png") as picture:
        assert picture.mode == "L"
    assert np.array_equal(read_array(out / "a.png"), np.load(out / "a.npy") * 255)
    assert json.loads((out / "classes.json").read_text()) == [
        {"index": 0, "class": "0", "colour": "#000000"},
        {"index": 1, "class": "1", "colour": "#ffffff"},
    ]


def test_multiclass_segmentation(tmp_path):
    weights = save_conv(
        tmp_path / "w.pth", np.eye(3), "multiclass_segmentation", CLASSES=["no", "a", "b"]
    )
    x = np.zeros((1, 4, 3), dtype=np.float32)  # a picture of one row stays two-dimensional
    x[0, range(4), [0, 2, 1, 2]] = 5
    np.save(tmp_path / "a.npy", x)
    out = tmp_path / "out"
    assert call("-i", tmp_path / "a.npy", "-o", out, "--weights", weights) == 0
    decision = np.load(out / "a.npy")
    assert decision.dtype == np.uint8
    assert decision.tolist() == [[0, 2, 1, 2]]
    assert np.array_equal(read_array(out / "a.png"), decision)  # good as a mask to train with
    legend = json.loads((out / "classes.json").read_text())
    assert [row["class"] for row in legend] == ["no", "a", "b"]
    with Image.open(out / "a.png") as picture:
        assert picture.mode == "P"
        colours = ["#" + bytes(pixel).hex() for pixel in np.asarray(picture.convert("RGB"))[0]]
    assert colours == [legend[i]["colour"] for i in (0, 2, 1, 2)]
    shares = load_predictor(weights).probabilities(x)
    expected = np.exp(x) / np.exp(x).sum(axis=2, keepdims=True)
    assert np.allclose(shares, expected, atol=1e-6)


def test_multilabel_segmentation(tmp_path):
    weights = save_conv(tmp_path / "w.pth", np.eye(2), "multilabel_segmentation")
    x = np.array([[[-1, -1], [1, -1], [-1, 1], [1, 1]]], dtype=np.float32)
    np.save(tmp_path / "a.npy", x)
    out = tmp_path / "out"
    assert call("-i", tmp_path / "a.npy", "-o", out, "--weights", weights) == 0
    decision = np.load(out / "a.npy")
    assert decision.dtype == np.uint8
    assert np.array_equal(decision, x > 0)
    assert read_array(out / "a.png").tolist() == [[0, 1, 2, 2]]
    legend = json.loads((out / "classes.json").read_text())
    with Image.open(out / "a.png") as picture:
        colours = ["#" + bytes(pixel).hex() for pixel in np.asarray(picture.convert("RGB"))[0]]
    assert colours == ["#000000", *(legend[i]["colour"] for i in (0, 1, 1))]


def test_one_label_is_a_map_of_two_axes(tmp_path):
    predictor = load_predictor(save_conv(tmp_path / "w.pth", [[1]], "multilabel_segmentation"))
    decision = predictor(np.array([[1.0, -1.0]]))
    assert decision.tolist() == [[1, 0]]
    with Image.open(io.BytesIO(draw(decision, predictor.task, 1))) as picture:
        assert np.asarray(picture).tolist() == [[1, 0]]


def test_more_classes_than_a_byte_holds(tmp_path):
    weight = np.zeros((300, 300))
    weight[[1, 299], [1, 299]] = 1
    predictor = load_predictor(save_conv(tmp_path / "w.pth", weight, "multiclass_segmentation"))
    x = np.zeros((1, 2, 300))
    x[0, [0, 1], [299, 1]] = 1
    decision = predictor(x)
    assert decision.dtype == np.int64
    assert decision.tolist() == [[299, 1]]
    legend = make_legend(predictor.task, predictor.class_names(300))
    with Image.open(io.BytesIO(draw(decision, predictor.task, 300))) as picture:
        pixels = np.asarray(picture.convert("RGB"))[0]
    assert ["#" + bytes(pixel).hex() for pixel in pixels] == [
        legend[299]["colour"],
        legend[1]["colour"],
    ]
