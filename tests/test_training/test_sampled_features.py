"""SAMPLED_FEATURES from a config or its text to a run, and what a mistake in it leads to."""

import numpy as np
import pytest
import torch
from torch import nn

import train
from tests.test_training.common import ROUTINES, bits, folders, hash_weights, make_config, rows
from training.pytorch_training import train as train_raw
from utils.data import DatasetFeature, FeatureDataset
from utils.metrics import accuracy

pd = pytest.importorskip("pandas")


class Point(DatasetFeature):
    """Two coordinates, moved a little at random."""

    name = "point"

    def read(self, index):
        row = self.info.iloc[index]
        return np.array([row["across"], row["up"]]) + 0.01 * np.random.randn(2)


class Side(DatasetFeature):
    """Text: it needs a function that makes a number of it."""

    name = "side"

    def read(self, index):
        return self.info.iloc[index]["side"]


def number(side, **kwargs):
    return {"label": ["left", "right"].index(side), **kwargs}


def forget(point, **kwargs):
    return {"point": point}


def table():
    draw = np.random.default_rng(0)
    across, up = draw.normal(size=(2, 20))
    side = np.where(across > 0, "right", "left")
    return pd.DataFrame({"across": across, "up": up, "side": side})


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 2)

    def forward(self, x):
        return self.line(x["point"])


DATA = {"info": table, "inputs": ["point"], "target": "label", "transforms": number}
FEATURES = {
    "SAMPLED_FEATURES": [Point, Side],
    "TRAIN_DATASET": FeatureDataset,
    "TRAIN_DATASET_CONFIG": {**DATA, "subset": "train", "fold": [0, 4]},
    "VAL_DATASET": FeatureDataset,
    "VAL_DATASET_CONFIG": {**DATA, "subset": "val", "fold": [0, 4]},
    "MODEL": Line,
    "METRICS": {"accuracy": accuracy},
}

TEXT = """
TASK: multiclass
SAMPLED_FEATURES:
  - {here}.Point
  - {here}.Side
TRAIN_DATASET: utils.data.FeatureDataset
TRAIN_DATASET_CONFIG: &data
  info_file: table.csv
  inputs: [point]
  target: label
  transforms: [{here}.number]
VAL_DATASET: utils.data.FeatureDataset
VAL_DATASET_CONFIG: *data
DATA_LOADER_CONFIG: {{batch_size: 8}}
MODEL: {here}.Line
LOSS: torch.nn.CrossEntropyLoss
EPOCHS: 2
"""


@pytest.fixture
def text(tmp_path):
    """The arguments of the command line for a config in text, whose table is a file."""
    table().to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "mine.yaml").write_text(TEXT.format(here=__name__))
    places = [f"{name}_DIR={tmp_path / name.lower()}" for name in ("LOG", "WEIGHT")]
    small = ["NUM_THREADS=1", "PROGRESS=False", "DEVICE=cpu", "CURVES=False"]
    return [str(tmp_path / "mine.yaml"), f"DATA_DIR={tmp_path}", *places, *small]


def newest(tmp_path):
    (metrics,) = sorted((tmp_path / "log").glob("*/metrics.csv"))[-1:]
    return metrics.parent


def test_text_trains_and_is_captured(text, tmp_path):
    assert train.main(text) == 0
    first = newest(tmp_path)
    captured = (first / "config.yaml").read_text()
    assert f"SAMPLED_FEATURES:\n- {__name__}.Point\n- {__name__}.Side\n" in captured
    assert train.main([str(first / "config.yaml"), *text[1:]]) == 0
    again = newest(tmp_path)
    assert again != first
    assert (again / "metrics.csv").read_bytes() == (first / "metrics.csv").read_bytes()
    weights = [
        hash_weights(tmp_path / "weight" / name.name / "last.pth") for name in (first, again)
    ]
    assert weights[0] == weights[1]


def test_classes_train_to_the_same_bits_with_and_without_workers(tmp_path):
    found = [
        bits(train_raw(None, None, make_config(**FEATURES, **loader), folders(tmp_path / name)))
        for name, loader in {
            "none": {},
            "two": {"DATA_LOADER_CONFIG": {"batch_size": 8, "num_workers": 2}},
        }.items()
    ]
    assert found[0] == found[1]


def test_the_captured_classes_are_import_paths(tmp_path):
    result = train_raw(None, None, make_config(**FEATURES), folders(tmp_path))
    text = open(f"{result['paths']['log_dir']}/config.yaml", encoding="utf-8").read()
    assert f"- {{_target_: {__name__}.Point, _partial_: true}}" in text
    (row,) = rows(tmp_path / "logs" / "experiments.csv")
    assert row["SAMPLED_FEATURES"] == f"['{__name__}.Point', '{__name__}.Side']"


@pytest.mark.parametrize("routine", ROUTINES)
def test_every_routine_takes_them_from_the_command_line(routine, text, tmp_path):
    features = f"SAMPLED_FEATURES=['{__name__}.Side', '{__name__}.Point']"
    assert train.main([*text, "--routine", routine, features]) == 0
    assert torch.load(next((tmp_path / "weight").glob("*/last.pth")), weights_only=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("SAMPLED_FEATURES=['{}.Point']",
         'TRAIN_DATASET: SAMPLED_FEATURES: expected "side" for number, got point.'),
        ("SAMPLED_FEATURES=['{}.Piont']", 'Did you mean "Point"?'),
        ("SAMPLED_FEATURES=3",
         '"SAMPLED_FEATURES"]: expected a list of feature classes, partials of them or import paths'
         ", or None, got 3."),
        ("~SAMPLED_FEATURES", "SAMPLED_FEATURES: expected a list of classes derived"),
        ("TRAIN_DATASET_CONFIG.transforms=['{0}.number', '{0}.forget']",
         'TRAIN_DATASET: transforms: expected the field "label" for target'),
        ("VAL_DATASET_CONFIG.info_file=none.csv", "none.csv: expected a table, got"),
    ],
)  # fmt: skip
def test_a_mistake_ends_the_command_before_anything_is_written(
    override, message, text, tmp_path, capsys
):
    assert train.main([*text, override.format(__name__)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "log").exists() and not (tmp_path / "weight").exists()
