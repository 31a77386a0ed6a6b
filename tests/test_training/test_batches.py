"""How batches are made is the same under every routine, and after a stop."""

import functools
import itertools
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from config.errors import ConfigError
from config.load import load_config
from tests.test_training.common import (
    CLASSES,
    ROUTINES,
    Net,
    Pictures,
    Stream,
    bits,
    folders,
    make_config,
    rows,
    train,
)
from tests.test_training.test_resume import Stop, resume, stop
from training import pytorch_training
from training.callbacks import Callback, Ledger
from training.remedies import find_remedy
from training.resume import find_run
from training.run import Run
from utils.data.files import read_array
from utils.data.loading import make_loader

v2 = pytest.importorskip("torchvision.transforms.v2")


def swap(x, y, share=0.5):
    """Exchange the first samples of a batch, as chance has it, by all three generators."""
    n = int(share * len(x))
    if random.random() + np.random.rand() + torch.rand(()).item() < 1.5:
        x = torch.cat([x[:n].flip(0), x[n:]])
        y = torch.cat([y[:n].flip(0), y[n:]])
    return x, y


def leave(x, y):
    return x, y


MIXED = {"CLASSES": ["a", "b", "c"]}
CONFIGS = {
    "balanced": {"DATA_LOADER_CONFIG": {"batch_size": 8, "balanced": True}},
    "per_class": {"DATA_LOADER_CONFIG": {"batch_size": 8, "per_class": 4, "num_workers": 2}},
    "mixup": {
        **MIXED,
        "BATCH_TRANSFORM": v2.MixUp,
        "BATCH_TRANSFORM_CONFIG": {"alpha": 0.2},
        "ACCUMULATE": 2,
    },
    "mixup or cutmix": {
        **MIXED,
        "BATCH_TRANSFORM": v2.RandomChoice,
        "BATCH_TRANSFORM_CONFIG": {"transforms": [partial(v2.MixUp, alpha=0.5), v2.CutMix]},
        "DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": 2},
    },
    "a function": {"BATCH_TRANSFORM": swap, "BATCH_TRANSFORM_CONFIG": {"share": 0.8}},
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The bits of the raw routine, trained once per config."""

    @functools.cache
    def train_once(name):
        return bits(train("pytorch", tmp_path_factory.mktemp("raw"), **CONFIGS.get(name, {})))

    return train_once


@pytest.mark.parametrize("routine", ROUTINES[1:])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_routine_gives_the_bits_of_the_raw_loop(name, routine, reference, tmp_path):
    assert bits(train(routine, tmp_path, **CONFIGS[name])) == reference(name)
    assert reference(name) != reference("as ever")


@pytest.mark.parametrize(("name", "routine"), list(zip(CONFIGS, itertools.cycle(ROUTINES))))
def test_a_stopped_epoch_goes_on_to_the_same_bits(name, routine, reference, tmp_path):
    config = CONFIGS[name]
    run = stop(routine, tmp_path, (1, 4), config)
    other = ROUTINES[(ROUTINES.index(routine) + 1) % len(ROUTINES)]
    loader = {**config.get("DATA_LOADER_CONFIG", {"batch_size": 8}), "num_workers": 0}
    callbacks = [partial(Stop, 1, 4)]
    changed = {"DATA_LOADER_CONFIG": loader, "CALLBACKS": callbacks}
    assert bits(resume(other, tmp_path, run, **config | changed)) == reference(name)


@pytest.mark.parametrize("routine", ROUTINES)
def test_a_transform_that_changes_nothing_leaves_the_bits(routine, reference, tmp_path):
    draws = partial(train, routine, tmp_path, CALLBACKS=[DrawsOn])
    assert bits(draws(BATCH_TRANSFORM=leave)) == bits(draws()) != reference("as ever")


class DrawsOn(Callback):
    """Weights depend on all that the generators of the main process give."""

    def on_batch_end(self, run, loss):
        with torch.no_grad():
            run.module.head[2].bias += 1e-3 * (random.random() + np.random.rand() + torch.rand(3))


def test_the_transform_of_a_run_is_in_its_config_and_repeats_it(reference, tmp_path):
    result = train("pytorch", tmp_path / "a", **CONFIGS["mixup or cutmix"])
    path = Path(result["paths"]["log_dir"], "config.yaml")
    assert "torchvision.transforms.v2" in path.read_text(encoding="utf-8")
    config, _ = load_config(str(path), [])
    again = pytorch_training.train(None, None, config, folders(tmp_path / "b"))
    assert bits(again) == bits(result) == reference("mixup or cutmix")


def test_every_batch_and_process_draws_its_own_numbers():
    pictures = Pictures(64, augment=False)
    seen = []
    for process in range(2):
        loader = make_loader(
            pictures, {"batch_size": 8}, 0, torch.device("cpu"), True, False, process, 2
        )
        loader.transform = lambda x, y: (torch.rand(()).item(), y)
        for epoch in range(3):
            loader.set_position(epoch, 1)
            seen += [batch.x for batch in loader]
    assert len(seen) == 18 == len(set(seen))


def test_first_batches_are_not_transformed_and_validation_never_is(tmp_path):
    run = Run(make_config(BATCH_TRANSFORM=swap), folders(tmp_path))
    assert run.val_loader.transform is None and run.test_loader is None
    plain = Run(make_config(), folders(tmp_path))
    assert torch.equal(run.train_loader.first().x, plain.train_loader.first().x)


def only_x(x, _y):
    return x


def hard(pred, target):
    return nn.functional.nll_loss(pred.log_softmax(1), target)


class Dicts(Pictures):
    """Pictures in a dict."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return {"image": x, "flipped": x.flip(1)}, y


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"LOSS": hard},
            r"through LOSS: .*BATCH_TRANSFORM has made the targets \(N, 3\) float32: take a loss",
        ),
        ({"CLASSES": None}, "BATCH_TRANSFORM, first batch: num_classes must be passed"),
        (
            {"TRAIN_DATASET": Dicts},
            "BATCH_TRANSFORM, first batch: expected a tensor x for .* MixUp",
        ),
        ({"BATCH_TRANSFORM": only_x}, r"a function \(x, y\) -> \(x, y\), got one that returns"),
        (
            {"BATCH_TRANSFORM": "mix"},
            r'"BATCH_TRANSFORM"\]: expected a class or a function, or None',
        ),
        (
            {"BATCH_TRANSFORM_CONFIG": {"alhpa": 1}},
            r'BATCH_TRANSFORM_CONFIG"\]: expected an argument of MixUp .* Did you mean "alpha"',
        ),
        (
            {"BATCH_TRANSFORM": swap, "BATCH_TRANSFORM_CONFIG": {"y": 1}},
            r"expected an argument of swap \(share\)",
        ),
        ({"BATCH_TRANSFORM_CONFIG": {"alpha": -1.0}}, "BATCH_TRANSFORM_CONFIG: Expected parameter"),
    ],
)
def test_a_transform_that_does_not_fit_is_told_before_the_run(
    changes, message, tmp_path, monkeypatch
):
    # torch.compile, in a test before this one, turns torch's own check off for good
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    config = {**MIXED, "BATCH_TRANSFORM": v2.MixUp, **changes}
    with pytest.raises(ConfigError, match=message):
        Run(make_config(**config), folders(tmp_path))
    assert not (tmp_path / "logs").exists()


def test_a_function_may_change_batches_of_dicts(tmp_path):
    def change(x, y):
        return {name: 0.5 * part for name, part in x.items()}, y

    class OfDicts(Net):
        def forward(self, x):
            return super().forward(x["image"])

    config = {"TRAIN_DATASET": Dicts, "VAL_DATASET": None, "MONITOR": "train_loss"}
    result = train("fastai", tmp_path, MODEL=OfDicts, BATCH_TRANSFORM=change, **config)
    assert result["status"] == "done"


def test_batches_of_classes_keep_their_size_when_a_run_goes_on(tmp_path):
    config = CONFIGS["per_class"]
    run = stop("pytorch", tmp_path, (1, 0), config)
    smaller = {"DATA_LOADER_CONFIG": {"batch_size": 4, "per_class": 4}, "ACCUMULATE": 2}
    with pytest.raises(ConfigError, match="expected DATA_LOADER_CONFIG as the run had it"):
        resume("pytorch", tmp_path, run, **smaller, CALLBACKS=[partial(Stop, 1, 0)])


def test_small_classes_are_told_in_the_log(tmp_path):
    config = {"DATA_LOADER_CONFIG": {"batch_size": 60, "per_class": 20}, "EPOCHS": 1}
    assert "classes have fewer than per_class=20 samples" in log_of(
        train("pytorch", tmp_path, **config)
    )


def test_without_memory_batches_of_classes_are_not_halved(tmp_path):
    found = []
    for options in ({}, {"per_class": 4}):
        config = {"ON_OOM": "halve", "DATA_LOADER_CONFIG": {"batch_size": 8, **options}}
        found.append(find_remedy(torch.OutOfMemoryError(), config, folders(tmp_path)))
    assert found[0] is not None and found[1] is None


# ------------------------------------------------------------------------ samples that are broken


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """40 real JPEG files to train with and 16 to validate, one of each cut short."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for part, n, torn in (("train", 40, 17), ("val", 16, 13)):
        (root / part).mkdir()
        for i in range(n):
            path = root / part / f"{i:02}.jpg"
            pixels = rng.integers(0, 256, (6, 6)) * 0.5 + 40 * (i % CLASSES)
            Image.fromarray(pixels.astype(np.uint8)).resize((48, 48)).save(path, quality=95)
            if i == torn:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return root


class Photos(Dataset):
    """Pictures (1, 6, 6) of three classes, read file by file."""

    def __init__(self, root, augment=False):
        self.files = sorted(root.glob("*.jpg"))
        self.names = [file.stem for file in self.files]
        self.augment, self.deterministic = augment, not augment

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        x = torch.from_numpy(read_array(self.files[index])[None, ::8, ::8].copy()) / 255
        return x + 0.1 * torch.rand(1) if self.augment else x, index % CLASSES


def of_photos(root, **changes):
    data = {"TRAIN_DATASET": partial(Photos, root / "train", augment=True)}
    data["VAL_DATASET"] = partial(Photos, root / "val")
    return data | {"ON_BAD_SAMPLE": "skip", "CHECKPOINT": {"every_steps": 1}} | changes


def log_of(result):
    return Path(result["paths"]["log_dir"], "train.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("routine", "num_workers"), [("pytorch", 2), *((routine, 0) for routine in ROUTINES)]
)
def test_a_torn_picture_stops_the_run_and_is_named(routine, num_workers, photos, tmp_path):
    loader = {"batch_size": 8, "num_workers": num_workers}
    config = of_photos(photos, ON_BAD_SAMPLE="stop", DATA_LOADER_CONFIG=loader)
    with pytest.raises(ValueError, match=r"train/17\.jpg: expected a readable .jpg file"):
        train(routine, tmp_path, **config)
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["STATUS"] == "failed" and "17.jpg" in row["ERROR"]


@pytest.mark.parametrize(
    ("routine", "num_workers"), [("pytorch", 0), *((routine, 2) for routine in ROUTINES)]
)
def test_a_torn_picture_is_left_out_and_counted(routine, num_workers, photos, tmp_path, skipped):
    loader = {"batch_size": 8, "num_workers": num_workers}
    result = train(routine, tmp_path, **of_photos(photos, DATA_LOADER_CONFIG=loader))
    assert bits(result) == skipped
    table = rows(result["paths"]["bad_samples"])
    found = [(row["part"], row["index"], row["name"]) for row in table]
    assert found == [("train", "17", "17"), ("val", "13", "13")]
    assert "train/17.jpg: expected a readable .jpg file" in table[0]["error"]
    log = log_of(result)
    assert log.count("warning: left out 17: ValueError: ") == 1 == log.count("warning: left out 13")
    assert "left out 2 samples that could not be read; see bad_samples.csv" in log


@pytest.fixture(scope="module")
def skipped(photos, tmp_path_factory):
    """The bits of the raw routine without the two pictures."""
    result = train(
        "pytorch", tmp_path_factory.mktemp("skipped"), **of_photos(photos, CALLBACKS=[Size])
    )
    assert Size.seen == [[8, 8, 8, 8, 7]] * 2
    return bits(result)


class Size(Callback):
    """Counts the samples of each batch, largest first."""

    seen: list = []

    def on_epoch_start(self, run):
        self.sizes, self.before = [], 0

    def on_batch_end(self, run, loss):
        self.sizes.append(run.train_mean.n_samples - self.before)
        self.before = run.train_mean.n_samples

    def on_epoch_end(self, run, metrics):
        Size.seen = [*Size.seen[-1:], sorted(self.sizes, reverse=True)]
        assert run.figures == {} or run.figures["bad_samples"] == 2


@pytest.mark.parametrize("at", [(1, 2), (1, 0)])
def test_a_run_that_leaves_samples_out_goes_on_to_the_same_bits(at, photos, skipped, tmp_path):
    config = of_photos(photos)
    run = stop("lightning", tmp_path, at, config)
    result = resume("fastai", tmp_path, run, **config, CALLBACKS=[partial(Stop, *at)])
    assert bits(result) == skipped
    assert len(rows(result["paths"]["bad_samples"])) == 2  # also those seen before the stop
    assert log_of(result).count("left out 17") == 1


def test_a_run_that_a_torn_picture_stopped_goes_on_without_it(photos, skipped, tmp_path):
    with pytest.raises(ValueError, match="17.jpg"):
        train("pytorch", tmp_path, **of_photos(photos, ON_BAD_SAMPLE="stop"))
    run = find_run("latest", folders(tmp_path))
    assert bits(resume("ignite", tmp_path, run, **of_photos(photos))) == skipped


def test_a_test_set_leaves_out_as_well(photos, tmp_path):
    config = of_photos(photos, TEST_DATASET=partial(Photos, photos / "val"))
    result = train("pytorch", tmp_path, **config)
    parts = [row["part"] for row in rows(result["paths"]["bad_samples"])]
    assert parts == ["train", "val", "test"]


def test_a_ledger_gives_the_samples_that_were_read_their_names(photos, tmp_path):
    result = train("pytorch", tmp_path, **of_photos(photos, CALLBACKS=[Ledger]))
    table = rows(Path(result["paths"]["log_dir"], "samples.csv"))
    numbers = [i for i in range(16) if i != 13]
    assert [(int(row["index"]), row["name"]) for row in table] == [(i, f"{i:02}") for i in numbers]
    assert all(int(row["target"]) == int(row["index"]) % CLASSES for row in table)
    mean = sum(float(row["loss"]) for row in table) / 15
    assert mean == pytest.approx(result["best_metrics"]["val_loss"], rel=1e-5)
    assert Path(result["paths"]["log_dir"], "worst.png").exists()


class Dying(Photos):
    """Reads from a disk that is gone after a while, or of which a part is damaged."""

    bad = ()
    left = 10**9

    def __getitem__(self, index):
        self.left -= 1
        if index in self.bad or self.left < 0:
            raise OSError(5, "Input/output error", self.files[index])
        return super().__getitem__(index)


def test_a_disk_that_dies_stops_the_run(photos, tmp_path):
    dataset = Dying(photos / "train", augment=True)
    dataset.left = 60
    config = of_photos(photos, TRAIN_DATASET=lambda: dataset)
    message = "a sample that can be read in each batch, got none of 8; the first: OSError: .*Input"
    with pytest.raises(ValueError, match=message):
        train("pytorch", tmp_path, **config)


def test_more_than_half_that_is_bad_stops_the_run(photos, tmp_path):
    dataset = Dying(photos / "train", augment=True)
    dataset.bad = range(0, 40, 2)
    config = of_photos(photos, TRAIN_DATASET=lambda: dataset, EPOCHS=1)
    with pytest.raises(ValueError, match="at least half of the 40 samples to be readable, got 21"):
        train("pytorch", tmp_path / "a", **config)  # and the torn one
    dataset.bad = range(0, 38, 2)
    assert train("pytorch", tmp_path / "b", **config)["status"] == "done"


def test_a_first_batch_of_bad_samples_is_told_before_the_run(photos, tmp_path):
    dataset = Dying(photos / "val")
    dataset.bad = range(16)
    with pytest.raises(ConfigError, match="VAL_DATASET: dataset: expected a sample that can be re"):
        Run(make_config(**of_photos(photos, VAL_DATASET=lambda: dataset)), folders(tmp_path))


def test_samples_of_a_stream_are_not_left_out(tmp_path):
    with pytest.raises(ConfigError, match="TRAIN_DATASET: ON_BAD_SAMPLE: expected stop with a str"):
        Run(make_config(TRAIN_DATASET=Stream, ON_BAD_SAMPLE="skip"), folders(tmp_path))
