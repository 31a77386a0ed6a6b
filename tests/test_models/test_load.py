import functools
import json
import os
import re

import pytest
import torch
from torch import nn

from config.codec import encode_model, name_of
from models import MODELS, UNET, ConvNet
from models.load import load_model, start_from
from utils.torchutils import save_weights

torch.set_num_threads(1)

CONFIG = {"ch_in": 3, "n_classes": 2, "bulk_ch": 4, "n_blocks": 2}


class Net(nn.Module):
    """A user's own network, unknown to the kit."""

    def __init__(self, ch: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Linear(ch, ch, bias=bias)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.pth"


def trained(**config):
    torch.manual_seed(0)
    model = ConvNet(**(CONFIG | config))
    model(torch.randn(4, 3, 8, 8))  # the running statistics differ from the initial ones
    return model


def save(path, model, name="models.ConvNet", config=CONFIG, **meta):
    meta = {"MODEL": name, "MODEL_CONFIG": encode_model(config)} | meta
    save_weights(path, model.state_dict(), meta)


@pytest.mark.parametrize(
    "activ",
    [nn.GELU, functools.partial(nn.LeakyReLU, negative_slope=0.3)],
    ids=["class", "partial"],
)
def test_rebuilds_a_model_of_the_kit_in_eval_mode(path, activ):
    model, x = trained(activ=activ), torch.randn(2, 3, 8, 8)
    save(path, model, config=CONFIG | {"activ": activ}, TASK="multiclass", CLASSES=["a", "b"])
    loaded, meta = load_model(path)
    assert type(loaded) is ConvNet
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(loaded(x), model.eval()(x))
    assert (meta["MODEL"], meta["TASK"]) == ("models.ConvNet", "multiclass")
    assert meta["CLASSES"] == ["a", "b"]


def test_rebuilds_a_unet_from_text_path_and_device(path):
    model = UNET(3, 2, bulk_ch=4, n_recursions=2)
    config = {"ch_in": 3, "ch_out": 2, "bulk_ch": 4, "n_recursions": 2}
    save(path, model, "models.UNET", config)
    loaded, _ = load_model(str(path), device=torch.device("cpu"))
    x = torch.randn(1, 3, 9, 8)
    assert torch.equal(loaded(x), model.eval()(x))


def test_device_is_honoured(path):
    save(path, trained())
    loaded, _ = load_model(path, device="meta")
    assert all(parameter.is_meta for parameter in loaded.parameters())


def test_a_module_of_torch_nn_is_known(path):
    save(path, nn.Linear(3, 2), "torch.nn.Linear", {"in_features": 3, "out_features": 2})
    assert isinstance(load_model(path)[0], nn.Linear)


def test_table_holds_the_names_that_training_writes():
    assert MODELS == {name_of(model): model for model in MODELS.values()}
    assert {"models.UNET", "models.ConvNet"} <= set(MODELS)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state}])
def test_a_state_dict_of_another_program_needs_the_model(path, wrap):
    model = trained()
    torch.save(wrap(model.state_dict()), path)
    loaded, meta = load_model(path, functools.partial(ConvNet, **CONFIG))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(x), model.eval()(x))
    assert meta == {}
    with pytest.raises(
        ValueError, match="expected a model of the kit .*, got none. Name the class"
    ):
        load_model(path)


def test_model_state_dict_is_read(path):
    torch.save({"model_state_dict": trained().state_dict(), "epoch": 3}, path)
    loaded, _ = load_model(path, lambda: ConvNet(**CONFIG))
    assert torch.equal(loaded.head.weight, trained().head.weight)


def test_a_given_model_is_called_with_the_config_of_the_file(path):
    model = Net(ch=3, bias=False)
    save(path, model, "my.module.Net", {"ch": 3, "bias": False})
    loaded, meta = load_model(path, Net)
    assert torch.equal(loaded.layer.weight, model.layer.weight)
    assert meta["MODEL"] == "my.module.Net"


def test_a_config_that_was_not_captured_calls_the_given_model_without_arguments(path):
    save(path, Net(), "my.module.Net", {"ch": object()})
    assert load_model(path, Net)[0].layer.in_features == 2


def test_an_unknown_model_is_refused_with_the_remedy(path):
    save(path, Net(), "my.module.Net", {})
    message = (
        f'weights "{path}": expected a model of the kit ({", ".join(MODELS)}), got "my.module.Net".'
        " Name the class yourself: python predict.py ... MODEL=my.module.Net."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_model(path)


@pytest.mark.parametrize(
    "name",
    ["os.system", "models.load.load_model", "torch.nn.functional.relu", "torch.nn.modules.Linear"]
    + ["torch.nn.Parameter", "torch.nn", "builtins.eval", "UNET"],
)
def test_only_exact_names_of_the_table_are_found(path, name):
    save(path, Net(), name, {})
    with pytest.raises(ValueError, match="expected a model of the kit"):
        load_model(path)
    meta = {"MODEL": "models.ConvNet", "MODEL_CONFIG": json.dumps({"activ": {"_target_": name}})}
    save_weights(path, {}, meta)
    with pytest.raises(ValueError, match=f'got "{re.escape(name)}"'):
        load_model(path)


def test_nothing_named_by_the_file_is_run_or_imported(path, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    marker = tmp_path / "marker"
    call = {"_target_": "os.system", "_args_": [f"touch {marker}"]}
    for name, config in [
        ("planted.Net", {}),
        ("models.ConvNet", CONFIG | {"activ": call}),
        ("models.ConvNet", CONFIG | {"activ": {"_target_": "planted.Net", "_partial_": True}}),
    ]:
        save_weights(path, {}, {"MODEL": name, "MODEL_CONFIG": json.dumps(config)})
        with pytest.raises(ValueError, match="expected a (model|MODEL_CONFIG)"):
            load_model(path)
    assert not os.path.exists(marker)


@pytest.mark.parametrize("name", ["Net; rm -rf x", "a.b\n$(reboot)", 3, ["models.UNET"], ""])
def test_the_command_line_to_run_holds_no_text_of_the_file_but_a_path(path, name):
    save_weights(path, {}, {"MODEL": name})
    with pytest.raises(ValueError, match=r"\.\.\. MODEL=my\.module\.Net\.$"):
        load_model(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"ch_in": 3}', "missing 1 required positional argument: 'n_classes'"),
        ('{"ch_in": 3, "n_classes": 2, "colour": 1}', "unexpected keyword argument 'colour'"),
        ('{"ch_in": 0, "n_classes": 2}', "ch_in: expected an integer of at least 1, got 0"),
        ('{"ch_in": ', "Expecting value"),
        ("[" * 100_000, ""),
        ("null", "missing 2 required"),
        (5, "must be str"),
    ],
)
def test_a_config_that_does_not_fit_is_explained(path, text, reason):
    save_weights(path, {}, {"MODEL": "models.ConvNet", "MODEL_CONFIG": text})
    with pytest.raises(ValueError, match=f"expected a MODEL_CONFIG that fits ConvNet.*{reason}"):
        load_model(path)


def test_mismatches_are_listed_by_name_and_counted(path):
    state = trained().state_dict()
    wrong = {name: value for name, value in state.items() if not name.startswith("blocks.1.")}
    wrong["head.weight"] = torch.zeros(5, 8)
    wrong |= {f"extra.{i}": torch.zeros(1) for i in range(7)}
    save_weights(path, wrong, {"MODEL": "models.ConvNet", "MODEL_CONFIG": encode_model(CONFIG)})
    with pytest.raises(ValueError) as caught:
        load_model(path)
    assert str(caught.value) == (
        f'weights "{path}": expected the weights of this ConvNet, got others. '
        "missing: blocks.1.conv.weight, blocks.1.norm.weight, blocks.1.norm.bias, "
        "blocks.1.norm.running_mean, blocks.1.norm.running_var; "
        "unexpected: extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more; "
        "wrong shape: head.weight (5, 8) instead of (2, 8). Check MODEL and MODEL_CONFIG."
    )


def test_a_number_in_place_of_a_tensor_is_a_mismatch(path):
    torch.save({"model": {"layer.weight": 3, "layer.bias": torch.zeros(2)}}, path)
    with pytest.raises(ValueError, match=r"layer.weight \(\) instead of \(2, 2\)"):
        load_model(path, Net)


def test_a_lazy_layer_takes_the_shape_of_the_file(path):
    torch.save({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, path)
    loaded, _ = load_model(path, lambda: nn.LazyLinear(2))
    assert loaded(torch.ones(1, 3)).tolist() == [[4.0, 4.0]]


class Wrapper(nn.Module):
    """Its own names begin as those of DistributedDataParallel."""

    def __init__(self):
        super().__init__()
        self.module = ConvNet(**CONFIG)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_that_torch_has_put_a_wrapper_before_are_read(path, prefix):
    model = trained()
    torch.save({f"{prefix}{name}": value for name, value in model.state_dict().items()}, path)
    loaded, _ = load_model(path, lambda: ConvNet(**CONFIG))
    assert torch.equal(loaded.head.weight, model.head.weight)
    wrapper = Wrapper()
    if prefix == "module.":
        assert start_from(wrapper, torch.load(path, weights_only=True), "weights") is None
        assert torch.equal(wrapper.module.head.weight, model.head.weight)


def test_files_without_the_counts_of_batch_norm_are_read(path):
    model, x = trained(), torch.randn(2, 3, 8, 8)
    state = {k: v for k, v in model.state_dict().items() if "num_batches_tracked" not in k}
    assert len(state) < len(model.state_dict())
    torch.save(state, path)
    loaded, _ = load_model(path, lambda: ConvNet(**CONFIG))
    assert torch.equal(loaded(x), model.eval()(x))


def test_model_must_build_a_module(path):
    save(path, trained())
    with pytest.raises(TypeError, match="expected a model that builds a torch.nn.Module, got"):
        load_model(path, dict)


def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match="x.pth"):
        load_model(path)


# ------------------------------------------------------------------ to start a training from


def renamed(state, **changes):
    """Return a state dict with tensors of zeros in these shapes, or without those that are None."""
    changes = {name.replace("__", "."): shape for name, shape in changes.items()}
    made = {name: torch.zeros(shape) for name, shape in changes.items() if shape is not None}
    return {name: value for name, value in state.items() if name not in changes} | made


def test_start_from_loads_all_that_fits_in_silence():
    network = ConvNet(**CONFIG)
    assert start_from(network, trained().state_dict(), "weights") is None
    for name, value in trained().state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_a_head_for_other_classes_stays_new_and_is_named():
    network = ConvNet(**CONFIG | {"n_classes": 5})
    new = {name: value.clone() for name, value in network.state_dict().items()}
    note = start_from(network, trained().state_dict(), 'weights "x.pth"')
    assert note == (
        'weights "x.pth": 2 classes there, 5 here, so the head is new; wrong shape:'
        " head.weight (2, 8) instead of (5, 8), head.bias (2,) instead of (5,)"
    )
    for name, value in network.state_dict().items():
        expected = new if name.startswith("head.") else trained().state_dict()
        assert torch.equal(value, expected[name]), name


NO_HEADS = {
    "another width": {"head__weight": (2, 9)},
    "two numbers of classes": {"head__weight": (5, 8), "head__bias": (4,)},
    "another rank": {"head__weight": (5, 8, 1), "head__bias": (5,)},
    "missing": {"head__weight": (5, 8), "head__bias": None},
    "unexpected": {"head__weight": (5, 8), "head__bias": (5,), "other": (1,)},
    "a number": {"head__bias": ()},
}


@pytest.mark.parametrize("changes", NO_HEADS.values(), ids=NO_HEADS)
def test_anything_else_is_an_error_that_names_it_and_the_remedy(changes):
    network = ConvNet(**CONFIG)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = renamed(trained().state_dict(), **changes)
    message = (
        r"weights: expected the weights of this ConvNet, got others\. .*"
        r"(head|other).*, or load what fits: WEIGHTS_STRICT=False\.$"
    )
    with pytest.raises(ValueError, match=message):
        start_from(network, state, "weights")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("changes", NO_HEADS.values(), ids=NO_HEADS)
def test_without_strict_all_that_fits_is_loaded_and_the_rest_named(changes):
    network, state = ConvNet(**CONFIG), renamed(trained().state_dict(), **changes)
    note = start_from(network, state, "weights", strict=False)
    n_lost = len({name for name in changes if name != "other"})
    total = len(network.state_dict())
    assert note.startswith(f"weights: {total - n_lost} of {total} tensors of this ConvNet loaded; ")
    assert all(name.replace("__", ".") in note for name in changes)
    for name, value in network.state_dict().items():
        if name.replace(".", "__") not in changes:
            assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("network", "state"),
    [
        (Net(), nn.Linear(2, 2).state_dict()),
        (nn.Linear(3, 2), nn.Linear(3, 5).state_dict()),  # the head is all there is
        (nn.Linear(3, 2), {}),
    ],
    ids=["other names", "head alone", "empty"],
)
def test_weights_of_which_nothing_fits_are_an_error(network, state, strict):
    with pytest.raises(ValueError, match="weights: expected tensors of this .* none that fits"):
        start_from(network, state, "weights", strict)


def test_the_whole_list_of_what_was_left_out_is_told():
    state = trained().state_dict() | {f"extra.{i}": torch.zeros(1) for i in range(9)}
    note = start_from(ConvNet(**CONFIG), state, "weights", strict=False)
    assert all(f"extra.{i}" in note for i in range(9)) and "more" not in note
