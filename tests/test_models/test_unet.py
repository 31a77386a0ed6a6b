"""The checks of a segmentation model: put your model and its weights into `test_config`."""

import copy
import functools
import pickle

import pytest
import torch
from torch import nn

from layers import DeconvLayer, TransConvLayer
from models import UNET
from utils.torchutils import load_weights, save_weights

torch.set_num_threads(1)

test_config = {
    "DEFAULT_WEIGHTS": None,  # a weights file of this model; None: new weights
    "INPUT_DIM": (2, 12, 33, 47),  # (N, C, H, W)
    "OUTPUT_DIM": (2, 2, 33, 47),  # (N, K, H, W)
    "LOSS": nn.BCEWithLogitsLoss(),
    "MODEL": UNET,
    "MODEL_CONFIG": {"ch_in": 12, "ch_out": 2, "bulk_ch": 4, "n_recursions": 3, "dropout": 0.2},
    "OPTIMIZER": torch.optim.SGD,
    "OPTIMIZER_CONFIG": {"lr": 1e-3},
    "DEVICE": torch.device("cpu"),
}


def build():
    torch.manual_seed(0)
    return test_config["MODEL"](**test_config["MODEL_CONFIG"]).to(test_config["DEVICE"])


@pytest.fixture(params=["DEFAULT_WEIGHTS", "a file"])
def model(request, tmp_path):
    path = test_config["DEFAULT_WEIGHTS"]
    if request.param == "a file":
        path = tmp_path / "weights.pth"
        save_weights(path, build().state_dict(), {})
    model = build()
    if path is not None:
        model.load_state_dict(load_weights(path)["model"])
    return model


@pytest.fixture
def batch():
    torch.manual_seed(1)
    x, y = torch.randn(test_config["INPUT_DIM"]), torch.rand(test_config["OUTPUT_DIM"]).round()
    return x.to(test_config["DEVICE"]), y.to(test_config["DEVICE"])


def test_parameters_are_finite(model):
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_output_shape(model, batch):
    output = model(batch[0])
    assert output.shape == test_config["OUTPUT_DIM"]
    assert torch.isfinite(output).all()


def test_every_parameter_gets_a_gradient_and_a_step(model, batch):
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0  # a dropped channel has no gradient
    optimizer = test_config["OPTIMIZER"](model.parameters(), **test_config["OPTIMIZER_CONFIG"])
    before = copy.deepcopy(model.state_dict())
    test_config["LOSS"](model(batch[0]), batch[1]).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
        assert not torch.equal(parameter, before[name]), name


def test_state_dict_gives_the_same_output(model, batch, tmp_path):
    model(batch[0])  # moves the running statistics: they must travel too
    save_weights(tmp_path / "weights.pth", model.state_dict(), {})
    other = test_config["MODEL"](**test_config["MODEL_CONFIG"]).to(test_config["DEVICE"])
    assert not torch.equal(other.eval()(batch[0]), model.eval()(batch[0]))
    other.load_state_dict(load_weights(tmp_path / "weights.pth")["model"])
    assert torch.equal(other.eval()(batch[0]), model.eval()(batch[0]))


# ------------------------------------------------------------------------------- UNET itself


def small(**config):
    torch.manual_seed(0)
    return UNET(**({"ch_in": 3, "ch_out": 2, "bulk_ch": 4, "n_recursions": 3} | config))


@pytest.mark.parametrize("use_pooling", [True, False])
@pytest.mark.parametrize("use_shuffle", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (15, 21), (32, 17), (5, 3), (1, 1)])
def test_any_size_with_every_kind_of_sampling(size, use_shuffle, use_pooling):
    model = small(use_shuffle=use_shuffle, use_pooling=use_pooling)
    assert model(torch.randn(2, 3, *size)).shape == (2, 2, *size)


@pytest.mark.parametrize(
    "activ", [nn.ELU, nn.GELU, nn.Tanh, functools.partial(nn.LeakyReLU, negative_slope=0.1)]
)
def test_activations_reach_every_layer(activ):
    model = small(activ=activ)
    kinds = [type(layer.activ) for layer in model.modules() if hasattr(layer, "activ")]
    assert set(kinds) == {type(activ())}
    assert len(kinds) == 2 + 3 * (1 + 2) + 3 * (1 + 2)  # first, downs, ups
    output = model(torch.randn(2, 3, 17, 16))
    output.square().mean().backward()
    assert torch.isfinite(output).all()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_pooling_reaches_every_level():
    def pools(model):
        return sum(isinstance(module, nn.MaxPool2d) for module in model.modules())

    def strided(model):
        return sum(getattr(module, "stride", None) == (2, 2) for module in model.modules())

    assert (pools(small(use_pooling=True)), strided(small(use_pooling=True))) == (3, 0)
    assert (pools(small()), strided(small())) == (0, 3)


def test_shuffle_decides_how_every_level_is_enlarged():
    assert [type(up) for up in small(use_shuffle=True).ups] == [DeconvLayer] * 3
    assert [type(up) for up in small(use_shuffle=False).ups] == [TransConvLayer] * 3


def test_channels_double_at_every_level():
    model = small(bulk_ch=6)
    assert [level[0].conv.out_channels for level in model.encoders] == [12, 24, 48]
    assert [level[0].conv.out_channels for level in model.decoders] == [24, 12, 6]


def test_skip_connections_join_the_levels():
    model, outputs, inputs = small(), [], []
    for level in (model.first, *model.encoders):
        level.register_forward_hook(lambda module, args, output: outputs.append(output))
    for level in model.decoders:
        level.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    model(torch.randn(2, 3, 17, 22))
    skips = [joined.chunk(2, dim=1)[0] for joined in inputs]
    assert all(map(torch.equal, skips, reversed(outputs[:-1])))


def test_tiles_at_multiples_of_the_deepest_step_line_up_with_the_whole_image():
    model, image = small(n_recursions=2).eval(), torch.randn(1, 3, 141, 143)
    with torch.no_grad():
        whole = model(image)[:, :, 4:100, 8:104]
        tile = model(image[:, :, 4:100, 8:104])
    inner = slice(32, -32)  # further from the border than the network sees
    assert torch.allclose(tile[:, :, inner, inner], whole[:, :, inner, inner], atol=1e-5)
    assert not torch.allclose(tile, whole, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_five_levels_train_with_a_batch_of_one_small_image(size):
    torch.manual_seed(0)
    model = UNET(12, 2, bulk_ch=4, n_recursions=5, dropout=0.2, use_shuffle=True, activ=nn.ELU)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    x, y = torch.randn(1, 12, *size), torch.zeros(1, 2, *size)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert torch.isfinite(model.eval()(x)).all()


def test_dropout_is_active_at_every_level_in_training_only():
    model, calls = small(dropout=0.5), []
    model.dropout.register_forward_hook(lambda module, inputs, output: calls.append(module.p))
    x = torch.randn(2, 3, 16, 16)
    assert not torch.equal(model(x), model(x))
    assert calls == [0.5] * 12  # two calls of three levels down and three up
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize(("use_shuffle", "use_pooling"), [(True, False), (False, True)])
def test_copies_and_exports(use_shuffle, use_pooling):
    """Pickle, deepcopy, script, trace and torch.export give the model, at other sizes too."""
    model = small(dropout=0.2, use_shuffle=use_shuffle, use_pooling=use_pooling)
    x, other = torch.randn(2, 3, 17, 22), torch.randn(3, 3, 16, 19)
    model(x)
    model.eval()
    auto = torch.export.Dim.AUTO
    exported = torch.export.export(model, (x,), dynamic_shapes={"x": {0: auto, 2: auto, 3: auto}})
    copies = {
        "pickle": pickle.loads(pickle.dumps(model)),
        "deepcopy": copy.deepcopy(model),
        "script": torch.jit.script(model),
        "trace": torch.jit.trace(model, x),
        "export": exported.module(),
    }
    with torch.no_grad():
        for name, twin in copies.items():
            for batch in (x, other):
                assert torch.allclose(twin(batch), model(batch), atol=1e-6), name


def test_exports_with_a_dynamic_batch_and_a_fixed_size():
    model = small().eval()
    batch = {0: torch.export.Dim("n")}
    exported = torch.export.export(model, (torch.randn(2, 3, 33, 17),), dynamic_shapes={"x": batch})
    x = torch.randn(5, 3, 33, 17)
    assert torch.allclose(exported.module()(x), model(x), atol=1e-6)


def test_wrong_arguments_are_named_together():
    with pytest.raises(
        ValueError, match="UNET: ch_in: .* got 0; n_recursions: .*; dropout: .* 1.0"
    ):
        UNET(0, 2, n_recursions=2.0, dropout=1.0)
    with pytest.raises(ValueError, match="UNET: ch_out: .* got -1; bulk_ch: .* got 0"):
        UNET(1, -1, bulk_ch=0)
    with pytest.raises(ValueError, match="dropout: expected a number from 0 to below 1, got -0.1"):
        UNET(1, 1, dropout=-0.1)
    with pytest.raises(TypeError, match="activ: expected a class or factory"):
        UNET(1, 1, activ=nn.ELU())
