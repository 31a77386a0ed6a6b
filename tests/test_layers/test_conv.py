import functools

import pytest
import torch
from torch import nn

from layers import ConvLayer, DeconvLayer, TransConvLayer, spread_channels, with_ch_in
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


# ---- other input channels


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (7, 5), "stride": 2, "padding": (3, 2), "bias": False},
        {"kernel_size": 3, "dilation": 2, "padding": 2, "padding_mode": "circular"},
        {"kernel_size": 3, "groups": 2, "stride": (2, 1)},
        {"kernel_size": 1, "groups": 4, "dtype": torch.float64},
    ],
)
def test_for_other_channels_a_convolution_is_else_as_it_was(options):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, **options)
    grey = torch.randn(2, 1, 9, 10, dtype=conv.weight.dtype)
    want = conv(grey.expand(-1, 4, -1, -1))
    for ch_in in (4, 8, 12, 1):  # multiples, and the sum
        if ch_in % conv.groups:
            with pytest.raises(
                ValueError, match=f"multiple of .* {conv.groups} groups, got {ch_in}"
            ):
                with_ch_in(conv, ch_in)
            continue
        other = with_ch_in(conv, ch_in)
        assert other.in_channels == ch_in
        found = other(grey.expand(-1, ch_in, -1, -1))
        assert torch.allclose(found, want, atol=1e-5), ch_in
        assert [str(part) for part in (conv, other)][1] == str(conv).replace("(4,", f"({ch_in},", 1)
    assert torch.equal(with_ch_in(conv, 4).weight, conv.weight)


def test_weights_are_spread_by_the_rule_of_timm():
    weight = torch.tensor([[1.0, 2.0, 4.0]])[:, :, None, None]
    want = {1: [7], 2: [1.5, 3], 3: [1, 2, 4], 4: [0.75, 1.5, 3, 0.75], 6: [0.5, 1, 2] * 2}
    for ch_in, values in want.items():
        assert spread_channels(weight, ch_in).flatten().tolist() == values


@pytest.mark.slow  # timm is imported
def test_weights_are_spread_as_timm_does():
    manipulate = pytest.importorskip("timm.models._manipulate")
    weight = torch.randn(8, 3, 7, 7)
    for ch_in in (1, 2, 3, 4, 12, 13):
        want = manipulate.adapt_input_conv(ch_in, weight)
        assert torch.allclose(spread_channels(weight, ch_in), want), ch_in


def test_no_channel_is_refused():
    with pytest.raises(ValueError, match="expected a multiple of .* 1 groups, got 0"):
        with_ch_in(nn.Conv2d(3, 4, 1), 0)
