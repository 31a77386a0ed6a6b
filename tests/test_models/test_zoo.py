"""The zoo: 18 classifiers, embedders, segmenters; weights by name, of files, of strangers.

Where shapes alone count, networks are made on the device "meta", which computes nothing.
"""

import functools
import json
import logging
import signal
import sys

import numpy as np
import pytest
import torch
from torch import nn

import predict
from config.codec import encode_model
from models import MODELS
from models.load import load_model
from models.zoo import CLASSIFIERS, SEGMENTERS, classifier, embedder, segmenter
from tests.test_training.common import bits, folders, make_config
from training.callbacks import Callback
from training.pytorch_training import train
from training.resume import find_run
from training.state import RunInterrupted
from utils.metrics import f1
from utils.torchutils import save_weights

torchvision = pytest.importorskip("torchvision")
torch.set_num_threads(1)

FEATURES = {  # by the names of other pipelines
    "ResNet18": 512,
    "ResNet34": 512,
    "ResNet50": 2048,
    "ResNet101": 2048,
    "MobilenetV3Small": 576,
    "MobilenetV2": 1280,
    "MobilenetV3Large": 960,
    "ResNext101_32x8d": 2048,
    "ResNext50_32x4d": 2048,
    "WideResnet50_2": 2048,
    "WideResnet101_2": 2048,
    "EfficientNetb0": 1280,
    "EfficientNetb3": 1536,
    "EfficientNetb4": 1792,
    "Densenet201": 1920,
    "Densenet169": 1664,
    "Densenet161": 2208,
    "Densenet121": 1024,
}
FAMILIES = ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "densenet121"]


def make(build, *args, seed=0, **arguments):
    """Return a network in eval mode whose weights follow from a seed."""
    torch.manual_seed(seed)
    return build(*args, **arguments).eval()


def randomize(model):
    """Give every tensor other values, running statistics among them."""
    generator = torch.Generator().manual_seed(1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value *= 0.95 + 0.1 * torch.rand(value.shape, generator=generator)
            value += 0.01 if value.ndim == 1 else 0
    return model


def pictures(n, ch, size=40):
    return torch.rand(n, ch, size, size, generator=torch.Generator().manual_seed(2))


def trained(path, build, **arguments):
    """Save a network as a training does, and return it."""
    model = randomize(make(build, **arguments))
    meta = {"MODEL": f"models.zoo.{build.__name__}", "MODEL_CONFIG": encode_model(arguments)}
    save_weights(path, model.state_dict(), meta)
    return model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.pth"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the folder where torchvision looks for weights before it downloads; it may not."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def refuse(url, *args, **kwargs):
    raise AssertionError(f"{url} would be downloaded")


def put(hub, name, choice, model):
    """Save a state dict where torchvision keeps the weights of this name."""
    url = torchvision.models.get_model_weights(name)[choice].url
    torch.save(model.state_dict(), hub / url.rpartition("/")[2])


# ---------------------------------------------------------------------------- the 18 networks


@pytest.mark.parametrize("name", FEATURES)
def test_the_embedding_size_is_that_of_the_pooled_features(name):
    with torch.device("meta"):
        model = embedder(name, ch_in=12).eval()
        found = model(torch.empty(2, 12, 32, 32))
    assert found.shape == (2, FEATURES[name])
    assert model.embedding_size == FEATURES[name]


def test_the_table_holds_18_networks_in_the_spelling_of_torchvision():
    assert len(FEATURES) == len(set(CLASSIFIERS)) == len(CLASSIFIERS) == 18
    plain = {name.replace("_", "") for name in CLASSIFIERS}
    assert {name.lower().replace("_", "") for name in FEATURES} == plain
    known = torchvision.models.list_models(torchvision.models)
    assert set(CLASSIFIERS) <= set(known)
    assert set(SEGMENTERS) == set(torchvision.models.list_models(torchvision.models.segmentation))


def test_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(ValueError) as caught:
        classifier("resnet81", 2)
    assert str(caught.value) == (
        f'classifier: expected a name of {", ".join(CLASSIFIERS)}, got "resnet81". Did you mean'
        ' "resnet18"? Other networks go in by their import path, as MODEL.'
    )
    with pytest.raises(ValueError, match='embedder: .*, got "vit_b_16"'):
        embedder("vit_b_16")
    with pytest.raises(
        ValueError, match=r'segmenter: expected a name of fcn_resnet50, .*, got "\['
    ):
        segmenter(["resnet18"], 2)


def test_wrong_counts_are_named_together():
    with pytest.raises(ValueError, match="classifier: num_classes: .* got 0; ch_in: .* got '3'"):
        classifier("resnet18", 0, ch_in="3")
    with pytest.raises(ValueError, match="embedder: embedding_size: .* got 0; ch_in: .* got 0"):
        embedder("resnet18", 0, ch_in=0)
    with pytest.raises(ValueError, match="segmenter: num_classes: .* got -1"):
        segmenter("fcn_resnet50", -1)


def test_without_changes_it_is_the_network_of_torchvision():
    for name in FAMILIES:
        torch.manual_seed(0)
        reference = torchvision.models.get_model(name, num_classes=5).state_dict()
        own = make(classifier, name, 5).state_dict()
        assert all(torch.equal(own[key], value) for key, value in reference.items()), name
        assert own.keys() == reference.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_stem_for_other_channels_is_else_as_it_was(name):
    reference = make(classifier, name, 5)
    model = make(classifier, name, 5, ch_in=12)
    assert reference.embedding_size == model.embedding_size == make(embedder, name).embedding_size
    assert model(pictures(2, 12)).shape == (2, 5)
    (first, own), (second, other) = (
        next((n, m) for n, m in one.named_modules() if isinstance(m, nn.Conv2d))
        for one in (reference, model)
    )
    assert first == second and other.weight.shape[1] == 12
    for part in ("out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"):
        assert getattr(own, part) == getattr(other, part), part
    # drawn by the rule of torchvision: no copies, and the width that it gives 12 channels
    assert not torch.equal(other.weight[:, 0], other.weight[:, 3])
    share = (3 / 12) ** 0.5 if name.startswith("densenet") else 1
    assert other.weight.std().item() == pytest.approx(own.weight.std().item() * share, rel=0.1)


def test_embeddings_are_pooled_features_at_the_size_and_length_that_one_wants():
    x = pictures(3, 3)
    for name in FAMILIES:
        # 1000 classes: what is drawn for them comes before the other weights
        model, seen = make(classifier, name, 1000), []
        head = model.fc if hasattr(model, "fc") else model.classifier
        head.register_forward_hook(lambda module, inputs, output, seen=seen: seen.extend(inputs))
        model(x)
        assert torch.equal(make(embedder, name)(x), seen[0])
    short = make(embedder, name, 7)  # a DenseNet
    assert short.embedding_size == 7 and short(x).shape == (3, 7)
    unit = make(embedder, name, normalize=True)
    assert torch.allclose(unit(x), seen[0] / seen[0].norm(dim=1, keepdim=True))


def test_the_form_for_small_images_keeps_the_map_large():
    model = make(classifier, "resnet18", 10, small_images=True)
    sizes = []
    model.layer1.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape))
    assert model(pictures(2, 3, 32)).shape == (2, 10)
    assert sizes == [(2, 64, 32, 32)]
    assert sum(p.numel() for p in model.parameters()) == 11_173_962  # 11.17 million
    with torch.device("meta"):
        for name in ("resnet50", "resnext50_32x4d", "wide_resnet50_2"):
            grey = embedder(name, ch_in=1, small_images=True).eval()
            assert grey(torch.empty(2, 1, 32, 32)).shape == (2, grey.embedding_size)
    with pytest.raises(ValueError, match="small_images: expected one of resnet18, .* got mobilene"):
        classifier("MobilenetV2", 10, small_images=True)


def test_segmenters_give_the_tensor_that_torchvision_calls_out():
    for name in ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"):
        model, x = make(segmenter, name, 2, ch_in=4), pictures(1, 4, 45)
        assert model(x).shape == (1, 2, 45, 45)
        assert torch.equal(model(x), model.network(x)["out"])


@pytest.mark.usefixtures("hub")
def test_segmenters_are_made_without_a_download():
    with torch.device("meta"):
        for name in ("fcn_resnet50", "deeplabv3_resnet50", *SEGMENTERS[-2:]):
            model = segmenter(name, 5).eval()
            assert model(torch.empty(1, 3, 64, 64)).shape == (1, 5, 64, 64)


# ------------------------------------------------------------------------- weights by name


def test_weights_by_name_are_those_of_torchvision(hub):
    name = "mobilenet_v3_small"
    put(hub, name, "IMAGENET1K_V1", randomize(make(torchvision.models.get_model, name)))
    reference = torchvision.models.get_model(name, weights="DEFAULT").eval()
    x, enum = pictures(2, 3), torchvision.models.MobileNet_V3_Small_Weights.DEFAULT
    for weights in ("DEFAULT", "IMAGENET1K_V1", "MobileNet_V3_Small_Weights.IMAGENET1K_V1", enum):
        assert torch.equal(make(classifier, name, 1000, weights=weights)(x), reference(x))
    features = make(embedder, name, weights="DEFAULT")
    assert torch.equal(reference.classifier(features(x)), reference(x))


def test_the_file_of_an_old_densenet_fits(path, hub):
    model = randomize(make(classifier, "densenet121", 1000))
    old = {
        key.replace(".norm1.", ".norm.1.")
        .replace(".norm2.", ".norm.2.")
        .replace(".conv1.", ".conv.1.")
        .replace(".conv2.", ".conv.2."): value
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, path)
    torch.save(old, hub / "densenet121-a639ec97.pth")
    for weights in (path, "DEFAULT"):
        found = make(classifier, "densenet121", 1000, seed=5, weights=weights)
        assert torch.equal(found(pictures(1, 3)), model(pictures(1, 3)))


def test_an_unknown_name_of_weights_lists_the_valid_ones():
    with pytest.raises(ValueError) as caught:
        classifier("resnet50", 2, weights="IMAGENET1K_V3")
    assert str(caught.value) == (
        "weights: expected one of IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT for resnet50, or the path"
        ' of a file, got "IMAGENET1K_V3". Did you mean "IMAGENET1K_V2"? Check the spelling.'
    )
    with pytest.raises(ValueError, match="for resnet18, .* got .ResNet50_Weights.IMAGENET1K_V1"):
        classifier("resnet18", 2, weights="ResNet50_Weights.IMAGENET1K_V1")


def test_grey_pictures_give_what_their_copies_in_colour_gave(path):
    for name in ("resnet18", "mobilenet_v3_small"):
        reference = randomize(make(classifier, name, 4))
        torch.save(reference.state_dict(), path)
        grey = pictures(3, 1)
        want = reference(grey.expand(-1, 3, -1, -1))
        for ch_in in (1, 6, 12):
            model = make(classifier, name, 4, seed=3, ch_in=ch_in, weights=path)
            found = model(grey.expand(-1, ch_in, -1, -1))
            assert torch.allclose(found, want, rtol=1e-4, atol=1e-5), (name, ch_in)


# ------------------------------------------------------------------------ weights of a file


def equal_but(model, reference, *new):
    """Tell whether exactly the tensors whose names begin so differ."""
    other = reference.state_dict()
    same = {
        name
        for name, value in model.state_dict().items()
        if name in other and torch.equal(value, other[name])
    }
    assert set(model.state_dict()) - same == {n for n in model.state_dict() if n.startswith(new)}
    return True


def test_the_head_for_other_classes_stays_new_and_is_named(path, caplog):
    caplog.set_level(logging.INFO, "plumbline")
    for name, new in {"resnet18": "fc.", "mobilenet_v3_small": "classifier.3."}.items():
        reference = randomize(make(classifier, name, 10))
        torch.save(reference.state_dict(), path)
        fresh = make(classifier, name, 7, seed=4)
        model = make(classifier, name, 7, seed=4, weights=path)
        assert equal_but(model, reference, new)
        assert torch.equal(
            model.get_submodule(new[:-1]).weight, fresh.get_submodule(new[:-1]).weight
        )
        (record,) = caplog.records
        text = f"nothing in it fits {new}weight, {new}bias, which stay new"
        assert record.getMessage() == f'weights "{path}": {text}'
        caplog.clear()
        make(classifier, name, 10, weights=path)
        assert not caplog.records


@pytest.mark.parametrize("wrap", [dict, lambda s: {"model_state_dict": s}, lambda s: {"model": s}])
def test_files_of_all_forms_are_read(path, wrap):
    model = randomize(make(classifier, "mobilenet_v3_small", 4))
    torch.save(wrap(model.state_dict()), path)
    assert equal_but(make(classifier, "mobilenet_v3_small", 4, seed=1, weights=str(path)), model)


def test_embedders_and_classifiers_start_from_each_other(path):
    arguments = {"name": "resnet18", "small_images": True}
    first = trained(path, embedder, embedding_size=10, **arguments)
    assert equal_but(make(embedder, seed=1, embedding_size=10, **arguments, weights=path), first)
    assert equal_but(
        make(embedder, seed=1, embedding_size=9, **arguments, weights=path), first, "fc"
    )
    second = make(classifier, seed=1, num_classes=10, **arguments, weights=path)
    assert equal_but(second, first, "fc.")
    torch.save(second.state_dict(), path)
    assert equal_but(make(embedder, seed=2, **arguments, weights=path), second)
    assert equal_but(make(embedder, embedding_size=10, **arguments, weights=path), second, "fc.")


def test_the_stem_for_small_images_stays_new(path, caplog):
    caplog.set_level(logging.INFO, "plumbline")
    reference = randomize(make(classifier, "resnet18", 4))
    torch.save(reference.state_dict(), path)
    model = make(classifier, "resnet18", 4, ch_in=1, small_images=True, weights=path)
    assert equal_but(model, reference, "conv1.")
    assert "nothing in it fits conv1.weight, which stay new" in caplog.text


def test_segmenters_start_from_files_of_both_kinds(path, hub):
    name = "lraspp_mobilenet_v3_large"
    first = trained(path, segmenter, name=name, num_classes=3)
    assert equal_but(make(segmenter, name, 3, seed=1, weights=path), first)
    heads = ("network.classifier.low_classifier", "network.classifier.high_classifier")
    assert equal_but(make(segmenter, name, 2, seed=1, weights=path), first, *heads)
    new = {"weights": None, "weights_backbone": None, "num_classes": 21}
    put(hub, name, "DEFAULT", randomize(make(torchvision.models.get_model, name, **new)))
    reference = torchvision.models.get_model(name, weights="DEFAULT").eval()
    model = make(segmenter, name, 21, weights="COCO_WITH_VOC_LABELS_V1")
    assert torch.equal(model(pictures(1, 3)), reference(pictures(1, 3))["out"])
    name = "deeplabv3_mobilenet_v3_large"
    reference = make(torchvision.models.get_model, name, **new, aux_loss=True)
    torch.save(reference.state_dict(), path)
    model = make(segmenter, name, 21, seed=1, weights=path)
    assert torch.equal(model(pictures(1, 3)), reference(pictures(1, 3))["out"])


def test_the_weights_of_another_network_are_refused(path):
    torch.save(make(classifier, "mobilenet_v2", 4).state_dict(), path)
    with pytest.raises(ValueError, match=r"expected the weights of this MobileNetV3, got others\."):
        classifier("mobilenet_v3_small", 4, weights=path)
    state = make(classifier, "mobilenet_v3_small", 4).state_dict()
    torch.save({"model": {"features.0.2.weight": torch.zeros(3), **state}}, path)
    with pytest.raises(ValueError, match=r"got others\. unexpected: features\.0\.2\.weight"):
        classifier("mobilenet_v3_small", 4, weights=path)


def test_a_number_in_place_of_a_tensor_is_refused(path):
    state = make(classifier, "mobilenet_v3_small", 4).state_dict()
    torch.save({"model": {**state, "features.0.0.weight": 3}}, path)
    with pytest.raises(ValueError, match=r"features\.0\.0\.weight \(\) instead of \(16, 3, 3, 3\)"):
        classifier("mobilenet_v3_small", 4, weights=path)


def test_a_file_that_would_run_code_is_refused(path):
    torch.save(make(classifier, "mobilenet_v3_small", 4), path)
    with pytest.raises(ValueError, match="holds whole objects, which are refused"):
        classifier("mobilenet_v3_small", 4, weights=path)


# ------------------------------------------------------------------------------- rebuilding


BUILDERS = {
    classifier: {"name": "mobilenet_v3_small", "num_classes": 3, "ch_in": 4},
    embedder: {"name": "MobilenetV3Small", "embedding_size": 5, "normalize": True},
    segmenter: {"name": "lraspp_mobilenet_v3_large", "num_classes": 2},
}


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("build", BUILDERS)
def test_a_weights_file_rebuilds_the_network_and_fetches_nothing(build, path):
    arguments = BUILDERS[build]
    x = pictures(2, arguments.get("ch_in", 3))
    model = randomize(make(build, **arguments))
    for weights in ("DEFAULT", "/no/such/file.pth"):
        text = encode_model({**arguments, "weights": weights})
        name = f"models.zoo.{build.__name__}"
        assert MODELS[name] is build
        save_weights(path, model.state_dict(), {"MODEL": name, "MODEL_CONFIG": text})
        assert torch.equal(load_model(path)[0](x), model(x))


@pytest.mark.usefixtures("hub")
def test_a_file_of_a_stranger_makes_the_zoo_read_and_fetch_nothing(path):
    name = {"name": "mobilenet_v3_small", "num_classes": 3}
    bait = {**name, "weights": "DEFAULT"}
    state = make(classifier, **name).state_dict()
    # the arguments as a call; rebuilt, but without the weights
    pairs = [[key, value] for key, value in bait.items()]
    for text in (
        bait,
        {**name, "weights": {"_target_": "pathlib.Path", "_args_": ["/no/such/file.pth"]}},
        {"_target_": "builtins.dict", "_args_": [pairs]},
    ):
        meta = {"MODEL": "models.zoo.classifier", "MODEL_CONFIG": json.dumps(text)}
        save_weights(path, state, meta)
        assert load_model(path)[0].embedding_size == 576
    # the zoo as an argument of another model
    for target in ("models.zoo.classifier", "models.zoo.segmenter", "models.zoo"):
        call = {"activ": {"_target_": target, **bait}}
        for one in (call, {"activ": {**call["activ"], "_partial_": True}}, call["activ"]):
            text = json.dumps({"ch_in": 3, "n_classes": 2, "x": one, **one})
            save_weights(path, state, {"MODEL": "models.ConvNet", "MODEL_CONFIG": text})
            with pytest.raises(
                ValueError, match='expected a class of the kit or of torch.nn, got "'
            ):
                load_model(path)
    for wrong in ({**name, "pretrained": True}, {**name, "progress": False}):
        save_weights(
            path, state, {"MODEL": "models.zoo.classifier", "MODEL_CONFIG": json.dumps(wrong)}
        )
        with pytest.raises(ValueError, match="unexpected keyword argument"):
            load_model(path)


def test_without_torchvision_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        ImportError, match="expected the package torchvision, got none. Install the"
    ):
        classifier("resnet18", 2)


# --------------------------------------------------------- a run, and its weights in use


class Shapes(torch.utils.data.Dataset):
    """Colour pictures with a square; which of three colours it has, or its mask."""

    def __init__(self, masks=False, n=12):
        self.masks, self.n = masks, n
        self.deterministic = True

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        x, mask = torch.zeros(3, 64, 64), torch.zeros(1, 64, 64)
        mask[:, index : index + 40, 5:45] = 1
        x[index % 3] = mask[0]
        return x, mask if self.masks else torch.tensor(index % 3)


def run_and_predict(tmp_path, model, arguments, masks=False, overrides=()):
    """Train, predict a picture by the command line, and return what it wrote."""
    changes = {"MODEL": model, "MODEL_CONFIG": arguments, "EPOCHS": 1, "CLASSES": list("rgb")}
    changes |= {"TRAIN_DATASET": Shapes, "VAL_DATASET": Shapes}
    changes |= {"DATA_LOADER_CONFIG": {"batch_size": 4}}
    if masks:
        changes |= {"TASK": "binary_segmentation", "LOSS": nn.BCEWithLogitsLoss, "METRICS": [f1]}
        changes |= {"CLASSES": ["square"], "TRAIN_DATASET_CONFIG": {"masks": True}}
        changes |= {"VAL_DATASET_CONFIG": {"masks": True}}
    result = train(None, None, make_config(**changes), folders(tmp_path))
    assert result["status"] == "done"
    np.save(tmp_path / "a.npy", Shapes()[1][0].permute(1, 2, 0).numpy())
    out = tmp_path / "out"
    command = ["-i", str(tmp_path / "a.npy"), "-o", str(out), "--weights", result["paths"]["best"]]
    assert predict.main([*command, "DEVICE=cpu", *overrides]) == 0
    return np.load(out / "a.npy")


def test_a_classifier_trains_from_a_file_and_predicts(tmp_path, path):
    torch.save(make(classifier, "mobilenet_v3_small", 9).state_dict(), path)
    arguments = {"name": "MobilenetV3Small", "weights": path}  # CLASSES tell how many
    found = run_and_predict(tmp_path, classifier, arguments)
    assert found.shape == (3,) and found.sum() == pytest.approx(1)
    assert "models.zoo.classifier" in (tmp_path / "logs/experiments.csv").read_text()
    (log,) = (tmp_path / "logs").glob("*/train.log")
    assert f'weights "{path}": nothing in it fits classifier.3.weight, class' in log.read_text()


class StopWhile(Callback):
    """Ends the run by SIGTERM in its second epoch, as long as a file is there."""

    def __init__(self, path):
        self.path = path

    def on_batch_end(self, run, loss):
        if run.position.epoch == 1 and self.path.exists():
            signal.raise_signal(signal.SIGTERM)


def test_a_run_goes_on_when_the_file_that_it_started_from_is_gone(path, tmp_path):
    torch.save(make(classifier, "mobilenet_v3_small", 9).state_dict(), path)
    arguments = {"name": "mobilenet_v3_small", "weights": str(path), "num_classes": 3}
    stop = functools.partial(StopWhile, tmp_path / "stop")
    config = {"MODEL": classifier, "MODEL_CONFIG": arguments, "CALLBACKS": [stop], "EPOCHS": 2}
    config |= {"TRAIN_DATASET": Shapes, "VAL_DATASET": Shapes}
    whole = train(None, None, make_config(**config), folders(tmp_path / "a"))
    (tmp_path / "stop").touch()
    with pytest.raises(RunInterrupted):
        train(None, None, make_config(**config), folders(tmp_path / "b"))
    for file in (path, tmp_path / "stop"):
        file.unlink()
    resumed = folders(tmp_path / "b")
    resumed["RESUME"] = find_run("latest", resumed)
    assert bits(train(None, None, make_config(**config), resumed)) == bits(whole)


def test_a_segmenter_trains_and_predicts(tmp_path):
    arguments = {"name": "lraspp_mobilenet_v3_large", "num_classes": 1}
    found = run_and_predict(tmp_path, segmenter, arguments, masks=True)
    assert found.shape == (64, 64) and found.dtype == np.uint8


@pytest.mark.slow  # both packages import slowly
def test_networks_of_timm_go_in_by_their_import_path(tmp_path):
    timm = pytest.importorskip("timm")
    arguments = {"model_name": "resnet10t", "num_classes": 3}
    overrides = ["MODEL=timm.create_model"]
    overrides += [f"MODEL_CONFIG.{name}={value}" for name, value in arguments.items()]
    found = run_and_predict(tmp_path, timm.create_model, arguments, overrides=overrides)
    assert found.shape == (3,) and found.sum() == pytest.approx(1)


@pytest.mark.slow
def test_networks_of_segmentation_models_pytorch_go_in_by_their_import_path(tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    arguments = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 1}
    overrides = ["MODEL=segmentation_models_pytorch.Unet", "MODEL_CONFIG.encoder_weights=None"]
    found = run_and_predict(tmp_path, smp.Unet, arguments, masks=True, overrides=overrides)
    assert found.shape == (64, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_network_takes_a_step_from_the_weights_of_other_classes(name, path):
    torch.save(make(classifier, name, 10).state_dict(), path)
    model = make(classifier, name, 3, ch_in=12, weights=path).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    nn.functional.cross_entropy(model(pictures(2, 12, 64)), torch.tensor([0, 2])).backward()
    optimizer.step()
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
