"""Embeddings under every routine: losses with weights, identities never seen, a gallery."""

import functools
import signal
from pathlib import Path

import pytest
import torch

pytest.importorskip("pytorch_metric_learning")

from tests.test_training.common import (
    CLASSES,
    ROUTINES,
    Net,
    Pictures,
    bits,
    folders,
    rows,
    train,
)
from tests.test_training.test_resume import Stop, resume
from training.resume import find_run
from training.state import RunInterrupted
from utils.metric_learning import MarginLoss, TripletLoss
from utils.metrics import Metrics, cmc, mean_average_precision, recall_at_k
from utils.torchutils import load_weights


class Searched(Pictures):
    """Pictures of other identities, every second one in the gallery."""

    def __init__(self, n=24, first=CLASSES):
        super().__init__(n, seed=1, augment=False)
        self.first = first

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x, {"label": y + self.first, "gallery": torch.tensor(index % 2 == 0)}


MARGIN = {
    "TASK": "embedding",
    "VAL_DATASET": Searched,
    "LOSS": MarginLoss,
    "LOSS_CONFIG": {"embedding_size": 3, "num_classes": CLASSES, "scale": 8.0},
    "METRICS": {"recall": recall_at_k, "cmc": cmc, "map": mean_average_precision},
    "MONITOR": "val_recall",
    "MONITOR_MODE": "max",
}
TRIPLET = MARGIN | {
    "LOSS": TripletLoss,
    "LOSS_CONFIG": {"mining": "semihard"},
    "MIXED_PRECISION": True,
    "ACCUMULATE": 2,
    "EMA": 0.9,
}
CONFIGS = {
    "arcface": MARGIN | {"TEST_DATASET": Searched},
    "sphereface": MARGIN | {"LOSS_CONFIG": {**MARGIN["LOSS_CONFIG"], "kind": "sphereface"}},
    "triplet": TRIPLET,
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The result of the raw routine, trained once per config."""

    @functools.cache
    def train_once(name):
        return train("pytorch", tmp_path_factory.mktemp("raw"), **CONFIGS[name])

    return train_once


@pytest.mark.parametrize("routine", ROUTINES[1:])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_routine_gives_the_bits_of_the_raw_loop(name, routine, unbroken, tmp_path):
    found = train(routine, tmp_path, **CONFIGS[name])
    assert bits(found) == bits(unbroken(name))
    assert found["test_metrics"] == pytest.approx(unbroken(name)["test_metrics"], nan_ok=True)


@pytest.mark.parametrize("name", CONFIGS)
def test_workers_change_nothing(name, unbroken, tmp_path):
    two = {"batch_size": 8, "num_workers": 2}
    found = train("pytorch", tmp_path, **CONFIGS[name], DATA_LOADER_CONFIG=two)
    assert bits(found) == bits(unbroken(name))


@pytest.mark.parametrize("routine", ROUTINES)
@pytest.mark.parametrize("name", ["arcface", "triplet"])
def test_a_stopped_run_goes_on_under_another_routine(name, routine, unbroken, tmp_path):
    config = CONFIGS[name] | {"CALLBACKS": [functools.partial(Stop, 1, 4)]}
    with pytest.raises(RunInterrupted):
        train(routine, tmp_path, **config)
    run = find_run("latest", folders(tmp_path))
    other = ROUTINES[(ROUTINES.index(routine) + 1) % len(ROUTINES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "raise_signal", lambda number: None)  # not again
        assert bits(resume(other, tmp_path, run, **config)) == bits(unbroken(name))


def test_the_directions_are_trained_and_kept(unbroken, tmp_path):
    state = torch.load(unbroken("arcface")["paths"]["checkpoint"], weights_only=True)["state"]
    (directions,) = state["loss"].values()
    frozen = train(
        "pytorch", tmp_path, **CONFIGS["arcface"] | {"LR": 1e-12, "OPTIMIZER_CONFIG": {}}
    )
    before = torch.load(frozen["paths"]["checkpoint"], weights_only=True)["state"]["loss"]
    assert directions.shape == (3, CLASSES)
    assert (directions - next(iter(before.values()))).abs().max() > 1e-3
    (group,) = state["optimizer"]["param_groups"]
    n_weights = len(load_weights(unbroken("arcface")["paths"]["last"])["model"])
    assert len(group["params"]) == n_weights - 3 + 1  # bar the statistics of batch norm


@pytest.mark.parametrize("name", ["arcface", "triplet"])
def test_metrics_are_those_of_the_whole_set(name, unbroken):
    result = unbroken(name)
    model = Net().eval()
    model.load_state_dict(load_weights(result["paths"]["last"])["model"])
    x, target = zip(*Searched(), strict=True)
    target = {key: torch.stack([one[key] for one in target]) for key in ("label", "gallery")}
    bag = Metrics(MARGIN["METRICS"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=name == "triplet"):
        bag.update(model(torch.stack(x)), target)
    found = {key.removeprefix("val_"): value for key, value in result["metrics"].items()}
    assert {key: found[key] for key in bag.compute()} == pytest.approx(bag.compute())
    assert 0 < found["recall"] == found["cmc_1"] <= found["cmc_5"]


def warnings_of(result):
    """Return the lines of the log that speak of MONITOR."""
    text = Path(result["paths"]["log_dir"], "train.log").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if "MONITOR" in line]


def test_without_a_value_to_choose_by_the_log_says_that_there_is_no_best(tmp_path):
    result = train("pytorch", tmp_path, **MARGIN | {"MONITOR": "val_loss", "EPOCHS": 1})
    (line,) = warnings_of(result)
    assert 'MONITOR: expected a number for "val_loss", got nan, so epoch 1' in line
    assert "val_recall 0." in line
    assert "best" not in result["paths"] and result["best_epoch"] is None
    assert not (Path(result["paths"]["last"]).parent / "best.pth").exists()
    (row,) = rows(result["paths"]["table"])
    assert row["STATUS"] == "done"


def test_a_name_that_is_never_computed_is_said_as_well(tmp_path):
    # there are val_cmc_1, val_cmc_5, ...
    result = train("pytorch", tmp_path, **MARGIN | {"MONITOR": "val_cmc", "EPOCHS": 1})
    (line,) = warnings_of(result)
    assert 'expected a number for "val_cmc", got nothing' in line and "val_cmc_1 0." in line


def test_an_epoch_without_validation_has_nothing_to_say(tmp_path):
    changes = {"VALIDATE_EVERY": 2, "MONITOR": "val_recall"}
    assert not warnings_of(train("pytorch", tmp_path, **MARGIN | changes))


def test_the_validation_of_known_identities_has_a_loss(tmp_path):
    known = functools.partial(Searched, first=0)
    changes = {"VAL_DATASET": known, "MONITOR": "val_loss", "EPOCHS": 1}
    result = train("pytorch", tmp_path, **MARGIN | changes)
    assert result["metrics"]["val_loss"] > 0 and not warnings_of(result)


class Named(Pictures):
    classes = ["Ada", "Bob", "Eve"]


def test_the_training_data_says_how_many_identities_there_are(tmp_path):
    config = MARGIN | {"TRAIN_DATASET": Named, "LOSS_CONFIG": {"embedding_size": 3}, "EPOCHS": 1}
    result = train("pytorch", tmp_path, **config)
    state = torch.load(result["paths"]["checkpoint"], weights_only=True)["state"]
    assert next(iter(state["loss"].values())).shape == (3, 3)
    text = Path(result["paths"]["log_dir"], "config.yaml").read_text(encoding="utf-8")
    assert "num_classes: 3" in text
