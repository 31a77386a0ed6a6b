import functools

import pytest
import torch
from torch import nn

from models import CIFAR10Net, ConvNet, MNISTNet

torch.set_num_threads(1)


def small(**config):
    torch.manual_seed(0)
    return ConvNet(**({"ch_in": 1, "n_classes": 3, "bulk_ch": 4} | config))


def test_a_single_pixel_is_enough():
    assert small(ch_in=3)(torch.randn(2, 3, 1, 1)).shape == (2, 3)


def test_default_size():
    model = ConvNet(ch_in=3, n_classes=10)
    assert sum(p.numel() for p in model.parameters()) < 150_000
    assert small(n_blocks=1).head.in_features == 4
    assert small(n_blocks=4).head.in_features == 32


def test_named_networks_fit_their_data():
    small_one, large_one = MNISTNet(), CIFAR10Net(activ=nn.GELU)
    assert small_one(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert large_one(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (small_one, large_one)]
    assert sizes == [72_666, 1_175_786]
    with pytest.raises(ValueError, match="n_classes: .* got 0"):
        CIFAR10Net(0)


@pytest.mark.parametrize(
    "activ", [nn.ELU, nn.GELU, nn.Tanh, functools.partial(nn.LeakyReLU, negative_slope=0.1)]
)
def test_activations_reach_every_layer_and_every_parameter_gets_a_gradient(activ):
    model = small(activ=activ)
    assert [type(m.activ) for m in model.modules() if hasattr(m, "activ")] == [type(activ())] * 6
    y = torch.tensor([0, 1, 2])
    nn.functional.cross_entropy(model(torch.randn(3, 1, 9, 8)), y).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_learns_stripes():
    """Horizontal, vertical and no stripes, at a random phase, with noise."""
    model = small()
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(96) % 3
    wave = torch.sin(torch.arange(8) * 2 + torch.rand(96, 1, generator=generator) * 6)
    x = wave[:, None, :, None] * (y == 0).view(-1, 1, 1, 1)
    x = x + wave[:, None, None, :] * (y == 1).view(-1, 1, 1, 1)
    x = x + 0.2 * torch.randn(96, 1, 8, 8, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:64]), y[:64]).backward()
        optimizer.step()
    accuracy = (model.eval()(x[64:]).argmax(dim=1) == y[64:]).float().mean()
    assert accuracy > 0.9


def test_wrong_arguments_are_named_together():
    with pytest.raises(
        ValueError,
        match="ConvNet: ch_in: .* got 0; n_classes: .*; bulk_ch: .*; n_blocks: .* '3'; d",
    ):
        ConvNet(0, 0, bulk_ch=-1, n_blocks="3", dropout=2)
    with pytest.raises(TypeError, match="activ: expected a class or factory"):
        ConvNet(1, 10, activ=nn.ELU())
