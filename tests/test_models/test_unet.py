import functools

import pytest
import torch
from torch import nn

from layers import DeconvLayer, TransConvLayer
from models import UNET

torch.set_num_threads(1)


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
