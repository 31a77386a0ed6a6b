"""Every experiment, made small: trained, resumed, repeated and predicted under every routine."""

import csv
import functools
import hashlib
import importlib
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import predict
import run_prediction
import train
from config.codec import decode_config, encode_config, to_yaml
from config.load import load_config
from models import MODELS
from tests import small_data
from tests.test_training.common import ROUTINES
from training.run import Run

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "experiments").glob("[!_]*.py"))}
# networks that learn nothing in seconds need no weights, and small pictures no workers
SMALL_NET = ["MODEL_CONFIG.weights=None", "MODEL_CONFIG.name=mobilenet_v3_small"]
SMALL_BATCH = ["EPOCHS=1", "DATA_LOADER_CONFIG.batch_size=8", "DATA_LOADER_CONFIG.num_workers=0"]
SMALL_LOOK = ["PREPROCESS.short_side=36", "PREPROCESS.crop=[32, 32]"]
TINY_CSV = [*SMALL_BATCH, *SMALL_LOOK, *SMALL_NET]
TINY = {
    "cifar10": [
        *SMALL_BATCH,
        *SMALL_NET[1:],
        "MODEL_CONFIG.small_images=False",
        *(f"{part}_DATASET_CONFIG.holdout=0.1" for part in ("TRAIN", "VAL")),
    ],
    "scenes": [
        "EPOCHS=2",
        *(f"{part}_DATASET_CONFIG.n_scenes=5" for part in ("TRAIN", "VAL", "TEST")),
        *(f"{part}_DATASET_CONFIG.size_px=16" for part in ("TRAIN", "VAL", "TEST")),
        "DATA_LOADER_CONFIG.batch_size=2",
        "MODEL_CONFIG.bulk_ch=2",
    ],
    "digits": ["EPOCHS=1", "DATA_LOADER_CONFIG.batch_size=512", "MODEL_CONFIG.bulk_ch=2"],
    "features": ["EPOCHS=1", "DATA_LOADER_CONFIG.batch_size=512", "MODEL_CONFIG.bulk_ch=2"],
    "imagenet": [
        *TINY_CSV,
        "TRAIN_DATASET_CONFIG.transform=light",  # a crop of 176 is read in a test of its own
    ],
    "metric_learning": [
        *("EPOCHS=2", "TRAIN_DATASET_CONFIG.last=20", "LOSS_CONFIG.num_classes=20"),
        *("VAL_DATASET_CONFIG.last=104", "MODEL_CONFIG.bulk_ch=2"),
    ],
    "membrane": ["EPOCHS=2", "MODEL_CONFIG.bulk_ch=1", "MODEL_CONFIG.n_recursions=1"],
    "mnist": [*SMALL_BATCH[:1], "DATA_LOADER_CONFIG.num_workers=0"],
    "multiclass_csv": TINY_CSV,
    "multilabel_csv": TINY_CSV,
    "pets": TINY_CSV,
}
# of which run_prediction.py reads the validation; of the others predict.py a file
PICTURES = {
    "imagenet": "val/ant/0.JPEG",
    "membrane": "image/5.png",
    "multiclass_csv": "images/test/3.jpg",
    "multilabel_csv": "images/test/3.jpg",
    "pets": "pets/oxford-iiit-pet/images/Birman_0.jpg",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Make a small data set for each experiment that expects files, in a folder of its name."""
    folder = tmp_path_factory.mktemp("data")
    small_data.write_slices(folder / "membrane")
    small_data.write_tables(folder / "multiclass_csv", "label", lambda i: "abc"[i % 3])
    small_data.write_tables(folder / "multilabel_csv", "big,red", write_flags)
    small_data.write_class_folders(folder / "imagenet")
    small_data.write_mnist(folder / "mnist" / "mnist")
    small_data.write_pets(folder / "pets" / "pets")
    sums = small_data.write_cifar(folder / "cifar10" / "cifar10")
    datasets = pytest.importorskip("torchvision.datasets")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sums.items():
            patch.setattr(datasets.CIFAR10, name, value)
        yield folder


def write_flags(i):
    return f"{i % 2},{i // 2 % 2}.0"


def run(config, folder, data_dir, *arguments, code=0):
    """Train as the command line does; return the run's folder of logs and that of weights."""
    folders = [f"LOG_DIR={folder}/logs", f"WEIGHT_DIR={folder}/weights"]
    source = [] if config is None else [str(config)]
    words = [*source, *folders, f"DATA_DIR={data_dir}", *arguments]
    assert train.main(words) == code
    (text,) = (folder / "logs").glob("*/config.yaml")
    return text.parent, folder / "weights" / text.parent.name


def read_bits(log_dir, weight_dir):
    """Return the bytes of the metrics and a hash of the weights' values."""
    state = torch.load(weight_dir / "last.pth", weights_only=True)["model"]
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return (log_dir / "metrics.csv").read_bytes(), digest.hexdigest()


def stop_and_go_on(config, folder, data_dir, first, second, *arguments):
    """Stop a run after its first batch under one routine, go on under another; return its bits."""
    begin_batch = Run.begin_batch

    def stop(self):
        if (self.position.epoch, self.position.batch) == (0, 0):
            signal.raise_signal(signal.SIGTERM)  # the update ends first
        begin_batch(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "begin_batch", stop)
        log_dir, _ = run(config, folder, data_dir, "--routine", first, *arguments, code=143)
    assert not (log_dir / "metrics.csv").exists()
    return read_bits(*run(None, folder, data_dir, "--resume", "latest", "--routine", second))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_dir):
    """Return the folders of the unbroken run of an experiment under raw PyTorch, trained once."""

    @functools.cache
    def train_once(name):
        folder = tmp_path_factory.mktemp(name)
        return run(FILES[name], folder, data_dir / name, *TINY[name], "NUM_THREADS=1")

    return train_once


def find_config(log_dir, folder):
    """Copy the captured config to a place of its own, so that nothing else of the run is seen."""
    folder.mkdir()
    path = folder / "captured.yaml"
    path.write_bytes((log_dir / "config.yaml").read_bytes())
    return path


@pytest.mark.parametrize("name", FILES)
def test_the_captured_config_gives_the_same_bits_under_every_routine(
    name, whole, tmp_path, data_dir
):
    for package in (*ROUTINES[1:], "sklearn"):
        pytest.importorskip(package)
    config = find_config(whole(name)[0], tmp_path / "config")
    for routine in ROUTINES:
        folders = run(config, tmp_path / routine, data_dir / name, "--routine", routine)
        assert read_bits(*folders) == read_bits(*whole(name)), routine


@pytest.mark.parametrize("name", FILES)
def test_a_stopped_run_goes_on_to_the_same_bits(name, whole, tmp_path, data_dir):
    first = list(FILES).index(name)  # all pairs of neighbours have their turn
    pair = ROUTINES[first % 4], ROUTINES[(first + 1) % 4]
    for package in ("sklearn", *{*pair} - {"pytorch"}):
        pytest.importorskip(package)
    config = find_config(whole(name)[0], tmp_path / "config")
    bits = stop_and_go_on(config, tmp_path / "run", data_dir / name, *pair)
    assert bits == read_bits(*whole(name))


@pytest.mark.slow  # the same for all pairs of neighbours
@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("name", FILES)
def test_a_stopped_run_goes_on_under_each_routine(name, first, whole, tmp_path, data_dir):
    pair = ROUTINES[first], ROUTINES[(first + 1) % 4]
    config = find_config(whole(name)[0], tmp_path / "config")
    bits = stop_and_go_on(config, tmp_path / "run", data_dir / name, *pair)
    assert bits == read_bits(*whole(name))


@pytest.mark.parametrize("name", FILES)
def test_what_was_trained_predicts(name, whole, tmp_path, data_dir):
    log_dir, weight_dir = whole(name)
    if name in PICTURES:
        picture = str(data_dir / name / PICTURES[name])
        where = ["-o", str(tmp_path / "out"), "--weights", str(weight_dir / "best.pth")]
        assert predict.main(["-i", picture, *where, "DEVICE=cpu"]) == 0
        assert list((tmp_path / "out").rglob("*.npy"))
        return
    # the validation again: its metrics have the bits that the training wrote
    config = decode_config((log_dir / "config.yaml").read_text(encoding="utf-8"))
    keys = ("METRICS", "LOSS", "LOSS_CONFIG", "DATA_LOADER_CONFIG", "MIXED_PRECISION")
    keys += ("CHANNELS_LAST", "NUM_THREADS", "SEED", "SAMPLED_FEATURES")
    if config["MODEL"] not in MODELS.values():
        keys += ("MODEL",)
    about = {key: config[key] for key in keys if key in config}
    about |= {"WEIGHTS": str(weight_dir / "last.pth"), "DEVICE": "cpu", "PROGRESS": False}
    about |= {"DATASET": config["VAL_DATASET"], "DATASET_CONFIG": config["VAL_DATASET_CONFIG"]}
    if any(True for _ in parameters(config)):
        del about["LOSS"], about["LOSS_CONFIG"]
    _, folders = load_config(str(FILES[name]), [f"DATA_DIR={data_dir / name}"])
    result = run_prediction.predict(None, about, folders | {"LOG_DIR": tmp_path})
    row = read_rows(log_dir / "metrics.csv")[-1]
    assert result["metrics"] and all(
        repr(value) == row[f"val_{metric}"] for metric, value in result["metrics"].items()
    )


def parameters(config):
    """Return the weights of the loss, which no weights file holds."""
    loss = config["LOSS"]
    loss = loss(**config.get("LOSS_CONFIG", {})) if isinstance(loss, type) else loss
    return loss.parameters() if isinstance(loss, torch.nn.Module) else ()


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


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_column(log_dir, name):
    return [float(row[name]) for row in read_rows(log_dir / "metrics.csv")]


def test_digits_are_read_by_the_end(tmp_path, data_dir):
    pytest.importorskip("sklearn")
    log_dir, _ = run(FILES["digits"], tmp_path, data_dir)
    accuracy = read_column(log_dir, "val_accuracy")
    assert len(accuracy) == 15
    assert accuracy[-1] >= 0.97


@pytest.mark.slow
def test_signs_never_seen_are_found_by_the_end(tmp_path, data_dir):
    pytest.importorskip("pytorch_metric_learning")
    log_dir, _ = run(FILES["metric_learning"], tmp_path, data_dir)
    found = read_column(log_dir, "val_cmc_1")
    assert found[0] < 0.6
    assert found[-1] > 0.9


@pytest.mark.slow
def test_water_and_buildings_are_found_by_the_end(tmp_path, data_dir):
    log_dir, _ = run(FILES["scenes"], tmp_path, data_dir)
    f1, loss = read_column(log_dir, "val_f1"), read_column(log_dir, "train_loss")
    assert f1[0] < 0.7
    assert f1[-1] > 0.95
    assert loss[-1] < loss[0] / 5


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("multiclass_csv", ["a", "b", "c"]),
        ("multilabel_csv", ["big", "red"]),
        ("imagenet", ["ant", "bee", "cat"]),
    ],
)
def test_the_data_say_what_the_classes_are(name, classes, whole):
    log_dir, weight_dir = whole(name)
    config = decode_config((log_dir / "config.yaml").read_text(encoding="utf-8"))
    meta = torch.load(weight_dir / "best.pth", weights_only=True)["meta"]
    assert config["CLASSES"] == meta["CLASSES"] == classes
    assert config["MODEL_CONFIG"]["num_classes"] == len(classes)


@pytest.mark.parametrize("asked", ["species", "outline"])
def test_one_line_of_pets_asks_for_something_else(asked, tmp_path, data_dir):
    source = FILES["pets"].read_text(encoding="utf-8")
    changed, n = re.subn(r'(?m)^asked = "breed"$', f'asked = "{asked}"', source)
    assert n == 1
    (tmp_path / "mine.py").write_text(changed, encoding="utf-8")
    tiny = [*SMALL_BATCH, *SMALL_NET, *SMALL_LOOK]
    if asked == "outline":
        tiny = [*SMALL_BATCH, SMALL_NET[0], "PREPROCESS.size=[32, 32]"]
    log_dir, weight_dir = run(tmp_path / "mine.py", tmp_path / "run", data_dir / "pets", *tiny)
    rows = read_rows(log_dir / "metrics.csv")
    assert {"val_iou"} <= rows[0].keys() if asked == "outline" else {"val_f1"} <= rows[0].keys()
    meta = torch.load(weight_dir / "best.pth", weights_only=True)["meta"]
    assert len(meta["CLASSES"]) == {"species": 2, "outline": 3}[asked]


def test_pictures_of_imagenet_are_cropped_at_random_in_training_alone(data_dir):
    module = importlib.import_module("experiments.imagenet")
    shapes = {}
    for part in ("TRAIN", "VAL"):
        arguments = dict(module.train_config[f"{part}_DATASET_CONFIG"])
        root = data_dir / "imagenet" / arguments.pop("root")
        dataset = module.ClassFolder(
            root, preprocess=module.train_config["PREPROCESS"], **arguments
        )
        shapes[part] = {tuple(dataset[i][0].shape) for i in range(len(dataset))}
        assert all(x.isfinite().all() for x, _ in (dataset[i] for i in range(3)))
    assert shapes == {"TRAIN": {(3, 176, 176)}, "VAL": {(3, 224, 224)}}


def test_slices_held_out_are_not_trained_on(data_dir):
    config = importlib.import_module("experiments.membrane").train_config
    names = {}
    for part in ("TRAIN", "VAL"):
        arguments = {**config[f"{part}_DATASET_CONFIG"], "root": data_dir / "membrane"}
        names[part] = config[f"{part}_DATASET"](task=config["TASK"], **arguments).names
    assert names["TRAIN"] == ["0", "1", "2"]
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
