import csv
import functools
import hashlib
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import predict
import train
from config.codec import decode_config, encode_config, to_yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "experiments").glob("[!_]*.py"))}
# networks that learn nothing in seconds need no weights, and small pictures no workers
TINY_CSV = [
    "EPOCHS=1",
    "DATA_LOADER_CONFIG.batch_size=8",
    "DATA_LOADER_CONFIG.num_workers=0",
    "PREPROCESS.short_side=36",
    "PREPROCESS.crop=[32, 32]",
    "MODEL_CONFIG.weights=None",
    "MODEL_CONFIG.name=mobilenet_v3_small",
]
TINY = {
    "scenes": [
        "EPOCHS=2",
        *(f"{part}_DATASET_CONFIG.n_scenes=5" for part in ("TRAIN", "VAL", "TEST")),
        *(f"{part}_DATASET_CONFIG.size_px=16" for part in ("TRAIN", "VAL", "TEST")),
        "DATA_LOADER_CONFIG.batch_size=2",
        "MODEL_CONFIG.bulk_ch=2",
    ],
    "digits": ["EPOCHS=1", "DATA_LOADER_CONFIG.batch_size=128", "MODEL_CONFIG.bulk_ch=2"],
    "features": ["EPOCHS=1", "DATA_LOADER_CONFIG.batch_size=256", "MODEL_CONFIG.bulk_ch=2"],
    "membrane": ["EPOCHS=2", "MODEL_CONFIG.bulk_ch=1", "MODEL_CONFIG.n_recursions=1"],
    "multiclass_csv": TINY_CSV,
    "multilabel_csv": TINY_CSV,
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Make a small data set for each experiment that expects files, with the names it expects.

    Those of tables have a folder of the experiment's name; see `run`.
    """
    folder = tmp_path_factory.mktemp("data")
    write_slices(folder)
    write_tables(folder / "multiclass_csv", "label", lambda i: ["ant", "bee", "cat"][i % 3])
    write_tables(folder / "multilabel_csv", "big,red", lambda i: f"{i % 2},{i // 2 % 2}.0")
    return folder


def write_tables(folder, columns, label):
    """Write pictures of different sizes and the tables of training and test beside them."""
    draw = np.random.default_rng(0)
    for part, n in (("train", 18), ("test", 4)):
        (folder / "images" / part).mkdir(parents=True)
        lines = [f"image_path,{columns}"]
        for i in range(n):
            values = draw.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)
            Image.fromarray(values).save(folder / "images" / part / f"{i}.jpg")
            lines.append(f"{i}.jpg,{label(i)}")
        (folder / f"{part}_metadata.csv").write_text("\n".join(lines))


def write_slices(folder):
    """Write slices and labels with the names and the values of experiments/membrane.py."""
    rng = np.random.default_rng(0)
    for name in ("image", "label"):
        (folder / name).mkdir()
    for stem in ("0", "1", "5", "11", "17", "23", "29"):
        cells = np.kron(rng.random((16, 16)) < 0.8, np.ones((17, 17), bool))  # (272, 272)
        image = np.where(cells, 160, 60) + rng.integers(-20, 20, cells.shape)
        Image.fromarray(image.astype(np.uint8)).save(folder / "image" / f"{stem}.png")
        Image.fromarray(np.where(cells, 255, 0).astype(np.uint8)).save(
            folder / "label" / f"{stem}.png"
        )


def run(config, folder, data_dir, *arguments):
    """Train as the command line does; return the run's folder of logs and that of weights."""
    own = data_dir / config.stem
    data_dir = own if own.is_dir() else data_dir
    folders = [f"LOG_DIR={folder}/logs", f"WEIGHT_DIR={folder}/weights", f"DATA_DIR={data_dir}"]
    assert train.main([str(config), *folders, "NUM_THREADS=1", *arguments]) == 0
    (metrics,) = (folder / "logs").glob("*/metrics.csv")
    return metrics.parent, folder / "weights" / metrics.parent.name


def read_bits(log_dir, weight_dir):
    """Return the bytes of the metrics and a hash of the weights' values."""
    state = torch.load(weight_dir / "last.pth", weights_only=True)["model"]
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return (log_dir / "metrics.csv").read_bytes(), digest.hexdigest()


@pytest.mark.parametrize("name", FILES)
def test_every_routine_trains_it_to_the_same_bits(name, tmp_path, data_dir):
    for package in ("ignite", "fastai", "sklearn"):
        pytest.importorskip(package)
    bits = {}
    for routine in ("pytorch", "ignite", "fastai"):
        folder = tmp_path / routine
        dirs = run(FILES[name], folder, data_dir, *TINY[name], "--routine", routine)
        bits[routine] = read_bits(*dirs)
    assert bits["ignite"] == bits["pytorch"]
    assert bits["fastai"] == bits["pytorch"]


@pytest.mark.parametrize("name", FILES)
def test_the_captured_config_repeats_the_run(name, tmp_path, data_dir):
    first = run(FILES[name], tmp_path / "first", data_dir, *TINY[name])
    config = (first[0] / "config.yaml").rename(tmp_path / f"{name}.yaml")
    again = run(config, tmp_path / "again", data_dir)
    assert read_bits(*again) == read_bits(*first)


def comparable(value):
    """Return a value in which equal partials are equal, as two functools.partial never are."""
    if isinstance(value, functools.partial):
        return ("partial", value.func, value.args, comparable(value.keywords))
    if isinstance(value, dict):
        return {name: comparable(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(comparable(part) for part in value)
    return value


@pytest.mark.parametrize("name", FILES)
def test_text_holds_the_whole_config(name):
    config = importlib.import_module(f"experiments.{name}").train_config
    plain, lost = encode_config(config)
    assert lost == []
    assert comparable(decode_config(to_yaml(plain))) == comparable(config)


def read_column(log_dir, name):
    with (log_dir / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_digits_are_read_by_the_end(tmp_path, data_dir):
    pytest.importorskip("sklearn")
    log_dir, _ = run(FILES["digits"], tmp_path, data_dir)
    accuracy = read_column(log_dir, "val_accuracy")
    assert len(accuracy) == 15
    assert accuracy[-1] >= 0.97


@pytest.mark.slow
def test_water_and_buildings_are_found_by_the_end(tmp_path, data_dir):
    log_dir, _ = run(FILES["scenes"], tmp_path, data_dir)
    f1, loss = read_column(log_dir, "val_f1"), read_column(log_dir, "train_loss")
    assert f1[0] < 0.7
    assert f1[-1] > 0.95
    assert loss[-1] < loss[0] / 5


@pytest.mark.parametrize(
    ("name", "classes"),
    [("multiclass_csv", ["ant", "bee", "cat"]), ("multilabel_csv", ["big", "red"])],
)
def test_a_table_says_what_the_classes_are(name, classes, tmp_path, data_dir):
    pytest.importorskip("torchvision")
    log_dir, weight_dir = run(FILES[name], tmp_path, data_dir, *TINY[name])
    config = decode_config((log_dir / "config.yaml").read_text(encoding="utf-8"))
    meta = torch.load(weight_dir / "best.pth", weights_only=True)["meta"]
    assert config["CLASSES"] == meta["CLASSES"] == classes
    assert config["MODEL_CONFIG"]["num_classes"] == len(classes)
    picture = data_dir / name / "images" / "test" / "3.jpg"
    place = ["-o", str(tmp_path / "out"), "--weights", str(weight_dir / "best.pth")]
    assert predict.main(["-i", str(picture), *place, "DEVICE=cpu"]) == 0


def test_slices_held_out_are_not_trained_on(data_dir):
    config = importlib.import_module("experiments.membrane").train_config
    names = {}
    for part in ("TRAIN", "VAL"):
        arguments = {**config[f"{part}_DATASET_CONFIG"], "root": data_dir}
        names[part] = config[f"{part}_DATASET"](task=config["TASK"], **arguments).names
    assert names["TRAIN"] == ["0", "1"]
    assert sorted(names["VAL"], key=int) == ["5", "11", "17", "23", "29"]


def write_pictures(folder):
    """Pictures of different sizes and masks of 0 and 255, and arrays of 4 bands with 5 classes."""
    draw = np.random.default_rng(0)
    for name in ("img", "ann", "x", "y"):
        (folder / name).mkdir()
    for i in range(5):
        mask = np.zeros((260 + i, 270 - i), np.uint8)
        mask[50:150, 60:120] = 255
        noise = draw.integers(0, 90, (*mask.shape, 3)).astype(np.uint8)
        Image.fromarray(noise + mask[..., None] // 3).save(folder / "img" / f"a{i}.jpg")
        Image.fromarray(mask).save(folder / "ann" / f"a{i}.png")
        np.save(folder / "x" / f"{i}.npy", draw.normal(size=(256, 256, 4)).astype(np.float32))
        np.save(folder / "y" / f"{i}.npy", draw.integers(0, 5, (256, 256)).astype(np.uint8))


@pytest.mark.parametrize("example", [0, 1], ids=["pictures", "4 bands, 5 classes"])
def test_three_lines_of_membrane_make_it_ones_own(example, tmp_path):
    source = (ROOT / "experiments" / "membrane.py").read_text(encoding="utf-8")
    lines = re.findall(r"^    ((?:slices|look|n_bands, .*) = .*)$", source.split('"""')[1], re.M)
    changed = source
    for line in lines[3 * example : 3 * example + 3]:
        name = re.escape(line.partition(" = ")[0])
        changed, n = re.subn(rf"(?m)^{name} = .*$", lambda _, line=line: line, changed)
        assert n == 1
    (tmp_path / "mine.py").write_text(changed, encoding="utf-8")
    write_pictures(tmp_path)
    small = ["EPOCHS=1", "MODEL_CONFIG.bulk_ch=2", "NUM_THREADS=1", "PROGRESS=False", "DEVICE=cpu"]
    place = [f"{name}={tmp_path / name}" for name in ("LOG_DIR", "WEIGHT_DIR")]
    config = [str(tmp_path / "mine.py"), f"DATA_DIR={tmp_path}", *place, *small]
    assert train.main(config) == 0
