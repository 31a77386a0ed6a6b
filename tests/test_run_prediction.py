import csv
import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import predict
import run_prediction
import train as train_script
from config.config import ROOT_PATH
from config.errors import ConfigError
from config.keys import PREDICT_KEYS, TABLES
from tests.test_training.common import Pictures, Stream, folders, make_config, train
from utils.data import InputFolder, PairedFolder, TableRows
from utils.data.files import write_array
from utils.metrics import accuracy, f1, iou
from utils.torchutils import save_weights

torch.set_num_threads(1)

VAL = functools.partial(Pictures, n=19, seed=1, augment=False)


# ---- networks and datasets of which everything is known


class FirstRow(nn.Module):
    """Gives the first row of the picture as logits: (N, C, H, W) to (N, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x[:, 0, 0]


class Samples(torch.utils.data.Dataset):
    """Samples of a list; one that is an exception is raised."""

    def __init__(self, samples, **attributes):
        self.samples = samples
        vars(self).update(attributes)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        if isinstance(self.samples[index], BaseException):
            raise self.samples[index]
        return self.samples[index]


def row(*values):
    """Return a picture (1, 1, W) of which FirstRow makes these logits."""
    return torch.tensor([[values]], dtype=torch.float32)


def save_row(path: Path, task: str | None, **meta) -> dict:
    """Save the weights of FirstRow; return the keys that name both."""
    save_weights(path, FirstRow().state_dict(), {"TASK": task} | meta)
    return {"WEIGHTS": str(path), "MODEL": FirstRow, "DEVICE": "cpu", "PROGRESS": False}


def read_rows(result: dict) -> list[dict[str, str]]:
    with open(result["paths"]["samples"], newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def run(tmp_path: Path, dataset, **config) -> dict:
    return run_prediction.predict(dataset, config, folders(tmp_path))


def test_the_classes_of_the_weights_are_handed_to_a_dataset_that_takes_them(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("a,b,kind\n1,2,dog\n4,3,dog\n")
    save_weights(tmp_path / "w.pth", {}, {"TASK": "multiclass", "CLASSES": ["cat", "dog"]})
    config = {"WEIGHTS": str(tmp_path / "w.pth"), "MODEL": nn.Identity, "DEVICE": "cpu"}
    config |= {"DATASET": TableRows, "DATASET_CONFIG": {"path": "rows.csv", "target": "kind"}}
    rows = read_rows(run(tmp_path, None, **config))
    assert [row["target"] for row in rows] == ["dog", "dog"]
    assert [row["prediction"] for row in rows] == ["dog", "cat"]


# ---- the metrics of the training


def bias_of_errors(pred, target):
    """Give one number for a set, which is no mean over its parts."""
    return (pred.argmax(1) - target).float().std(correction=0)


class Mean:
    """A metric that keeps its sums itself."""

    def reset(self):
        self.total, self.n = 0.0, 0

    def update(self, pred, target):
        self.total += pred.sum().item()
        self.n += len(pred)

    def compute(self):
        return self.total / self.n


METRICS = {"accuracy": accuracy, "f1": f1, "bias": bias_of_errors, "mean": Mean}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"CHANNELS_LAST": True},
        {"MIXED_PRECISION": True},
        {"DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": 1}},
        {"VAL_DATASET": functools.partial(Pictures, n=19, seed=1), "SEED": 5},  # it draws
        {"VAL_DATASET": functools.partial(Stream, n=19, seed=1, augment=False)},
        {"EMA": 0.9},
    ],
    ids=lambda changes: next(iter(changes), "plain"),
)
def test_metrics_are_those_that_the_training_logged(tmp_path, changes):
    result = train("pytorch", tmp_path, METRICS=METRICS, **changes)
    config = make_config(METRICS=METRICS, **changes)
    same = {name: config[name] for name in config if name in PREDICT_KEYS}
    del same["MODEL_CONFIG"]
    same |= {"WEIGHTS": result["paths"]["best"], "DATASET": config["VAL_DATASET"]}
    found = run(tmp_path, None, **same)
    logged = {name: result["best_metrics"][f"val_{name}"] for name in ("loss", *METRICS)}
    assert found["metrics"] == logged
    assert json.loads(Path(found["paths"]["metrics"]).read_text()) == logged
    with open(Path(found["paths"]["output_dir"], "metrics.csv"), newline="") as file:
        (line,) = csv.DictReader(file)
    assert {name: float(text) for name, text in line.items()} == logged
    table = read_rows(found)
    assert found["n_samples"] == len(table) == 19
    columns = ["index", "name", "output", "target", "prediction", "confidence"]
    assert list(table[0]) == [*columns, "loss", "accuracy", "f1", "bias"]


class Layout(nn.Conv2d):
    """Notes the memory format of input and weights."""

    seen: list[tuple[bool, bool]] = []

    def forward(self, x):
        parts = (x, self.weight)
        self.seen.append(tuple(p.is_contiguous(memory_format=torch.channels_last) for p in parts))
        return super().forward(x).mean((2, 3))


@pytest.mark.parametrize("wanted", [False, True])
def test_the_memory_format_is_that_of_the_training(tmp_path, monkeypatch, wanted):
    """The bits of so small a network do not show it."""
    monkeypatch.setattr(Layout, "seen", [])
    config = json.dumps({"in_channels": 2, "out_channels": 2, "kernel_size": 2})
    meta = {"TASK": "regression", "MODEL_CONFIG": config}
    save_weights(tmp_path / "w.pth", Layout(2, 2, 2).state_dict(), meta)
    about = {"MODEL": Layout, "DEVICE": "cpu", "CHANNELS_LAST": wanted}
    run(tmp_path, Samples([torch.zeros(2, 3, 3)]), WEIGHTS=tmp_path / "w.pth", **about)
    assert Layout.seen == [(wanted, wanted)]


def test_files_are_predicted_as_by_predict_py(tmp_path, capsys):
    """Channels last on disk, one rule for both; PREPROCESS and TASK come from the weights."""
    rng = np.random.default_rng(0)
    for i in range(3):
        for part in ("x", "y"):
            (tmp_path / "data" / "val" / part / "deep").mkdir(parents=True, exist_ok=True)
        x = rng.integers(0, 256, (3, 5, 3), dtype=np.uint8)  # three rows as channels would fit, too
        name = f"deep/{i}.png" if i else "0.png"
        write_array(tmp_path / "data" / "val" / "x" / name, x)
        write_array(tmp_path / "data" / "val" / "y" / name, (x[..., 0] > 90).astype(np.uint8))
    config = json.dumps({"in_channels": 3, "out_channels": 1, "kernel_size": 1})
    state = {"weight": torch.tensor([5.0, -1, 0.2]).reshape(1, 3, 1, 1), "bias": torch.zeros(1)}
    meta = {"MODEL": "torch.nn.Conv2d", "MODEL_CONFIG": config, "TASK": "binary_segmentation"}
    meta |= {"PREPROCESS": {"scale": 1 / 255, "mean": [0.5, 0.4, 0.3]}, "CLASSES": ["cell"]}
    save_weights(tmp_path / "w.pth", state, meta)
    one, many = tmp_path / "one", tmp_path / "many"
    arguments = ["-i", str(tmp_path / "data/val/x"), "-o", str(one)]
    assert predict.main([*arguments, "--weights", str(tmp_path / "w.pth"), "DEVICE=cpu"]) == 0
    found = run(
        tmp_path,
        None,
        WEIGHTS=tmp_path / "w.pth",
        DATASET=PairedFolder,
        DATASET_CONFIG={"root": "val"},
        METRICS=[iou],
        OUTPUT_DIR=many,
        DEVICE="cpu",
    )
    names = ["0.npy", "0.png", "classes.json"]
    names += [f"deep/{i}.{ending}" for i in (1, 2) for ending in ("npy", "png")]
    assert files_in(one) == files_in(many / "outputs") == names
    for name in names:
        assert (one / name).read_bytes() == (many / "outputs" / name).read_bytes()
    table = read_rows(found)
    assert list(table[0]) == ["index", "name", "output", "path", "confidence", "iou"]
    assert table[2]["path"] == str(tmp_path / "data/val/x/deep/2.png")
    assert [line["name"] for line in table] == ["0", "deep/1", "deep/2"]
    assert table[1]["output"] == "outputs/deep/1.npy"
    truth = [PairedFolder(tmp_path / "data/val")[i][1].numpy()[0] == 1 for i in range(3)]
    masks = [np.load(many / line["output"]) == 1 for line in table]
    for line, there, mask in zip(table, truth, masks, strict=True):
        assert float(line["iou"]) == (there & mask).sum() / (there | mask).sum()
    hits, either = (
        sum(part.sum() for part in parts)
        for parts in (
            [a & b for a, b in zip(truth, masks, strict=True)],
            [a | b for a, b in zip(truth, masks, strict=True)],
        )
    )
    assert found["metrics"] == {"iou": hits / either}
    about = {"DATASET": InputFolder, "DATASET_CONFIG": {"folder": "val/x"}, "DEVICE": "cpu"}
    found = run(tmp_path, None, WEIGHTS=tmp_path / "w.pth", OUTPUT_DIR=tmp_path / "x", **about)
    assert found["metrics"] == {} and files_in(tmp_path / "x" / "outputs") == names


# ---- a row of each sample

QUERY = {"label": torch.tensor(7), "gallery": torch.tensor(False)}


@pytest.mark.parametrize(
    ("task", "classes", "sample", "expected"),
    [
        ("multiclass", None, (row(0, 3, 1), torch.tensor(2)), ("2", "1", [0, 3, 1])),
        ("multiclass", ["a", "=b", "c"], (row(0, 3, 1), torch.tensor(0)), ("a", "'=b", [0, 3, 1])),
        ("binary", ["ship"], (row(2), torch.tensor([0.0])), ("not ship", "ship", [2])),
        ("multilabel", ["a", "b"], (row(1, -2), torch.tensor([1.0, 1])), ("a;b", "a", [1, -2])),
        ("multilabel", ["a"], (row(-1), torch.tensor([1.0])), ("a", "", [-1])),
        ("regression", None, (row(2, -1.5), torch.tensor([2.0, 0])), ("2.0;0.0", "2.0;-1.5", None)),
        ("embedding", None, (row(2, -1), torch.tensor(7)), ("7", "2.0;-1.0", None)),
        ("embedding", None, (row(2, -1), QUERY), ("7", "2.0;-1.0", None)),
        (None, None, (row(*[1] * 20), torch.tensor(7)), ("7", "", None)),
    ],
)
def test_target_and_prediction_by_task(tmp_path, task, classes, sample, expected):
    found = run(tmp_path, Samples([sample]), **save_row(tmp_path / "w.pth", task, CLASSES=classes))
    (line,) = read_rows(found)
    target, prediction, logits = expected
    assert (line["index"], line["name"], line["output"]) == ("0", "0", "outputs/0.npy")
    assert (line["target"], line["prediction"]) == (target, prediction)
    if logits is None:
        assert "confidence" not in line
        return
    shares = torch.tensor(logits, dtype=torch.float64)
    if task == "multiclass":
        confidence = shares.softmax(0).max()
    else:
        confidence = torch.maximum(shares.sigmoid(), 1 - shares.sigmoid()).mean()
    assert float(line["confidence"]) == pytest.approx(float(confidence), abs=1e-6)


def needs_two(pred, target):
    """Fail for a set of one."""
    assert len(pred) > 1
    return (pred.argmax(1) == target).float().mean()


def test_loss_and_metrics_of_each_sample_where_they_are_defined(tmp_path):
    x, y = [row(0, 3, 1), row(2, 0, 0), row(0, 0, 1)], [1, 1, 2]
    data = Samples(list(zip(x, map(torch.tensor, y), strict=True)))
    config = save_row(tmp_path / "w.pth", "multiclass") | {
        "LOSS": nn.CrossEntropyLoss,
        "LOSS_CONFIG": {"label_smoothing": 0.1},
        "METRICS": {"accuracy": accuracy, "two": needs_two},
        "DATA_LOADER_CONFIG": {"batch_size": 3},
    }
    found = run(tmp_path, data, **config)
    assert found["metrics"]["two"] == pytest.approx(2 / 3)
    table = read_rows(found)
    assert list(table[0])[-2:] == ["loss", "accuracy"]
    assert [float(line["accuracy"]) for line in table] == [1, 0, 1]
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    losses = [loss(x[i][0], torch.tensor([y[i]])).item() for i in range(3)]
    assert [float(line["loss"]) for line in table] == losses
    assert found["metrics"]["loss"] == pytest.approx(np.mean(losses))


# ---- datasets with and without targets


@pytest.mark.parametrize(
    ("samples", "attributes", "names"),
    [
        ([row(1), row(2)], {}, ["0", "1"]),
        ([(row(1),), (row(2),)], {}, ["0", "1"]),
        ([(row(1), "b"), (row(2), "a/c")], {}, ["b", "a/c"]),
        ([(row(1), 7), (row(2), 9)], {"has_targets": False}, ["7", "9"]),
        ([row(1), row(2)], {"names": ["p", "q"]}, ["p", "q"]),
        ([row(1), row(2)], {"names": ["a class", "and", "another"]}, ["0", "1"]),
        ([(row(1), "b"), (row(2), "b")], {}, ["b", "b"]),
    ],
)
def test_without_targets_there_are_outputs_alone(tmp_path, caplog, samples, attributes, names):
    config = save_row(tmp_path / "w.pth", "regression")
    config |= {"METRICS": [f1], "DATA_LOADER_CONFIG": {"batch_size": 2}}
    found = run(tmp_path, Samples(samples, **attributes), **config)
    assert found["metrics"] == {} and "metrics" not in found["paths"]
    assert "LOSS and METRICS need targets, and this dataset gives none" in caplog.text
    folder, table = Path(found["paths"]["output_dir"]), read_rows(found)
    assert [line["name"] for line in table] == names
    assert list(table[0]) == ["index", "name", "output", "prediction"]
    outputs = [np.load(folder / line["output"]) for line in table]
    assert np.array_equal(outputs, [1, 2])
    assert len(files_in(folder)) == 2 + 2


def test_samples_of_x_alone_are_joined_in_workers_too(tmp_path):
    data = Samples([row(i) for i in range(5)], deterministic=True)
    config = save_row(tmp_path / "w.pth", "regression")
    config["DATA_LOADER_CONFIG"] = {"batch_size": 2, "num_workers": 1}
    found = run(tmp_path, data, **config)
    assert [line["prediction"] for line in read_rows(found)] == ["0.0", "1.0", "2.0", "3.0", "4.0"]


class OfDict(nn.Module):
    """Takes a dict and reads one part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x["a"] * 2


def test_parts_of_samples_may_be_dicts(tmp_path):
    save_weights(tmp_path / "w.pth", OfDict().state_dict(), {"TASK": "regression"})
    samples = [({"a": torch.tensor([i + 0.5])}, {"b": torch.tensor(i)}) for i in range(3)]
    found = run(
        tmp_path,
        Samples(samples),
        WEIGHTS=str(tmp_path / "w.pth"),
        MODEL=OfDict,
        DEVICE="cpu",
        DATA_LOADER_CONFIG={"batch_size": 2},
        METRICS={"error": lambda pred, target: pred[:, 0] - target["b"]},
    )
    assert found["metrics"]["error"] == 2.0
    table = read_rows(found)
    assert "target" not in table[0]
    assert [(row["prediction"], float(row["error"])) for row in table] == [
        ("1.0", 1.0),
        ("3.0", 2.0),
        ("5.0", 3.0),
    ]


# ---- what is written where


def test_every_prediction_has_a_folder_of_its_own(tmp_path):
    config, data = save_row(tmp_path / "w.pth", None), Samples([row(1)])
    folder = tmp_path / "logs" / "predictions"
    for _ in range(2):
        run(tmp_path, data, **config, SESSION_NAME="../mine")
    assert len(list(folder.iterdir())) == 2
    assert all(path.name.split("_", 1)[1].startswith("..-mine") for path in folder.iterdir())
    given = tmp_path / "given"
    run(tmp_path, data, **config, OUTPUT_DIR=given, PREFIX="p_", SUFFIX="_s")
    names = ["config.yaml", "outputs/p_0_s.npy", "samples.csv"]
    assert files_in(given) == names
    with pytest.raises(ConfigError, match="OUTPUT_DIR: expected a new or empty folder, got"):
        run(tmp_path, data, **config, OUTPUT_DIR=given)
    assert files_in(given) == names
    with pytest.raises(ConfigError, match="OUTPUT_DIR: .*expected a folder or a free name, got"):
        run(tmp_path, data, **config, OUTPUT_DIR=given / "samples.csv" / "more")


def test_tables_alone(tmp_path):
    config = save_row(tmp_path / "w.pth", "multiclass")
    data = Samples([(row(1, 2), torch.tensor(1))])
    found = run(tmp_path, data, **config, METRICS=[accuracy], OUTPUTS=False)
    names = ["classes.csv", "config.yaml", "confusion.csv", "evaluation.json"]
    names += ["metrics.csv", "metrics.json", "samples.csv"]
    assert files_in(Path(found["paths"]["output_dir"])) == names
    assert "output" not in read_rows(found)[0]


def test_the_config_is_not_changed(tmp_path):
    config = save_row(tmp_path / "w.pth", None)
    before = dict(config)
    run(tmp_path, Samples([row(1)]), **config)
    assert config == before


# ---- what fails


def test_problems_are_told_together_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from utils.metrics import f1\n"
        "predict_config = {'DATASET': len, 'METRIC': [f1], 'EPOCHS': 3, 'SEED': -1,"
        " 'DATA_LOADER_CONFIG': {'batch': 3}, 'MODEL_CONFIG': {'ch_in': 3}}\n"
    )
    before = files_in(tmp_path)
    assert run_prediction.main([str(tmp_path / "mine.py"), f"LOG_DIR={tmp_path}/logs"]) == 2
    lines = capsys.readouterr().err.splitlines()
    wanted = [
        'predict_config["METRIC"]: expected a known key, got "METRIC". Did you mean "METRICS"?'
        " `python run_prediction.py --help` lists all keys.",
        'predict_config["EPOCHS"]: expected a known key',
        'predict_config["SEED"]: expected an integer from 0',
        'predict_config["WEIGHTS"]: expected the path of a file, got nothing. It is: weights file',
        'predict_config["MODEL"]: expected a class or a function, or None for MODEL_CONFIG',
        'predict_config["DATA_LOADER_CONFIG"]: expected one of batch_size',
    ]
    assert len(lines) == len(wanted)
    for line, text in zip(lines, wanted, strict=True):
        assert line.startswith(f"run_prediction.py: {text}")
    assert files_in(tmp_path) == before


def test_problems_of_what_the_config_names_are_told_together(tmp_path):
    config = save_row(tmp_path / "w.pth", "multiclass")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "a").touch()
    with pytest.raises(ConfigError) as caught:
        run(
            tmp_path,
            None,
            **config,
            DATASET=PairedFolder,
            DATASET_CONFIG={"root": "none"},
            LOSS=functools.partial,
            METRICS=[f1, f1],
            OUTPUT_DIR=tmp_path / "taken",
            PREFIX="a/",
        )
    wanted = ("PREFIX, SUFFIX: ", "OUTPUT_DIR: ", "LOSS_CONFIG: ", "DATASET: task", "DATASET: /")
    for text in (*wanted, "METRICS: expected one name"):
        assert any(line.startswith(text) for line in caught.value.problems), text
    assert files_in(tmp_path) == ["taken/a", "w.pth"]


def test_a_loss_with_weights_of_its_own_is_refused(tmp_path):
    config = save_row(tmp_path / "w.pth", "multiclass")
    data = Samples([(row(1, 2), torch.tensor(1))])
    with pytest.raises(ConfigError, match="LOSS: expected one without weights of its own"):
        run(tmp_path, data, **config, LOSS=nn.Bilinear(1, 1, 1))


@pytest.mark.parametrize(
    ("task", "samples", "problem"),
    [
        ("multiclass", [(row(1, 2), torch.tensor(2))], r"target: expected classes 0\.\.1 .* got 2"),
        ("binary", [row(1, 2)], r"samples 0\.\.0: TASK: expected outputs \(1, 1\) for binary"),
        ("regression", [row(np.nan)], r"samples 0\.\.0: expected numbers from the network"),
        ("regression", [ValueError("a.png: damaged")], "a.png: damaged"),
        ("regression", [torch.tensor(1.0)], "first batch: IndexError: "),
        ("multiclass", [row(1, 2, 3)], "CLASSES: expected 3 names for multiclass"),
    ],
)
def test_what_the_first_batch_shows_is_told_before_anything_is_written(
    tmp_path, task, samples, problem
):
    config = save_row(tmp_path / "w.pth", task, CLASSES=["a", "b"])
    with pytest.raises(ConfigError, match=f"^DATASET, .*{problem}"):
        run(tmp_path, Samples(samples), **config)
    assert files_in(tmp_path) == ["w.pth"]


CASES = [
    (ValueError("b.png: damaged"), 1, "b.png: damaged"),
    (row(1, 2, 3), 1, "expected 2 outputs, as of the first input, got 3"),
    (row(np.nan, 0), 1, "samples 1..1: expected numbers from the network, got NaN"),
    (KeyboardInterrupt(), 130, "interrupted"),
]
FAILING: dict[str, Samples] = {}


def get_failing():
    """Make the dataset of the test that runs."""
    return FAILING["data"]


@pytest.mark.parametrize(("sample", "code", "line"), CASES, ids=[line for _, _, line in CASES])
def test_what_fails_later_leaves_the_rows_so_far(tmp_path, capsys, sample, code, line):
    FAILING["data"] = Samples([row(1, 2), sample])
    save_row(tmp_path / "w.pth", "multiclass")
    place, name = [f"{kind}_DIR={tmp_path}/logs" for kind in ("LOG", "WEIGHT")], __name__
    config = ["DATASET=get_failing", "MODEL=FirstRow"]
    config = [text.replace("=", f"={name}.") for text in config]
    (tmp_path / "mine.py").write_text("predict_config = {}\n")
    out = tmp_path / "out"
    more = [f"WEIGHTS={tmp_path}/w.pth", f"OUTPUT_DIR={out}", "DEVICE=cpu", *place]
    assert run_prediction.main([str(tmp_path / "mine.py"), *config, *more]) == code
    assert line in capsys.readouterr().err
    assert files_in(out) == ["config.yaml", "outputs/0.npy", "samples.csv"]
    assert len((out / "samples.csv").read_text().splitlines()) == 2


def test_one_config_at_a_time(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_prediction.main(["a.py", "b.py"])
    assert stopped.value.code == 2
    assert "expected one CONFIG, got a.py b.py" in capsys.readouterr().err


def test_a_file_without_the_dict_names_an_example(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("train_config = {}\n")
    assert run_prediction.main([str(tmp_path / "mine.py")]) == 2
    said = capsys.readouterr().err
    assert "a dict `predict_config`, got none. Copy experiments/prediction/scenes.py" in said


# ---- the table of keys, the command line and the example


@pytest.mark.parametrize("name", PREDICT_KEYS)
def test_row_of_a_key_is_whole(name):
    key = PREDICT_KEYS[name]
    assert key.name == name == name.upper()
    assert key.meaning and not key.meaning.endswith(".")
    assert key.kind.accepts(key.default) == (name not in TABLES["predict_config"].required)


TINY = [
    "EPOCHS=1",
    *(f"{part}_DATASET_CONFIG.n_scenes=5" for part in ("TRAIN", "VAL", "TEST")),
    *(f"{part}_DATASET_CONFIG.size_px=16" for part in ("TRAIN", "VAL", "TEST")),
    "DATA_LOADER_CONFIG.batch_size=2",
    "MODEL_CONFIG.bulk_ch=2",
    "NUM_THREADS=1",
    "DEVICE=cpu",
    "PROGRESS=False",
]
OWN = ["DATASET_CONFIG.n_scenes=5", "DATASET_CONFIG.size_px=16", *TINY[-5:]]


def test_the_example_gives_the_test_metrics_of_the_newest_run(tmp_path):
    """And the captured config repeats it."""
    place = [f"LOG_DIR={tmp_path}/logs", f"WEIGHT_DIR={tmp_path}/weights"]
    assert train_script.main([*TINY, *place]) == 0
    (result,) = (tmp_path / "logs").glob("*_scenes/result.json")
    logged = json.loads(result.read_text())["test_metrics"]
    own = [text for text in OWN if not text.startswith("MODEL_CONFIG")]
    command = [sys.executable, str(ROOT_PATH / "run_prediction.py"), *own, *place]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (tmp_path / "logs" / "predictions").iterdir()
    assert f"5 samples predicted, outputs in {folder}" in done.stdout
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {f"test_{name}": value for name, value in metrics.items()} == logged
    assert len(files_in(folder / "outputs")) == 5 * 2 + 1
    again = tmp_path / "again"
    assert run_prediction.main([str(folder / "config.yaml"), f"OUTPUT_DIR={again}", *place]) == 0
    for name in ("metrics.json", "samples.csv", "outputs/0.npy"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
