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
from torch import nn

import predict
from config.codec import encode
from config.config import global_config
from models import UNET, ConvNet
from predict import Predictor, draw, load_predictor, main, make_legend, make_palette
from training.pytorch_training import train
from utils.data import Arrays
from utils.data.files import read_array, write_array
from utils.metrics import accuracy, f1, iou
from utils.torchutils import save_weights

torch.set_num_threads(1)

ROOT = Path(predict.__file__).parent
SEGMENTATIONS = {  # outputs and loss
    "binary_segmentation": (1, nn.BCEWithLogitsLoss),
    "multilabel_segmentation": (2, nn.BCEWithLogitsLoss),
    "multiclass_segmentation": (3, nn.CrossEntropyLoss),
}
COMMON = {"LR": 1e-2, "EPOCHS": 3, "DEVICE": "cpu", "PROGRESS": False}


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


def train_segmentation(root: Path, task: str) -> dict:
    write_run_data(root / "data", task)
    n_outputs, loss = SEGMENTATIONS[task]
    config = COMMON | {
        "MODEL": UNET,
        "MODEL_CONFIG": {"ch_in": 3, "ch_out": n_outputs, "bulk_ch": 4, "n_recursions": 1},
        "LOSS": loss,
        "METRICS": [f1, iou],
        "DATA_LOADER_CONFIG": {"batch_size": 3},
        "TASK": task,
        "CLASSES": ("red", "green", "both")[:n_outputs],
        "PREPROCESS": {"scale": 1 / 255, "mean": (0.5, 0.5, 0.4), "std": 0.25},
    }
    folders = {"DATA_DIR": root / "data", "LOG_DIR": root / "logs", "WEIGHT_DIR": root / "weights"}
    return train(None, None, config, global_config | folders)


def train_classification(root: Path) -> dict:
    """Train on pictures whose brightest row is their class; write them as a user has them."""
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 4, 30)
    images = rng.integers(0, 12, (30, 7, 5))
    images[range(30), targets] += 3
    (root / "x").mkdir(parents=True)
    for i, image in enumerate(images):
        np.save(root / "x" / f"{i:02}.npy", image)
    np.save(root / "targets.npy", targets)
    data = Arrays(torch.from_numpy(images).float()[:, None] / 16, torch.from_numpy(targets))
    config = COMMON | {
        "MODEL": ConvNet,
        "MODEL_CONFIG": {"ch_in": 1, "n_classes": 4, "bulk_ch": 4, "n_blocks": 2},
        "LOSS": nn.CrossEntropyLoss,
        "METRICS": [accuracy, f1],
        "DATA_LOADER_CONFIG": {"batch_size": 7},
        "TASK": "multiclass",
        "CLASSES": ["first", "second", "third", "fourth"],
        "PREPROCESS": {"scale": 1 / 16},
    }
    folders = {"LOG_DIR": root / "logs", "WEIGHT_DIR": root / "weights"}
    return train(data, data, config, global_config | folders)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """Train a network for each task and predict its validation files by the command line.

    Returns:
        By task the folder of the run, with `out`, and the metrics that it logged.
    """
    root = tmp_path_factory.mktemp("runs")
    found = {}
    for task in (*SEGMENTATIONS, "multiclass"):
        folder = root / task
        is_map = task in SEGMENTATIONS
        result = train_segmentation(folder, task) if is_map else train_classification(folder)
        inputs = folder / ("data/val/x" if is_map else "x")
        arguments = ["-i", *map(str, inputs.iterdir()), "-o", str(folder / "out")]
        arguments += ["--weights", result["paths"]["best"], "DEVICE=cpu"]
        if task == "binary_segmentation":  # one in a process of its own, from another folder
            command = [sys.executable, str(ROOT / "predict.py"), *arguments]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == f"5 of 5 files predicted, outputs in {folder / 'out'}\n"
        else:
            assert main(arguments) == 0
        logged = json.loads(Path(result["paths"]["log_dir"], "result.json").read_text())
        found[task] = folder, logged["best_metrics"]
    return found


def count_scores(truth: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Return F1 and IoU of two masks."""
    hits, wrong = int((truth & found).sum()), int((truth ^ found).sum())
    return 2 * hits / (2 * hits + wrong), hits / (hits + wrong)


def mean_scores(truth: np.ndarray, found: np.ndarray, n_classes: int) -> tuple[float, ...]:
    """Return the mean over classes of F1 and IoU of two maps of classes."""
    scores = [count_scores(truth == i, found == i) for i in range(n_classes)]
    return tuple(math.fsum(values) / n_classes for values in zip(*scores, strict=True))


@pytest.mark.parametrize("task", SEGMENTATIONS)
def test_outputs_of_the_validation_files_give_the_logged_metrics(runs, task):
    run, logged = runs[task]
    pairs = []
    for file in sorted((run / "data/val/y").iterdir()):
        decision, truth = np.load(run / "out" / f"{file.stem}.npy"), read_array(file)
        assert decision.dtype == np.uint8
        assert decision.shape == truth.shape
        pairs.append((truth, decision))
    assert len(pairs) == 5
    truth, found = (np.stack(part) for part in zip(*pairs, strict=True))
    if task == "multiclass_segmentation":
        scores = mean_scores(truth, found, 3)
    else:
        scores = count_scores(truth == 1, found == 1)
    assert 0.1 < scores[0] < 0.99
    assert (logged["val_f1"], logged["val_iou"]) == scores


def test_the_table_of_a_classification_gives_the_logged_metrics(runs):
    run, logged = runs["multiclass"]
    targets = np.load(run / "targets.npy")
    with open(run / "out" / "predictions.csv", newline="") as file:
        rows = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
    assert len(rows) == len(targets)
    names = ["first", "second", "third", "fourth"]
    found = []
    for stem in sorted(rows):
        shares = np.load(run / "out" / f"{stem}.npy")
        assert (shares.dtype, shares.shape) == (np.float32, (4,))
        assert shares.sum() == pytest.approx(1, abs=1e-6)
        columns = [rows[stem][name] for name in names]
        assert np.array_equal(np.array(columns, dtype=np.float32), shares)
        assert rows[stem]["class"] == names[shares.argmax()]
        found.append(int(shares.argmax()))
    assert logged["val_accuracy"] == np.mean(targets == found)
    assert logged["val_f1"] == mean_scores(targets, np.array(found), 4)[0]
    assert 0.2 < logged["val_accuracy"] < 1


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
