"""A training that starts from weights: which file, which tensors, and what is kept of it."""

import functools
import os
import re
from pathlib import Path

import pytest
import torch

from config.errors import ConfigError
from config.load import load_config
from models import ConvNet
from models.load import load_model
from models.zoo import classifier
from tests.test_training.common import ROUTINES, Pictures, bits, folders, make_config, train
from tests.test_training.test_resume import Stop, resume, stop
from training import build
from training.callbacks import Unfreeze
from training.run import Run
from training.verify import _prepare
from utils.torchutils import load_weights

SIZES = {"ch_in": 1, "bulk_ch": 2, "n_blocks": 2}
CONFIG = {"MODEL": ConvNet, "MODEL_CONFIG": {**SIZES, "n_classes": 3}}
OTHER = {"MODEL": ConvNet, "MODEL_CONFIG": {**SIZES, "n_classes": 5}}  # classes


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The result of a run with three classes."""
    return train("pytorch", tmp_path_factory.mktemp("first"), **CONFIG, EPOCHS=1)


@pytest.fixture(scope="module")
def weights(first):
    return first["paths"]["last"]


def state_of(result):
    return load_weights(result["paths"]["last"])["model"]


def log_of(result):
    return Path(result["paths"]["log_dir"], "train.log").read_text(encoding="utf-8")


def text_of(result):
    return Path(result["paths"]["log_dir"], "config.yaml").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------- which tensors


@pytest.mark.parametrize("config", [CONFIG, OTHER], ids=["as many classes", "other classes"])
def test_every_routine_starts_from_the_weights_and_ends_with_the_same_bits(
    config, weights, tmp_path
):
    still = {**config, "WEIGHTS": weights, "OPTIMIZER_CONFIG": {"lr": 0.0}, "EPOCHS": 1}
    kept = state_of(train("pytorch", tmp_path / "still", **still))
    there = load_weights(weights)["model"]
    same = {name for name, value in kept.items() if torch.equal(value, there.get(name))}
    names = {name for name in kept if "running" not in name and "tracked" not in name}
    heads = {"head.weight", "head.bias"} if config is OTHER else set()
    assert same == names - heads

    results = {
        routine: train(routine, tmp_path / routine, **config, WEIGHTS=weights)
        for routine in ROUTINES
    }
    (only,) = {bits(result) for result in results.values()}
    assert only != bits(train("pytorch", tmp_path / "new", **config))
    for result in results.values():
        said = "3 classes there, 5 here, so the head is new; wrong shape: head.weight (3, 4)"
        assert (said in log_of(result)) is (config is OTHER)
    network, _ = load_model(results["ignite"]["paths"]["best"])
    assert network.head.out_features == config["MODEL_CONFIG"]["n_classes"]


def test_a_new_head_follows_from_the_seed(weights, tmp_path):
    heads = [
        Run(make_config(**config, WEIGHTS=path, SEED=seed), folders(tmp_path)).module.head.weight
        for config, path, seed in [(OTHER, weights, 0), (OTHER, None, 0), (OTHER, weights, 1)]
    ]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


class Embedder(torch.nn.Module):
    """The features of the classifier, without its head."""

    def __init__(self):
        super().__init__()
        self.blocks = ConvNet(**SIZES, n_classes=3).blocks

    def forward(self, x):
        return self.blocks(x).mean(dim=(2, 3))


def test_a_classifier_becomes_an_embedder_without_strict(weights, tmp_path):
    changes = {"MODEL": Embedder, "WEIGHTS": weights, "EPOCHS": 1}
    with pytest.raises(ConfigError, match="unexpected: head.weight, head.bias.*WEIGHTS_STRICT"):
        train("pytorch", tmp_path, **changes)
    assert not list(tmp_path.iterdir())
    result = train("ignite", tmp_path, **changes, WEIGHTS_STRICT=False)
    said = "24 of 24 tensors of this Embedder loaded; unexpected: head.weight, head.bias"
    assert said in log_of(result) and "WEIGHTS_STRICT: false" in text_of(result)


def test_a_head_for_as_many_other_classes_is_kept_and_told(tmp_path):
    pets, farm = ["cat", "dog", "owl"], ["cow", "hen", "pig"]
    start = train("pytorch", tmp_path / "a", **CONFIG, CLASSES=pets, EPOCHS=1)["paths"]["last"]
    said = "its classes are cat, dog, owl; the head is kept for other ones"
    for classes in (pets, farm):
        config = {**CONFIG, "CLASSES": classes, "WEIGHTS": start, "EPOCHS": 1}
        assert (said in log_of(train("pytorch", tmp_path / "b", **config))) is (classes == farm)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder where torchvision finds the weights that it has downloaded, here random ones."""
    torchvision = pytest.importorskip("torchvision")
    folder = tmp_path_factory.mktemp("torch")
    url = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.url
    path = folder / "hub" / "checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), path)
    return path


@pytest.mark.parametrize("num_classes", [1000, 3], ids=["the same classes", "other classes"])
@pytest.mark.parametrize("is_local", [False, True], ids=["published", "a local file"])
def test_a_network_of_the_zoo_from_either_place_for_either_classes(
    is_local, num_classes, published, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(published.parents[2]))
    network = {"name": "mobilenet_v3_small", "num_classes": num_classes}
    config = {
        "MODEL": classifier,
        "MODEL_CONFIG": network if is_local else {**network, "weights": "DEFAULT"},
        "WEIGHTS": published if is_local else None,
        "TRAIN_DATASET": Colour,
        "VAL_DATASET": Colour,
        "CALLBACKS": [functools.partial(Unfreeze, stages={0: ["classifier.3"]})],
        "EPOCHS": 1,
    }
    results = [train(routine, tmp_path / routine, **config) for routine in ROUTINES]
    assert len({bits(result) for result in results}) == 1
    there, after = torch.load(published, weights_only=True), state_of(results[0])
    head = {"classifier.3.weight", "classifier.3.bias"}
    assert {name for name in after if not torch.equal(after[name], there[name])} == head
    start = Run(make_config(**config), folders(tmp_path)).module.classifier[3].weight
    is_new = num_classes != 1000
    assert torch.equal(start, there["classifier.3.weight"]) is not is_new
    assert ("classifier.3.weight" in log_of(results[0])) is is_new


class Colour(Pictures):
    """Sixteen pictures (3, 32, 32)."""

    def __init__(self):
        super().__init__(16, augment=False)
        self.x = self.x.repeat(1, 3, 6, 6)[..., :32, :32]


# ---------------------------------------------------------------------------- which file


def test_a_run_by_its_name_the_newest_run_and_a_relative_path(first, tmp_path, monkeypatch):
    place = Path(first["paths"]["weight_dir"]).parent.parent
    monkeypatch.chdir(place)
    path = Path(first["paths"]["best"])
    for name in (first["run"], "latest", path.relative_to(place), str(path)):
        run = Run(make_config(**CONFIG, WEIGHTS=name), folders(place))
        assert run.config["WEIGHTS"] == str(path)
    with pytest.raises(ConfigError, match="WEIGHTS: weights: expected a run in .*, got none"):
        Run(make_config(**CONFIG, WEIGHTS="latest"), folders(tmp_path))


FILES = {
    "a state dict": lambda state: state,
    "model": lambda state: {"model": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
}


@pytest.mark.parametrize("wrap", FILES.values(), ids=FILES)
def test_files_of_other_programs(wrap, weights, tmp_path):
    state = load_weights(weights)["model"]
    torch.save(wrap(state), tmp_path / "theirs.pth")
    run = Run(make_config(**CONFIG, WEIGHTS=tmp_path / "theirs.pth"), folders(tmp_path))
    assert all(torch.equal(value, state[name]) for name, value in run.module.state_dict().items())


def test_a_captured_run_is_repeated_from_the_same_file_wherever_one_stands(
    first, tmp_path, monkeypatch
):
    place = Path(first["paths"]["weight_dir"]).parent.parent
    monkeypatch.chdir(place)
    relative = os.path.relpath(first["paths"]["last"])
    result = train("pytorch", tmp_path, **OTHER, WEIGHTS=relative)
    monkeypatch.chdir("/")
    config, _ = load_config(str(Path(result["paths"]["log_dir"], "config.yaml")))
    assert bits(train("fastai", tmp_path, **config)) == bits(result)
    assert re.search(r"^WEIGHTS: /.*/last\.pth$", text_of(result), re.MULTILINE)


@pytest.mark.parametrize("name", ["start.pth", "latest"])
def test_a_resumed_run_needs_the_file_no_more(name, weights, tmp_path, monkeypatch):
    """Nor does it take what "latest" has become: the run itself."""
    monkeypatch.chdir(tmp_path)
    file = Path("weights/former/best.pth" if name == "latest" else name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(Path(weights).read_bytes())
    config = {**OTHER, "WEIGHTS": name}
    unbroken = train("pytorch", tmp_path / "whole", **OTHER, WEIGHTS=str(file),
                     CALLBACKS=[functools.partial(Stop, -1, -1)])  # fmt: skip
    run = stop("pytorch", tmp_path, (1, 4), config)
    file.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signal.raise_signal", lambda number: None)
        result = resume("ignite", tmp_path, run, **config,
                        CALLBACKS=[functools.partial(Stop, 1, 4)])  # fmt: skip
    assert bits(result) == bits(unbroken)
    assert f"WEIGHTS: {tmp_path / file}\n" in text_of(result)


def test_the_verification_of_the_resume_starts_from_the_same_run(first, tmp_path, monkeypatch):
    """It has folders of its own, where "latest" would be none."""
    monkeypatch.setattr(build, "make_dataset", build.make_dataset)  # it puts one of its own there
    place = folders(Path(first["paths"]["weight_dir"]).parent.parent)
    config, own = _prepare("unbroken", tmp_path, make_config(**CONFIG, WEIGHTS="latest"), place)
    assert config["WEIGHTS"] == first["paths"]["best"]
    with pytest.raises(ConfigError, match="WEIGHTS: weights: expected a run"):
        _prepare("unbroken", tmp_path, make_config(**CONFIG, WEIGHTS="latest"), own)


def test_a_resumed_run_keeps_its_weights(weights, tmp_path):
    run = train("pytorch", tmp_path, **CONFIG, WEIGHTS=weights, EPOCHS=1)["run"]
    with pytest.raises(ConfigError, match="expected WEIGHTS as the run had it"):
        resume("pytorch", tmp_path, run, **CONFIG, EPOCHS=2, WEIGHTS="/elsewhere.pth")
