import functools

import pytest
import torch
from torch import nn

from layers import ConvLayer, DeconvLayer, TransConvLayer
from layers.conv import check_arguments

torch.set_num_threads(1)

LAYERS = [ConvLayer, DeconvLayer, TransConvLayer]
ACTIVATIONS = [nn.ELU, nn.GELU, nn.Tanh, functools.partial(nn.LeakyReLU, negative_slope=0.1)]


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 2)])
def test_sizes(size):
    height, width = size
    x = torch.randn(2, 3, height, width)
    assert ConvLayer(3, 5)(x).shape == (2, 5, height, width)
    assert ConvLayer(3, 5, kernel_size=1)(x).shape == (2, 5, height, width)
    assert ConvLayer(3, 5, stride=2)(x).shape == (2, 5, -(-height // 2), -(-width // 2))
    assert DeconvLayer(3, 5)(x).shape == (2, 5, 2 * height, 2 * width)
    assert TransConvLayer(3, 5)(x).shape == (2, 5, 2 * height, 2 * width)


@pytest.mark.parametrize("activ", ACTIVATIONS)
@pytest.mark.parametrize("layer", LAYERS)
def test_ends_with_the_activation_given(layer, activ):
    torch.manual_seed(0)
    block, reference, x = layer(3, 4, activ=activ).eval(), activ(), torch.randn(2, 3, 6, 6)
    before = []
    block.norm.register_forward_hook(lambda module, inputs, output: before.append(output.clone()))
    assert torch.equal(block(x), reference(before[0]))


def test_the_factory_keeps_its_arguments():
    layer = ConvLayer(3, 4, activ=functools.partial(nn.LeakyReLU, negative_slope=0.3))
    assert layer.activ.negative_slope == 0.3


@pytest.mark.parametrize("layer", LAYERS)
def test_normalises_in_training(layer):
    torch.manual_seed(0)
    y = layer(3, 4, activ=nn.Identity)(5 + 3 * torch.randn(4, 3, 16, 16))
    assert torch.allclose(y.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(y.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-2)


def test_one_value_per_channel_trains_by_the_running_statistics():
    torch.manual_seed(0)
    layer, x = ConvLayer(3, 4), torch.randn(1, 3, 1, 1)
    layer(torch.randn(4, 3, 8, 8))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    y = layer(x)
    y.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())
    assert torch.equal(y, layer.eval()(x))


def test_two_values_per_channel_update_the_running_statistics():
    layer = ConvLayer(3, 4)
    layer(torch.randn(2, 3, 1, 1))
    assert layer.norm.num_batches_tracked == 1
    assert not torch.equal(layer.norm.running_mean, torch.zeros(4))


@pytest.mark.parametrize("layer", [ConvLayer, DeconvLayer])
def test_an_even_kernel_is_refused(layer):
    with pytest.raises(ValueError, match="kernel_size: expected an odd number, got 4"):
        layer(3, 4, kernel_size=4)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("activ", [nn.ELU(), "ELU", None, dict])
def test_activ_must_make_a_module(layer, activ):
    with pytest.raises(TypeError, match="activ: expected a class or factory of modules, got .*ELU"):
        layer(3, 4, activ=activ)


def test_check_arguments_names_every_problem():
    check_arguments("Net", dropout=0, ch_in=1)
    with pytest.raises(
        ValueError,
        match="Net: ch_in: expected an integer of at least 1, got 0; ch_out: .* got 1.5; "
        "dropout: expected a number from 0 to below 1, got 1",
    ):
        check_arguments("Net", dropout=1, ch_in=0, bulk_ch=3, ch_out=1.5)
