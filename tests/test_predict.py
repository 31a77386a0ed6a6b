import csv
import json
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from config.config import ROOT_PATH, global_config
from models import UNET, ConvNet
from models.predictor import load_predictor
from predict import main
from training.pytorch_training import train
from utils.data import Arrays
from utils.data.files import read_array, write_array
from utils.data.pictures import draw, make_legend
from utils.metrics import accuracy, f1, iou
from utils.torchutils import save_weights

torch.set_num_threads(1)

SEGMENTATIONS = {  # outputs and loss
    "binary_segmentation": (1, nn.BCEWithLogitsLoss),
    "multilabel_segmentation": (2, nn.BCEWithLogitsLoss),
    "multiclass_segmentation": (3, nn.CrossEntropyLoss),
}
CLASSES = ("red", "green", "both")
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
        "CLASSES": CLASSES[:n_outputs],
        # a tuple and a number of numpy: neither is plain data, and both are natural to write
        "PREPROCESS": {"scale": 1 / 255, "mean": (0.5, 0.5, 0.4), "std": np.float64(0.25)},
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
            command = [sys.executable, str(ROOT_PATH / "predict.py"), *arguments]
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
    n_outputs, _ = SEGMENTATIONS[task]
    pairs = []
    for file in sorted((run / "data/val/y").iterdir()):
        decision, truth = np.load(run / "out" / f"{file.stem}.npy"), read_array(file)
        assert decision.dtype == np.uint8
        assert decision.shape == truth.shape
        picture = (run / "out" / f"{file.stem}.png").read_bytes()
        assert picture == draw(decision, task, n_outputs)
        pairs.append((truth, decision))
    names = ["not red", "red"] if task == "binary_segmentation" else CLASSES[:n_outputs]
    legend = json.loads((run / "out" / "classes.json").read_text())
    assert legend == make_legend(task, names)
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


class FirstRow(nn.Module):
    """Gives the first row of the picture as logits: (N, C, H, W) to (N, W)."""

    error: BaseException | None = None  # what a picture of two rows raises
    batches: list[tuple[int, ...]] = []  # shapes that it was given

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        self.batches.append(tuple(x.shape))
        if self.error is not None and x.shape[2] == 2:
            raise self.error
        return x[:, 0, 0] * self.gain


def save_conv(path: Path, weight, task: str | None, bias=None, **meta) -> Path:
    """Save a 1 x 1 convolution with these weights (K, C) as a weights file of the kit."""
    weight = torch.tensor(weight, dtype=torch.float32)
    state = {"weight": weight[:, :, None, None]}
    state["bias"] = torch.zeros(len(weight)) if bias is None else torch.tensor(bias).float()
    config = {"in_channels": weight.shape[1], "out_channels": len(weight), "kernel_size": 1}
    config = {"MODEL": "torch.nn.Conv2d", "MODEL_CONFIG": json.dumps(config)}
    save_weights(path, state, config | {"TASK": task} | meta)
    return path


def save_row(path: Path, task: str | None, **meta) -> list[str]:
    """Save the weights of FirstRow; return the arguments that name both."""
    save_weights(path, FirstRow().state_dict(), {"TASK": task} | meta)
    return ["--weights", str(path), "MODEL=tests.test_predict.FirstRow"]


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


def read_table(out: Path) -> list[list[str]]:
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


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


def test_without_a_task_outputs_are_raw_and_it_is_said(tmp_path, image, capsys):
    out = tmp_path / "out"
    weights = save_conv(tmp_path / "w.pth", [[2], [-1]], None, bias=[1, 0])
    assert call("-i", image, "-o", out, "--weights", weights) == 0
    assert "Outputs are raw: the weights file names no TASK." in capsys.readouterr().out
    assert files_in(out) == ["a.npy"]
    raw, x = np.load(out / "a.npy"), np.load(image).astype(np.float32)
    assert raw.dtype == np.float32
    assert np.array_equal(raw, np.stack([2 * x + 1, -x], axis=2))


@pytest.mark.parametrize("task", ["embedding", "regression"])
def test_tasks_without_decision_give_what_the_network_gives(tmp_path, image, task, capsys):
    arguments = save_row(tmp_path / "w.pth", task)
    assert call("-i", image, "-o", tmp_path / "out", *arguments) == 0
    assert "raw" not in capsys.readouterr().out
    assert files_in(tmp_path / "out") == ["a.npy"]
    assert np.load(tmp_path / "out" / "a.npy").tolist() == [0, 20, 10]


@pytest.mark.parametrize(
    ("task", "classes", "row", "expected"),
    [
        ("multiclass", None, [0, 3, 1], ["1", "0", "1", "2"]),
        ("multiclass", ["a", "b", "c"], [0, 3, 1], ["b", "a", "b", "c"]),
        ("multiclass", [], [0, 3], ["1", "0", "1"]),
        ("multilabel", ["a", "b", "c"], [1, -1, 2], ["a;c", "a", "b", "c"]),
        ("multilabel", ["a", "b"], [-1, -1], ["", "a", "b"]),
        ("multilabel", ["a"], [1], ["a", "a"]),
        ("binary", None, [2], ["1", "0", "1"]),
        ("binary", ["ship"], [-2], ["not ship", "not ship", "ship"]),
        ("binary", ["sea", "ship"], [2], ["ship", "sea", "ship"]),
    ],
)
def test_rows_of_a_classification(tmp_path, task, classes, row, expected):
    np.save(tmp_path / "a.npy", np.array([row, row, row], dtype=np.float32))
    arguments = save_row(tmp_path / "w.pth", task, CLASSES=classes)
    out = tmp_path / "out"
    assert call("-i", tmp_path / "a.npy", "-o", out, *arguments) == 0
    assert files_in(out) == ["a.npy", "predictions.csv"]
    with open(out / "predictions.csv", newline="") as file:
        header, (name, chosen, *shares) = csv.reader(file)
    assert header == ["file", "class", *expected[1:]]
    assert (name, chosen) == (str(tmp_path / "a.npy"), expected[0])
    logits = np.array(row, dtype=np.float64)
    if task == "multiclass":
        wanted = np.exp(logits) / np.exp(logits).sum()
    else:
        wanted = 1 / (1 + np.exp(-logits))
    assert np.allclose(np.load(out / "a.npy"), wanted, atol=1e-6)
    if task == "binary":
        wanted = [1 - wanted[0], wanted[0]]
    assert np.allclose([float(share) for share in shares], wanted, atol=1e-6)


# ---- files that fail


@pytest.mark.parametrize("batch_size", [1, 4])
def test_unreadable_files_are_named_and_the_others_written(
    tmp_path, weights, image, capsys, batch_size
):
    (image.parent / "broken.npy").write_bytes(b"no array")
    (image.parent / "notes.txt").write_text("text")
    np.save(image.parent / "nan.npy", np.full((2, 3), np.nan))  # in one batch with the good one
    np.save(image.parent / "bands.npy", np.zeros((2, 2, 3)))
    missing = image.parent / "missing.png"
    out = tmp_path / "out"
    more = ["--batch-size", batch_size]
    assert call("-i", image.parent / "*", missing, "-o", out, "--weights", weights, *more) == 1
    assert files_in(out) == ["a.npy", "a.png", "classes.json"]
    assert np.load(out / "a.npy").tolist() == [[0, 1, 0], [1, 0, 1]]
    said = capsys.readouterr()
    assert f"1 of 6 files predicted, 5 failed, outputs in {out}" in said.out
    names = ("bands", "broken", "nan", "notes", "missing")
    lines = {name: line for line in said.err.splitlines() for name in names if f"/{name}." in line}
    assert len(lines) == len(said.err.splitlines()) == 5
    folder = f"predict.py: {image.parent}/"
    assert lines["bands"].startswith(
        f"{folder}bands.npy: expected an array that the network takes,"
    )
    assert "got shape (2, 2, 3): Given groups=1" in lines["bands"]
    assert lines["broken"].startswith(f"{folder}broken.npy: expected a readable .npy file")
    assert lines["nan"].startswith(f"{folder}nan.npy: expected numbers from the network, got NaN")
    assert lines["notes"].startswith(f"{folder}notes.txt: expected one of .npy, ")
    assert lines["missing"].endswith(f"No such file or directory: '{missing}'")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("lost"), "KeyError: 'lost'"),
        (RuntimeError("no memory\ntrace"), "got shape (2, 3): no memory. Check its channels"),
    ],
)
def test_a_network_that_raises_does_not_stop_the_others(
    tmp_path, image, monkeypatch, capsys, error, line
):
    monkeypatch.setattr(FirstRow, "error", error)
    np.save(image.parent / "b.npy", np.zeros((3, 3)))
    arguments = save_row(tmp_path / "w.pth", "multiclass")
    assert call("-i", image, image.parent / "b.npy", "-o", tmp_path / "out", *arguments) == 1
    assert files_in(tmp_path / "out") == ["b.npy", "predictions.csv"]
    assert line in capsys.readouterr().err
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 2


def test_an_interrupted_prediction_keeps_what_it_has(tmp_path, image, monkeypatch, capsys):
    monkeypatch.setattr(FirstRow, "error", KeyboardInterrupt())
    np.save(image.parent / "0.npy", np.zeros((3, 3)))
    arguments = save_row(tmp_path / "w.pth", "multiclass")
    assert call("-i", image.parent / "*.npy", "-o", tmp_path / "out", *arguments) == 130
    assert files_in(tmp_path / "out") == ["0.npy", "predictions.csv"]
    assert "interrupted" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_ends_it(tmp_path, weights, image, monkeypatch, capsys):
    def fail(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("models.outputs.write_atomic", fail)
    np.save(image.parent / "b.npy", np.zeros((3, 3)))
    assert call("-i", image.parent, "-o", tmp_path / "out", "--weights", weights) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line


def test_wrong_names_are_said_before_anything_is_written(tmp_path, image, capsys):
    arguments = save_row(tmp_path / "w.pth", "multiclass", CLASSES=["a", "b"])
    assert call("-i", image, "-o", tmp_path / "out", *arguments) == 2
    assert "CLASSES: expected 3 names for multiclass, got a, b." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert call("-i", image, "-o", tmp_path / "out", *arguments, "CLASSES=['a', 'b', 'c']") == 0


def test_an_input_with_other_classes_than_the_first_fails(tmp_path, image, capsys):
    arguments = save_row(tmp_path / "w.pth", "multiclass")
    np.save(image.parent / "b.npy", np.zeros((2, 4)))
    assert call("-i", image.parent, "-o", tmp_path / "out", *arguments) == 1
    assert "b.npy: expected 3 outputs, as of the first input, got 4" in capsys.readouterr().err
    assert files_in(tmp_path / "out") == ["a.npy", "predictions.csv"]


# ---- batches


def test_values_are_the_same_for_any_batch_size(tmp_path):
    torch.manual_seed(0)
    network = UNET(2, 3, bulk_ch=4, n_recursions=2)
    network(torch.randn(4, 2, 16, 16))  # running statistics
    config = json.dumps({"ch_in": 2, "ch_out": 3, "bulk_ch": 4, "n_recursions": 2})
    meta = {"MODEL": "models.UNET", "MODEL_CONFIG": config, "TASK": "multiclass_segmentation"}
    save_weights(tmp_path / "w.pth", network.state_dict(), meta)
    save_weights(tmp_path / "raw.pth", network.state_dict(), meta | {"TASK": None})
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(7):  # of two sizes, by turns
        np.save(tmp_path / "in" / f"{i}.npy", rng.normal(size=(13 + i % 2, 17, 2)))
    for task in ("w", "raw"):
        for n in (1, 2, 3):
            arguments = ["--weights", tmp_path / f"{task}.pth", "--batch-size", n]
            assert call("-i", tmp_path / "in", "-o", tmp_path / f"{task}{n}", *arguments) == 0
    for i in range(7):
        raw = np.load(tmp_path / "raw1" / f"{i}.npy")
        for n in (2, 3):
            assert np.allclose(np.load(tmp_path / f"raw{n}" / f"{i}.npy"), raw, rtol=0, atol=1e-6)
            one, many = (tmp_path / f"w{k}" / f"{i}.npy" for k in (1, n))
            assert one.read_bytes() == many.read_bytes()


def test_inputs_of_equal_size_are_read_together(tmp_path, monkeypatch):
    arguments = save_row(tmp_path / "w.pth", "regression")
    (tmp_path / "in").mkdir()
    for i, shape in enumerate([(2, 3), (1, 3), (2, 3), (2, 3), (1, 3)]):
        np.save(tmp_path / "in" / f"{i}.npy", np.full(shape, i))
    monkeypatch.setattr(FirstRow, "batches", [])
    more = ["--batch-size", 2]
    assert call("-i", tmp_path / "in", "-o", tmp_path / "out", *arguments, *more) == 0
    assert FirstRow.batches == [(2, 1, 2, 3), (1, 1, 2, 3), (2, 1, 1, 3)]
    for i in range(5):
        assert np.load(tmp_path / "out" / f"{i}.npy").tolist() == [i] * 3


def test_a_table_has_the_order_of_the_inputs(tmp_path):
    arguments = save_row(tmp_path / "w.pth", "multiclass")
    (tmp_path / "in").mkdir()
    for i in range(4):
        np.save(tmp_path / "in" / f"{i}.npy", np.zeros((1 + i % 2, 3)))
    more = ["--batch-size", 2]
    assert call("-i", tmp_path / "in", "-o", tmp_path / "out", *arguments, *more) == 0
    assert [Path(row[0]).stem for row in read_table(tmp_path / "out")[1:]] == list("0123")


def test_a_batch_size_of_none_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        call("-i", "a.npy", "-o", "out", "--weights", "w.pth", "--batch-size", 0)
    assert stopped.value.code == 2
    assert "--batch-size: expected a number from 1, got 0." in capsys.readouterr().err


def test_a_terminal_sees_a_bar(tmp_path, weights, image, monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert call("-i", image, "-o", tmp_path / "out", "--weights", weights) == 0
    assert "100%" in capsys.readouterr().err
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    assert call("-i", image, "-o", tmp_path / "more", "--weights", weights) == 0
    assert capsys.readouterr().err == ""


# ---- names of files


def test_existing_outputs_are_kept_unless_asked(tmp_path, weights, image, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.npy").write_text("mine")
    assert call("-i", image, "-o", out, "--weights", weights) == 0
    assert "1 of 1 files predicted, outputs" in capsys.readouterr().out
    assert files_in(out) == ["a.npy", "a.png", "classes.json"]  # what was missing is made
    assert (out / "a.npy").read_text() == "mine"
    np.save(image.parent / "b.npy", np.zeros((2, 3)))
    assert call("-i", image.parent, "-o", out, "--weights", weights) == 0
    line = (
        f"1 of 2 files predicted, 1 kept as they are (--overwrite replaces them), outputs in {out}"
    )
    assert line in capsys.readouterr().out
    assert (out / "a.npy").read_text() == "mine"
    assert call("-i", image, "-o", out, "--weights", weights, "--overwrite") == 0
    assert "1 of 1 files predicted, outputs" in capsys.readouterr().out
    assert np.load(out / "a.npy").shape == (2, 3)


def test_a_table_keeps_its_rows(tmp_path, image, monkeypatch):
    arguments, out = save_row(tmp_path / "w.pth", "multiclass"), tmp_path / "out"
    assert call("-i", image, "-o", out, *arguments) == 0
    before = read_table(out)
    np.save(image.parent / "0.npy", np.array([[5, 0, 0]]))
    monkeypatch.setattr(FirstRow, "batches", [])
    assert call("-i", image.parent, "-o", out, *arguments) == 0
    assert len(FirstRow.batches) == 1  # the other is not read again
    table = read_table(out)
    assert table[:2] == before
    assert [row[:2] for row in table[2:]] == [[str(image.parent / "0.npy"), "0"]]
    (out / "predictions.csv").unlink()  # a killed prediction leaves outputs without rows
    kept = (out / "a.npy").stat().st_mtime_ns
    assert call("-i", image, "-o", out, *arguments) == 0
    assert read_table(out) == before
    assert (out / "a.npy").stat().st_mtime_ns == kept
    assert call("-i", image.parent / "0.npy", "-o", out, *arguments, "--overwrite") == 0
    assert len(read_table(out)) == 2


@pytest.mark.parametrize("task", ["multiclass", "multiclass_segmentation"])
def test_outputs_of_other_classes_are_not_mixed(tmp_path, image, task, capsys):
    weights = tmp_path / "w.pth"
    arguments = ["--weights", save_conv(weights, [[1], [2], [0]], task)]
    if task == "multiclass":
        arguments = save_row(weights, task)
    out, name = tmp_path / "out", "predictions.csv" if task == "multiclass" else "classes.json"
    assert call("-i", image, "-o", out, *arguments) == 0
    np.save(image.parent / "b.npy", np.ones((2, 3)))
    before, names = files_in(out), "CLASSES=['a', 'b', 'c']"
    assert call("-i", image.parent, "-o", out, *arguments, names) == 2
    assert f"expected a {name} of this network's classes in {out}" in capsys.readouterr().err
    assert files_in(out) == before
    assert call("-i", image.parent, "-o", out, *arguments, names, "--overwrite") == 0
    assert '"class": "a"' in (out / name).read_text() or "file,class,a" in (out / name).read_text()


def test_a_table_that_is_none_is_refused(tmp_path, image, capsys):
    arguments, out = save_row(tmp_path / "w.pth", "multiclass"), tmp_path / "out"
    out.mkdir()
    (out / "predictions.csv").write_bytes(b"\xff\xfe")
    assert call("-i", image, "-o", out, *arguments) == 2
    assert "expected the table of an earlier prediction, got" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.npy", "a.png", "predictions.csv", "classes.json"])
def test_a_folder_in_the_place_of_an_output_is_refused(tmp_path, weights, image, name, capsys):
    (tmp_path / "out" / name).mkdir(parents=True)
    arguments = ["-o", tmp_path / "out", "--weights", weights, "--overwrite"]
    assert call("-i", image, *arguments) == 2
    assert f"-o: expected no folders named as outputs, got {tmp_path}" in capsys.readouterr().err


def test_names_get_prefix_and_suffix(tmp_path, weights, image, capsys):
    out = tmp_path / "out"
    options = ["--prefix", "new_", "--suffix=_mask"]
    assert call("-i", image, "-o", out, "--weights", weights, *options) == 0
    assert files_in(out) == ["classes.json", "new_a_mask.npy", "new_a_mask.png"]
    assert call("-i", image, "SUFFIX=.2", "-o", image.parent, "--weights", weights) == 0
    assert files_in(image.parent) == ["a.2.npy", "a.2.png", "a.npy", "classes.json"]
    assert call("-i", image, "-o", out, "--weights", weights, "PREFIX=../") == 2
    assert "expected one file name without folders, got '../a'" in capsys.readouterr().err


def test_folders_keep_their_tree(tmp_path, weights, image, capsys):
    folder = image.parent / "one" / "deep"
    folder.mkdir(parents=True)
    (image.parent / ".hidden").mkdir()
    for path in (folder / "a.npy", folder / "b.npy", image.parent / ".hidden" / "c.npy"):
        np.save(path, np.load(image))
    arguments = ["-o", tmp_path / "out", "--weights", weights]
    assert call("-i", image.parent, *arguments) == 0
    names = ["a.npy", "one/deep/a.npy", "one/deep/b.npy"]
    assert [name for name in files_in(tmp_path / "out") if name.endswith("npy")] == names
    capsys.readouterr()
    assert call("-i", image.parent, *arguments) == 0
    assert "0 of 3 files predicted, 3 kept" in capsys.readouterr().out
    assert call("-i", folder.parent, "-o", tmp_path / "more", "--weights", weights) == 0
    assert "deep/a.npy" in files_in(tmp_path / "more")  # from the folder given
    (tmp_path / "empty").mkdir()
    assert call("-i", tmp_path / "empty", *arguments) == 2
    assert f"{tmp_path}/empty: expected files" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".", "out"])
def test_outputs_do_not_become_inputs(weights, image, name, capsys):
    out = image.parent / name
    assert call("-i", image.parent, "-o", out, "--weights", weights) == 2
    assert f"-o: expected a folder outside of {image.parent}" in capsys.readouterr().err
    assert files_in(image.parent) == ["a.npy"]


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_inputs_are_never_overwritten(weights, image, more, capsys):
    before = image.read_bytes()
    assert call("-i", image, "-o", image.parent, "--weights", weights, *more) == 2
    assert "expected another folder than that of the inputs" in capsys.readouterr().err
    assert files_in(image.parent) == ["a.npy"]
    assert image.read_bytes() == before


def test_equal_names_in_several_folders_keep_their_folders(tmp_path, weights):
    for place in ("one/a.npy", "two/deep/a.npy", "two/deep/b.1.npy"):
        path = tmp_path / "in" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.full((1, 1), 0 if "one" in place else 20))
    out = tmp_path / "out"
    assert call("-i", tmp_path / "in/**/*.npy", "-o", out, "--weights", weights) == 0
    assert [name for name in files_in(out) if name.endswith("npy")] == [
        "one/a.npy",
        "two/deep/a.npy",
        "two/deep/b.1.npy",
    ]
    assert np.load(out / "one/a.npy") == 0
    assert np.load(out / "two/deep/a.npy") == 1


def test_equal_names_in_one_folder_are_refused(tmp_path, weights, image, capsys):
    write_array(image.with_suffix(".png"), np.load(image))
    assert call("-i", image.parent / "*", "-o", tmp_path / "out", "--weights", weights) == 2
    named = f"{image}, {image.with_suffix('.png')}"
    assert f"-i: expected files of different names, got {named}." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_given_twice_counts_once(tmp_path, weights, image, monkeypatch, capsys):
    monkeypatch.chdir(image.parent)
    assert call("-i", "a.npy", image, "-i", "*.npy", "-o", "../out", "--weights", weights) == 0
    assert "1 of 1 files" in capsys.readouterr().out


# ---- arguments


def test_wrong_arguments_are_told_together_and_nothing_is_written(tmp_path, capsys):
    before = files_in(tmp_path)
    arguments = ["-i", tmp_path / "*.npy", "-o", tmp_path / "out", "--weights", tmp_path / "w.pth"]
    assert call(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"predict.py: -i: expected files, got none by {tmp_path}/*.npy. Check the paths.",
        f'predict.py: weights "{tmp_path}/w.pth": expected a file, got none. Check the path.',
    ]
    assert files_in(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("TASKS=binary", '"TASKS=binary": expected KEY=VALUE with one of PREFIX, .* "TASK"?'),
        ("EPOCHS=3", 'got "EPOCHS".* The weights file holds all else.'),
        ("TASK=binry", "TASK: expected one of 'binary', .*, got 'binry'"),
        ("CLASSES=a", "CLASSES: expected a list, or None, got 'a'"),
        ("PREPROCESS=5", "PREPROCESS: expected a dict.*, got 5"),
        ("PREPROCESS.scales=5", r'PREPROCESS\["scales"\]: expected one of channels, .* "scale"'),
        ("DEVICE=gpu", "DEVICE: expected \"cpu\", .* got 'gpu'"),
        ("MODEL_CONFIG.ch=1", "MODEL_CONFIG: expected MODEL beside it, got none"),
        ("MODEL=models.Net", 'got "Net"'),
    ],
)
def test_wrong_overrides_are_refused(tmp_path, weights, image, capsys, override, problem):
    assert call("-i", image, "-o", tmp_path / "out", "--weights", weights, override) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("predict.py: ")
    assert re.search(problem, line)
    assert not (tmp_path / "out").exists()


def test_overrides_may_follow_the_files(tmp_path, image, capsys):
    weights = save_conv(tmp_path / "w.pth", [[1]], None)
    arguments = ["-i", image, "TASK=binary_segmentation", "PREPROCESS.mean=15", "LOG_DIR=logs"]
    assert call("DEVICE=cpu", *arguments, "-o", tmp_path / "out", "--weights", weights) == 0
    assert np.load(tmp_path / "out" / "a.npy").tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_file_as_folder_is_refused(tmp_path, weights, image, capsys):
    assert call("-i", image, "-o", image, "--weights", weights) == 2
    assert f"expected a folder or a free name, got {image}" in capsys.readouterr().err


def test_missing_arguments(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "arguments are required: -i, -o, --weights" in capsys.readouterr().err


def test_missing_packages_are_said(monkeypatch, capsys):
    monkeypatch.setattr("config.load.missing_packages", lambda: "expected torch in python")
    assert call("-i", "a.npy", "-o", "out", "--weights", "w.pth") == 2
    assert capsys.readouterr().err == "predict.py: expected torch in python\n"


# ---- weights files of other programs, and such as cannot be trusted


def test_weights_of_another_program(tmp_path, capsys):
    torch.manual_seed(0)
    network = UNET(2, 3, bulk_ch=4, n_recursions=1).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    x = np.random.default_rng(0).normal(size=(9, 7, 2))
    np.save(tmp_path / "a.npy", x)
    start = ["-i", tmp_path / "a.npy", "-o", tmp_path / "out", "--weights", tmp_path / "w.pth"]
    assert call(*start) == 2
    assert "Name the class yourself: python predict.py ... MODEL=" in capsys.readouterr().err
    model = ["MODEL=models.UNET", "MODEL_CONFIG.ch_in=2", "MODEL_CONFIG.ch_out=3"]
    model += ["MODEL_CONFIG.bulk_ch=4", "MODEL_CONFIG.n_recursions=1"]
    assert call(*start, *model, "TASK=multiclass_segmentation") == 0
    with torch.no_grad():
        logits = network(torch.from_numpy(x).float().permute(2, 0, 1)[None])
    assert np.array_equal(np.load(tmp_path / "out" / "a.npy"), logits[0].argmax(0).numpy())


def test_given_arguments_of_the_model_go_before_the_file_s(tmp_path, image):
    arguments = save_row(tmp_path / "w.pth", None, MODEL_CONFIG='{"gain": 5}')
    assert call("-i", image, "-o", tmp_path / "a", *arguments) == 0
    assert np.load(tmp_path / "a" / "a.npy").tolist() == [0, 100, 50]
    assert call("-i", image, "-o", tmp_path / "b", *arguments, "MODEL_CONFIG.gain=2") == 0
    assert np.load(tmp_path / "b" / "a.npy").tolist() == [0, 40, 20]
    assert call("-i", image, "-o", tmp_path / "c", *arguments, "MODEL_CONFIG=None") == 0
    assert np.load(tmp_path / "c" / "a.npy").tolist() == [0, 100, 50]


def test_weights_are_named_by_their_run(tmp_path, image, capsys):
    folder = f"WEIGHT_DIR={tmp_path}/weights"
    arguments = ["-i", image, "-o", tmp_path / "out", folder, "--overwrite", "--weights"]
    assert call(*arguments, "latest") == 2
    assert f"weights: expected a run in {tmp_path}/weights, got none" in capsys.readouterr().err
    for i, (run, file) in enumerate([("new", "best"), ("old", "best"), ("bare", "last")]):
        path = tmp_path / "weights" / run / f"{file}.pth"
        path.parent.mkdir(parents=True)
        save_conv(path, [[i]], None)
        os.utime(path, (100 - i, 100 - i))
    of_folder = tmp_path / "weights" / "old"
    for text, factor in (("latest", 0), ("new", 0), ("old", 1), (of_folder, 1), ("bare", 2)):
        assert call(*arguments, text) == 0
        assert np.array_equal(
            np.load(tmp_path / "out" / "a.npy"), np.load(image) * np.float32(factor)
        )
    assert call(*arguments, "none") == 2
    assert 'weights "none": expected a file, got none' in capsys.readouterr().err


def make_row(gain: float) -> nn.Module:
    """Make a network, as MODEL may."""
    return FirstRow(gain)


def test_a_function_gets_no_argument_of_the_file(tmp_path, image, capsys):
    save_row(tmp_path / "w.pth", None, MODEL_CONFIG='{"gain": 5}')
    arguments = ["-i", image, "-o", tmp_path / "out", "--weights", tmp_path / "w.pth"]
    model = "MODEL=tests.test_predict.make_row"
    assert call(*arguments, model) == 2
    assert "give each of them yourself, as MODEL_CONFIG.gain=" in capsys.readouterr().err
    assert call(*arguments, model, "MODEL_CONFIG.gain=3") == 0
    assert np.load(tmp_path / "out" / "a.npy").tolist() == [0, 60, 30]


def test_names_that_a_spreadsheet_would_run_are_disarmed(tmp_path, image, monkeypatch):
    arguments = save_row(tmp_path / "w.pth", "multiclass", CLASSES=["=a()", "@b", "c"])
    monkeypatch.chdir(image.parent)
    image.rename(image.with_name("=d.npy"))
    for _ in range(2):
        assert call("-i", "=d.npy", "-o", tmp_path / "out", *arguments) == 0
        header, row = read_table(tmp_path / "out")
        assert header == ["file", "class", "'=a()", "'@b", "c"]
        assert row[:2] == ["'=d.npy", "'@b"]


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_malicious_file_runs_nothing(tmp_path, image, capsys):
    marker = tmp_path / "marker"
    payload = Payload(f"touch {marker}")
    torch.save({"model": FirstRow().state_dict(), "meta": {"TASK": payload}}, tmp_path / "w.pth")
    arguments = ["--weights", tmp_path / "w.pth", "MODEL=tests.test_predict.FirstRow"]
    assert call("-i", image, "-o", tmp_path / "out", *arguments) == 2
    assert "expected tensors and plain data, got" in capsys.readouterr().err
    assert not marker.exists()
    assert not (tmp_path / "out").exists()
    pickle.loads(pickle.dumps(payload))  # the payload does work
    assert marker.exists()


def test_a_damaged_file_is_refused(tmp_path, weights, image, capsys):
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert call("-i", image, "-o", tmp_path / "out", "--weights", weights) == 2
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
