"""From the keys of a config to datasets, model, optimizer and scheduler."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import ConfigError
from config.keys import with_defaults
from tests.test_training.common import Net, Pictures, folders, make_config
from training.build import (
    build,
    fill_in_classes,
    is_path_argument,
    make_dataset,
    make_loss,
    make_model,
    make_scheduler,
)
from training.run import Run
from utils.loss import smooth_dice_loss


class Files(torch.utils.data.Dataset):
    """Remembers how it was made."""

    def __init__(self, root: Path, mask_dir: str = "", task: str = "", preprocess=None) -> None:
        self.made = {"root": root, "mask_dir": mask_dir, "task": task, "preprocess": preprocess}

    def __len__(self) -> int:
        return 1


def dataset(tmp_path, part="train", **changes):
    config = with_defaults(make_config(**changes))
    return make_dataset(part, config, folders(tmp_path))


def write_pairs(folder: Path, n: int = 2) -> None:
    for kind, channels in (("x", 3), ("y", 2)):
        (folder / kind).mkdir(parents=True)
        for i in range(n):
            np.save(folder / kind / f"{i}.npy", np.zeros((8, 9, channels), np.float32))


@pytest.mark.parametrize(
    ("name", "is_path"),
    [("root", True), ("image_dir", True), ("csv_file", True), ("path", True), ("mask_path", True),
     ("folder", True), ("n_files", False), ("subset", False), ("pathology", False)],
)  # fmt: skip
def test_path_arguments_are_told_by_their_name(name, is_path):
    assert is_path_argument(name) is is_path


def test_relative_paths_start_at_data_dir_and_absolute_ones_stay(tmp_path):
    arguments = {"root": "slices", "mask_dir": "/elsewhere"}
    made = dataset(tmp_path, TRAIN_DATASET=Files, TRAIN_DATASET_CONFIG=arguments).made
    assert made["root"] == tmp_path / "data" / "slices"
    assert made["mask_dir"] == Path("/elsewhere")


def test_task_and_preprocess_are_handed_to_a_dataset_that_takes_them(tmp_path):
    preprocess = {"scale": 0.5}
    config = {"TRAIN_DATASET": Files, "TASK": "multilabel", "PREPROCESS": preprocess}
    made = dataset(tmp_path, **config, TRAIN_DATASET_CONFIG={"root": "a"}).made
    assert made["task"] == "multilabel" and made["preprocess"] == preprocess
    own = {"root": "a", "task": "binary"}
    assert dataset(tmp_path, **config, TRAIN_DATASET_CONFIG=own).made["task"] == "binary"


class Augmented(Pictures):
    def __init__(self, transform=None) -> None:
        super().__init__(augment=False)


@pytest.mark.parametrize(("part", "warns"), [("train", False), ("val", True), ("test", True)])
def test_a_preset_in_validation_is_pointed_out(part, warns, tmp_path, caplog):
    name = f"{part.upper()}_DATASET"
    with caplog.at_level(logging.WARNING, "plumbline"):
        dataset(tmp_path, part, **{name: Augmented, f"{name}_CONFIG": {"transform": "light"}})
    assert (f'{name}_CONFIG: the pictures are augmented ("light")' in caplog.text) is warns


def test_val_dataset_is_of_the_train_class_when_only_its_arguments_are_given(tmp_path):
    config = {"TRAIN_DATASET": Files, "VAL_DATASET": None, "VAL_DATASET_CONFIG": {"root": "b"}}
    assert dataset(tmp_path, "val", **config).made["root"] == tmp_path / "data" / "b"
    assert dataset(tmp_path, "val", **config | {"VAL_DATASET_CONFIG": {}}) is None


FOLDER_CONFIG = {
    "TRAIN_DATASET": None,
    "VAL_DATASET": None,
    "TASK": "multilabel_segmentation",
    "LOSS": smooth_dice_loss,
    "METRICS": [],
}


def test_without_datasets_the_folders_train_and_val_are_read(tmp_path):
    write_pairs(tmp_path / "data" / "train", 3)
    write_pairs(tmp_path / "data" / "val", 2)
    assert len(dataset(tmp_path, "train", **FOLDER_CONFIG)) == 3
    assert len(dataset(tmp_path, "val", **FOLDER_CONFIG)) == 2


def test_without_a_task_masks_of_any_number_of_channels_are_read(tmp_path):
    write_pairs(tmp_path / "data" / "train")
    config = FOLDER_CONFIG | {"TASK": None}
    assert dataset(tmp_path, "train", **config)[0][1].shape == (2, 8, 9)


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_folders_of_classes_are_read_where_the_task_is_one_of_classes(task, tmp_path):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            np.save(tmp_path / "data" / part / name / "1.npy", np.zeros((8, 9), np.float32))
    config = FOLDER_CONFIG | {"TASK": task, "CLASSES": ["dog", "cat"]}
    for part in ("train", "val"):
        made = dataset(tmp_path, part, **config)
        assert made.classes == ["dog", "cat"] and made.labels == [1, 0]
        assert made[0][1].shape == (() if task == "multiclass" else (1,))


def test_a_folder_test_alone_serves_as_validation_and_says_so(tmp_path, caplog):
    write_pairs(tmp_path / "data" / "train")
    write_pairs(tmp_path / "data" / "test", 4)
    with caplog.at_level(logging.WARNING, "plumbline"):
        assert len(dataset(tmp_path, "val", **FOLDER_CONFIG)) == 4
    assert "serves as validation data" in caplog.text


@pytest.mark.parametrize(
    ("name", "config", "argument", "expected"),
    [
        ("CosineAnnealingLR", {}, "T_max", 5),
        ("CosineAnnealingLR", {"SCHEDULER_INTERVAL": "step"}, "T_max", 20),
        ("OneCycleLR", {"SCHEDULER_INTERVAL": "step"}, "total_steps", 20),
    ],
)
def test_the_horizon_of_a_scheduler_is_the_run(name, config, argument, expected):
    scheduler = getattr(torch.optim.lr_scheduler, name)
    config = with_defaults({"SCHEDULER": scheduler, "EPOCHS": 5, **config})
    optimizer = torch.optim.SGD(Net().parameters(), lr=0.1)
    assert getattr(make_scheduler(config, optimizer, 4), argument) == expected


def test_a_horizon_of_the_config_wins():
    config = with_defaults(
        {"SCHEDULER": torch.optim.lr_scheduler.CosineAnnealingLR, "SCHEDULER_CONFIG": {"T_max": 3}}
    )
    optimizer = torch.optim.SGD(Net().parameters(), lr=0.1)
    assert make_scheduler(config, optimizer, 4).T_max == 3


class Named(Pictures):
    """Pictures whose classes have names."""

    def __init__(self, classes=("ant", "bee", "cat"), **options):
        super().__init__(**options)
        self.classes = list(classes)


class Sized(torch.nn.Sequential):
    """A network that must be told the number of classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(36, num_classes))


def of_classes(num_classes: int):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, num_classes))


class Margin(torch.nn.Module):
    """A loss with a centre for each identity."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.centres = torch.nn.Parameter(torch.zeros(num_classes, 4))

    def forward(self, pred, target):
        return (pred - self.centres[target]).square().mean()


def named_config(**changes):
    changes = {"TRAIN_DATASET": Named, "MODEL": Sized, "METRICS": []} | changes
    return make_config(**changes)


@pytest.mark.parametrize(
    "model", [Sized, of_classes, partial(of_classes)], ids=["class", "function", "partial"]
)
def test_classes_of_the_training_data_are_recorded_and_size_the_network(model, tmp_path):
    given = named_config(MODEL=model)
    run = Run(given, folders(tmp_path))
    assert run.config["CLASSES"] == ["ant", "bee", "cat"]
    assert run.config["MODEL_CONFIG"] == {"num_classes": 3}
    assert run.record.plain["CLASSES"] == ["ant", "bee", "cat"]
    assert run.record.plain["MODEL_CONFIG"] == {"num_classes": 3}
    assert "CLASSES" not in given and given["MODEL_CONFIG"] == {}


def test_the_config_goes_before_the_data(tmp_path):
    config = named_config(CLASSES=list("abcdefg"), MODEL_CONFIG={"num_classes": 7})
    run = Run(config, folders(tmp_path))
    assert run.config["CLASSES"] == list("abcdefg")
    assert run.config["MODEL_CONFIG"] == {"num_classes": 7}
    of_five = partial(of_classes, num_classes=5)
    bound = Run(named_config(MODEL=of_five, CLASSES=list("abcde")), folders(tmp_path))
    assert bound.config["MODEL_CONFIG"] == {} and bound.module[1].out_features == 5


@pytest.mark.parametrize(
    ("task", "names", "classes", "model", "loss"),
    [
        ("binary", ["cat", "dog"], ["cat", "dog"], {"num_classes": 1}, {"num_classes": 1}),
        ("multilabel", list("abcd"), list("abcd"), {"num_classes": 4}, {"num_classes": 4}),
        ("embedding", list("abcd"), None, None, {"num_classes": 4}),
        ("multiclass", None, None, None, None),
    ],
)
def test_what_the_classes_decide_by_task(task, names, classes, model, loss):
    config = with_defaults({"TASK": task, "MODEL": Sized, "LOSS": Margin})
    filled_in = fill_in_classes(config, names)
    expected = {"CLASSES": classes, "MODEL_CONFIG": model, "LOSS_CONFIG": loss}
    assert filled_in == {key: value for key, value in expected.items() if value is not None}


def test_classes_of_the_config_size_the_network_where_the_data_name_none(tmp_path):
    run = Run(named_config(TRAIN_DATASET=Pictures, CLASSES=list("abc")), folders(tmp_path))
    assert run.config["MODEL_CONFIG"] == {"num_classes": 3}


@pytest.mark.parametrize("key", ["MODEL", "LOSS"])
def test_nothing_that_tells_the_number_of_classes(key, tmp_path):
    config = make_config(**{key: {"MODEL": Sized, "LOSS": Margin}[key]})
    with pytest.raises(ConfigError, match=f"{key}_CONFIG: expected a value for num_classes, got"):
        Run(config, folders(tmp_path))


def test_data_that_fail_say_so_alone(tmp_path):
    def fail():
        raise ValueError("no pictures")

    with pytest.raises(ConfigError) as caught:
        Run(named_config(TRAIN_DATASET=fail), folders(tmp_path))
    assert caught.value.problems == ["TRAIN_DATASET: no pictures"]


def test_classes_of_training_are_handed_to_validation(tmp_path):
    class Taking(Named):
        def __init__(self, classes=None, **options):
            super().__init__(classes or ["from", "these", "files"], **options)

    config = named_config(TRAIN_DATASET=Named, VAL_DATASET=Taking)
    assert Run(config, folders(tmp_path)).val_loader.n_samples == 51


def test_a_network_of_another_number_of_outputs_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"output for each of 2 CLASSES \(a, b\), got 3"):
        Run(make_config(CLASSES=["a", "b"]), folders(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_other_classes_in_validation_are_named(tmp_path):
    config = named_config(VAL_DATASET=Named, VAL_DATASET_CONFIG={"classes": ("bee", "ant", "cat")})
    with pytest.raises(ConfigError, match=r"VAL_DATASET: .*\(ant, bee, cat\).*got bee, ant, cat\."):
        Run(config, folders(tmp_path))


def test_frozen_parameters_are_not_handed_to_the_optimizer(tmp_path):
    run = Run(make_config(MODEL=HalfFrozen), folders(tmp_path))
    (group,) = run.optimizer.param_groups
    assert len(group["params"]) == len(list(Net().parameters())) - 1


class HalfFrozen(Net):
    def __init__(self):
        super().__init__()
        self.body[0].weight.requires_grad_(False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PREPROCESS": {"scael": 2}}, "PREPROCESS.*scael"),
        ({"MODEL": dict}, "MODEL_CONFIG: TypeError: expected MODEL to make a torch.nn.Module"),
        ({"OPTIMIZER_CONFIG": {"lr": -1.0}}, "OPTIMIZER_CONFIG: Invalid learning rate"),
        ({"WEIGHTS": "nowhere.pth"}, 'WEIGHTS: weights "nowhere.pth": expected a file'),
        ({"CALLBACKS": [dict, int, 5]}, "CALLBACKS: "),
        ({"SCHEDULER": torch.optim.lr_scheduler.OneCycleLR,
          "SCHEDULER_CONFIG": {"pct_start": 2.0}}, "SCHEDULER_CONFIG: .*pct_start"),
    ],
)  # fmt: skip
def test_what_building_finds_is_a_config_error(changes, message, tmp_path):
    config = with_defaults(make_config(**changes))
    with pytest.raises(ConfigError, match=message):
        build(config, folders(tmp_path), {}, torch.device("cpu"))


def test_model_and_loss_are_put_on_the_device():
    config = with_defaults(make_config(LOSS=torch.nn.CrossEntropyLoss))
    config["LOSS_CONFIG"] = {"weight": torch.ones(3)}
    meta = torch.device("meta")  # a device that every machine has
    assert {p.device for p in make_model(config, meta).parameters()} == {meta}
    assert make_loss(config, meta).weight.device == meta
